//! How long a try may take, and whose fault it is when it takes too long.

use std::future::pending;

use super::support::*;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Hangs in the first `hangs` calls for so long, and answers OK.
fn hanging(
    hangs: usize,
    time: Duration,
) -> impl Fn(usize, SendResponse<Bytes>) -> futures_util::future::BoxFuture<'static, ()> + Clone + Send
{
    move |number, mut respond| {
        Box::pin(async move {
            if number < hangs {
                tokio::select! {
                    () = tokio::time::sleep(time) => {}
                    _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
                }
            }
            ok(&mut respond);
        })
    }
}

fn of_route(whole: Duration) -> Option<Limit> {
    let of_route = true;
    Some(Limit {
        of_route,
        ..limit(whole)
    })
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}

fn about(time: Duration, expected: Duration) -> bool {
    (expected..expected + SECOND / 2).contains(&time)
}

#[tokio::test(start_paused = true)]
async fn a_try_that_takes_too_long_gives_way_to_another() {
    for (whole, more, first) in [
        (Some(10), "", 3 * SECOND),
        (Some(3600), "", 10 * SECOND),
        (None, "try_timeout = '2s'", 2 * SECOND),
    ] {
        let test = Test::start(hanging(1, 1000 * SECOND), more).await;
        let limit = whole.and_then(|whole| of_route(whole * SECOND));
        let (code, took) = timed(test.code(REPEATABLE, message("hello"), limit)).await;
        assert_eq!(code, "0");
        assert!(about(took, first), "{took:?}");
        assert_eq!(test.seen.bodies(), [b"hello", b"hello"]);
        assert_eq!(test.retries(), ["timeout retried 1"]);
        // One hung, one answered.
        assert_eq!(test.counted(), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_try_has_all_the_time_that_is_left_and_none_goes_beyond() {
    let test = Test::start(hanging(9, 1000 * SECOND), "").await;
    let ten = Some(limit(10 * SECOND));
    let (code, took) = timed(test.code(REPEATABLE, Body::empty(), ten)).await;
    assert_eq!(code, "4");
    assert!(about(took, 10 * SECOND), "{took:?}");
    let waits = test.seen.waits();
    assert_eq!(waits.len(), 2);
    assert!(
        waits.iter().all(|wait| (3000..3100).contains(wait)),
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_try_goes_on_where_no_other_can_follow() {
    let test = Test::start(hanging(1, 7 * SECOND), NO_BUDGET).await;
    let ten = of_route(10 * SECOND);
    let (code, took) = timed(test.code(REPEATABLE, Body::empty(), ten)).await;
    assert_eq!(code, "0");
    assert!(about(took, 7 * SECOND), "{took:?}");
    assert_eq!(test.retries(), ["timeout budget 1"]);
    // Its endpoint hears of it once: of the time that was too long.
    assert_eq!(test.counted(), (1, 1));
    assert!(test.expected().unwrap() <= 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn calls_that_may_not_be_repeated_and_quiet_streams_have_no_time_for_a_try() {
    for kind in [ANY, STREAM] {
        let test = Test::start(hanging(1, 60 * SECOND), "").await;
        let (code, took) = timed(test.call(kind, Body::empty())).await;
        assert_eq!(code, "0");
        assert!(about(took, 60 * SECOND), "{took:?}");
        assert_eq!(test.counted(), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_try_begins_when_its_request_is_sent() {
    let test = Test::start(hanging(1, SECOND), "").await;
    let (sender, body) = growing();
    let sends = async {
        for _ in 0..8 {
            sender.send(Frame::data("x".into())).unwrap();
            tokio::time::sleep(SECOND).await;
        }
        drop(sender);
    };
    let ten = Some(limit(10 * SECOND));
    let call = test.code(REPEATABLE, body, ten);
    let (code, ()) = tokio::join!(call, sends);
    assert_eq!((&code[..], test.seen.number()), ("0", 1));
}

#[tokio::test(start_paused = true)]
async fn held_headers_do_not_stop_the_clock() {
    let test = Test::start(
        |number, mut respond: SendResponse<Bytes>| async move {
            if number > 0 {
                return ok(&mut respond);
            }
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
        },
        "",
    )
    .await;
    let ten = Some(limit(10 * SECOND));
    let (code, took) = timed(test.code(UNARY, Body::empty(), ten)).await;
    assert_eq!(code, "0");
    assert!(about(took, 3 * SECOND), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_route_is_the_endpoints_fault_and_one_of_the_caller_is_not() {
    for (of_route, counted) in [(true, (1, 1)), (false, (0, 0))] {
        let test = Test::start(hanging(1, 60 * SECOND), "").await;
        let limit = Some(Limit {
            of_route,
            ..limit(SECOND)
        });
        assert_eq!(test.code(ANY, Body::empty(), limit).await, "4");
        assert_eq!(test.counted(), counted);
        // Balancing learns of both.
        let expected = test.expected().unwrap();
        assert!(about(expected, SECOND - SECOND / 10), "{expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_sends_too_slowly_is_not_the_endpoints_fault() {
    let test = Test::start(|_, _| pending(), "").await;
    let (sender, body) = growing();
    sender.send(Frame::data("half".into())).unwrap();
    assert_eq!(test.code(ANY, body, of_route(SECOND)).await, "4");
    assert_eq!(test.counted(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_try_that_had_little_time_left_is_not_blamed() {
    let test = Test::start(
        |number, mut respond: SendResponse<Bytes>| async move {
            if number > 0 {
                return pending().await;
            }
            tokio::time::sleep(8 * SECOND).await;
            refuse(&mut respond);
        },
        "",
    )
    .await;
    assert_eq!(
        test.code(ANY, Body::empty(), of_route(10 * SECOND)).await,
        "4"
    );
    assert_eq!(test.seen.number(), 2);
    // The refusal alone.
    assert_eq!(test.counted(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_try_that_has_no_more_time_because_of_its_caller_is_not_the_endpoints_fault() {
    for (more, counted) in [
        // The caller's share, and what the operator says is enough.
        ("", (1, 0)),
        ("try_timeout = '2s'", (2, 1)),
    ] {
        let test = Test::start(hanging(1, 1000 * SECOND), more).await;
        let ten = Some(limit(10 * SECOND));
        assert_eq!(test.code(REPEATABLE, message("hello"), ten).await, "0");
        assert_eq!(test.retries(), ["timeout retried 1"]);
        assert_eq!(test.counted(), counted);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_in_a_hurry_do_not_shut_an_endpoint_to_others() {
    let test = Test::start(
        hanging(usize::MAX, 2 * SECOND),
        "[upstreams.breaker]\nwindow = '1h'",
    )
    .await;
    assert_eq!(test.call(REPEATABLE, Body::empty()).await, "0");
    for _ in 0..10 {
        let hurry = Some(limit(SECOND));
        assert_eq!(test.code(REPEATABLE, Body::empty(), hurry).await, "4");
    }
    assert_eq!(test.counted(), (1, 0));
    // Balancing learns of what they waited for.
    let expected = test.expected().unwrap();
    assert!(expected >= SECOND / 4, "{expected:?}");
    assert_eq!(test.call(REPEATABLE, Body::empty()).await, "0");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_one_try_does_not_end_the_next() {
    let test = Test::start(
        |number, mut respond: SendResponse<Bytes>| async move {
            match number {
                0 | 1 => return unavailable(&mut respond),
                _ => tokio::time::sleep(3 * SECOND).await,
            }
            ok(&mut respond);
        },
        "try_timeout = '1s'",
    )
    .await;
    let code = test.call(REPEATABLE, message("hello")).await;
    assert_eq!(code, "0");
    assert_eq!(test.retries(), ["status retried 2"]);
    assert_eq!(test.counted(), (3, 2));
    let expected = test.expected().unwrap();
    assert!(about(expected, 3 * SECOND - SECOND / 10), "{expected:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_its_caller_does_not_take_is_not_the_endpoints_fault() {
    for (kind, bytes) in [(UNARY, 2 << 20), (UNARY, 1), (ANY, 2 << 20)] {
        let answers = move |_, mut respond: SendResponse<Bytes>| async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            send_all(&mut send, vec![0; bytes].into()).await;
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
        };
        let test = Test::start(answers, "max_tries = 1").await;
        let response = test.begin(kind, Body::empty(), of_route(SECOND)).await;
        let mut body = response.unwrap().into_body();
        // No credit is given.
        let trailers = loop {
            let frame = std::future::poll_fn(|cx| body.poll_next(cx)).await;
            if let Ok(trailers) = frame.unwrap().unwrap().into_trailers() {
                break trailers;
            }
        };
        assert_eq!(trailers["grpc-status"], "4");
        drop(body);
        assert_eq!(test.counted(), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_whose_headers_alone_came_in_time_is_the_endpoints_fault() {
    let answers = |_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
    };
    for (kind, counted) in [(UNARY, (1, 1)), (STREAM, (0, 0)), (ANY, (0, 0))] {
        let test = Test::start(answers, "max_tries = 1").await;
        assert_eq!(test.code(kind, Body::empty(), of_route(SECOND)).await, "4");
        assert_eq!(test.counted(), counted);
    }
}

//! What counts as an endpoint's failure, and what never does.

use std::future::{pending, ready};

use super::support::*;
use super::*;

/// What the breaker counts of one call that fails so.
async fn counted(fail: fn(&mut SendResponse<Bytes>), more: &str) -> (u32, u32) {
    let more = format!("max_tries = 1\n{more}");
    let test = Test::start(after(1, fail), &more).await;
    test.call(ANY, Body::empty()).await;
    test.counted()
}

const SUCCESS: (u32, u32) = (1, 0);
const FAILURE: (u32, u32) = (1, 1);
const NOTHING: (u32, u32) = (0, 0);

#[tokio::test(start_paused = true)]
async fn an_answer_is_a_success_unless_its_status_is_named() {
    assert_eq!(counted(ok, "").await, SUCCESS);
    assert_eq!(counted(unavailable, "").await, FAILURE);
    // Callers could provoke them.
    for code in ["1", "2", "4", "8", "13"] {
        let test = Test::start(
            move |_, mut respond: SendResponse<Bytes>| {
                trailers_only(&mut respond, status(code));
                ready(())
            },
            "",
        )
        .await;
        test.call(ANY, Body::empty()).await;
        assert_eq!(test.counted(), SUCCESS, "{code}");
    }
    let named = "[upstreams.breaker]\nfailure_codes = ['UNKNOWN']";
    assert_eq!(counted(unavailable, named).await, SUCCESS);
}

#[tokio::test(start_paused = true)]
async fn a_status_counts_wherever_it_comes() {
    fn in_trailers(respond: &mut SendResponse<Bytes>) {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data("message".into(), false);
        let _ = send.send_trailers(status("14"));
    }
    assert_eq!(counted(in_trailers, "").await, FAILURE);
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_status_and_an_error_page_are_failures() {
    fn headers_only(respond: &mut SendResponse<Bytes>) {
        let _ = respond.send_response(grpc_head(), true);
    }
    fn data_only(respond: &mut SendResponse<Bytes>) {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data("message".into(), true);
    }
    fn page<const STATUS: u16>(respond: &mut SendResponse<Bytes>) {
        let head = Response::builder().status(STATUS).body(()).unwrap();
        let _ = respond.send_response(head, true);
    }
    assert_eq!(counted(headers_only, "").await, FAILURE);
    assert_eq!(counted(data_only, "").await, FAILURE);
    assert_eq!(counted(page::<500>, "").await, FAILURE);
    assert_eq!(counted(page::<503>, "").await, FAILURE);
    // It stands there, and is not what was meant.
    assert_eq!(counted(page::<404>, "").await, NOTHING);
    assert_eq!(counted(page::<429>, "").await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn of_resets_only_those_of_a_failing_host_count() {
    fn reset<const REASON: u32>(respond: &mut SendResponse<Bytes>) {
        respond.send_reset(Reason::from(REASON));
    }
    fn later<const REASON: u32>(respond: &mut SendResponse<Bytes>) {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        send.send_reset(Reason::from(REASON));
    }
    // INTERNAL_ERROR and REFUSED_STREAM.
    assert_eq!(counted(reset::<2>, "").await, FAILURE);
    assert_eq!(counted(later::<2>, "").await, FAILURE);
    assert_eq!(counted(reset::<7>, "").await, FAILURE);
    // PROTOCOL_ERROR, CANCEL and ENHANCE_YOUR_CALM.
    for reset in [reset::<1>, reset::<8>, reset::<11>, later::<1>, later::<8>] {
        assert_eq!(counted(reset, "").await, NOTHING);
    }
}

/// A call that its caller gives up after 50 ms, or after its answer's `frames`.
async fn given_up(test: &Test, kind: Method, frames: usize) {
    let call = async {
        let response = test.begin(kind, Body::empty(), None).await.unwrap();
        let mut body = response.into_body();
        for _ in 0..frames {
            let frame = std::future::poll_fn(|cx| body.poll_next(cx)).await;
            assert!(frame.unwrap().unwrap().is_data());
        }
        if frames == 0 {
            pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(50), call).await;
}

#[tokio::test(start_paused = true)]
async fn what_its_caller_gives_up_counts_for_nothing_unless_it_was_served() {
    let silent = Test::start(|_, _| pending(), "").await;
    given_up(&silent, ANY, 0).await;
    assert_eq!((silent.counted(), silent.seen.number()), (NOTHING, 1));

    let streams = |_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_data("message".into(), false);
        let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
    };
    let test = Test::start(streams, "").await;
    given_up(&test, STREAM, 1).await;
    assert_eq!(test.counted(), SUCCESS);

    let quiet = |_, mut respond: SendResponse<Bytes>| async move {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
    };
    let test = Test::start(quiet, "").await;
    given_up(&test, STREAM, 0).await;
    assert_eq!(test.counted(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_tells_of_an_answer_that_takes_longer_than_expected() {
    let slow = |number, mut respond: SendResponse<Bytes>| async move {
        let time = [20, 10_000, 10_000][number];
        tokio::time::sleep(Duration::from_millis(time)).await;
        ok(&mut respond);
    };
    let test = Test::start(slow, "").await;
    assert_eq!(test.call(ANY, Body::empty()).await, "0");
    let known = test.expected().unwrap();
    given_up(&test, ANY, 0).await;
    assert!(test.expected().unwrap() > 2 * known);

    // One that has not waited that long tells nothing.
    let known = test.expected().unwrap();
    let call = test.call(ANY, Body::empty());
    let _ = tokio::time::timeout(Duration::from_millis(5), call).await;
    assert!(test.expected().unwrap() <= known);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_a_rule_counts_for_nothing() {
    use crate::layers::grpc_web::{Encoding, to_grpc};
    let test = Test::start(|_, _| pending(), "").await;
    let request = to_grpc(Request::new(Body::full(vec![0xff; 10])), Encoding::Binary);
    let reply = test.send(REPEATABLE, request, None).await.err().unwrap();
    assert_eq!(reply.label, "bad_grpc_web");
    assert_eq!((test.counted(), test.retries().len()), (NOTHING, 0));
}

#[tokio::test(start_paused = true)]
async fn each_try_counts_once_at_the_endpoint_that_it_went_to() {
    let test = Test::start(after(2, unavailable), "").await;
    assert_eq!(test.call(UNARY, message("hello")).await, "0");
    assert_eq!(test.counted(), (3, 2));
}

/// No breaker is in the way.
const NO_BREAKER: &str = "max_tries = 1\n[upstreams.breaker]\nconsecutive_failures = 10000\n\
                          failure_ratio = 1.0";

#[tokio::test(start_paused = true)]
async fn failing_never_makes_an_endpoint_look_faster() {
    fn page<const STATUS: u16>(respond: &mut SendResponse<Bytes>) {
        let head = Response::builder().status(STATUS).body(()).unwrap();
        let _ = respond.send_response(head, true);
    }
    fn internal(respond: &mut SendResponse<Bytes>) {
        trailers_only(respond, status("13"));
    }
    fn in_trailers(respond: &mut SendResponse<Bytes>) {
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        let _ = send.send_trailers(status("14"));
    }
    for fail in [
        unavailable,
        internal,
        in_trailers,
        refuse,
        page::<503>,
        page::<404>,
    ] {
        let handler = move |number, mut respond: SendResponse<Bytes>| async move {
            if number > 0 {
                return fail(&mut respond);
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
            ok(&mut respond);
        };
        let test = Test::start(handler, NO_BREAKER).await;
        assert_eq!(test.call(UNARY, Body::empty()).await, "0");
        for _ in 0..30 {
            assert_ne!(test.call(UNARY, Body::empty()).await, "0");
        }
        let expected = test.expected().unwrap();
        assert!(expected > Duration::from_millis(300), "{expected:?}");

        // Nor one of which nothing else is known.
        let test = Test::start(after(usize::MAX, fail), NO_BREAKER).await;
        test.call(UNARY, Body::empty()).await;
        let expected = test.expected().unwrap();
        assert!(expected > Duration::from_millis(900), "{expected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_at_once_does_not_draw_the_calls() {
    let (broken, sound) = (Seen::default(), Seen::default());
    let fails = broken.by(|_, mut respond: SendResponse<Bytes>| {
        // No failure for the breaker.
        trailers_only(&mut respond, status("13"));
        ready(())
    });
    let works = sound.by(|_, mut respond: SendResponse<Bytes>| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        ok(&mut respond);
    });
    let test = Test::at(&[backend(fails).await, backend(works).await], NO_BREAKER);
    for _ in 0..20 {
        let calls = (0..10).map(|_| test.call(UNARY, Body::empty()));
        futures_util::future::join_all(calls).await;
    }
    let failed = broken.number();
    assert!(failed < 120, "{failed} of 200");
    assert_eq!(failed + sound.number(), 200);
}

//! Which calls are tried again, when, and what their callers get.

use std::future::ready;

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::*;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_tried_again_whatever_the_call() {
    let test = Test::start(after(1, refuse), "").await;
    assert_eq!(test.call(ANY, message("hello")).await, "0");
    assert_eq!(test.seen.bodies(), [b"hello", b"hello"]);
    assert_eq!(test.retries(), ["refused retried 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_goaway_above_the_streams_id_costs_no_call_and_no_budget() {
    let port = restarting().await;
    let test = Test::at(&[port], NO_BUDGET);
    assert_eq!(test.call(ANY, message("hello")).await, "0");
    assert_eq!(test.retries(), ["goaway retried 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_tried_again_only_where_the_call_may_be_repeated() {
    for (route, code, retries) in [(ANY, "14", 0), (REPEATABLE, "0", 1)] {
        let test = Test::at(&[breaking().await], "");
        assert_eq!(test.call(route, message("hello")).await, code);
        assert_eq!(test.retries().len(), retries);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_tried_again_unless_it_is_an_answer_or_would_come_again() {
    for (reason, code) in [
        (Reason::NO_ERROR, "0"),
        (Reason::INTERNAL_ERROR, "0"),
        (Reason::CONNECT_ERROR, "0"),
        (Reason::REFUSED_STREAM, "0"),
        (Reason::CANCEL, "1"),
        (Reason::ENHANCE_YOUR_CALM, "8"),
        (Reason::INADEQUATE_SECURITY, "7"),
        (Reason::PROTOCOL_ERROR, "13"),
        (Reason::FLOW_CONTROL_ERROR, "13"),
    ] {
        let handler = move |number, mut respond: SendResponse<Bytes>| {
            match number {
                0 => respond.send_reset(reason),
                _ => ok(&mut respond),
            }
            ready(())
        };
        let test = Test::start(handler, "").await;
        let got = test.call(REPEATABLE, Body::empty()).await;
        assert_eq!(got, code, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_tried_again_where_the_call_may_be_repeated_and_the_status_is_named() {
    for (route, more, code) in [
        (REPEATABLE, "", "0"),
        (ANY, "", "14"),
        (REPEATABLE, "codes = ['ABORTED']", "14"),
        (REPEATABLE, "codes = []", "14"),
    ] {
        let test = Test::start(after(1, unavailable), more).await;
        assert_eq!(test.call(route, Body::empty()).await, code, "{more}");
    }
}

fn unavailable_in_trailers(respond: &mut SendResponse<Bytes>) {
    let mut send = respond.send_response(grpc_head(), false).unwrap();
    let _ = send.send_trailers(status("14"));
}

#[tokio::test(start_paused = true)]
async fn a_status_in_trailers_is_tried_again_for_unary_calls_and_never_for_streams() {
    for (route, code) in [
        (UNARY, "0"),
        (REPEATABLE, "14"),
        (STREAM, "14"),
        (ANY, "14"),
    ] {
        let test = Test::start(after(1, unavailable_in_trailers), "").await;
        assert_eq!(test.call(route, Body::empty()).await, code);
    }
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_that_breaks_after_its_headers_is_tried_again_unless_data_came() {
    for (with_data, code) in [(false, "0"), (true, "13")] {
        let handler = move |number, mut respond: SendResponse<Bytes>| async move {
            if number > 0 {
                return ok(&mut respond);
            }
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            if with_data {
                let _ = send.send_data(Bytes::from_static(b"part"), false);
            }
            crate::test_util::settle().await;
            send.send_reset(Reason::INTERNAL_ERROR);
        };
        let test = Test::start(handler, "").await;
        assert_eq!(test.call(UNARY, Body::empty()).await, code);
    }
}

#[tokio::test(start_paused = true)]
async fn held_headers_come_with_the_first_data_and_nothing_is_lost() {
    let test = Test::start(
        |_, mut respond: SendResponse<Bytes>| async move {
            let mut head = grpc_head();
            head.headers_mut().insert("x-mine", "kept".parse().unwrap());
            let mut send = respond.send_response(head, false).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = send.send_data(Bytes::from_static(b"one"), false);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = send.send_data(Bytes::from_static(b"two"), false);
            let _ = send.send_trailers(status("0"));
        },
        "",
    )
    .await;
    for (route, expected) in [(UNARY, 100), (STREAM, 0), (ANY, 0)] {
        let began = Instant::now();
        let response = test.begin(route, Body::empty(), None).await.unwrap();
        let held = began.elapsed().as_millis();
        assert!((expected..expected + 50).contains(&held), "{held}");
        assert_eq!(response.headers()["x-mine"], "kept");
        let (bytes, trailers, _) = drain(&mut response.into_body()).await;
        assert_eq!(bytes, b"onetwo");
        assert_eq!(trailers.unwrap()["grpc-status"], "0");
    }
}

#[tokio::test(start_paused = true)]
async fn the_request_flows_while_headers_are_held() {
    let port = backend(
        |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            // More than the windows hold without being read.
            let got = crate::test_util::receive(&mut request.into_body()).await;
            let len: usize = got.unwrap().0.iter().map(Bytes::len).sum();
            let _ = send.send_data(len.to_string().into(), false);
            let _ = send.send_trailers(status("0"));
        },
    )
    .await;
    let test = Test::at(&[port], "replay_bytes = 1000000");
    let response = test.begin(UNARY, Body::full(vec![7; 500_000]), None).await;
    let (bytes, ..) = drain(&mut response.unwrap().into_body()).await;
    assert_eq!(bytes, b"500000");
}

#[tokio::test(start_paused = true)]
async fn an_error_page_is_tried_again_by_its_status_but_not_a_limit() {
    for (page, code) in [(502, "0"), (503, "0"), (429, "14"), (500, "2"), (404, "12")] {
        let handler = move |number, mut respond: SendResponse<Bytes>| {
            if number == 0 {
                let head = Response::builder().status(page).body(()).unwrap();
                let _ = respond.send_response(head, true);
            } else {
                ok(&mut respond);
            }
            ready(())
        };
        let test = Test::start(handler, "").await;
        assert_eq!(test.call(REPEATABLE, Body::empty()).await, code, "{page}");
    }
}

#[tokio::test(start_paused = true)]
async fn tries_are_numbered_and_end_with_the_last_ones_status() {
    let test = Test::start(after(9, unavailable), "max_tries = 4").await;
    let mut request = Request::new(Body::empty());
    let own = HeaderValue::from_static("7");
    request
        .headers_mut()
        .insert("grpc-previous-rpc-attempts", own);
    let response = test.send(REPEATABLE, request, None).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    let attempts = test.seen.headers("grpc-previous-rpc-attempts");
    assert_eq!(attempts, ["", "1", "2", "3"]);
    assert_eq!(test.retries(), ["status retried 3", "status tries 1"]);
}

#[tokio::test(start_paused = true)]
async fn without_budget_the_first_failure_stands_at_once() {
    let test = Test::start(after(1, unavailable), NO_BUDGET).await;
    let began = Instant::now();
    assert_eq!(test.call(REPEATABLE, Body::empty()).await, "14");
    assert!(began.elapsed() < Duration::from_millis(5));
    assert_eq!(
        (test.seen.number(), test.retries()),
        (1, vec!["status budget 1".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn calls_pay_for_retries_and_retries_that_wait_are_counted() {
    let more = "budget_ratio = 0.5\nbudget_per_second = 0\nbackoff_min = '1s'\nbackoff_max = '1s'";
    let test = Test::start(after(99, unavailable), more).await;
    // Each pays half a retry: of two at the same time one may be tried again.
    let calls = (0..2).map(|_| test.call(REPEATABLE, Body::empty()));
    let ended = futures_util::future::join_all(calls).await;
    assert_eq!(ended, ["14", "14"]);
    assert_eq!(test.seen.number(), 3);
}

#[tokio::test(start_paused = true)]
async fn waits_double_and_differ() {
    let more = "max_tries = 5\nbackoff_min = '100ms'\nbackoff_max = '250ms'";
    let test = Test::start(after(9, unavailable), more).await;
    test.call(REPEATABLE, Body::empty()).await;
    for (wait, most) in test.seen.waits().into_iter().zip([100, 200, 250, 250]) {
        assert!((most / 2..most + 20).contains(&wait), "{wait} of {most}");
    }
    assert_eq!(test.seen.number(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_goes_to_another_endpoint_at_once() {
    let asked = Seen::default();
    let ports = [
        backend(asked.by(after(1, refuse))).await,
        backend(asked.by(after(1, refuse))).await,
    ];
    let test = Test::at(&ports, "backoff_min = '1s'\nbackoff_max = '1s'");
    assert_eq!(test.call(ANY, Body::empty()).await, "0");
    assert!(asked.waits()[0] < 100, "{:?}", asked.waits());
}

/// UNAVAILABLE with this pushback.
fn pushed_back(
    pushback: &'static str,
) -> impl Fn(usize, SendResponse<Bytes>) -> std::future::Ready<()> + Clone + Send + 'static {
    move |number, mut respond| {
        let mut trailers = status("14");
        let value = HeaderValue::from_static(pushback);
        trailers.insert("grpc-retry-pushback-ms", value);
        match number {
            0 => trailers_only(&mut respond, trailers),
            _ => ok(&mut respond),
        }
        ready(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_says_how_long_to_wait_or_that_nobody_tries_again() {
    for (pushback, waited) in [("0", 0), ("700", 700), ("60000", 60_000)] {
        let test = Test::start(pushed_back(pushback), "").await;
        assert_eq!(test.call(REPEATABLE, Body::empty()).await, "0");
        let wait = test.seen.waits()[0];
        assert!(
            (waited..waited + 10).contains(&wait),
            "{wait} for {pushback}"
        );
    }
    for pushback in ["-1", "soon", "", "60001", "99999999999", "1.5"] {
        let test = Test::start(pushed_back(pushback), "").await;
        assert_eq!(
            test.call(REPEATABLE, Body::empty()).await,
            "14",
            "{pushback}"
        );
        assert_eq!(test.retries(), ["status pushback 1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_end_after_the_deadline_is_not_begun() {
    let test = Test::start(pushed_back("2000"), "").await;
    let began = Instant::now();
    let second = Some(limit(Duration::from_secs(2)));
    let response = test.begin(REPEATABLE, Body::empty(), second).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    assert!(began.elapsed() < Duration::from_millis(10));
    assert_eq!(test.retries(), ["status deadline 1"]);
}

#[tokio::test(start_paused = true)]
async fn each_try_is_told_what_time_is_left() {
    let test = Test::start(pushed_back("4000"), "").await;
    let mut request = Request::new(Body::empty());
    let asked = HeaderValue::from_static("10S");
    request.headers_mut().insert("grpc-timeout", asked);
    let ten = Some(limit(Duration::from_secs(10)));
    test.send(REPEATABLE, request, ten).await.unwrap();
    let told = test.seen.headers("grpc-timeout");
    assert_eq!(told.len(), 2);
    let left: u64 = told[1].trim_end_matches('u').parse().unwrap();
    assert!((5_900_000..=6_000_000).contains(&left), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_can_not_be_connected_to_is_tried_again_for_any_call() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let more = "backoff_min = '100ms'\nbackoff_max = '100ms'";
    let test = Test::at(&[port], more);
    let starts = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::spawn(serve(socket.listen(8).unwrap()));
    };
    let (code, ()) = tokio::join!(test.call(ANY, message("hello")), starts);
    assert_eq!(code, "0");
    assert_eq!(test.retries(), ["connect retried 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_backend_said_stands_when_there_is_no_place_for_another_try() {
    let more = "[upstreams.breaker]\nconsecutive_failures = 1";
    let test = Test::start(after(9, unavailable), more).await;
    let response = test.begin(REPEATABLE, Body::empty(), None).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(test.seen.number(), 1);
    // The next call has heard nothing of a backend.
    let reply = test.begin(REPEATABLE, Body::empty(), None).await.err();
    assert_eq!(reply.unwrap().label, "breaker_open");
    assert_eq!(test.seen.number(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_its_call_waits_is_not_served_any_more() {
    let test = Test::start(pushed_back("5000"), "").await;
    let call = test.call(REPEATABLE, message("hello"));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), call)
            .await
            .is_err()
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(test.seen.number(), 1);
    assert_eq!((test.pool.in_flight(), test.kept()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_try_is_one_try_where_retries_are_turned_off() {
    for fail in [refuse as fn(&mut SendResponse<Bytes>), unavailable] {
        let test = Test::start(after(9, fail), "max_tries = 1").await;
        assert_eq!(test.call(UNARY, Body::empty()).await, "14");
        assert_eq!((test.seen.number(), test.retries().len()), (1, 0));
    }
}

/// A server that is stopped, and its successor at the same place.
async fn restarting() -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        going_away(socket).await;
        serve(listener).await;
    });
    port
}

/// An HTTP/2 server that has stopped taking requests when the first one comes:
/// frame by frame, as no library would leave one out.
async fn going_away(mut socket: TcpStream) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The last stream that it took is 0, the reason NO_ERROR.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).await.unwrap();
    socket.write_all(&SETTINGS).await.unwrap();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        socket.read_exact(&mut payload).await.unwrap();
        match head[3] {
            // PING: its answer is the same with ACK.
            6 if head[4] == 0 => {
                head[4] = 1;
                socket.write_all(&head).await.unwrap();
                socket.write_all(&payload).await.unwrap();
            }
            // HEADERS.
            1 => return socket.write_all(&GOAWAY).await.unwrap(),
            _ => {}
        }
    }
}

/// Its first connection breaks once it has brought a request.
async fn breaking() -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        drop(connection.accept().await);
        drop(connection);
        serve(listener).await;
    });
    port
}

//! Calls that find out whether an endpoint is back.

use intellirouter::resilience::BreakerState;

use super::support::*;
use super::*;

/// Fails once, which opens the breaker; from then on it begins an answer, with a
/// message or without, ends it so after half a second, or never.
async fn back_again(with_message: bool, end: Option<&'static str>) -> Test {
    let handler = move |number, mut respond: SendResponse<Bytes>| async move {
        if number == 0 {
            return unavailable(&mut respond);
        }
        let mut send = respond.send_response(grpc_head(), false).unwrap();
        if with_message {
            let _ = send.send_data("message".into(), false);
        }
        match end {
            Some(code) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                let _ = send.send_trailers(status(code));
            }
            None => drop(std::future::poll_fn(|cx| send.poll_reset(cx)).await),
        }
    };
    let more = "max_tries = 1\n[upstreams.breaker]\nconsecutive_failures = 1\n\
                open_min = '1s'\nopen_max = '1s'";
    let test = Test::start(handler, more).await;
    assert_eq!(test.call(ANY, Body::empty()).await, "14");
    assert_eq!(state(&test), BreakerState::Open);
    tokio::time::sleep(Duration::from_secs(1)).await;
    test
}

fn state(test: &Test) -> BreakerState {
    let endpoint = &test.pool.upstream().endpoints()[0];
    endpoint.standing.breaker.describe().state
}

#[tokio::test(start_paused = true)]
async fn an_upstream_of_endless_streams_is_back_with_the_first_one_that_begins() {
    for with_message in [true, false] {
        let test = back_again(with_message, None).await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            let stream = test.begin(STREAM, Body::empty(), None).await;
            streams.push(stream.expect("all of them are let in"));
            assert_eq!(state(&test), BreakerState::Closed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_unknown_method_is_a_sign_of_life_with_its_message_or_when_it_goes_on() {
    for with_message in [true, false] {
        let test = back_again(with_message, None).await;
        let answer = test.begin(ANY, Body::empty(), None).await.unwrap();
        assert_eq!(state(&test), BreakerState::HalfOpen);
        let mut body = answer.into_body();
        let frame = std::future::poll_fn(|cx| body.poll_next(cx));
        let frame = tokio::time::timeout(Duration::from_millis(1500), frame).await;
        assert_eq!(frame.is_ok(), with_message);
        assert_eq!(state(&test), BreakerState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_method_that_ends_without_a_message_is_judged_by_its_status() {
    for (code, expected) in [("0", BreakerState::Closed), ("14", BreakerState::Open)] {
        let test = back_again(false, Some(code)).await;
        assert_eq!(test.call(ANY, Body::empty()).await, code);
        assert_eq!(state(&test), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_with_its_headers_is_no_sign_of_life() {
    let handler = |_, mut respond: SendResponse<Bytes>| {
        unavailable(&mut respond);
        std::future::ready(())
    };
    let more = "max_tries = 1\n[upstreams.breaker]\nconsecutive_failures = 1";
    let test = Test::start(handler, more).await;
    for opened in 1..=2 {
        assert_eq!(test.call(STREAM, Body::empty()).await, "14");
        let endpoint = &test.pool.upstream().endpoints()[0];
        assert_eq!(endpoint.standing.breaker.describe().opened, opened);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_unary_probe_is_judged_by_its_status() {
    for (code, expected) in [("0", BreakerState::Closed), ("14", BreakerState::Open)] {
        for with_message in [true, false] {
            let test = back_again(with_message, Some(code)).await;
            let response = test.begin(UNARY, Body::empty(), None).await.unwrap();
            assert_eq!(state(&test), BreakerState::HalfOpen);
            drain(&mut response.into_body()).await;
            assert_eq!(state(&test), expected);
        }
    }
}

//! What ends an execution before its chain does.

use std::time::Duration;

use super::*;

fn short() -> ChainEngineSettings {
    ChainEngineSettings {
        timeout: Duration::from_millis(150),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_cancellation_within_a_step_drops_the_call_to_the_router() {
    for model in ["stalls", "never_answers"] {
        let mut bench = Bench::new().await;
        let mut stream = bench.stream(one(model)).await;
        let id = stream.message().await.unwrap().unwrap().execution_id;
        bench.router.has_open(1).await;

        let cancelled = bench.cancel(&id).await.unwrap();
        assert!(cancelled.success && cancelled.error.is_none());
        assert_eq!(cancelled.execution_id, id);
        bench.router.has_open(0).await;
        assert_eq!(bench.status(&id).await.unwrap().status(), Ended::Cancelled);

        let mut events = rest(&mut stream).await;
        let Some(Data::ChainFailed(failed)) = events.pop().unwrap().data else {
            panic!()
        };
        assert_eq!(failed.error.unwrap().code, "CANCELLED");
        let Some(Data::StepFailed(failed)) = events.pop().unwrap().data else {
            panic!()
        };
        assert_eq!(failed.step_id, "only");
        assert_eq!(bench.heard().await.1["error"]["code"], "CANCELLED");
    }
}

#[tokio::test]
async fn a_cancelled_call_is_answered_with_what_was_done() {
    let mut bench = Bench::new().await;
    let steps = [step("a", "echoes", ""), step("b", "never_answers", "")];
    let mut client = bench.client.clone();
    let call = tokio::spawn(async move { client.execute_chain(to_run(chain(steps), "in")).await });
    let (_, told) = bench.heard().await;
    let id = told["execution_id"].as_str().unwrap().to_owned();
    assert!(bench.cancel(&id).await.unwrap().success);
    let response = call.await.unwrap().unwrap().into_inner();
    failed(&response, Ended::Cancelled, "CANCELLED");
    let results = &response.step_results;
    assert_eq!(
        (results[0].status(), results[1].status()),
        (Ended::Success, Ended::Cancelled)
    );
}

#[tokio::test]
async fn what_has_ended_cannot_be_cancelled() {
    let mut bench = Bench::new().await;
    let id = bench.execute(one("echoes")).await.unwrap().execution_id;
    let cancelled = bench.cancel(&id).await.unwrap();
    assert!(!cancelled.success);
    assert_eq!(cancelled.error.unwrap().code, "ALREADY_ENDED");
    assert_eq!(bench.status(&id).await.unwrap().status(), Ended::Success);
    assert_unknown(
        &bench.cancel("none").await.unwrap_err(),
        "Execution",
        "none",
    );
}

#[tokio::test]
async fn the_time_ends_an_execution_within_a_step() {
    for model in ["stalls", "never_answers"] {
        let mut bench = Bench::with(short()).await;
        let response = bench.execute(one(model)).await.unwrap();
        failed(&response, Ended::Timeout, "TIMEOUT");
        assert_eq!(response.step_results[0].status(), Ended::Timeout);
        bench.router.has_open(0).await;
        let (kind, told) = bench.heard().await;
        assert_eq!(kind, "chain_execution_failed");
        assert_eq!(told["error"]["code"], "TIMEOUT");
        assert!(told["execution_time_ms"].is_u64());
    }
}

#[tokio::test]
async fn the_request_says_how_long_it_may_take() {
    let mut bench = Bench::with(short()).await;
    let mut request = one("waits");
    request.timeout_seconds = 30;
    let mut stream = bench.stream(request).await;
    bench.router.has_open(1).await;
    // Longer than the engine gives by itself.
    let response = bench.execute(one("never_answers")).await.unwrap();
    assert_eq!(response.status(), Ended::Timeout);
    bench.router.gate.add_permits(1);
    let last = rest(&mut stream).await.pop().unwrap();
    assert!(matches!(last.data, Some(Data::ChainCompleted(_))));
}

#[tokio::test]
async fn the_callers_own_deadline_ends_an_execution_as_a_timeout() {
    let mut bench = Bench::new().await;
    let mut request = Request::new(one("never_answers"));
    request.set_timeout(Duration::from_millis(150));
    bench.client.execute_chain(request).await.unwrap_err();
    let (_, told) = bench.heard().await;
    assert_eq!(told["error"]["code"], "TIMEOUT");
    bench.router.has_open(0).await;

    let mut request = Request::new(one("stalls"));
    request.set_timeout(Duration::from_millis(150));
    let stream = bench.client.stream_chain_execution(request).await;
    let (_, told) = bench.heard().await;
    assert_eq!(told["error"]["code"], "TIMEOUT");
    drop(stream);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_execution() {
    let mut bench = Bench::new().await;
    let mut client = bench.client.clone();
    let call = tokio::spawn(async move { client.execute_chain(one("never_answers")).await });
    bench.router.has_open(1).await;
    call.abort();
    bench.router.has_open(0).await;
    let (_, told) = bench.heard().await;
    assert_eq!(told["error"]["code"], "CANCELLED");
    let id = told["execution_id"].as_str().unwrap();
    assert_eq!(bench.status(id).await.unwrap().status(), Ended::Cancelled);

    let mut stream = bench.stream(one("stalls")).await;
    let id = until_it_stalls(&mut stream).await;
    drop(stream);
    bench.router.has_open(0).await;
    assert_eq!(bench.heard().await.1["error"]["code"], "CANCELLED");
    assert_eq!(bench.status(&id).await.unwrap().status(), Ended::Cancelled);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_slows_its_own_execution_only() {
    let mut settings = short();
    settings.timeout = Duration::from_millis(400);
    let mut bench = Bench::with(settings).await;
    let mut unread = bench.stream(one("floods")).await;
    assert_eq!(bench.execute(one("echoes")).await.unwrap().output, "(in)");
    let told = bench.all_heard(3).await.pop().unwrap().1;
    // It did not come to the end of the flood, which is too large an output.
    assert_eq!(told["error"]["code"], "TIMEOUT");
    bench.router.has_open(0).await;
    let last = rest(&mut unread).await.pop().unwrap();
    let Some(Data::ChainFailed(failed)) = last.data else {
        panic!()
    };
    assert_eq!(failed.error.unwrap().code, "TIMEOUT");
}

#[tokio::test]
async fn an_engine_that_stops_waits_and_takes_no_more() {
    let mut bench = Bench::new().await;
    let mut stream = bench.stream(one("waits")).await;
    bench.router.has_open(1).await;
    let engine = bench.engine.clone();
    let draining = tokio::spawn(async move { engine.drain(Duration::from_secs(60)).await });
    let refused = loop {
        // It is refused as soon as the other task has begun.
        match bench.execute(one("echoes")).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.get_details_retry_info().is_some());
    bench.router.gate.add_permits(1);
    draining.await.unwrap();
    let last = rest(&mut stream).await.pop().unwrap();
    assert!(matches!(last.data, Some(Data::ChainCompleted(_))));
}

#[tokio::test]
async fn what_still_runs_when_the_engine_stops_is_recorded_as_interrupted() {
    let mut bench = Bench::new().await;
    let mut stream = bench.stream(one("stalls")).await;
    let id = until_it_stalls(&mut stream).await;
    bench.engine.drain(Duration::from_millis(20)).await;
    let code: i32 = bench.sql("SELECT status FROM executions");
    assert_eq!(code, i32::from(Ended::Error));
    let status = bench.status(&id).await.unwrap();
    assert_eq!(status.error.unwrap().code, "INTERRUPTED");
    let last = rest(&mut stream).await.pop().unwrap();
    let Some(Data::ChainFailed(failed)) = last.data else {
        panic!()
    };
    assert_eq!(failed.error.unwrap().code, "INTERRUPTED");
    assert_eq!(bench.heard().await.1["error"]["code"], "INTERRUPTED");
}

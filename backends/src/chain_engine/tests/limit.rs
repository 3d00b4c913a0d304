//! How much the engine takes on.

use std::time::Duration;

use pb::chain_store_service_server::ChainStoreService as _;

use super::*;
use crate::chain_engine::compile::AT_A_TIME;

#[tokio::test]
async fn so_many_executions_run_at_a_time_and_no_more() {
    let settings = ChainEngineSettings {
        max_executions: 2,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let _first = bench.stream(one("stalls")).await;
    let mut second = bench.stream(one("waits")).await;
    bench.router.has_open(2).await;

    let status = bench.execute(one("echoes")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    let quota = details.quota_failure().unwrap();
    assert_eq!(quota.violations[0].subject, "chain_engine");
    let retry = details.retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(retry.as_secs(), 1);

    bench.router.gate.add_permits(1);
    rest(&mut second).await;
    assert_eq!(bench.execute(one("echoes")).await.unwrap().output, "(in)");
}

#[tokio::test]
async fn of_many_that_come_at_once_none_too_many_begins() {
    let settings = ChainEngineSettings {
        max_executions: 3,
        ..Default::default()
    };
    let bench = Bench::with(settings).await;
    let calls: Vec<_> = (0..12)
        .map(|_| {
            let mut client = bench.client.clone();
            tokio::spawn(async move { client.execute_chain(one("waits")).await })
        })
        .collect();
    bench.router.has_open(3).await;
    let mut refused = 0;
    let mut ran = 0;
    // Whoever is refused is so at once; the others wait for this.
    bench.router.gate.add_permits(1000);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => ran += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!(ran + refused, 12);
    assert_eq!(bench.router.peak(), 3);
}

#[tokio::test]
async fn one_caller_has_its_share_and_leaves_the_rest_to_others() {
    let settings = ChainEngineSettings {
        max_executions: 8,
        max_executions_of_one: 2,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let mut streams = Vec::new();
    let mut waits = async |caller: &str| {
        let request = called_by(caller, one("waits"));
        let stream = bench.client.stream_chain_execution(request).await?;
        streams.push(stream.into_inner());
        Ok::<_, Status>(())
    };
    for caller in ["alice user", "alice admin", "bob user", "bob user"] {
        waits(caller).await.unwrap();
    }
    for (caller, subject) in [("alice user", "alice"), ("bob admin operator", "bob")] {
        let status = waits(caller).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{caller}");
        let details = status.get_error_details();
        let quota = &details.quota_failure().unwrap().violations[0];
        assert_eq!(quota.subject, format!("chain_engine/subject:{subject}"));
        assert!(quota.description.contains("2 executions of this caller"));
        assert!(details.retry_info().unwrap().retry_delay.is_some());
    }
    // A service speaks for many.
    for _ in 0..3 {
        waits("gate service").await.unwrap();
    }
    bench.router.gate.add_permits(100);
    for mut stream in streams {
        rest(&mut stream).await;
    }
    let again = bench
        .client
        .execute_chain(called_by("alice user", one("echoes")));
    again.await.unwrap();
}

#[tokio::test]
async fn a_long_name_is_cut_where_its_share_is_named() {
    let settings = ChainEngineSettings {
        max_executions_of_one: 0,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let request = called_by(&"x".repeat(4000), one("echoes"));
    let status = bench.client.execute_chain(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    let subject = &details.quota_failure().unwrap().violations[0].subject;
    let cut = "x".repeat(256);
    assert_eq!(*subject, format!("chain_engine/subject:{cut}"));
}

/// Takes every place where templates are compiled.
async fn occupied(bench: &Bench) -> tokio::sync::OwnedSemaphorePermit {
    let places = Arc::clone(&bench.engine.parts.compiler.places);
    let all = u32::try_from(AT_A_TIME).unwrap();
    places.acquire_many_owned(all).await.unwrap()
}

#[tokio::test]
async fn the_time_of_an_execution_runs_while_its_templates_wait_to_be_compiled() {
    let settings = ChainEngineSettings {
        timeout: Duration::from_millis(50),
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let places = occupied(&bench).await;
    let status = bench.execute(one("echoes")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(bench.sql::<u32>("SELECT COUNT(*) FROM executions"), 0);
    drop(places);
    // Nothing is left of it that a stop would wait for.
    bench.engine.drain(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn an_engine_that_stops_does_not_wait_for_templates_to_be_compiled() {
    let bench = Bench::new().await;
    let _places = occupied(&bench).await;
    let mut client = bench.client.clone();
    let call = tokio::spawn(async move { client.execute_chain(one("echoes")).await });
    while bench.engine.parts.metrics.running.get() == 0 {
        tokio::task::yield_now().await;
    }
    bench.engine.drain(Duration::ZERO).await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test]
async fn a_chain_is_not_stored_while_too_many_others_are_compiled_and_the_caller_is_told() {
    let mut bench = Bench::new().await;
    let places = occupied(&bench).await;
    let put = || {
        let chain = Chain {
            id: "late".to_owned(),
            ..chain([step("a", "", "")])
        };
        pb::PutChainRequest {
            chain: Some(chain),
            ..Default::default()
        }
    };
    tokio::time::pause();
    let status = bench.engine.put_chain(Request::new(put())).await;
    tokio::time::resume();
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert!(details.quota_failure().is_some() && details.retry_info().is_some());
    drop(places);
    bench.store.put_chain(put()).await.unwrap();
}

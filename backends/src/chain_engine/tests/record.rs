//! What is known of an execution while it runs, after it, and after the process.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn the_status_of_one_that_runs_says_how_far_it_has_come() {
    let mut bench = Bench::new().await;
    let steps = [
        step("a", "echoes", ""),
        step("b", "stalls", ""),
        step("c", "echoes", ""),
    ];
    let mut stream = bench.stream(to_run(chain(steps), "in")).await;
    loop {
        if let Data::TokenGenerated(token) = next(&mut stream).await
            && token.step_id == "b"
        {
            break;
        }
    }
    let id = bench.sql::<String>("SELECT id FROM executions");
    let status = bench.status(&id).await.unwrap();
    assert_eq!(status.status(), Ended::InProgress);
    assert_eq!(status.current_step_id, "b");
    assert_eq!((status.completed_steps, status.total_steps), (1, 3));
    assert!(status.error.is_none());
    assert!(status.start_time.unwrap().seconds > 0);
    // A step that is done is on disk.
    assert_eq!(bench.sql::<u32>("SELECT completed FROM executions"), 1);
}

#[tokio::test]
async fn the_status_of_one_that_ended_says_how() {
    let mut bench = Bench::new().await;
    let steps = [step("a", "echoes", ""), step("b", "echoes", "")];
    let good = bench.execute(to_run(chain(steps), "in")).await.unwrap();
    let status = bench.status(&good.execution_id).await.unwrap();
    assert_eq!(status.status(), Ended::Success);
    assert_eq!((status.completed_steps, status.total_steps), (2, 2));
    assert_eq!((status.current_step_id.as_str(), status.error), ("", None));
    assert_eq!(status.start_time, good.start_time);
    assert_eq!(status.update_time, good.end_time);

    let steps = [step("a", "echoes", ""), step("b", "refuses", "")];
    let bad = bench.execute(to_run(chain(steps), "in")).await.unwrap();
    let status = bench.status(&bad.execution_id).await.unwrap();
    assert_eq!(status.status(), Ended::Error);
    assert_eq!((status.completed_steps, status.total_steps), (1, 2));
    assert_eq!(status.error, bad.error);
}

#[tokio::test]
async fn an_execution_is_on_disk_before_anybody_hears_of_it_and_of_its_end() {
    let mut bench = Bench::new().await;
    let mut stream = bench.stream(one("echoes")).await;
    let ended = "SELECT COUNT(*) FROM executions WHERE ended IS NOT NULL";
    assert_eq!(bench.sql::<u32>("SELECT COUNT(*) FROM executions"), 1);
    while !matches!(next(&mut stream).await, Data::ChainCompleted(_)) {}
    assert_eq!(bench.sql::<u32>(ended), 1);
    bench.execute(one("echoes")).await.unwrap();
    assert_eq!(bench.sql::<u32>(ended), 2);
}

#[tokio::test]
async fn an_execution_that_cannot_be_recorded_does_not_begin() {
    let mut bench = Bench::new().await;
    let db = rusqlite::Connection::open(bench.file()).unwrap();
    db.execute("DROP TABLE executions", []).unwrap();
    let status = bench.execute(one("echoes")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!status.message().contains("executions"), "{status:?}");
    assert!(bench.router.asked().is_empty());
}

#[tokio::test]
async fn an_end_that_cannot_be_recorded_is_not_told_as_one() {
    let mut bench = Bench::new().await;
    let mut stream = bench.stream(one("waits")).await;
    let id = stream.message().await.unwrap().unwrap().execution_id;
    let db = rusqlite::Connection::open(bench.file()).unwrap();
    let fail = "CREATE TRIGGER broken BEFORE UPDATE ON executions
                BEGIN SELECT RAISE(FAIL, 'disk full'); END";
    db.execute(fail, []).unwrap();
    bench.router.gate.add_permits(1);
    let status = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    let status = bench.status(&id).await.unwrap();
    assert_eq!(status.error.unwrap().code, "NOT_RECORDED");
}

#[tokio::test]
async fn how_executions_ended_survives_the_process() {
    let mut bench = Bench::new().await;
    let id = bench.execute(one("refuses")).await.unwrap().execution_id;
    let before = bench.status(&id).await.unwrap();
    let mut later = Bench::on(image(&bench), ChainEngineSettings::default()).await;
    assert_eq!(later.status(&id).await.unwrap(), before);
}

#[tokio::test]
async fn executions_that_a_crash_interrupted_are_ended_and_told() {
    let mut bench = Bench::new().await;
    let steps = [step("a", "echoes", ""), step("b", "stalls", "")];
    let mut stream = bench.stream(to_run(chain(steps), "in")).await;
    while !matches!(next(&mut stream).await, Data::TokenGenerated(token) if token.step_id == "b") {}
    let mut later = Bench::on(image(&bench), ChainEngineSettings::default()).await;

    let (kind, told) = later.heard().await;
    assert_eq!(kind, "chain_execution_failed");
    assert_eq!(told["error"]["code"], "INTERRUPTED");
    let id = told["execution_id"].as_str().unwrap();
    let status = later.status(id).await.unwrap();
    assert_eq!(status.status(), Ended::Error);
    assert_eq!((status.completed_steps, status.total_steps), (1, 2));
    assert_eq!(status.current_step_id, "");
    let error = status.error.unwrap();
    assert_eq!(error.message, "the engine stopped while it ran");
    // The other process does not know.
    assert_eq!(bench.status(id).await.unwrap().status(), Ended::InProgress);
}

#[tokio::test]
async fn of_executions_that_ended_only_so_many_are_kept() {
    let settings = ChainEngineSettings {
        keep_executions: 2,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(bench.execute(one("echoes")).await.unwrap().execution_id);
    }
    // The last one pruned when it began, and ended after.
    let (gone, kept) = ids.split_at(1);
    assert_unknown(
        &bench.status(&gone[0]).await.unwrap_err(),
        "Execution",
        &gone[0],
    );
    for id in kept {
        assert_eq!(bench.status(id).await.unwrap().status(), Ended::Success);
    }
}

#[tokio::test]
async fn executions_that_ended_long_ago_are_forgotten_and_those_that_run_are_not() {
    let settings = ChainEngineSettings {
        keep_for: Duration::ZERO,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let mut stream = bench.stream(one("stalls")).await;
    let runs = until_it_stalls(&mut stream).await;
    let old = bench.execute(one("echoes")).await.unwrap().execution_id;
    bench.execute(one("echoes")).await.unwrap();
    assert_eq!(bench.status(&old).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        bench.status(&runs).await.unwrap().status(),
        Ended::InProgress
    );
}

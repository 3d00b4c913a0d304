//! Who may see and stop an execution.

use super::*;

async fn status_as(bench: &mut Bench, caller: &str, id: &str) -> Result<Ended, Status> {
    let execution_id = id.to_owned();
    let request = called_by(caller, pb::ChainStatusRequest { execution_id });
    let status = bench.client.get_chain_status(request).await?;
    Ok(status.into_inner().status())
}

async fn cancel_as(bench: &mut Bench, caller: &str, id: &str) -> Result<bool, Status> {
    let execution_id = id.to_owned();
    let request = called_by(caller, pb::CancelChainRequest { execution_id });
    let cancelled = bench.client.cancel_chain_execution(request).await?;
    Ok(cancelled.into_inner().success)
}

#[tokio::test]
async fn an_execution_exists_for_whoever_started_it_and_for_those_who_operate() {
    let mut bench = Bench::new().await;
    let request = called_by("ada user", one("stalls"));
    let stream = bench.client.stream_chain_execution(request).await.unwrap();
    let mut stream = stream.into_inner();
    let id = until_it_stalls(&mut stream).await;
    for caller in ["ada user", "ops operator", "svc service", "root admin"] {
        let status = status_as(&mut bench, caller, &id).await;
        assert_eq!(status.unwrap(), Ended::InProgress, "{caller}");
    }
    for caller in ["eve user", "eve", "adam user"] {
        let status = status_as(&mut bench, caller, &id).await.unwrap_err();
        assert_unknown(&status, "Execution", &id);
        let status = cancel_as(&mut bench, caller, &id).await.unwrap_err();
        assert_unknown(&status, "Execution", &id);
    }
    bench.router.has_open(1).await;
    assert!(cancel_as(&mut bench, "ada user", &id).await.unwrap());

    // The same after its end.
    assert_eq!(
        status_as(&mut bench, "ada user", &id).await.unwrap(),
        Ended::Cancelled
    );
    assert_eq!(
        status_as(&mut bench, "ops operator", &id).await.unwrap(),
        Ended::Cancelled
    );
    assert_unknown(
        &status_as(&mut bench, "eve user", &id).await.unwrap_err(),
        "Execution",
        &id,
    );
    assert_unknown(
        &cancel_as(&mut bench, "eve user", &id).await.unwrap_err(),
        "Execution",
        &id,
    );
}

#[tokio::test]
async fn whoever_operates_may_stop_an_execution() {
    for caller in ["ops operator", "svc service", "root admin"] {
        let mut bench = Bench::new().await;
        let request = called_by("ada user", one("stalls"));
        let stream = bench.client.stream_chain_execution(request).await.unwrap();
        let mut stream = stream.into_inner();
        let id = until_it_stalls(&mut stream).await;
        assert!(
            cancel_as(&mut bench, caller, &id).await.unwrap(),
            "{caller}"
        );
    }
}

#[tokio::test]
async fn an_execution_of_nobody_is_hidden_from_callers_that_are_known() {
    let mut bench = Bench::new().await;
    let id = bench.execute(one("echoes")).await.unwrap().execution_id;
    assert_eq!(bench.status(&id).await.unwrap().status(), Ended::Success);
    assert_unknown(
        &status_as(&mut bench, "eve user", &id).await.unwrap_err(),
        "Execution",
        &id,
    );
    assert_eq!(
        status_as(&mut bench, "ops operator", &id).await.unwrap(),
        Ended::Success
    );
}

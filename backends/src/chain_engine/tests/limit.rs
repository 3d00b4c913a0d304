//! How much the engine takes on.

use super::*;

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

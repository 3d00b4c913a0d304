#![allow(clippy::unwrap_used)]

use super::*;

async fn measured(answers: impl Future<Output = Result<(), ConnectorError>>) -> Outcome {
    measure(answers, Duration::from_millis(250)).await
}

#[tokio::test(start_paused = true)]
async fn a_model_that_never_answers_is_given_up_after_the_limit() {
    let start = Instant::now();
    let outcome = measured(std::future::pending()).await;
    assert_eq!(start.elapsed(), Duration::from_millis(250));
    assert_eq!(outcome, Outcome::Silent(Duration::from_millis(250)));
    assert_eq!(outcome.status(), v1::Status::Timeout);
    assert_eq!(outcome.fault().unwrap(), "no answer within 250 ms");
}

#[tokio::test(start_paused = true)]
async fn the_latency_is_the_time_to_the_answer() {
    let answers = async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        Ok(())
    };
    let outcome = measured(answers).await;
    assert_eq!(outcome, Outcome::Answered(Duration::from_millis(40)));
    assert_eq!(outcome.status(), v1::Status::Success);
    assert_eq!(outcome.fault(), None);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fails_is_not_healthy_but_the_check_did_its_work() {
    let outcome = measured(async {
        tokio::time::sleep(Duration::from_millis(40)).await;
        Err(ConnectorError::Connection("refused".to_owned()))
    })
    .await;
    assert!(!outcome.healthy());
    assert_eq!(outcome.latency(), Duration::from_millis(40));
    assert_eq!(outcome.status(), v1::Status::Success);
    assert!(outcome.fault().unwrap().contains("refused"));
}

#[tokio::test(start_paused = true)]
async fn what_the_connector_waited_for_in_vain_is_a_timeout_too() {
    let shorter = Duration::from_millis(30);
    let outcome = measured(async { Err(ConnectorError::TimedOut(shorter)) }).await;
    assert_eq!(outcome, Outcome::Silent(shorter));
}

#[tokio::test(start_paused = true)]
async fn a_long_reason_is_cut_between_characters() {
    let outcome = measured(async { Err(ConnectorError::Unusable("ü".repeat(2000))) }).await;
    let fault = outcome.fault().unwrap();
    assert!(fault.len() <= FAULT_BYTES && fault.len() > FAULT_BYTES - 4);
}

#[test]
fn the_request_sets_the_limit_then_the_connector_then_the_service() {
    let default = Duration::from_secs(5);
    assert_eq!(limit(10, 20, default), Duration::from_millis(10));
    assert_eq!(limit(0, 20, default), Duration::from_millis(20));
    assert_eq!(limit(0, 0, default), default);
}

#[test]
fn no_check_waits_longer_than_the_longest_limit() {
    let longest = Duration::from_millis(HEALTH_TIMEOUT_MS.into());
    assert_eq!(limit(0, 600_000, Duration::from_secs(5)), longest);
    assert_eq!(limit(0, 0, Duration::from_secs(3600)), longest);
}

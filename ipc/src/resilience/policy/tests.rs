use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::resilience::{BreakerSettings, BreakerState};

fn settings() -> Resilience {
    Resilience {
        try_timeout: Duration::from_secs(1),
        total_timeout: Duration::from_secs(10),
        work_timeout: Duration::from_secs(100),
        max_tries: 3,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(1),
        retry_ratio: 0.0,
        retries_per_second: 10,
        breaker: BreakerSettings {
            consecutive_failures: 100,
            ..BreakerSettings::default()
        },
    }
}

/// Waits are as long as they get.
fn policy(settings: Resilience) -> ResiliencePolicy {
    ResiliencePolicy::with_random("memory", settings, || 1.0).unwrap()
}

fn unavailable() -> IpcError {
    Status::unavailable("down").into()
}

fn not_connected() -> IpcError {
    let mut status = Status::unavailable("refused");
    status.set_source(Arc::new(tonic::ConnectError("refused".into())));
    status.into()
}

fn pushed_back(delay: Duration) -> IpcError {
    let details = ErrorDetails::with_retry_info(Some(delay));
    Status::with_error_details(Code::ResourceExhausted, "slow down", details).into()
}

fn code(error: &IpcError) -> Code {
    match error {
        IpcError::Status(status) => status.code(),
        other => panic!("{other:?} is no status"),
    }
}

/// A service that gives the errors in order and then answers; it notes when it was called.
struct Service {
    errors: Mutex<VecDeque<IpcError>>,
    calls: Mutex<Vec<Duration>>,
    start: Instant,
}

impl Service {
    fn failing(errors: impl IntoIterator<Item = IpcError>) -> Self {
        Self {
            errors: Mutex::new(errors.into_iter().collect()),
            calls: Mutex::default(),
            start: Instant::now(),
        }
    }

    async fn call(&self) -> IpcResult<&'static str> {
        self.calls.lock().unwrap().push(self.start.elapsed());
        match self.errors.lock().unwrap().pop_front() {
            Some(error) => Err(error),
            None => Ok("answer"),
        }
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    fn call_times(&self) -> Vec<u128> {
        let calls = self.calls.lock().unwrap();
        calls.iter().map(Duration::as_millis).collect()
    }
}

async fn stall() -> IpcResult<()> {
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_call_is_tried_again_after_growing_waits_until_it_succeeds() {
    let service = Service::failing([unavailable(), IpcError::Timeout("late".into())]);
    let answer = policy(settings()).call(true, || service.call()).await;
    assert_eq!(answer.unwrap(), "answer");
    assert_eq!(service.call_times(), [0, 100, 300]);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_try_the_error_comes_back_unchanged() {
    let last = pushed_back(Duration::from_millis(7));
    let service = Service::failing([unavailable(), unavailable(), last]);
    let error = policy(settings())
        .call(true, || service.call())
        .await
        .unwrap_err();
    let IpcError::Status(status) = error else {
        panic!("{error:?}");
    };
    assert_eq!(status.message(), "slow down");
    let delay = status.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(delay, Some(Duration::from_millis(7)));
    assert_eq!(service.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_answers_for_good_is_not_tried_again() {
    for error in [
        Status::not_found("").into(),
        Status::internal("").into(),
        Status::resource_exhausted("").into(),
        IpcError::InvalidArgument(String::new()),
    ] {
        let service = Service::failing([error]);
        policy(settings())
            .call(true, || service.call())
            .await
            .unwrap_err();
        assert_eq!(service.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_happen_twice_is_tried_again_only_if_nothing_was_sent() {
    for kind in [CallKind::Once, CallKind::Work] {
        let service = Service::failing([unavailable()]);
        let result = policy(settings()).call_as(kind, || service.call()).await;
        assert_eq!(code(&result.unwrap_err()), Code::Unavailable);
        assert_eq!(service.calls(), 1);

        let service = Service::failing([not_connected(), not_connected()]);
        let answer = policy(settings()).call_as(kind, || service.call()).await;
        assert_eq!(answer.unwrap(), "answer");
        assert_eq!(service.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn every_try_of_a_repeatable_call_has_its_own_time() {
    let tries = AtomicU32::new(0);
    let start = Instant::now();
    let answer = policy(settings())
        .call(true, || {
            let first = tries.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    stall().await?;
                }
                Ok("answer")
            }
        })
        .await;
    assert_eq!(answer.unwrap(), "answer");
    assert_eq!(start.elapsed(), Duration::from_millis(1100));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_happen_twice_has_its_whole_time_for_one_try() {
    for (kind, seconds) in [(CallKind::Once, 10), (CallKind::Work, 100)] {
        let start = Instant::now();
        let error = policy(settings()).call_as(kind, stall).await.unwrap_err();
        assert!(matches!(error, IpcError::Timeout(_)), "{error:?}");
        assert!(error.to_string().contains("memory"), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(seconds));
    }
}

#[tokio::test(start_paused = true)]
async fn all_tries_and_waits_together_end_at_the_total_time() {
    let settings = Resilience {
        total_timeout: Duration::from_millis(2500),
        max_tries: 10,
        ..settings()
    };
    let start = Instant::now();
    let error = policy(settings).call(true, stall).await.unwrap_err();
    assert!(matches!(error, IpcError::Timeout(_)), "{error:?}");
    // 1000 and 100, 1000 and 200, and what is left: 200.
    assert_eq!(start.elapsed(), Duration::from_millis(2500));
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_try_reaches_the_transport_below() {
    let policy = policy(settings());
    let remaining = || async { Ok(deadline::remaining()) };
    let of = async |kind| policy.call_as(kind, remaining).await.unwrap();
    assert_eq!(of(CallKind::Repeatable).await, Some(Duration::from_secs(1)));
    assert_eq!(of(CallKind::Once).await, Some(Duration::from_secs(10)));
    assert_eq!(of(CallKind::Work).await, Some(Duration::from_secs(100)));
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_gives_up_at_the_deadline_is_a_timeout_and_not_a_cancellation() {
    let policy = policy(settings());
    let result: IpcResult<()> = policy
        .call(false, || async {
            let mut status = Status::cancelled("Timeout expired");
            status.set_source(Arc::new(tonic::TimeoutExpired(())));
            Err(status.into())
        })
        .await;
    assert!(matches!(result, Err(IpcError::Timeout(_))), "{result:?}");
    assert_eq!(policy.breaker().describe().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_at_least_what_the_server_asks_for() {
    let service = Service::failing([pushed_back(Duration::from_secs(3))]);
    policy(settings())
        .call(true, || service.call())
        .await
        .unwrap();
    assert_eq!(service.call_times(), [0, 3100]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_more_than_the_total_time_is_not_waited_for() {
    for delay in [Duration::from_secs(10), Duration::MAX] {
        let service = Service::failing([pushed_back(delay)]);
        let start = Instant::now();
        let error = policy(settings())
            .call(true, || service.call())
            .await
            .unwrap_err();
        assert_eq!(code(&error), Code::ResourceExhausted);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(service.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_budget_there_are_no_retries() {
    let policy = policy(Resilience {
        retry_ratio: 0.5,
        retries_per_second: 0,
        ..settings()
    });
    let tried = async || {
        let service = Service::failing([unavailable(), unavailable(), unavailable()]);
        policy.call(true, || service.call()).await.unwrap_err();
        service.calls()
    };
    assert_eq!(tried().await, 1, "half a retry is paid for");
    assert_eq!(tried().await, 2, "a whole one");
    assert_eq!(tried().await, 1);
}

#[tokio::test(start_paused = true)]
async fn retries_that_wait_have_been_taken_out_of_the_budget() {
    let policy = policy(Resilience {
        retry_ratio: 0.5,
        retries_per_second: 0,
        ..settings()
    });
    let (first, second) = (Service::failing([]), Service::failing([unavailable()]));
    policy.call(true, || first.call()).await.unwrap();
    let waiting = policy.call(true, || second.call());
    tokio::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());

    // It pays for half a retry, and there is no more than that.
    let third = Service::failing([unavailable()]);
    policy.call(true, || third.call()).await.unwrap_err();
    assert_eq!(third.calls(), 1);
    assert_eq!(waiting.await.unwrap(), "answer");
}

fn fragile() -> ResiliencePolicy {
    policy(Resilience {
        breaker: BreakerSettings {
            consecutive_failures: 2,
            open_min: Duration::from_secs(4),
            open_max: Duration::from_secs(4),
            ..BreakerSettings::default()
        },
        ..settings()
    })
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_at_once_with_the_time_to_come_back() {
    let policy = fragile();
    for _ in 0..2 {
        let service = Service::failing([unavailable()]);
        policy.call(false, || service.call()).await.unwrap_err();
    }
    let service = Service::failing([]);
    let error = policy.call(true, || service.call()).await.unwrap_err();
    let IpcError::Status(status) = error else {
        panic!("{error:?}");
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("circuit breaker memory"));
    let delay = status.get_details_retry_info().unwrap().retry_delay;
    assert_eq!(delay, Some(Duration::from_secs(4)));
    assert_eq!(service.calls(), 0);

    tokio::time::advance(Duration::from_secs(4)).await;
    policy.call(true, || service.call()).await.unwrap();
    assert_eq!(policy.breaker().describe().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_between_tries_leaves_the_error_of_the_last_one() {
    let policy = fragile();
    let service = Service::failing([unavailable(), Status::unavailable("still down").into()]);
    let error = policy.call(true, || service.call()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        IpcError::from(Status::unavailable("still down")).to_string()
    );
    assert_eq!(service.calls(), 2);
    assert_eq!(policy.breaker().describe().state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn timeouts_count_for_the_breaker_and_answers_that_blame_the_caller_do_not() {
    let policy = fragile();
    for _ in 0..5 {
        let service = Service::failing([Status::not_found("").into()]);
        policy.call(true, || service.call()).await.unwrap_err();
    }
    assert_eq!(policy.breaker().describe().failures, 0);
    for _ in 0..2 {
        policy.call(false, stall).await.unwrap_err();
    }
    assert_eq!(policy.breaker().describe().state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_caller_drops_counts_for_nothing_and_frees_the_probe() {
    let policy = fragile();
    for _ in 0..2 {
        policy.call(false, stall).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(4)).await;
    {
        let call = policy.call(true, stall);
        tokio::pin!(call);
        assert!(call.as_mut().now_or_never().is_none());
        assert_eq!(policy.breaker().describe().probes, 1);
    }
    assert_eq!(policy.breaker().describe().probes, 0);
    let service = Service::failing([]);
    policy.call(true, || service.call()).await.unwrap();
    assert_eq!(policy.breaker().describe().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn calls_that_the_breaker_refuses_pay_for_no_retry() {
    let policy = policy(Resilience {
        retry_ratio: 0.5,
        retries_per_second: 0,
        ..fragile().settings
    });
    for _ in 0..2 {
        let service = Service::failing([unavailable()]);
        policy.call(false, || service.call()).await.unwrap_err();
    }
    let service = Service::failing([]);
    for _ in 0..100 {
        policy.call(true, || service.call()).await.unwrap_err();
    }
    assert_eq!(service.calls(), 0);
    assert!(policy.budget.withdraw(), "paid by the two that were made");
    assert!(!policy.budget.withdraw());
}

#[tokio::test(start_paused = true)]
async fn a_long_call_that_is_the_probe_keeps_others_out_no_longer_than_it_was_open() {
    let policy = fragile();
    for _ in 0..2 {
        policy.call(false, stall).await.unwrap_err();
    }
    tokio::time::advance(Duration::from_secs(4)).await;
    let long = policy.call_as(CallKind::Work, stall);
    tokio::pin!(long);
    assert!(long.as_mut().now_or_never().is_none());

    let service = Service::failing([]);
    policy.call(true, || service.call()).await.unwrap_err();
    tokio::time::advance(Duration::from_secs(4)).await;
    policy.call(true, || service.call()).await.unwrap();
    assert_eq!(policy.breaker().describe().state, BreakerState::Closed);
}

#[test]
fn wrong_settings_are_refused() {
    let wrong = Resilience {
        max_tries: 0,
        ..settings()
    };
    let error = ResiliencePolicy::new("memory", wrong).unwrap_err();
    assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
}

use tokio::time::advance;

use super::*;

/// 3 failures in a row, or more than half of at least 10 calls in 10 s; open for 1, 2, 4, then 5 s.
fn settings() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 3,
        failure_ratio: 0.5,
        min_calls: 10,
        window: Duration::from_secs(10),
        open_min: Duration::from_secs(1),
        open_max: Duration::from_secs(5),
        probes: 1,
    }
}

fn breaker(settings: BreakerSettings) -> Arc<Breaker> {
    Arc::new(
        Breaker::new("memory", settings)
            .unwrap()
            .with_random(|| 1.0),
    )
}

fn call(breaker: &Arc<Breaker>, outcome: Outcome) {
    breaker.try_acquire().unwrap().record(outcome);
}

fn fail(breaker: &Arc<Breaker>, times: u32) {
    for _ in 0..times {
        call(breaker, Outcome::Failure);
    }
}

fn state(breaker: &Arc<Breaker>) -> BreakerState {
    breaker.describe().state
}

async fn seconds(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_open_it_and_calls_are_refused_with_reason_and_time() {
    let breaker = breaker(settings());
    fail(&breaker, 2);
    assert_eq!(state(&breaker), BreakerState::Closed);
    fail(&breaker, 1);

    let refusal = breaker.try_acquire().unwrap_err();
    let reason = OpenReason::ConsecutiveFailures(3);
    assert_eq!(refusal.reason, Some(reason));
    assert_eq!(refusal.retry_after, Duration::from_secs(1));
    assert_eq!(
        refusal.to_string(),
        "circuit breaker memory: open: 3 failures in a row"
    );

    advance(Duration::from_millis(400)).await;
    let report = breaker.describe();
    assert_eq!(report.state, BreakerState::Open);
    assert_eq!(report.reason, Some(reason));
    assert_eq!(report.next_probe_in, Some(Duration::from_millis(600)));
    assert_eq!((report.opened, report.refused), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_success_between_failures_keeps_it_closed() {
    let breaker = breaker(settings());
    for _ in 0..4 {
        call(&breaker, Outcome::Success);
        call(&breaker, Outcome::Success);
        fail(&breaker, 2);
    }
    call(&breaker, Outcome::Success);
    let report = breaker.describe();
    assert_eq!(report.state, BreakerState::Closed);
    assert_eq!((report.calls, report.failures), (17, 8));
    assert_eq!(report.consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_given_share_of_failures_opens_it_once_there_are_enough_calls() {
    let breaker = breaker(settings());
    for _ in 0..3 {
        fail(&breaker, 2);
        call(&breaker, Outcome::Success);
    }
    assert_eq!(state(&breaker), BreakerState::Closed, "9 calls, 6 failed");
    fail(&breaker, 1);
    let reason = OpenReason::FailureRatio {
        calls: 10,
        failures: 7,
    };
    assert_eq!(breaker.describe().reason, Some(reason));
    assert_eq!(reason.to_string(), "7 of the latest 10 calls failed");
}

#[tokio::test(start_paused = true)]
async fn failures_older_than_the_window_are_forgotten() {
    let breaker = breaker(settings());
    for _ in 0..3 {
        fail(&breaker, 2);
        call(&breaker, Outcome::Success);
    }
    seconds(10).await;
    fail(&breaker, 1);
    let report = breaker.describe();
    assert_eq!(report.state, BreakerState::Closed);
    assert_eq!((report.calls, report.failures), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_probe_passes_when_the_time_is_over_and_its_success_closes_it() {
    let breaker = breaker(settings());
    fail(&breaker, 3);
    advance(Duration::from_millis(999)).await;
    assert!(breaker.try_acquire().is_err());
    advance(Duration::from_millis(1)).await;
    assert_eq!(breaker.describe().next_probe_in, Some(Duration::ZERO));

    let probe = breaker.try_acquire().unwrap();
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    assert_eq!(breaker.describe().probes, 1);
    assert!(breaker.try_acquire().is_err(), "one probe at a time");
    probe.record(Outcome::Success);

    let report = breaker.describe();
    assert_eq!((report.state, report.reason), (BreakerState::Closed, None));
    fail(&breaker, 2);
    assert_eq!(state(&breaker), BreakerState::Closed, "counts start anew");
}

#[tokio::test(start_paused = true)]
async fn each_failed_probe_doubles_the_time_up_to_the_cap_and_closing_resets_it() {
    let breaker = breaker(settings());
    fail(&breaker, 3);
    for expected in [1, 2, 4, 5, 5] {
        let wait = breaker.try_acquire().unwrap_err().retry_after;
        assert_eq!(wait, Duration::from_secs(expected));
        seconds(expected).await;
        fail(&breaker, 1);
        assert_eq!(breaker.describe().reason, Some(OpenReason::ProbeFailed));
    }
    seconds(5).await;
    call(&breaker, Outcome::Success);
    fail(&breaker, 3);
    let wait = breaker.try_acquire().unwrap_err().retry_after;
    assert_eq!(wait, Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn chance_shortens_the_time_by_up_to_half() {
    let breaker = Arc::new(Breaker::new("x", settings()).unwrap().with_random(|| 0.0));
    fail(&breaker, 3);
    let wait = breaker.try_acquire().unwrap_err().retry_after;
    assert_eq!(wait, Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn as_many_probes_as_may_be_under_way_must_succeed_before_it_closes() {
    let breaker = breaker(BreakerSettings {
        probes: 2,
        ..settings()
    });
    fail(&breaker, 3);
    seconds(1).await;
    let first = breaker.try_acquire().unwrap();
    let second = breaker.try_acquire().unwrap();
    assert!(breaker.try_acquire().is_err());
    first.record(Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    assert!(breaker.try_acquire().is_err(), "the second may still do it");
    second.record(Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn one_failed_probe_opens_it_whatever_the_others_do() {
    let breaker = breaker(BreakerSettings {
        probes: 3,
        ..settings()
    });
    fail(&breaker, 3);
    seconds(1).await;
    let late = breaker.try_acquire().unwrap();
    call(&breaker, Outcome::Success);
    fail(&breaker, 1);
    late.record(Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::Open);
    assert_eq!(breaker.describe().opened, 2);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_takes_longer_than_it_was_open_lets_one_more_go_each_time() {
    let breaker = breaker(settings());
    fail(&breaker, 3);
    seconds(1).await;
    let long = breaker.try_acquire().unwrap();
    advance(Duration::from_millis(999)).await;
    let refusal = breaker.try_acquire().unwrap_err();
    assert_eq!(refusal.retry_after, Duration::from_millis(1));

    advance(Duration::from_millis(1)).await;
    let second = breaker.try_acquire().unwrap();
    assert!(breaker.try_acquire().is_err(), "one more at a time");
    seconds(1).await;
    let third = breaker.try_acquire().unwrap();
    assert_eq!(breaker.describe().probes, 3);

    drop(second);
    third.record(Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::Closed);
    long.record(Outcome::Failure);
    assert_eq!(breaker.describe().failures, 0, "it tells of the past");
}

#[tokio::test(start_paused = true)]
async fn after_a_longer_time_open_a_probe_has_longer_until_one_more_goes() {
    let breaker = breaker(settings());
    fail(&breaker, 3);
    seconds(1).await;
    fail(&breaker, 1);
    seconds(2).await;
    let _long = breaker.try_acquire().unwrap();
    seconds(1).await;
    assert!(breaker.try_acquire().is_err());
    seconds(1).await;
    call(&breaker, Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn however_long_probes_take_no_more_than_a_hundred_go_beyond_those_of_the_settings() {
    let breaker = breaker(settings());
    fail(&breaker, 3);
    let mut probes = Vec::new();
    for _ in 0..300 {
        seconds(1).await;
        probes.extend(breaker.try_acquire());
    }
    assert_eq!(probes.len(), 101);
    let wait = breaker.try_acquire().unwrap_err().retry_after;
    assert_eq!(wait, Duration::from_secs(1));
    probes.pop();
    call(&breaker, Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_dropped_counts_for_nothing_and_frees_its_place() {
    let breaker = breaker(settings());
    for _ in 0..20 {
        drop(breaker.try_acquire().unwrap());
        call(&breaker, Outcome::Ignored);
    }
    assert_eq!(breaker.describe().calls, 0);

    fail(&breaker, 3);
    seconds(1).await;
    drop(breaker.try_acquire().unwrap());
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    call(&breaker, Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn calls_from_before_a_change_of_state_do_not_count_after_it() {
    let breaker = breaker(settings());
    let [old_failure, old_success, older_failure] =
        [(); 3].map(|()| breaker.try_acquire().unwrap());
    fail(&breaker, 3);
    old_failure.record(Outcome::Failure);
    assert_eq!(breaker.describe().opened, 1);
    seconds(1).await;
    let probe = breaker.try_acquire().unwrap();
    old_success.record(Outcome::Success);
    assert_eq!(state(&breaker), BreakerState::HalfOpen, "it was no probe");
    probe.record(Outcome::Success);
    older_failure.record(Outcome::Failure);
    assert_eq!(breaker.describe().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn who_only_looks_counts_nothing_and_changes_nothing() {
    let breaker = breaker(settings());
    assert_eq!(breaker.readiness(), Readiness::Closed);
    fail(&breaker, 3);
    let retry_after = Duration::from_secs(1);
    assert_eq!(breaker.readiness(), Readiness::Refusing { retry_after });
    let opened_at = Instant::now();
    seconds(3).await;
    let since = opened_at + Duration::from_secs(1);
    assert_eq!(breaker.readiness(), Readiness::ProbeDue { since });
    assert_eq!(state(&breaker), BreakerState::Open);
    assert_eq!(breaker.describe().refused, 0);

    let probe = breaker.try_acquire().unwrap();
    assert_eq!(breaker.readiness(), Readiness::Refusing { retry_after });
    seconds(2).await;
    let since = Instant::now() - Duration::from_secs(1);
    assert_eq!(breaker.readiness(), Readiness::ProbeDue { since });
    assert_eq!(breaker.describe().probes, 1);
    probe.record(Outcome::Success);
    assert_eq!(breaker.readiness(), Readiness::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_a_look_says_is_what_a_call_is_told() {
    let breaker = breaker(BreakerSettings {
        probes: 2,
        ..settings()
    });
    let mut held = Vec::new();
    for step in 0..3000_u32 {
        let readiness = breaker.readiness();
        let answer = breaker.try_acquire();
        match (readiness, &answer) {
            (Readiness::Closed, Ok(permit)) => assert!(!permit.is_probe()),
            (Readiness::ProbeDue { since }, Ok(permit)) => {
                assert!(permit.is_probe() && since <= Instant::now());
            }
            (Readiness::Refusing { retry_after }, Err(open)) => {
                assert_eq!(retry_after, open.retry_after);
            }
            different => panic!("{different:?}"),
        }
        held.extend(answer);
        // Outcomes and pauses in an order without a short period.
        let chance = step.wrapping_mul(2_654_435_761) >> 16;
        if chance % 5 < 2 && !held.is_empty() {
            let permit = held.swap_remove(chance as usize % held.len());
            match chance % 7 {
                0..3 => permit.record(Outcome::Failure),
                3..6 => permit.record(Outcome::Success),
                _ => drop(permit),
            }
        }
        advance(Duration::from_millis(u64::from(chance % 300))).await;
    }
    assert!(breaker.describe().opened > 20, "{:?}", breaker.describe());
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_due_since_the_last_one_left_its_place() {
    let breaker = breaker(settings());
    fail(&breaker, 3);
    seconds(1).await;
    let probe = breaker.try_acquire().unwrap();
    advance(Duration::from_millis(100)).await;
    let since = Instant::now();
    drop(probe);
    advance(Duration::from_millis(100)).await;
    assert_eq!(breaker.readiness(), Readiness::ProbeDue { since });
}

#[tokio::test(start_paused = true)]
async fn threads_together_let_no_more_probes_go_than_the_settings_say() {
    let breaker = breaker(BreakerSettings {
        probes: 3,
        ..settings()
    });
    fail(&breaker, 3);
    seconds(1).await;
    let runtime = tokio::runtime::Handle::current();
    let probes: usize = std::thread::scope(|scope| {
        let ask = || {
            // Where time is paused.
            let _on = runtime.enter();
            let asked = (0..1000).map(|_| breaker.try_acquire());
            // Kept until all have asked.
            asked.filter_map(Result::ok).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let permits: Vec<_> = threads.into_iter().map(|one| one.join().unwrap()).collect();
        permits.iter().map(Vec::len).sum()
    });
    assert_eq!(probes, 3);
    assert_eq!(breaker.describe().refused, 3997);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_out_of_use_begins_to_count_anew_unless_it_is_open() {
    let breaker = breaker(settings());
    call(&breaker, Outcome::Success);
    fail(&breaker, 2);
    breaker.forget_calls();
    let report = breaker.describe();
    assert_eq!((report.calls, report.consecutive_failures), (0, 0));
    fail(&breaker, 3);
    breaker.forget_calls();
    assert_eq!(state(&breaker), BreakerState::Open);
}

#[test]
fn wrong_settings_are_refused() {
    let wrong = BreakerSettings {
        probes: 0,
        ..settings()
    };
    assert!(Breaker::new("x", wrong).is_err());
}

/// Counts log lines that name a change of state.
mod log {
    use std::fmt::Debug;

    use tracing_subscriber::layer::{Context, SubscriberExt};
    use tracing_subscriber::{Layer, Registry};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    struct Message(String);

    impl tracing::field::Visit for Message {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl Layer<Registry> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, Registry>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push(message.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_of_state_is_logged_once() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        // Where there is one subscriber alone, a line that the thread of another test reaches first
        // is turned off for all.
        let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        let breaker = breaker(settings());

        fail(&breaker, 3);
        for _ in 0..5 {
            assert!(breaker.try_acquire().is_err());
        }
        seconds(1).await;
        call(&breaker, Outcome::Success);
        call(&breaker, Outcome::Success);

        assert_eq!(
            *lines.0.lock().unwrap(),
            [
                "circuit breaker opened",
                "circuit breaker half open: probing",
                "circuit breaker closed"
            ]
        );
    }
}

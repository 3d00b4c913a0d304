use intellirouter::resilience::Outcome;
use tokio::time::advance;

use super::*;
use crate::upstream::tests::upstream_of;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> EjectionConfig {
    EjectionConfig {
        max_share: 0.5,
        margin: 0.2,
        min_calls: 20,
        duration: 10 * SECOND,
    }
}

/// So many failures of a hundred calls each, of endpoints that are in.
fn seen(failures: &[u32]) -> Vec<Seen> {
    let seen = failures.iter().map(|failures| Seen {
        calls: 100,
        failures: *failures,
        out_until: None,
    });
    seen.collect()
}

fn judged(seen: &[Seen]) -> Vec<(usize, Verdict)> {
    judge(seen, &config(), Instant::now())
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_more_than_the_others_by_more_than_the_margin_goes() {
    assert_eq!(judged(&seen(&[30, 5, 5])), [(0, Verdict::Out)]);
    assert_eq!(judged(&seen(&[25, 5, 5])), []);
    assert_eq!(judged(&seen(&[5, 26])), [(1, Verdict::Out)]);
}

#[tokio::test(start_paused = true)]
async fn where_all_fail_alike_none_goes() {
    for failures in [0, 10, 45, 100] {
        for number in [1, 2, 3, 10] {
            assert_eq!(judged(&seen(&vec![failures; number])), []);
        }
    }
    assert_eq!(judged(&seen(&[100, 90, 85])), []);
}

/// So many of so many calls failed.
fn of(failures: u32, calls: u32) -> Seen {
    Seen {
        calls,
        failures,
        out_until: None,
    }
}

#[tokio::test(start_paused = true)]
async fn without_enough_calls_there_none_goes() {
    let mut few = seen(&[0, 0, 0]);
    few[0] = of(19, 19);
    assert_eq!(judged(&few), []);
    few[0] = of(19, 20);
    assert_eq!(judged(&few), [(0, Verdict::Out)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_has_nearly_all_calls_goes_by_the_few_that_others_had() {
    // The less it fails, the more calls it takes to tell it from the others.
    for (failures, enough) in [(100, 5), (45, 9), (30, 14)] {
        let others = |calls: u32| {
            judged(&[
                of(failures, 100),
                of(0, calls / 2),
                of(0, calls.div_ceil(2)),
            ])
        };
        assert_eq!(others(0), []);
        assert_eq!(others(enough - 1), []);
        assert_eq!(others(enough), [(0, Verdict::Out)]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_all_that_most_have_few_calls_in_ejects_none() {
    for calls in 0..30 {
        assert_eq!(judged(&[of(100, 100), of(calls, calls)]), []);
        assert_eq!(judged(&[of(50, 100), of(calls / 2, calls)]), []);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_share_goes_and_never_the_last() {
    // The worst of the first ones fail, the others do not.
    for (number, share, expected) in [
        (1, 1.0, 0),
        (2, 0.5, 1),
        (2, 0.4, 0),
        (2, 1.0, 1),
        (3, 0.5, 1),
        (3, 0.7, 2),
        (10, 0.5, 5),
        (10, 0.1, 1),
        (10, 0.0, 0),
        (10, 1.0, 9),
    ] {
        let failures = (0..number).map(|index| match index {
            0 => 0,
            index => 91 + index as u32,
        });
        let seen = seen(&failures.collect::<Vec<_>>());
        let config = EjectionConfig {
            max_share: share,
            margin: 0.001,
            ..config()
        };
        let verdicts = judge(&seen, &config, Instant::now());
        let out: Vec<_> = (number - expected..number).rev().collect();
        let gone: Vec<_> = verdicts.iter().map(|(index, _)| *index).collect();
        assert_eq!(gone, out, "{number} {share}");
        assert!(verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Out));
    }
}

#[tokio::test(start_paused = true)]
async fn those_that_are_out_already_count_for_the_share_and_not_as_the_others() {
    let now = Instant::now();
    let mut seen = seen(&[100, 100, 30, 0, 0, 0]);
    for one in &mut seen[..2] {
        one.out_until = Some(now + SECOND);
    }
    assert_eq!(judged(&seen), [(2, Verdict::Out)]);
    seen[3].out_until = Some(now + SECOND);
    assert_eq!(judged(&seen), []);
}

#[tokio::test(start_paused = true)]
async fn those_whose_time_is_over_are_back_and_not_judged_by_what_was() {
    let now = Instant::now();
    let mut seen = seen(&[100, 0, 0, 0]);
    seen[0].out_until = Some(now);
    seen[1].out_until = Some(now + SECOND);
    assert_eq!(judged(&seen), [(0, Verdict::Back)]);
}

#[tokio::test(start_paused = true)]
async fn when_too_many_are_out_because_others_have_gone_the_first_ones_are_back() {
    let now = Instant::now();
    let mut seen = seen(&[0, 0, 0, 0]);
    for (index, one) in seen.iter_mut().enumerate() {
        one.out_until = Some(now + SECOND * (5 - index as u32));
    }
    assert_eq!(judged(&seen), [(3, Verdict::Back), (2, Verdict::Back)]);
    let off = EjectionConfig {
        max_share: 0.0,
        ..config()
    };
    assert_eq!(judge(&seen, &off, now).len(), 4);
}

/// Three endpoints, of which the first fails so many of a hundred calls.
fn calls(endpoints: &[Arc<Endpoint>], failures: u32) {
    for (index, endpoint) in endpoints.iter().enumerate() {
        for call in 0..100 {
            // Never five in a row: that would open its breaker.
            let failed = index == 0 && call % 3 == 0 && call / 3 < failures;
            let outcome = [Outcome::Success, Outcome::Failure][usize::from(failed)];
            let permit = endpoint.standing.breaker.try_acquire().unwrap();
            permit.record(outcome);
        }
    }
}

/// How many seconds pass until the first one is out, or in.
async fn until(endpoints: &[Arc<Endpoint>], out: bool, failures: u32) -> u64 {
    for second in 0..1000 {
        look("b", endpoints, &config(), Instant::now());
        if endpoints[0].standing.ejection.is_out() == out {
            return second;
        }
        if !out {
            // Those that stand go on.
            calls(&endpoints[1..], 0);
        } else {
            calls(endpoints, failures);
        }
        advance(SECOND).await;
    }
    panic!("it stays as it is");
}

#[tokio::test(start_paused = true)]
async fn a_flaky_endpoint_below_the_ratio_of_the_breaker_goes_and_comes_back_each_time_later() {
    // What it did before it went would still be in the window when it is back.
    let endpoints = upstream_of(3, "[upstreams.breaker]\nwindow = '1h'\n").endpoints();
    for expected in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(until(&endpoints, true, 30).await, 1);
        assert_eq!(until(&endpoints, false, 0).await, expected);
        let report = endpoints[0].standing.breaker.describe();
        assert_eq!((report.opened, report.calls), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_did_well_for_as_long_as_it_was_out_begins_anew() {
    let endpoints = upstream_of(3, "").endpoints();
    for expected in [10, 20, 10] {
        until(&endpoints, true, 30).await;
        assert_eq!(until(&endpoints, false, 0).await, expected);
        if expected == 20 {
            advance(20 * SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_meanwhile_is_left_as_it_is() {
    let endpoints = upstream_of(3, "").endpoints();
    until(&endpoints, true, 30).await;
    for _ in 0..5 {
        let permit = endpoints[0].standing.breaker.try_acquire().unwrap();
        permit.record(Outcome::Failure);
    }
    until(&endpoints, false, 0).await;
    let report = endpoints[0].standing.breaker.describe();
    assert_eq!(report.opened, 1);
    assert!(report.next_probe_in.is_some());
}

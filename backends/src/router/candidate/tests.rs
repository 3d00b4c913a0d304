#![allow(clippy::unwrap_used)]

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[track_caller]
fn assert_average(load: &Load, expected: f32) {
    let average = load.latency_ms().unwrap();
    assert!((average - expected).abs() < 0.01, "{average}");
}

#[test]
fn a_call_is_in_progress_until_its_guard_is_dropped() {
    let load = Arc::new(Load::default());
    let first = load.begin();
    let second = load.begin();
    assert_eq!(load.in_flight(), 2);
    drop(first);
    assert_eq!(load.in_flight(), 1);
    drop(second);
    assert_eq!(load.in_flight(), 0);
}

#[test]
fn a_model_that_was_never_measured_has_no_latency() {
    assert_eq!(Load::default().latency_ms(), None);
    assert_eq!(Load::new(0.0).latency_ms(), None);
}

#[test]
fn the_average_begins_with_what_was_registered_and_follows_the_calls() {
    let load = Load::new(100.0);
    assert_average(&load, 100.0);
    load.observe_latency(ms(200));
    assert_average(&load, 120.0);
    load.observe_latency(ms(20));
    assert_average(&load, 100.0);
}

#[test]
fn a_call_that_took_no_time_is_a_measurement_too() {
    let load = Load::default();
    load.observe_latency(Duration::ZERO);
    assert!(load.latency_ms().is_some());
}

#[test]
fn health_checks_stand_in_for_calls_only_until_there_are_some() {
    let load = Load::default();
    load.observe_check(ms(10));
    load.observe_check(ms(20));
    assert_average(&load, 12.0);
    load.observe_latency(ms(900));
    assert_average(&load, 900.0);
    load.observe_check(ms(10));
    assert_average(&load, 900.0);
}

#[test]
fn averages_are_right_when_calls_end_at_the_same_time() {
    let load = Load::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| load.observe_latency(ms(50))));
        }
    });
    assert_average(&load, 50.0);
}

#[test]
fn no_more_calls_are_taken_than_the_limit_says() {
    let load = Load::default();
    let now = Instant::now();
    for _ in 0..3 {
        assert!(!load.limited(3, now));
        assert!(load.take_call(3, now));
    }
    assert!(load.limited(3, now));
    assert!(!load.take_call(3, now));
}

#[test]
fn a_limit_of_zero_is_none() {
    let load = Load::default();
    let now = Instant::now();
    assert!((0..10_000).all(|_| load.take_call(0, now)));
    assert!(!load.limited(0, now));
}

#[test]
fn a_refused_call_counts_nothing() {
    let load = Load::default();
    let now = Instant::now();
    assert!(load.take_call(1, now));
    assert!((0..100).all(|_| !load.take_call(1, now)));
    assert!(load.take_call(2, now));
}

#[test]
fn the_limit_holds_across_the_edge_of_a_minute() {
    let load = Load::default();
    let start = Instant::now();
    assert!(load.take_call(60, start));
    // All the rest at the end of the first minute.
    let end = start + Duration::from_secs(59);
    assert!((0..59).all(|_| load.take_call(60, end)));
    // Right after the edge nearly all of them still count.
    let edge = start + MINUTE;
    assert!(!load.take_call(60, edge));
    // Half a minute on, half of them do.
    let half = start + MINUTE + MINUTE / 2;
    let taken = (0..60).filter(|_| load.take_call(60, half)).count();
    assert_eq!(taken, 30);
}

#[test]
fn the_whole_limit_is_there_again_after_two_quiet_minutes() {
    let load = Load::default();
    let start = Instant::now();
    assert!((0..5).all(|_| load.take_call(5, start)));
    let later = start + 2 * MINUTE;
    assert!((0..5).all(|_| load.take_call(5, later)));
    assert!(!load.take_call(5, later));
}

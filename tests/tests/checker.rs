//! The checker of events, for a minute: every acknowledged event was seen once, in order, by each subscriber
//! that asked for it, or lies inside an announced gap. And the checker itself finds what it is there for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use intellirouter_tests::checker::analysis::check;
use intellirouter_tests::checker::bugs::BUGS;
use intellirouter_tests::checker::cluster::{Retain, Store};
use intellirouter_tests::checker::history::{History, Item};
use intellirouter_tests::checker::nemesis::{Action, Step};
use intellirouter_tests::checker::report::{explain, numbers};
use intellirouter_tests::checker::run::{Settings, run};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// `CHECKER_SEED`, or one from the clock.
fn seed() -> u64 {
    let given = std::env::var("CHECKER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| intellirouter_tests::token::now().unsigned_abs())
}

/// Two clusters at once would take each other's time.
fn alone(settings: &Settings) -> History {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{settings:?}");
    let history = run(settings);
    println!("{:?}", numbers(&history));
    history
}

fn good(settings: &Settings) -> History {
    let history = alone(settings);
    let found = check(&history);
    assert!(found.is_empty(), "{}", explain(settings, &history, &found));
    assert!(
        numbers(&history).deliveries > 500,
        "too little to judge: {:?}",
        numbers(&history)
    );
    history
}

#[test]
fn nothing_is_lost_and_no_gap_told_as_long_as_no_data_is_destroyed() {
    let history = good(&Settings::new(
        seed(),
        Duration::from_secs(14),
        Store::Redis,
        false,
    ));
    assert!(numbers(&history).reconnects > 10, "{:?}", numbers(&history));

    // What the checker would have said of a gateway with a bug, in this very run.
    for bug in BUGS {
        let mut chance = StdRng::seed_from_u64(seed());
        let mut history = history.clone();
        let stream = bug.seed(&mut history, &mut chance);
        let found = check(&history);
        let named = found
            .iter()
            .any(|v| v.kind == bug.kind() && v.stream == Some(stream));
        assert!(named, "{bug:?} in {stream}: {found:?}");
    }
}

#[test]
fn what_is_lost_with_the_store_is_said() {
    good(&Settings::new(
        seed(),
        Duration::from_secs(12),
        Store::Redis,
        true,
    ));
}

#[test]
fn the_embedded_store_loses_nothing_while_its_gateway_lives() {
    good(&Settings::new(
        seed(),
        Duration::from_secs(4),
        Store::Memory,
        false,
    ));
}

/// So that gateway and publishers go on a moment before and after.
const fn step(action: Action, gateway: usize, hold: u64) -> Step {
    Step {
        pause: Duration::from_millis(1000),
        action,
        gateway,
        hold: Duration::from_millis(hold),
    }
}

/// A run of these steps.
fn scripted(store: Store, script: &'static [Step]) -> Settings {
    Settings {
        script: Some(script),
        ..Settings::new(seed(), Duration::ZERO, store, false)
    }
}

/// How many gaps were told for this reason.
fn gaps(history: &History, wanted: &str) -> usize {
    let told = history.streams.iter().flat_map(|stream| &stream.items);
    told.filter(|(_, item)| matches!(item, Item::Gap { reason, .. } if reason == wanted))
        .count()
}

#[test]
fn the_end_of_the_embedded_store_is_said() {
    const SCRIPT: &[Step] = &[step(Action::KillGateway, 0, 300)];
    let history = good(&scripted(Store::Memory, SCRIPT));
    assert_eq!(gaps(&history, "store_restarted"), history.streams.len());
}

#[test]
fn a_recorder_that_is_away_for_less_than_its_lease_costs_no_event_and_no_gap() {
    // One of the two records.
    const SCRIPT: &[Step] = &[
        step(Action::PartStore, 0, 1500),
        step(Action::PartStore, 1, 1500),
        step(Action::CutStore, 0, 0),
        step(Action::CutStore, 1, 0),
    ];
    good(&scripted(Store::Redis, SCRIPT));
}

#[test]
fn what_was_dropped_because_little_is_retained_is_said_and_nothing_else_is() {
    const SCRIPT: &[Step] = &[
        step(Action::StopGateway, 0, 4000),
        step(Action::CutClients, 1, 0),
        step(Action::KillGateway, 1, 3000),
    ];
    let settings = Settings {
        retain: Retain::Small,
        ..scripted(Store::Redis, SCRIPT)
    };
    let numbers = numbers(&good(&settings));
    assert!(numbers.trimmed > 0, "nobody came too late: {numbers:?}");
    assert!(numbers.slow > 0, "nobody was too slow: {numbers:?}");
}

#[test]
fn what_was_dropped_because_it_was_old_is_said_and_nothing_else_is() {
    let settings = Settings {
        retain: Retain::Brief,
        ..Settings::new(seed(), Duration::from_secs(9), Store::Memory, false)
    };
    let numbers = numbers(&good(&settings));
    assert!(numbers.trimmed > 0, "nobody came too late: {numbers:?}");
}

#[test]
fn what_is_lost_when_sentinels_replace_redis_is_said() {
    const SCRIPT: &[Step] = &[
        step(Action::KillGateway, 0, 300),
        step(Action::KillPrimaryAhead, 0, 500),
        step(Action::HangPrimary, 0, 500),
    ];
    let history = good(&scripted(Store::Sentinel, SCRIPT));
    assert!(gaps(&history, "store_lost_data") >= 2 * history.streams.len());
}

#[test]
fn a_bug_in_the_path_is_found_and_called_by_its_name() {
    let settings = Settings {
        script: Some(&[]),
        seams: true,
        ..Settings::new(seed(), Duration::from_secs(3), Store::Memory, false)
    };
    let history = alone(&settings);
    let found = check(&history);
    for bug in BUGS {
        let name = format!("{bug:?}");
        let stream = history
            .streams
            .iter()
            .position(|stream| stream.name == name);
        let named = found
            .iter()
            .any(|v| v.kind == bug.kind() && v.stream == stream);
        assert!(named, "{}", explain(&settings, &history, &found));
    }
    let others = found.iter().filter(|v| {
        let name = v.stream.map(|stream| &history.streams[stream].name);
        name.is_none_or(|name| !BUGS.iter().any(|bug| format!("{bug:?}") == *name))
    });
    assert_eq!(
        others.count(),
        0,
        "{}",
        explain(&settings, &history, &found)
    );
}

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::checker::bugs::BUGS;
use crate::checker::history::{
    Fault, Item, Key, Loss, Outcome, Place, Publish, Retention, Stream, Via,
};

const EPOCH: u64 = 1000;

fn at(n: u64) -> Moment {
    Duration::from_millis(10 * n)
}

fn place(offset: u64) -> Place {
    Place::new(EPOCH, offset)
}

fn key(publisher: u16, number: u64) -> Key {
    Key {
        publisher,
        number: u32::try_from(number).unwrap(),
    }
}

/// Publisher 0 publishes through the log, one event every 10 ms, and is told where it stands.
fn publish(n: u64) -> Publish {
    Publish {
        key: key(0, n),
        channel: 0,
        size: 871,
        invoked: at(n),
        completed: at(n) + Duration::from_millis(2),
        outcome: Outcome::Acknowledged(Some(place(n))),
    }
}

fn plain(n: u64, begun: Moment) -> Publish {
    Publish {
        key: key(1, n),
        invoked: begun,
        completed: begun,
        outcome: Outcome::Acknowledged(None),
        ..publish(n)
    }
}

fn event(n: u64) -> (Moment, Item) {
    (
        at(n) + Duration::from_millis(5),
        Item::Event {
            id: place(n),
            key: Some(key(0, n)),
        },
    )
}

fn gap(from: u64, to: u64, reason: &str) -> (Moment, Item) {
    let (from, to) = (Some(place(from)), place(to));
    (
        at(to.offset) + Duration::from_millis(6),
        Item::Gap {
            from,
            to,
            reason: reason.into(),
        },
    )
}

fn stream(items: Vec<(Moment, Item)>) -> Stream {
    let open = Item::Opened {
        resumed: None,
        id: place(0),
    };
    let items = [vec![(Moment::ZERO, open)], items].concat();
    Stream {
        name: "s".into(),
        channels: vec![0],
        items,
        reached_end: true,
    }
}

/// Events 1 to 100, which both streams saw.
fn good() -> History {
    History {
        channels: vec!["a".into(), "b".into()],
        publishers: vec![Via::Post, Via::Plain],
        publishes: (1..=100).map(publish).collect(),
        streams: (0..2)
            .map(|_| stream((1..=100).map(event).collect()))
            .collect(),
        faults: Vec::new(),
        retention: None,
    }
}

fn fault(loss: Loss, from: u64, until: u64) -> Fault {
    Fault {
        what: "a fault".into(),
        loss,
        from: at(from),
        until: at(until),
    }
}

fn kinds(history: &History) -> Vec<Kind> {
    check(history)
        .iter()
        .map(|violation| violation.kind)
        .collect()
}

/// The index of the item that holds event `n`.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

#[test]
fn a_run_in_which_everybody_saw_everything_passes() {
    assert!(check(&good()).is_empty());
}

#[test]
fn each_seeded_bug_is_found_and_called_by_its_name() {
    for bug in BUGS {
        for seed in 0..50 {
            let mut history = good();
            let stream = bug.seed(&mut history, &mut StdRng::seed_from_u64(seed));
            let found = check(&history);
            let named = found
                .iter()
                .any(|v| v.kind == bug.kind() && v.stream == Some(stream));
            assert!(named, "{bug:?} with seed {seed}: {found:?}");
            assert!(found.iter().all(|v| v.stream == Some(stream)), "{found:?}");
        }
    }
}

#[test]
fn an_event_that_nobody_saw_is_missed_by_all() {
    let mut history = good();
    for stream in &mut history.streams {
        stream.items.remove(index(50));
    }
    assert_eq!(kinds(&history), [Kind::Missing, Kind::Missing]);
}

#[test]
fn an_event_of_unknown_outcome_need_not_come_but_to_all_or_none() {
    let mut history = good();
    history.publishes[49].outcome = Outcome::Unknown;
    assert!(check(&history).is_empty());
    history.streams[0].items.remove(index(50));
    assert_eq!(kinds(&history), [Kind::Missing]);
    history.streams[1].items.remove(index(50));
    assert!(check(&history).is_empty());
}

#[test]
fn what_was_published_before_a_stream_opened_is_not_owed() {
    let mut history = good();
    let items = &mut history.streams[0].items;
    items.drain(1..=30);
    items[0].1 = Item::Opened {
        resumed: None,
        id: place(30),
    };
    assert!(check(&history).is_empty());
    history.streams[0].items[0].1 = Item::Opened {
        resumed: None,
        id: place(29),
    };
    assert_eq!(kinds(&history), [Kind::Missing]);
}

#[test]
fn an_event_that_failed_or_was_never_published_must_not_come() {
    let mut history = good();
    history.publishes[49].outcome = Outcome::Failed;
    assert_eq!(kinds(&history), [Kind::Phantom, Kind::Phantom]);
    let mut history = good();
    history.streams[0].items[index(50)].1 = Item::Event {
        id: place(50),
        key: None,
    };
    assert_eq!(kinds(&history), [Kind::Missing, Kind::Phantom]);
}

#[test]
fn one_id_means_one_event() {
    let mut history = good();
    let items = &mut history.streams[0].items;
    items[index(50)].1 = Item::Event {
        id: place(50),
        key: Some(key(0, 51)),
    };
    items[index(51)].1 = Item::Event {
        id: place(51),
        key: Some(key(0, 50)),
    };
    assert!(kinds(&history).contains(&Kind::Ambiguous));
}

#[test]
fn an_event_stands_where_its_publisher_was_told() {
    let mut history = good();
    history.publishes[49].outcome = Outcome::Acknowledged(Some(place(150)));
    assert!(kinds(&history).contains(&Kind::TwoPlaces));
}

#[test]
fn what_is_inside_an_explained_gap_is_not_owed() {
    for (from, to, expected) in [
        (49, 60, vec![]),
        (50, 60, vec![Kind::Missing]),
        (49, 58, vec![Kind::Missing; 2]),
    ] {
        let mut history = good();
        history.faults = vec![fault(Loss::Store, 50, 60)];
        let items = &mut history.streams[0].items;
        items.splice(index(50)..=index(60), [gap(from, to, "store_lost_data")]);
        assert_eq!(kinds(&history), expected, "{from} to {to}");
    }
}

#[test]
fn a_gap_needs_a_fault_of_its_kind_at_its_time() {
    for (fault, explained) in [
        (fault(Loss::Plain, 48, 52), true),
        (fault(Loss::Store, 48, 52), true),
        (fault(Loss::Nothing, 48, 52), false),
        (fault(Loss::Memory, 48, 52), false),
        (fault(Loss::Store, 20, 40), false),
        (fault(Loss::Store, 60, 70), false),
    ] {
        let mut history = good();
        let text = format!("{fault:?}");
        history.faults = vec![fault];
        history.streams[0]
            .items
            .insert(index(51), gap(50, 50, "recorder_away"));
        assert_eq!(kinds(&history).is_empty(), explained, "{text}");
    }
    let mut history = good();
    history.faults = vec![fault(Loss::Store, 48, 52)];
    history.streams[0]
        .items
        .insert(index(51), gap(50, 50, "trimmed"));
    assert_eq!(kinds(&history), [Kind::FalseGap]);
}

#[test]
fn a_gap_that_is_told_late_is_explained_by_what_happened_then_and_not_since() {
    for (fault, explained) in [
        (fault(Loss::Store, 48, 52), true),
        (fault(Loss::Store, 90, 95), false),
    ] {
        let mut history = good();
        history.faults = vec![fault];
        // It read nothing until the end.
        for (moment, _) in &mut history.streams[0].items[1..] {
            *moment = at(101);
        }
        let (_, gap) = gap(50, 50, "recorder_away");
        history.streams[0].items.insert(index(51), (at(101), gap));
        assert_eq!(kinds(&history).is_empty(), explained);
    }
}

#[test]
fn a_gap_that_says_dropped_needs_that_enough_has_come_since_or_time_has_passed() {
    // Each event takes 1000 bytes. What follows 40 was published at 410 ms, and the gap is told at 606.
    for (bytes, age, explained) in [
        (6 * 20_000, 1000, true),
        (6 * 20_001, 1000, false),
        (usize::MAX, 246, true),
        (usize::MAX, 247, false),
    ] {
        for reason in ["trimmed", "slow", "recorder_away"] {
            let mut history = good();
            let items = &mut history.streams[0].items;
            items.splice(index(41)..=index(60), [gap(40, 60, reason)]);
            assert_eq!(kinds(&history), [Kind::FalseGap]);
            let age = Duration::from_millis(age);
            history.retention = Some(Retention { bytes, age });
            let expected = explained && reason != "recorder_away";
            assert_eq!(kinds(&history).is_empty(), expected, "{bytes} {age:?}");
        }
    }
}

#[test]
fn what_was_not_dropped_is_owed_though_little_is_retained() {
    let mut history = good();
    let age = Duration::from_millis(100);
    history.retention = Some(Retention { bytes: 1, age });
    history.streams[0].items.remove(index(50));
    assert_eq!(kinds(&history), [Kind::Missing]);
}

#[test]
fn a_gap_in_what_is_recorded_is_explained_by_what_happened_since_the_plain_event_before_it() {
    for (from, until, explained) in [
        (2, 8, false),
        (2, 12, true),
        (30, 40, true),
        (70, 75, false),
    ] {
        let mut history = with_plain();
        history.faults = vec![fault(Loss::Plain, from, until)];
        history.streams[0]
            .items
            .insert(index(61), gap(60, 60, "recorder_away"));
        assert_eq!(kinds(&history).is_empty(), explained, "{from} to {until}");
    }
}

/// Beside the others, two plain events that both streams saw: begun at 10 and 80, at 10 and 80 in the log.
fn with_plain() -> History {
    let mut history = good();
    for (n, i) in [(0, 10), (1, 80)] {
        history.publishes[index(i) - 1] = plain(n, at(i));
        for stream in &mut history.streams {
            let id = place(i);
            let key = Some(key(1, n));
            stream.items[index(i)].1 = Item::Event { id, key };
        }
    }
    history
}

#[test]
fn a_plain_publish_that_a_gateway_received_is_owed_to_who_has_come_past_it() {
    for (begun, expected) in [(at(50), 2), (at(90), 0)] {
        let mut history = with_plain();
        history.publishes.push(plain(2, begun));
        assert_eq!(kinds(&history), vec![Kind::Missing; expected], "{begun:?}");
        history.publishes[100].outcome = Outcome::Failed;
        assert!(check(&history).is_empty());
    }
}

#[test]
fn a_plain_publish_without_a_place_may_lie_in_a_gap_behind_the_plain_one_before_it() {
    // The gap stands behind the plain event of 10, and before what was begun at 61.
    for (begun, covered) in [
        (at(5), false),
        (at(12), true),
        (at(55), true),
        (at(70), false),
    ] {
        let mut history = with_plain();
        history.publishes.push(plain(2, begun));
        history.faults = vec![fault(Loss::Plain, 44, 60)];
        for stream in &mut history.streams {
            stream.items.insert(index(61), gap(60, 60, "recorder_away"));
        }
        assert_eq!(kinds(&history).is_empty(), covered, "{begun:?}");
    }
}

#[test]
fn what_was_acknowledged_stands_before_what_was_begun_later() {
    let mut history = good();
    // 50 and 51 are in the log the wrong way round, for all.
    history.publishes[49].outcome = Outcome::Acknowledged(Some(place(51)));
    history.publishes[50].outcome = Outcome::Acknowledged(Some(place(50)));
    for stream in &mut history.streams {
        stream.items[index(50)].1 = Item::Event {
            id: place(50),
            key: Some(key(0, 51)),
        };
        stream.items[index(51)].1 = Item::Event {
            id: place(51),
            key: Some(key(0, 50)),
        };
    }
    assert_eq!(kinds(&history), [Kind::Untimely]);
    // At the same time any order will do.
    history.publishes[50].invoked = at(50);
    assert!(check(&history).is_empty());
}

#[test]
fn a_plain_publish_is_recorded_a_moment_later_than_it_was_answered() {
    let mut history = good();
    history.publishes[49] = Publish {
        key: key(1, 0),
        ..plain(0, at(40))
    };
    for stream in &mut history.streams {
        stream.items[index(50)].1 = Item::Event {
            id: place(50),
            key: Some(key(1, 0)),
        };
    }
    assert!(check(&history).is_empty());
}

/// An event that was going on in a loss, and stands in both epochs.
fn twice() -> History {
    let mut history = good();
    history.faults = vec![fault(Loss::Store, 90, 105)];
    history.publishes[99].completed = at(106);
    let new = |offset| Place::new(EPOCH + 1, offset);
    history.publishes[99].outcome = Outcome::Acknowledged(Some(new(1)));
    for stream in &mut history.streams {
        let gap = Item::Gap {
            from: Some(place(100)),
            to: new(0),
            reason: "store_lost_data".into(),
        };
        stream.items.push((at(105), gap));
        stream.items.push((
            at(106),
            Item::Event {
                id: new(1),
                key: Some(key(0, 100)),
            },
        ));
    }
    history
}

#[test]
fn a_publish_that_was_repeated_across_a_loss_may_stand_in_both_epochs() {
    assert!(check(&twice()).is_empty());
    let mut history = twice();
    history.publishes[99].completed = at(89);
    assert!(kinds(&history).contains(&Kind::Repeated));
    let mut history = twice();
    history.publishers[0] = Via::Plain;
    assert!(kinds(&history).contains(&Kind::TwoPlaces));
}

#[test]
fn a_stream_is_never_led_back() {
    for item in [
        Item::Position { id: place(40) },
        Item::Opened {
            resumed: Some(place(50)),
            id: place(40),
        },
    ] {
        let mut history = good();
        history.streams[0].items.insert(index(51), (at(50), item));
        assert_eq!(kinds(&history), [Kind::Backwards]);
    }
}

#[test]
fn a_position_that_leads_past_an_event_loses_it() {
    let mut history = good();
    let told = (at(50), Item::Position { id: place(51) });
    history.streams[0]
        .items
        .splice(index(50)..=index(51), [told]);
    assert_eq!(kinds(&history), [Kind::Missing, Kind::Missing]);
}

#[test]
fn an_event_of_a_channel_that_was_not_asked_for_must_not_come() {
    let mut history = good();
    history.publishes[49].channel = 1;
    assert_eq!(kinds(&history), [Kind::Uninvited, Kind::Uninvited]);
    for stream in &mut history.streams {
        stream.items.remove(index(50));
    }
    assert!(check(&history).is_empty());
}

#[test]
fn a_stream_that_does_not_come_to_its_end_is_stuck() {
    let mut history = good();
    history.streams[1].reached_end = false;
    let found = check(&history);
    assert_eq!((found[0].kind, found[0].stream), (Kind::Stuck, Some(1)));
}

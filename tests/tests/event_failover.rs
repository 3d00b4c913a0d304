//! Events over a Redis that Sentinels watch: when it is gone, or is to be replaced, a replica takes its place. Open
//! streams stay open, go on by themselves and are told a gap; a publish is done or is an error, within a bounded
//! time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::{Duration, Instant};

use intellirouter_tests::curl::stream;
use intellirouter_tests::events::{CHANNEL, Events, PATTERN, json, sse_frame};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::sentinel::Sentinels;
use intellirouter_tests::{Config, DEADLINE, Process};

/// The longest that a publish may take: its timeout of 2 s, and what curl needs on a busy machine.
const BOUND: Duration = Duration::from_secs(5);

/// A primary, its replica, three Sentinels, and a gateway that knows nothing but these.
struct Failover {
    primary: Redis,
    replica: Redis,
    sentinels: Sentinels,
    events: Events,
}

/// A publish, by what it was told.
#[derive(Debug)]
struct Published {
    n: u64,
    /// None if it was refused.
    id: Option<Id>,
}

/// Epoch and offset.
type Id = (u64, u64);

/// What a stream was told.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Event { id: Id, n: u64 },
    Gap { from: Id, to: Id, reason: String },
}

fn id(text: &str) -> Id {
    let (epoch, offset) = text.split_once('-').expect("an id has two parts");
    (epoch.parse().unwrap(), offset.parse().unwrap())
}

fn data(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

impl Failover {
    fn new() -> Self {
        let primary = Redis::start();
        let replica = Redis::replica_of(&primary);
        let sentinels = Sentinels::watch(&primary, 3);
        let config = Config::default().events(&format!("store = \"{}\"", sentinels.url()));
        let events = Events::with(&config);
        Self {
            primary,
            replica,
            sentinels,
            events,
        }
    }

    /// Publishes, which must end within [`BOUND`], as done or as unavailable.
    fn publish(&self, n: u64) -> Published {
        let begun = Instant::now();
        let answer = self.events.post(CHANNEL, &data(n));
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        let id = match answer.status {
            202 => Some(id(json(&answer.text())["id"].as_str().unwrap())),
            503 => None,
            other => panic!("{other}: {}", answer.text()),
        };
        Published { n, id }
    }

    /// Publishes numbers from `first` on until one is done that is of another epoch than `before`; gives all.
    fn publish_on(&self, first: u64, before: Id) -> Vec<Published> {
        let (mut all, end) = (Vec::new(), Instant::now() + 3 * DEADLINE);
        for n in first.. {
            assert!(
                Instant::now() < end,
                "no publish is done any more: {all:?}\n{}",
                self.events.gateway.process.output()
            );
            let published = self.publish(n);
            let done = published.id.is_some_and(|id| id.0 > before.0);
            all.push(published);
            if done {
                break;
            }
        }
        all
    }

    fn resume(&self, after: Id) -> Process {
        let after = format!("last-event-id: {}-{}", after.0, after.1);
        let args = ["-H", &self.events.header, "-H", &after];
        stream(&self.events.gateway, &Events::path(PATTERN), &args)
    }

    /// Three clients that are open, one of each kind.
    fn streams(&self) -> (Process, Process, Process) {
        let ndjson = self.events.curl("application/x-ndjson");
        (self.events.sse(), ndjson, self.events.grpc())
    }
}

/// What a stream of server-sent events was told up to the event `last`, on one connection.
fn told(sse: &Process, last: u64) -> Vec<Told> {
    sse_frame(sse, &format!("data: {}", data(last)));
    let (mut place, mut gap, mut told) = ((0, 0), false, Vec::new());
    for line in sse.lines() {
        if let Some(text) = line.strip_prefix("id: ") {
            place = id(text);
        } else if let Some(name) = line.strip_prefix("event: ") {
            assert_ne!(name, "ir.error", "{}", sse.output());
            gap = name == "ir.gap";
        } else if let Some(text) = line.strip_prefix("data: ") {
            let data = json(text);
            if gap {
                let text = |name: &str| data[name].as_str().unwrap().to_owned();
                let (from, reason) = (id(&text("from")), text("reason"));
                let to = place;
                told.push(Told::Gap { from, to, reason });
            } else if let Some(n) = data["n"].as_u64() {
                told.push(Told::Event { id: place, n });
            }
        }
    }
    told
}

fn gaps(told: &[Told]) -> Vec<&Told> {
    let gap = |told: &&Told| matches!(told, Told::Gap { .. });
    told.iter().filter(gap).collect()
}

/// Each event that was acknowledged is there once, at its place, in order; and nothing else.
fn holds_all(told: &[Told], published: &[Published]) {
    let seen = told.iter().filter_map(|told| match told {
        Told::Event { id, n } => Some((*n, *id)),
        Told::Gap { .. } => None,
    });
    let seen: Vec<_> = seen.collect();
    assert!(seen.is_sorted_by(|a, b| a.1 < b.1), "{seen:?}");
    for publish in published {
        let places: Vec<Id> = seen
            .iter()
            .filter(|(n, _)| *n == publish.n)
            .map(|(_, id)| *id)
            .collect();
        // One whose answer was lost may have been done.
        let good = match publish.id {
            Some(id) => places == [id],
            None => places.len() <= 1,
        };
        assert!(good, "{publish:?} stands at {places:?}");
    }
    let known = |n: u64| published.iter().any(|publish| publish.n == n);
    assert!(seen.iter().all(|(n, _)| known(*n)), "{seen:?}");
}

/// There is exactly one gap, the store's loss of data, and it lies between these two.
fn one_gap_between(told: &[Told], before: Id, after: Id) {
    let gaps = gaps(told);
    let [Told::Gap { from, to, reason }] = gaps[..] else {
        panic!("{gaps:?}");
    };
    assert_eq!(reason, "store_lost_data");
    assert!(before <= *from && *from < *to && *to < after, "{gaps:?}");
}

/// The other dialects have the same gap and the same last event.
fn others_agree((ndjson, grpc): (&Process, &Process), last: Id) {
    let last = format!("{}-{}", last.0, last.1);
    let mut gaps = 0;
    ndjson.line("the last event", |line| {
        let line = json(line);
        gaps += usize::from(line["event"] == "ir.gap");
        assert_ne!(line["event"], "ir.error", "{line}");
        (line["id"] == *last && gaps > 0).then_some(())
    });
    let mut more = 0;
    grpc.line("the last event", |line| {
        let line = json(line);
        more += usize::from(line["kind"] == "gap");
        (line["id"] == *last && more > 0).then_some(())
    });
    assert_eq!((gaps, more), (1, 1));
}

#[test]
fn a_primary_that_dies_costs_no_open_stream_and_no_acknowledged_event_and_is_said() {
    let mut failover = Failover::new();
    let (sse, ndjson, grpc) = failover.streams();
    let mut all: Vec<_> = (0..5).map(|n| failover.publish(n)).collect();
    let before = all[4].id.expect("all is well");
    told(&sse, 4);
    failover.primary.kill();
    all.extend(failover.publish_on(5, before));
    let last = all.last().expect("one was done");
    let (n, after) = (last.n, last.id.unwrap());
    // It took its time, in which nothing was said to be done.
    assert!(all.iter().any(|publish| publish.id.is_none()), "{all:?}");
    let told = told(&sse, n);
    holds_all(&told, &all);
    one_gap_between(&told, before, after);
    others_agree((&ndjson, &grpc), after);

    // Plain messages too are recorded at the new primary.
    failover
        .replica
        .cli(&["PUBLISH", CHANNEL, r#"{"plain":true}"#]);
    sse_frame(&sse, r#"data: {"plain":true}"#);
}

#[test]
fn a_replica_that_lagged_gives_no_lost_id_to_a_new_event_and_who_saw_one_is_told() {
    let mut failover = Failover::new();
    let sse = failover.events.sse();
    let mut all = vec![failover.publish(0)];
    let kept = all[0].id.expect("all is well");
    failover.primary.leave_behind(&failover.replica);
    all.extend((1..20).map(|n| failover.publish(n)));
    let lost = all[19].id.expect("the primary alone acknowledges");
    told(&sse, 19);
    failover.primary.kill();
    failover.replica.thaw();

    all.extend(failover.publish_on(20, lost));
    let last = all.last().expect("one was done");
    let (n, after) = (last.n, last.id.unwrap());
    let seen = told(&sse, n);
    holds_all(&seen, &all);
    one_gap_between(&seen, lost, after);
    assert!(after > lost);
    // One that comes back with what is lost, or from before it, is told; here and at a gateway that never saw it.
    let config = Config::default().events(&format!("store = \"{}\"", failover.sentinels.url()));
    failover.events.gateway = failover.events.sibling(&config);
    for place in [lost, kept] {
        let told = told(&failover.resume(place), n);
        assert_eq!(gaps(&told).len(), 1, "{told:?}");
        one_gap_between(&told, place, after);
    }
}

#[test]
fn a_primary_that_hangs_is_replaced_and_disturbs_nobody_when_it_goes_on() {
    let failover = Failover::new();
    let (sse, ndjson, grpc) = failover.streams();
    let mut all: Vec<_> = (0..5).map(|n| failover.publish(n)).collect();
    let before = all[4].id.expect("all is well");
    told(&sse, 4);
    failover.primary.freeze();
    all.extend(failover.publish_on(5, before));
    let after = all.last().and_then(|last| last.id).unwrap();
    others_agree((&ndjson, &grpc), after);

    // It has still to be told that it is no primary any more.
    failover.primary.thaw();
    let first = all.len() as u64;
    all.extend((first..first + 20).map(|n| failover.publish(n)));
    let last = all.last().expect("twenty were published");
    assert!(last.id.is_some_and(|id| id.0 == after.0), "{last:?}");
    let told = told(&sse, last.n);
    holds_all(&told, &all);
    one_gap_between(&told, before, after);
}

#[test]
fn a_primary_that_is_replaced_for_maintenance_costs_no_open_stream_and_is_said() {
    let failover = Failover::new();
    let (sse, ndjson, grpc) = failover.streams();
    let mut all: Vec<_> = (0..5).map(|n| failover.publish(n)).collect();
    let before = all[4].id.expect("all is well");
    told(&sse, 4);
    failover.sentinels.fail_over();
    all.extend(failover.publish_on(5, before));
    let last = all.last().expect("one was done");
    let (n, after) = (last.n, last.id.unwrap());
    // What the old primary took until it was told is lost with it, but not to who was there.
    let seen = told(&sse, n);
    holds_all(&seen, &all);
    one_gap_between(&seen, before, after);
    others_agree((&ndjson, &grpc), after);
    let resumed = told(&failover.resume(before), n);
    one_gap_between(&resumed, before, after);
}

//! The promises of the ring, by example and against a model that keeps everything.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::events::interest::Interest;
use crate::events::log::{Entry, Gap};
use crate::events::pattern::ChannelPattern;
use crate::events::subscription::{LogSubscription, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES};

const AGE: Duration = Duration::from_secs(60);

fn small() -> LogSettings {
    LogSettings {
        retain_bytes: 16 << 10,
        retain_age: AGE,
        retain_events: 20,
        max_payload: 512,
        ..LogSettings::default()
    }
}

fn ring() -> Arc<Ring> {
    Arc::new(Ring::embedded(small()))
}

impl Ring {
    /// The position with this offset in the epoch of the last entry.
    fn at(&self, offset: u64) -> Position {
        Position {
            offset,
            ..self.head()
        }
    }

    /// Takes a gap as a store hands it over.
    fn gap(&self, reason: GapReason, channel: Option<ChannelName>) {
        self.follow(vec![found(self.head().after(), What::Gap(reason, channel))]);
    }
}

fn found(position: Position, what: What) -> Found {
    Found {
        position,
        age: Duration::ZERO,
        recorded_at: SystemTime::now(),
        what,
    }
}

fn channel(n: u8) -> ChannelName {
    ChannelName::new("a", "b", if n == 0 { "even" } else { "odd" })
}

fn pattern(text: &str) -> Vec<ChannelPattern> {
    vec![ChannelPattern::parse(text).unwrap()]
}

fn all() -> Vec<ChannelPattern> {
    pattern("intellirouter:*")
}

fn append(ring: &Ring, payload: &'static str) -> Position {
    ring.append(channel(0), Bytes::from_static(payload.as_bytes()))
        .unwrap()
}

async fn batch(subscription: &mut LogSubscription) -> Vec<String> {
    let mut out = Vec::new();
    subscription.next_batch(&mut out).await;
    out.iter().map(shown).collect()
}

fn shown(entry: &Entry) -> String {
    match entry {
        Entry::Event(event) => String::from_utf8_lossy(event.payload()).into_owned(),
        Entry::Gap(gap) => {
            let from = gap
                .from
                .map_or("?".to_owned(), |from| from.offset.to_string());
            format!("{} {from}..{}", gap.reason.as_str(), gap.to.offset)
        }
    }
}

#[tokio::test]
async fn replay_and_live_are_one_stream() {
    let ring = ring();
    let after = append(&ring, "one");
    append(&ring, "two");
    let mut subscription = LogSubscription::open(&ring, all(), Some(after)).unwrap();
    assert_eq!(subscription.start(), after);
    append(&ring, "three");
    assert_eq!(batch(&mut subscription).await, ["two", "three"]);
}

#[tokio::test]
async fn a_subscriber_without_a_position_gets_what_comes_from_now_on() {
    let ring = ring();
    let last = append(&ring, "before");
    let mut subscription = LogSubscription::open(&ring, all(), None).unwrap();
    assert_eq!(subscription.start(), last);
    append(&ring, "after");
    assert_eq!(batch(&mut subscription).await, ["after"]);
}

#[tokio::test]
async fn a_position_that_is_no_longer_retained_gives_a_gap_and_then_the_oldest() {
    let ring = ring();
    let after = append(&ring, "first");
    for _ in 0..21 {
        append(&ring, "later");
    }
    let mut subscription = LogSubscription::open(&ring, all(), Some(after)).unwrap();
    let got = batch(&mut subscription).await;
    assert_eq!(got[0], "trimmed 1..2");
    assert_eq!(got.len(), 21);
    assert_eq!(subscription.position(), ring.at(22));
}

#[tokio::test]
async fn the_position_before_the_oldest_entry_resumes_without_a_gap() {
    let ring = ring();
    for _ in 0..22 {
        append(&ring, "x");
    }
    let mut subscription = LogSubscription::open(&ring, all(), Some(ring.at(2))).unwrap();
    assert_eq!(batch(&mut subscription).await.len(), 20);
}

#[tokio::test]
async fn a_position_of_an_older_life_gives_a_gap_and_everything_since_the_restart() {
    let ring = ring();
    append(&ring, "since");
    let old = Position {
        epoch: 5,
        offset: 7,
    };
    let mut subscription = LogSubscription::open(&ring, all(), Some(old)).unwrap();
    assert_eq!(subscription.start(), old);
    assert_eq!(subscription.position(), old);
    assert_eq!(
        batch(&mut subscription).await,
        ["store_restarted 7..0", "since"]
    );
}

#[tokio::test]
async fn a_position_of_a_later_life_gives_a_gap_and_what_is_new() {
    let ring = ring();
    append(&ring, "maybe seen");
    let other = Position {
        epoch: u64::MAX,
        offset: 7,
    };
    let mut subscription = LogSubscription::open(&ring, all(), Some(other)).unwrap();
    assert_eq!(subscription.start(), Position::NOWHERE);
    append(&ring, "new");
    assert_eq!(
        batch(&mut subscription).await,
        ["store_restarted 7..1", "new"]
    );
}

#[tokio::test]
async fn a_position_from_the_future_is_never_taken_for_a_known_one() {
    let ring = ring();
    append(&ring, "one");
    let mut subscription = LogSubscription::open(&ring, all(), Some(ring.at(2))).unwrap();
    // Cut before the gap was said: the log may have come to that offset, and must not accept it.
    assert_eq!(subscription.start(), Position::NOWHERE);
    append(&ring, "two");
    assert_eq!(
        batch(&mut subscription).await,
        ["store_lost_data 2..1", "two"]
    );
    let mut again = LogSubscription::open(&ring, all(), Some(Position::NOWHERE)).unwrap();
    assert_eq!(batch(&mut again).await[0], "store_restarted 0..0");
}

#[tokio::test]
async fn what_is_appended_while_a_subscriber_waits_is_not_held_against_it() {
    let ring = ring();
    let mut quick = LogSubscription::open(&ring, all(), None).unwrap();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let mut out = Vec::new();
    assert!(quick.poll_batch(&mut cx, &mut out).is_pending());
    for _ in 0..15 {
        append(&ring, "x");
    }
    // Not yet woken: others had the processor.
    assert_eq!(quick.lag_bytes(), 0);
    assert!(quick.poll_batch(&mut cx, &mut out).is_ready());
    append(&ring, "y");
    // Now it is its own pace.
    assert!(quick.lag_bytes() > EVENT_OVERHEAD as u64);
    assert_eq!(batch(&mut quick).await, ["y"]);

    assert!(quick.poll_batch(&mut cx, &mut out).is_pending());
    quick.held_up();
    append(&ring, "z");
    assert!(quick.lag_bytes() > EVENT_OVERHEAD as u64);
}

#[tokio::test]
async fn one_that_fell_behind_gets_one_gap_and_goes_on() {
    let ring = ring();
    let mut slow = LogSubscription::open(&ring, all(), None).unwrap();
    for _ in 0..30 {
        append(&ring, "x");
    }
    assert!(slow.lag_bytes() > 30 * EVENT_OVERHEAD as u64);
    let got = batch(&mut slow).await;
    assert_eq!(got[0], "slow 0..10");
    assert!(got[1..].iter().all(|entry| entry == "x"));
    assert_eq!(got.len(), 21);
    assert_eq!(slow.lag_bytes(), 0);
    append(&ring, "y");
    assert_eq!(batch(&mut slow).await, ["y"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_too_old_is_not_served_even_if_nothing_was_appended_since() {
    let ring = ring();
    append(&ring, "old");
    advance(AGE / 2).await;
    append(&ring, "young");
    advance(AGE / 2).await;
    let mut subscription = LogSubscription::open(&ring, all(), Some(ring.at(0))).unwrap();
    assert_eq!(batch(&mut subscription).await, ["trimmed 0..1", "young"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_subscriber_that_has_seen_everything_gets_no_gap_when_all_of_it_expires() {
    let ring = ring();
    let last = append(&ring, "seen");
    let mut open = LogSubscription::open(&ring, all(), None).unwrap();
    advance(AGE * 2).await;
    let mut resumed = LogSubscription::open(&ring, all(), Some(last)).unwrap();
    append(&ring, "next");
    assert_eq!(batch(&mut open).await, ["next"]);
    assert_eq!(batch(&mut resumed).await, ["next"]);
    assert_eq!(ring.budget.used(), event_size(&channel(0), 4));
}

#[tokio::test]
async fn the_position_moves_over_what_does_not_match_so_that_a_quiet_channel_resumes() {
    let ring = ring();
    let quiet = pattern("intellirouter:a:b:odd");
    let mut subscription = LogSubscription::open(&ring, quiet.clone(), None).unwrap();
    for _ in 0..50 {
        append(&ring, "elsewhere");
        let mut out = Vec::new();
        tokio::select! {
            biased;
            () = subscription.next_batch(&mut out) => panic!("nothing matches, got {out:?}"),
            () = std::future::ready(()) => {}
        }
    }
    let seen = subscription.position();
    assert_eq!(seen, ring.at(50));
    let mut resumed = LogSubscription::open(&ring, quiet, Some(seen)).unwrap();
    ring.append(channel(1), Bytes::from_static(b"here"))
        .unwrap();
    assert_eq!(batch(&mut subscription).await, ["here"]);
    assert_eq!(batch(&mut resumed).await, ["here"]);
}

#[tokio::test]
async fn a_gap_on_one_channel_is_not_told_to_others() {
    let ring = ring();
    let mut even = LogSubscription::open(&ring, pattern("intellirouter:a:b:even"), None).unwrap();
    let mut odd = LogSubscription::open(&ring, pattern("intellirouter:a:b:odd"), None).unwrap();
    ring.gap(GapReason::Trimmed, Some(channel(1)));
    ring.gap(GapReason::RecorderAway, None);
    assert_eq!(batch(&mut even).await, ["recorder_away 1..2"]);
    assert_eq!(
        batch(&mut odd).await,
        ["trimmed 0..1", "recorder_away 1..2"]
    );
}

#[tokio::test]
async fn a_batch_is_bounded_in_entries_and_in_bytes() {
    let settings = LogSettings::default();
    let ring = Arc::new(Ring::embedded(settings));
    let mut subscription = LogSubscription::open(&ring, all(), None).unwrap();
    for _ in 0..MAX_BATCH_ENTRIES + 1 {
        append(&ring, "x");
    }
    assert_eq!(batch(&mut subscription).await.len(), MAX_BATCH_ENTRIES);
    assert_eq!(batch(&mut subscription).await.len(), 1);
    for _ in 0..3 {
        ring.append(channel(0), Bytes::from(vec![0; MAX_BATCH_BYTES]))
            .unwrap();
    }
    assert_eq!(batch(&mut subscription).await.len(), 1);
    assert_eq!(batch(&mut subscription).await.len(), 1);
    assert_eq!(batch(&mut subscription).await.len(), 1);
}

#[tokio::test]
async fn an_event_larger_than_the_bound_is_refused() {
    let ring = ring();
    let refused = ring.append(channel(0), Bytes::from(vec![0; 513]));
    assert_eq!(
        refused,
        Err(PublishError::TooLarge {
            bytes: 513,
            limit: 512
        })
    );
    assert!(ring.append(channel(0), Bytes::from(vec![0; 512])).is_ok());
    assert_eq!(ring.recorded(), 1);
}

#[tokio::test]
async fn frames_stay_within_the_bound_and_make_room_for_events() {
    let ring = ring();
    let mut subscription = LogSubscription::open(&ring, all(), None).unwrap();
    let limit = ring.limits.retain_bytes;
    for _ in 0..200 {
        append(&ring, "x");
        let mut out = Vec::new();
        subscription.next_batch(&mut out).await;
        for entry in out {
            let Entry::Event(event) = entry else {
                panic!("a gap")
            };
            event.frame(0, |_| Bytes::from(vec![0; 300]));
            event.frame(1, |_| Bytes::from(vec![0; 300]));
        }
        assert!(ring.budget.used() <= limit + 300);
    }
    assert!(ring.read_state().slots.len() >= 3);
}

#[tokio::test]
async fn waiting_is_cancel_safe() {
    let ring = ring();
    let mut subscription = LogSubscription::open(&ring, all(), None).unwrap();
    let mut out = Vec::new();
    for _ in 0..100 {
        tokio::select! {
            biased;
            () = subscription.next_batch(&mut out) => panic!("nothing was appended"),
            () = tokio::task::yield_now() => {}
        }
    }
    append(&ring, "x");
    assert_eq!(batch(&mut subscription).await, ["x"]);
    assert!(out.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waiting_subscribers_each_get_every_event() {
    let ring = Arc::new(Ring::embedded(LogSettings::default()));
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let mut subscription = LogSubscription::open(&ring, all(), None).unwrap();
            tokio::spawn(async move {
                let mut out = Vec::new();
                while out.len() < 200 {
                    subscription.next_batch(&mut out).await;
                }
                out.iter().map(shown).collect::<Vec<_>>()
            })
        })
        .collect();
    let appended: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    for payload in &appended {
        ring.append(channel(0), Bytes::from(payload.clone()))
            .unwrap();
        tokio::task::yield_now().await;
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), appended);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_while_a_subscriber_goes_to_wait_is_not_missed() {
    const ROUNDS: u64 = 10_000;
    let ring = ring();
    let mut subscription = LogSubscription::open(&ring, all(), None).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let appending = {
        let (ring, seen) = (Arc::clone(&ring), Arc::clone(&seen));
        std::thread::spawn(move || {
            for round in 0..ROUNDS {
                append(&ring, "first");
                // A little later each time, to meet the reader on every step of its way to wait.
                (0..round % 500).for_each(|_| std::hint::spin_loop());
                append(&ring, "second");
                // Nothing more comes to wake it up: a missed one is missed for good.
                while seen.load(Ordering::Acquire) < 2 * (round + 1) {
                    std::thread::yield_now();
                }
            }
        })
    };
    while seen.load(Ordering::Acquire) < 2 * ROUNDS {
        let mut out = Vec::new();
        let next = subscription.next_batch(&mut out);
        let came = tokio::time::timeout(Duration::from_secs(10), next).await;
        came.expect("an append was missed");
        seen.fetch_add(out.len() as u64, Ordering::AcqRel);
    }
    appending.join().unwrap();
}

/// What can happen to a ring.
#[derive(Clone, Debug)]
enum Step {
    Append { channel: u8, size: usize },
    Gap { channel: Option<u8> },
    Wait { seconds: u64 },
    Read { reader: usize, entries: usize },
    Open { reader: usize, back: u64 },
    Frames { offset: u64, size: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2_u8, 0..513_usize).prop_map(|(channel, size)| Step::Append { channel, size }),
        1 => prop::option::of(0..2_u8).prop_map(|channel| Step::Gap { channel }),
        1 => (0..40_u64).prop_map(|seconds| Step::Wait { seconds }),
        4 => (0..3_usize, 1..10_usize)
            .prop_map(|(reader, entries)| Step::Read { reader, entries }),
        1 => (0..3_usize, 0..40_u64).prop_map(|(reader, back)| Step::Open { reader, back }),
        2 => (0..200_u64, 0..600_usize).prop_map(|(offset, size)| Step::Frames { offset, size }),
    ];
    prop::collection::vec(step, 1..200)
}

/// Everything that was ever appended; the entry with offset 1 first.
#[derive(Default)]
struct Model {
    entries: Vec<(Instant, Kind)>,
}

enum Kind {
    Event(u8, Bytes),
    Gap(Option<u8>),
}

struct Reader {
    interest: Interest,
    /// Which channels these patterns mean.
    meant: Vec<u8>,
    cursor: Cursor,
    pending: Option<Gap>,
    /// Everything up to here was seen or lies in a gap.
    covered: u64,
}

impl Reader {
    fn new(ring: &Ring, n: usize) -> Self {
        let (text, meant) = match n {
            0 => ("intellirouter:*", vec![0, 1]),
            1 => ("intellirouter:a:b:even", vec![0]),
            _ => ("intellirouter:*:*:odd", vec![1]),
        };
        let opening = ring.open(None);
        Self {
            interest: Interest::new(pattern(text)),
            meant,
            covered: opening.start.offset,
            cursor: opening.cursor,
            pending: None,
        }
    }

    fn means(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Event(channel, _) => self.meant.contains(channel),
            Kind::Gap(channel) => channel.is_none_or(|channel| self.meant.contains(&channel)),
        }
    }

    /// Checks that nothing that is meant lies between what is covered and `offset`.
    fn skips_nothing(&self, model: &Model, offset: u64) {
        let between = self.covered as usize..offset as usize - 1;
        for (_, kind) in &model.entries[between] {
            assert!(!self.means(kind), "skipped without a gap before {offset}");
        }
    }

    fn check(&mut self, ring: &Ring, model: &Model, entry: Entry) {
        match entry {
            Entry::Event(event) => {
                let offset = event.position().offset;
                self.skips_nothing(model, offset);
                let (at, kind) = &model.entries[offset as usize - 1];
                assert!(self.means(kind), "an event that is not meant");
                assert!(at.elapsed() < AGE, "an event that is too old");
                let Kind::Event(_, payload) = kind else {
                    panic!("a gap as an event")
                };
                assert_eq!(event.payload(), payload);
                self.covered = offset;
            }
            Entry::Gap(gap) => {
                assert_eq!(gap.to.epoch, ring.head().epoch);
                let from = gap.from.unwrap().offset;
                assert!(self.covered <= from && from < gap.to.offset);
                self.skips_nothing(model, from + 1);
                self.covered = gap.to.offset;
            }
        }
    }

    fn read(&mut self, ring: &Ring, model: &Model, entries: usize) {
        let mut out = Vec::new();
        out.extend(self.pending.take().map(Entry::Gap));
        let mut room = Room {
            entries,
            bytes: 1024,
        };
        let (_, at_end) = ring.read(&mut self.cursor, &mut self.interest, &mut room, &mut out);
        for entry in out {
            self.check(ring, model, entry);
        }
        if at_end {
            self.skips_nothing(model, model.entries.len() as u64 + 1);
            assert_eq!(ring.bytes_after(&self.cursor, 0), 0);
        }
    }
}

async fn run(steps: Vec<Step>) {
    let ring = ring();
    let mut model = Model::default();
    let mut readers: Vec<_> = (0..3).map(|n| Reader::new(&ring, n)).collect();
    for step in steps {
        take(&ring, &mut model, &mut readers, step).await;
        let state = ring.read_state();
        assert!(state.slots.len() <= 20);
        assert_eq!(state.head().offset, model.entries.len() as u64);
        assert!(ring.budget.used() <= ring.limits.retain_bytes + 600);
    }
    for reader in &mut readers {
        for _ in 0..=model.entries.len() {
            reader.read(&ring, &model, 10);
        }
        assert_eq!(reader.cursor.position.offset, model.entries.len() as u64);
    }
    advance(AGE).await;
    ring.expire(Instant::now());
    assert_eq!(
        ring.budget.used(),
        0,
        "something charged was not given back"
    );
}

async fn take(ring: &Ring, model: &mut Model, readers: &mut [Reader], step: Step) {
    match step {
        Step::Append { channel: n, size } => {
            let payload = Bytes::from(vec![n; size]);
            let position = ring.append(channel(n), payload.clone()).unwrap();
            model
                .entries
                .push((Instant::now(), Kind::Event(n, payload)));
            assert_eq!(position, ring.at(model.entries.len() as u64));
        }
        Step::Gap { channel: n } => {
            ring.gap(GapReason::RecorderAway, n.map(channel));
            model.entries.push((Instant::now(), Kind::Gap(n)));
        }
        Step::Wait { seconds } => advance(Duration::from_secs(seconds)).await,
        Step::Read { reader, entries } => readers[reader].read(ring, model, entries),
        Step::Open { reader, back } => {
            let reader = &mut readers[reader];
            let after = reader.covered.saturating_sub(back);
            let opening = ring.open(Some(ring.at(after)));
            reader.covered = after;
            reader.cursor = opening.cursor;
            reader.pending = opening.gap;
        }
        Step::Frames { offset, size } => {
            let state = ring.read_state();
            let index = offset.checked_sub(state.first).map(|i| i as usize);
            if let Some(Item::Event(event)) = index
                .and_then(|i| state.slots.get(i))
                .map(|slot| &slot.item)
            {
                event.frame(size % 5, |_| Bytes::from(vec![0; size]));
            }
        }
    }
}

proptest! {
    #[test]
    fn every_event_is_seen_once_in_order_or_lies_in_a_gap(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps));
    }
}

/// What a store that several processes share hands over.
mod following {
    use super::*;

    fn ring() -> Arc<Ring> {
        Arc::new(Ring::following(small()))
    }

    fn at(epoch: u64, offset: u64) -> Position {
        Position { epoch, offset }
    }

    fn event(epoch: u64, offset: u64) -> Found {
        let payload = Bytes::from(format!("{epoch}-{offset}"));
        found(at(epoch, offset), What::Event(channel(0), payload))
    }

    fn take(ring: &Ring, epoch: u64, offsets: std::ops::RangeInclusive<u64>) {
        ring.follow(offsets.map(|offset| event(epoch, offset)).collect());
    }

    async fn resumed(ring: &Arc<Ring>, after: Position) -> Vec<String> {
        let mut subscription = LogSubscription::open(ring, all(), Some(after)).unwrap();
        let mut out = Vec::new();
        tokio::select! {
            biased;
            () = subscription.next_batch(&mut out) => {}
            () = std::future::ready(()) => {}
        }
        assert_eq!(subscription.position(), ring.head());
        let full = |entry: &Entry| match entry {
            Entry::Gap(gap) => format!("{} {}..{}", gap.reason.as_str(), gap.from.unwrap(), gap.to),
            event @ Entry::Event(_) => shown(event),
        };
        out.iter().map(full).collect()
    }

    #[tokio::test]
    async fn what_is_loaded_at_the_start_resumes_from_any_place_and_from_just_before_it() {
        let ring = ring();
        take(&ring, 7, 4..=6);
        assert_eq!(resumed(&ring, at(7, 3)).await, ["7-4", "7-5", "7-6"]);
        assert_eq!(resumed(&ring, at(7, 5)).await, ["7-6"]);
        assert!(resumed(&ring, at(7, 6)).await.is_empty());
        let before = resumed(&ring, at(7, 2)).await;
        assert_eq!(before, ["trimmed 7-2..7-3", "7-4", "7-5", "7-6"]);
    }

    #[tokio::test]
    async fn an_empty_store_resumes_from_its_end_alone() {
        let ring = ring();
        ring.jump(at(7, 5));
        assert!(resumed(&ring, at(7, 5)).await.is_empty());
        assert_eq!(resumed(&ring, at(7, 4)).await, ["trimmed 7-4..7-5"]);
        assert_eq!(resumed(&ring, at(6, 5)).await, ["store_lost_data 6-5..7-5"]);
        assert_eq!(resumed(&ring, at(7, 6)).await, ["store_lost_data 7-6..7-5"]);
    }

    #[tokio::test]
    async fn an_entry_that_does_not_follow_the_one_before_it_is_a_gap_for_all_who_pass_it() {
        let ring = ring();
        take(&ring, 7, 1..=2);
        let mut open = LogSubscription::open(&ring, all(), None).unwrap();
        take(&ring, 7, 5..=5);
        take(&ring, 9, 1..=1);
        assert_eq!(
            batch(&mut open).await,
            ["trimmed 2..4", "7-5", "store_lost_data 5..0", "9-1"]
        );
        // Also from a place that is in the gap, or was never.
        for (after, expected) in [
            (
                at(7, 3),
                vec!["trimmed 7-3..7-4", "7-5", "store_lost_data 7-5..9-0", "9-1"],
            ),
            (at(7, 4), vec!["7-5", "store_lost_data 7-5..9-0", "9-1"]),
            (at(7, 8), vec!["store_lost_data 7-8..9-0", "9-1"]),
            (at(8, 1), vec!["store_lost_data 8-1..9-0", "9-1"]),
            (at(9, 0), vec!["9-1"]),
            (at(9, 2), vec!["store_lost_data 9-2..9-1"]),
        ] {
            assert_eq!(resumed(&ring, after).await, expected, "{after}");
        }
    }

    #[tokio::test]
    async fn the_change_of_an_epoch_is_a_gap_at_once_and_only_once() {
        let ring = ring();
        take(&ring, 7, 1..=2);
        let mut open = LogSubscription::open(&ring, all(), None).unwrap();
        ring.jump(at(9, 0));
        assert_eq!(batch(&mut open).await, ["store_lost_data 2..0"]);
        ring.jump(at(9, 0));
        ring.jump(at(7, 2));
        take(&ring, 9, 1..=1);
        assert_eq!(batch(&mut open).await, ["9-1"]);
    }

    #[tokio::test]
    async fn what_is_read_twice_is_there_once() {
        let ring = ring();
        take(&ring, 7, 1..=3);
        take(&ring, 7, 2..=4);
        assert_eq!(resumed(&ring, at(7, 0)).await, ["7-1", "7-2", "7-3", "7-4"]);
    }

    #[tokio::test]
    async fn a_place_that_is_dropped_is_no_longer_resumed_from_whatever_its_epoch() {
        let ring = ring();
        take(&ring, 7, 1..=10);
        take(&ring, 9, 1..=19);
        assert_eq!(resumed(&ring, at(9, 0)).await.len(), 19);
        take(&ring, 9, 20..=20);
        // The gap of the change went last: its place is still known.
        assert_eq!(resumed(&ring, at(9, 0)).await.len(), 20);
        let lost = resumed(&ring, at(7, 10)).await;
        assert_eq!(lost[0], "store_lost_data 7-10..9-0");
        take(&ring, 9, 21..=21);
        assert_eq!(resumed(&ring, at(9, 0)).await[0], "trimmed 9-0..9-1");
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_as_old_as_the_store_says_also_behind_a_gap() {
        let ring = ring();
        let aged = |epoch, offset, age| Found {
            age,
            ..event(epoch, offset)
        };
        advance(AGE * 2).await;
        ring.follow(vec![
            aged(7, 1, AGE * 3 / 4),
            aged(8, 1, AGE / 2),
            aged(8, 2, Duration::ZERO),
        ]);
        advance(AGE / 4).await;
        assert_eq!(resumed(&ring, at(8, 0)).await, ["8-1", "8-2"]);
        advance(AGE / 4).await;
        assert_eq!(resumed(&ring, at(8, 0)).await, ["trimmed 8-0..8-1", "8-2"]);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_the_answer_is_exact_or_begins_with_a_gap(
            jumps in prop::collection::vec((0..3_u64, 0..3_u64), 1..40),
            epoch in 0..12_u64,
            offset in 0..30_u64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let ring = ring();
                // What the store ever had: each entry, and whether all after it is known.
                let mut had = Vec::new();
                let (mut e, mut o) = (1, 0);
                for (epochs, offsets) in jumps {
                    (e, o) = if epochs > 1 { (e + epochs - 1, 0) } else { (e, o) };
                    o += 1 + offsets / 2;
                    had.push(at(e, o));
                    ring.follow(vec![event(e, o)]);
                }
                let after = at(epoch, offset);
                let got = resumed(&ring, after).await;
                // Everything that the ring has after the place comes, in order.
                let kept = &had[had.len().saturating_sub(20)..];
                let events: Vec<_> = got.iter().filter(|entry| !entry.contains("..")).collect();
                let oldest = kept.iter().position(|p| events.first().is_some_and(|e| **e == p.to_string()));
                if let Some(oldest) = oldest {
                    let expected: Vec<_> = kept[oldest..].iter().map(ToString::to_string).collect();
                    assert_eq!(events, expected.iter().collect::<Vec<_>>());
                }
                // A place that was never is never taken for one.
                let known = had.contains(&after)
                    || had.iter().any(|p| p.before() == after)
                    || after == ring.head();
                let gap_first = got.first().is_some_and(|entry| entry.contains(".."));
                assert!(known || gap_first, "{after} of {had:?} gave {got:?}");
            });
        }
    }
}

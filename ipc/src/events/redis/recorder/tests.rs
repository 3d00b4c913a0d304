//! What a recorder decides, by example and against a store in memory with several of them.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MAX_PAYLOAD: usize = 64;
const CHANNEL: &[u8] = b"intellirouter:a:b:c";

/// A server: what its scripts do with the books, and what it pushes.
struct Store {
    epoch: u64,
    mark: u64,
    commit: u64,
    recorded: Coordinate,
    /// PUBLISH commands of others, on any channel.
    calls: i64,
    heard: Option<i64>,
    lease: Option<usize>,
    log: Vec<Logged>,
    recorders: Vec<Connected>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Logged {
    Own,
    Other(String),
    Gap(GapReason),
}

struct Connected {
    recorder: Recorder,
    coming: VecDeque<Push>,
}

#[derive(Clone)]
enum Push {
    Mark(String),
    Message(String),
}

impl Store {
    fn new() -> Self {
        Self {
            epoch: 1,
            mark: 0,
            commit: 0,
            recorded: Coordinate::default(),
            calls: 0,
            heard: Some(0),
            lease: None,
            log: Vec::new(),
            recorders: Vec::new(),
        }
    }

    fn push(&mut self, push: &Push) {
        for connected in &mut self.recorders {
            connected.coming.push_back(push.clone());
        }
    }

    fn say(&mut self, word: &str, count: bool) {
        self.mark += 1;
        let count = if count {
            format!(" {}", self.calls)
        } else {
            String::new()
        };
        self.push(&Push::Mark(format!("{word} {}{count}", self.mark)));
    }

    /// The script `publish`.
    fn own(&mut self) {
        self.say("own", false);
        self.push(&Push::Message("own".to_owned()));
        self.log.push(Logged::Own);
    }

    /// A PUBLISH of somebody else.
    fn other(&mut self, payload: impl Into<String>) {
        self.calls += 1;
        self.push(&Push::Message(payload.into()));
    }

    /// A recorder connects, as `open` does.
    fn connect(&mut self) -> usize {
        self.recorders.push(Connected {
            recorder: Recorder::new(MAX_PAYLOAD),
            coming: VecDeque::new(),
        });
        let who = self.recorders.len() - 1;
        self.tick(who, Claim::Looks);
        self.arrive_some(who, 1);
        let claim = self.recorders[who].recorder.claim();
        self.tick(who, claim);
        who
    }

    /// As the script `tick`, with its answer. Whoever lacks something need not wait here.
    fn tick(&mut self, who: usize, claim: Claim) {
        let takes = claim != Claim::Looks;
        let holds = takes && self.lease.is_none_or(|holder| holder == who);
        let standing = Standing {
            head: Position {
                epoch: self.epoch,
                offset: self.log.len() as u64,
            },
            holds,
            commit: self.commit,
            recorded: self.recorded,
            heard: self.heard,
        };
        if self.lease == Some(who)
            && let Some(done) = self.recorders[who].recorder.done()
        {
            assert_eq!(done.epoch, self.epoch);
            self.commit = self.commit.max(done.mark);
            self.heard = done.heard;
        }
        if holds {
            self.lease = Some(who);
        }
        if holds || !takes {
            self.say("tick", true);
        }
        self.recorders[who].recorder.ticked(&standing).unwrap();
    }

    /// Everything that was pushed to it arrives.
    fn arrive(&mut self, who: usize) {
        self.arrive_some(who, usize::MAX);
    }

    fn arrive_some(&mut self, who: usize, count: usize) {
        let connected = &mut self.recorders[who];
        for _ in 0..count {
            let Some(push) = connected.coming.pop_front() else {
                return;
            };
            match push {
                Push::Mark(text) => assert!(connected.recorder.mark(text.as_bytes()).is_ok()),
                Push::Message(payload) => {
                    connected.recorder.message(CHANNEL, payload.into_bytes());
                }
            }
        }
    }

    /// As the script `record` does it, with its answer unless that is lost.
    fn record(&mut self, who: usize, most: usize, answered: bool) -> usize {
        let items = self.recorders[who].recorder.batch(most, usize::MAX);
        let Some(last) = items.last().map(|item| item.at) else {
            return 0;
        };
        self.append(&items);
        if answered {
            self.recorders[who].recorder.appended(last);
        }
        items.len()
    }

    /// What the script does with them.
    fn append(&mut self, items: &[Item]) {
        for item in items {
            if item.at <= self.recorded {
                continue;
            }
            self.recorded = item.at;
            self.heard = self.heard.map(|heard| heard + item.weight as i64);
            self.log.push(match &item.what {
                Recorded::Message { payload, .. } => {
                    Logged::Other(String::from_utf8(payload.to_vec()).unwrap())
                }
                Recorded::Gap { reason, .. } => Logged::Gap(*reason),
            });
        }
    }

    /// A recorder hears what there is and does its duty, until nothing is left to do.
    fn work(&mut self, who: usize) {
        self.arrive(who);
        while self.record(who, 3, true) > 0 {}
    }

    /// Its time comes.
    fn turn(&mut self, who: usize) {
        self.turn_without_recording(who);
        self.work(who);
    }

    /// It hears everything, and what it would record is on the way.
    fn turn_without_recording(&mut self, who: usize) {
        self.arrive(who);
        let claim = self.recorders[who].recorder.claim();
        self.tick(who, claim);
    }

    fn duty(&self, who: usize) -> Duty {
        self.recorders[who].recorder.duty()
    }

    fn others(&self) -> Vec<&str> {
        let entries = self.log.iter();
        let others = entries.filter_map(|entry| match entry {
            Logged::Other(payload) => Some(&payload[..]),
            _ => None,
        });
        others.collect()
    }

    fn gaps(&self) -> usize {
        let gaps = self
            .log
            .iter()
            .filter(|entry| matches!(entry, Logged::Gap(_)));
        gaps.count()
    }
}

#[test]
fn the_first_recorder_of_a_new_store_records_everything_and_says_no_gap() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    assert_eq!(store.duty(one), Duty::Holder);
    store.other("a");
    store.own();
    store.other("b");
    store.work(one);
    assert_eq!(
        store.log,
        [
            Logged::Own,
            Logged::Other("a".into()),
            Logged::Other("b".into())
        ]
    );
}

#[test]
fn what_came_before_the_first_recorder_is_a_gap() {
    let mut store = Store::new();
    store.other("missed");
    let one = store.connect();
    store.other("heard");
    store.work(one);
    let gap = Logged::Gap(GapReason::RecorderAway);
    assert_eq!(store.log, [gap, Logged::Other("heard".into())]);
}

#[test]
fn a_message_that_is_in_the_log_already_is_not_recorded_again_whatever_comes_between() {
    let mut store = Store::new();
    let one = store.connect();
    for _ in 0..3 {
        store.own();
        store.own();
        store.other("x");
        store.other("x");
        store.turn(one);
    }
    assert_eq!(store.others(), ["x"; 6]);
    assert_eq!(store.log.len(), 12);
}

#[test]
fn a_publish_that_redis_refuses_takes_no_message_with_it() {
    let mut store = Store::new();
    let one = store.connect();
    store.say("own", false);
    store.say("void", false);
    store.other("kept");
    store.work(one);
    assert_eq!(store.others(), ["kept"]);
}

#[test]
fn a_standby_takes_over_what_the_dead_holder_had_not_recorded_without_a_gap() {
    let mut store = Store::new();
    let (one, two) = (store.connect(), store.connect());
    store.other("a");
    store.work(one);
    store.turn(two);
    assert_eq!(store.duty(two), Duty::Standby);
    store.other("b");
    store.own();
    store.other("c");
    // `one` is dead: its lease ends.
    store.lease = None;
    store.turn(two);
    assert_eq!(store.others(), ["a", "b", "c"]);
    assert_eq!(store.gaps(), 0);
    store.other("d");
    store.work(two);
    assert_eq!(store.others(), ["a", "b", "c", "d"]);
}

#[test]
fn a_holder_that_wakes_up_late_records_nothing_twice_and_leaves_nothing_out() {
    let mut store = Store::new();
    let (one, two) = (store.connect(), store.connect());
    store.turn(one);
    store.other("a");
    store.other("b");
    store.arrive(one);
    // Stopped here, with two to append.
    store.lease = None;
    store.turn(two);
    store.other("c");
    store.work(two);
    // Awake: it appends what it holds and what has come, and learns that it is a standby.
    while store.record(one, 1, true) > 0 {}
    store.arrive(one);
    while store.record(one, 1, true) > 0 {}
    store.turn(one);
    assert_eq!(store.duty(one), Duty::Standby);
    assert_eq!(store.others(), ["a", "b", "c"]);
    store.other("d");
    store.work(two);
    store.lease = None;
    store.turn(one);
    assert_eq!(store.others(), ["a", "b", "c", "d"]);
    assert_eq!(store.gaps(), 0);
}

#[test]
fn a_newcomer_that_follows_a_dead_holder_says_a_gap_only_if_something_was_missed() {
    for missed in [false, true] {
        let mut store = Store::new();
        let one = store.connect();
        store.work(one);
        store.other("a");
        store.own();
        store.work(one);
        // Dead without a word, after its last record.
        store.own();
        if missed {
            store.other("missed");
        }
        store.lease = None;
        let two = store.connect();
        store.own();
        store.other("b");
        store.work(two);
        assert_eq!(store.gaps(), usize::from(missed));
        assert_eq!(store.others(), ["a", "b"]);
    }
}

#[test]
fn a_message_between_the_records_of_the_dead_and_the_newcomer_is_a_gap_even_if_few_are_missed() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    for n in 0..5 {
        store.other(n.to_string());
        store.turn(one);
    }
    store.other("heard by the dead alone");
    store.arrive(one);
    store.lease = None;
    let two = store.connect();
    store.work(two);
    assert_eq!(store.gaps(), 1);
}

#[test]
fn a_record_without_an_answer_is_repeated_and_counts_once() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    store.other("a");
    store.arrive(one);
    assert_eq!(store.record(one, 8, false), 1);
    store.other("b");
    store.work(one);
    assert_eq!(store.others(), ["a", "b"]);
}

#[test]
fn publishes_on_channels_of_no_concern_can_only_add_a_gap_never_hide_one() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    store.calls += 1;
    store.other("a");
    store.work(one);
    store.calls += 3;
    store.lease = None;
    let two = store.connect();
    store.work(two);
    assert_eq!(store.gaps(), 1);
}

#[test]
fn a_publish_elsewhere_does_not_stand_for_one_that_is_not_recorded_yet() {
    let mut store = Store::new();
    let one = store.connect();
    store.arrive(one);
    store.other("kept by the holder alone");
    let two = store.connect();
    // Of no concern, and after the first mark of the other.
    store.calls += 1;
    store.turn_without_recording(one);
    store.turn_without_recording(one);
    store.lease = None;
    store.work(two);
    store.turn(two);
    assert_eq!(store.gaps(), 1);
}

#[test]
fn a_count_that_was_reset_gives_a_gap_rather_than_silence() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    for n in 0..5 {
        store.other(n.to_string());
    }
    store.work(one);
    store.turn(one);
    assert_eq!(store.heard, Some(5));
    // CONFIG RESETSTAT; and nobody is there for a message.
    store.calls = 0;
    store.recorders.clear();
    store.lease = None;
    store.other("unheard");
    let two = store.connect();
    store.work(two);
    assert_eq!(store.gaps(), 1);
}

#[test]
fn a_server_that_does_not_tell_its_count_gives_a_gap_rather_than_silence() {
    let mut store = Store::new();
    store.heard = None;
    store.recorders.push(Connected {
        recorder: Recorder::new(MAX_PAYLOAD),
        coming: VecDeque::new(),
    });
    let one = &mut store.recorders[0].recorder;
    assert_eq!(one.mark(b"tick 7 "), Ok(false));
    store.tick(0, Claim::Lacks);
    store.record(0, 8, true);
    assert_eq!(store.gaps(), 1);
    assert_eq!(store.recorders[0].recorder.done().unwrap().heard, None);
}

#[test]
fn a_store_that_began_anew_is_noticed_by_its_marks_and_by_its_epoch() {
    let mut recorder = Recorder::new(MAX_PAYLOAD);
    assert_eq!(recorder.mark(b"tick 9 0"), Ok(false));
    assert_eq!(recorder.mark(b"tick 2 0"), Err(Stale));
    let standing = |epoch| Standing {
        head: Position { epoch, offset: 0 },
        holds: false,
        commit: 0,
        recorded: Coordinate::default(),
        heard: Some(0),
    };
    assert_eq!(recorder.ticked(&standing(1)), Ok(()));
    assert_eq!(recorder.ticked(&standing(2)), Err(Stale));
}

#[test]
fn what_is_no_mark_of_the_scripts_changes_nothing() {
    let mut recorder = Recorder::new(MAX_PAYLOAD);
    for text in [&b""[..], b"tick", b"own x", b"own -1", b"\xff 1"] {
        assert_eq!(recorder.mark(text), Ok(false));
    }
    assert!(!recorder.is_ready());
    assert_eq!(recorder.message(CHANNEL, Vec::new()), Heard::Passed);
}

#[test]
fn a_message_that_is_too_large_becomes_a_gap_on_its_channel_and_a_bad_name_is_ignored() {
    let mut recorder = Recorder::new(4);
    recorder.mark(b"tick 1 0").unwrap();
    assert_eq!(recorder.message(CHANNEL, vec![0; 5]), Heard::TooLarge(5));
    for name in [&b"intellirouter:a:b"[..], b"intellirouter:a:b:\xff"] {
        let heard = recorder.message(name, Vec::new());
        assert!(matches!(heard, Heard::Ignored(_)), "{heard:?}");
    }
    let kept = recorder.oldest(8, usize::MAX);
    let on_its_channel = Recorded::Gap {
        channel: Some(ChannelName::new("a", "b", "c")),
        reason: GapReason::Trimmed,
    };
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].what, on_its_channel);
}

#[test]
fn a_standby_keeps_a_bounded_amount_and_does_not_vouch_for_what_it_forgot() {
    let mut store = Store::new();
    let (one, two) = (store.connect(), store.connect());
    store.work(one);
    store.arrive(two);
    for n in 0..MAX_KEPT + 1 {
        store.other(n.to_string());
        store.arrive(two);
    }
    let standby = &store.recorders[two].recorder;
    assert!(standby.kept.len() <= MAX_KEPT && standby.kept_bytes <= MAX_KEPT_BYTES);
    store.lease = None;
    store.turn(two);
    assert_eq!(store.gaps(), 1);
    let last = MAX_KEPT.to_string();
    assert_eq!(store.others().last(), Some(&&last[..]));
}

#[test]
fn a_standby_that_forgot_what_is_recorded_by_now_takes_over_without_a_gap() {
    let mut store = Store::new();
    let (one, two) = (store.connect(), store.connect());
    store.work(one);
    for n in 0..MAX_KEPT + 1 {
        store.other(n.to_string());
        store.arrive(two);
        store.work(one);
    }
    store.turn(one);
    store.turn(one);
    store.other("last");
    store.lease = None;
    store.turn(two);
    assert_eq!(store.gaps(), 0);
    assert_eq!(store.others().len(), MAX_KEPT + 2);
}

#[test]
fn a_holder_that_can_not_append_fast_enough_says_what_it_dropped() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    for n in 0..MAX_KEPT + 1 {
        store.other(n.to_string());
        store.arrive(one);
    }
    let done = store.recorders[one].recorder.done().unwrap();
    assert_eq!(done.heard, Some(0), "what was dropped is not recorded yet");
    store.turn(one);
    assert_eq!(store.log[0], Logged::Gap(GapReason::Trimmed));
    assert_eq!(store.gaps(), 1);
    let last = MAX_KEPT.to_string();
    assert_eq!(store.others().last(), Some(&&last[..]));
    store.turn(one);
    assert_eq!(store.heard, Some(store.calls));
}

#[test]
fn what_a_holder_drops_while_it_is_being_recorded_hides_nothing_that_is_missed_later() {
    let mut store = Store::new();
    let one = store.connect();
    store.work(one);
    for n in 0..MAX_KEPT {
        store.other(n.to_string());
    }
    store.arrive(one);
    // Two are on their way into the log when one more comes than can be kept.
    let on_the_way = store.recorders[one].recorder.batch(2, usize::MAX);
    store.other("one more");
    store.arrive(one);
    store.append(&on_the_way);
    store.recorders[one].recorder.appended(on_the_way[1].at);
    store.work(one);
    // It dies before its next tick, and just as many are missed as were counted twice.
    store.recorders.clear();
    store.lease = None;
    store.other("missed");
    store.other("missed");
    let two = store.connect();
    store.work(two);
    let away = Logged::Gap(GapReason::RecorderAway);
    assert_eq!(store.log.last(), Some(&away));
}

#[test]
fn a_count_that_goes_back_under_a_recorder_vouches_for_nothing_from_before() {
    let mut recorder = Recorder::new(MAX_PAYLOAD);
    recorder.mark(b"tick 1 7").unwrap();
    let standing = |heard| Standing {
        head: Position {
            epoch: 1,
            offset: 0,
        },
        holds: true,
        commit: 0,
        recorded: Coordinate::default(),
        heard: Some(heard),
    };
    assert!(recorder.covers(&standing(7)));
    recorder.ticked(&standing(7)).unwrap();
    recorder.message(CHANNEL, Vec::new());
    assert_eq!(recorder.done().unwrap().heard, Some(7));
    // CONFIG RESETSTAT
    recorder.mark(b"tick 2 3").unwrap();
    assert_eq!(recorder.done().unwrap().heard, None);
    assert!(!recorder.covers(&standing(7)));
    let kept = recorder.oldest(1, 1)[0].at;
    recorder.appended(kept);
    assert_eq!(recorder.done().unwrap().heard, Some(3));
}

#[derive(Clone, Debug)]
enum Step {
    Own,
    Other,
    Elsewhere,
    Connect,
    Arrive {
        who: usize,
        count: usize,
    },
    Tick {
        who: usize,
    },
    Record {
        who: usize,
        most: usize,
        answered: bool,
    },
    LeaseEnds,
    Dies {
        who: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..4_usize;
    let step = prop_oneof![
        3 => Just(Step::Own),
        6 => Just(Step::Other),
        1 => Just(Step::Elsewhere),
        1 => Just(Step::Connect),
        6 => (who.clone(), 1..6_usize).prop_map(|(who, count)| Step::Arrive { who, count }),
        3 => who.clone().prop_map(|who| Step::Tick { who }),
        4 => (who.clone(), 1..4_usize, any::<bool>())
            .prop_map(|(who, most, answered)| Step::Record { who, most, answered }),
        1 => Just(Step::LeaseEnds),
        1 => who.prop_map(|who| Step::Dies { who }),
    ];
    prop::collection::vec(step, 1..120)
}

/// Every message of others is in the log once and in order, or a gap stands where it is missing.
fn is_whole(store: &Store, published: u64) {
    let mut next = 0;
    let mut gap = false;
    for entry in &store.log {
        match entry {
            Logged::Own => {}
            Logged::Gap(_) => gap = true,
            Logged::Other(payload) => {
                let number: u64 = payload.parse().unwrap();
                assert!(number >= next, "{number} comes again: {:?}", store.log);
                assert!(
                    number == next || gap,
                    "no gap before {number}: {:?}",
                    store.log
                );
                (next, gap) = (number + 1, false);
            }
        }
    }
    assert!(
        next == published || gap,
        "no gap at the end: {:?}",
        store.log
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whoever_dies_wakes_or_comes_late_every_message_is_recorded_once_or_a_gap_is(
        steps in steps()
    ) {
        let mut store = Store::new();
        let mut alive = vec![store.connect()];
        let mut published = 0_u64;
        for step in steps {
            match step {
                Step::Own => store.own(),
                Step::Other => {
                    store.other(published.to_string());
                    published += 1;
                }
                Step::Elsewhere => store.calls += 1,
                Step::Connect => alive.push(store.connect()),
                Step::Arrive { who, count } => {
                    if let Some(&who) = alive.get(who) {
                        store.arrive_some(who, count);
                    }
                }
                Step::Tick { who } => {
                    if let Some(&who) = alive.get(who) {
                        let claim = store.recorders[who].recorder.claim();
                        store.tick(who, claim);
                    }
                }
                Step::Record { who, most, answered } => {
                    if let Some(&who) = alive.get(who) {
                        store.record(who, most, answered);
                    }
                }
                Step::LeaseEnds => store.lease = None,
                Step::Dies { who } => {
                    if who < alive.len() {
                        alive.remove(who);
                    }
                }
            }
        }
        // In the end somebody is there and does what is to be done.
        store.lease = None;
        if alive.is_empty() {
            alive.push(store.connect());
        }
        store.turn(alive[0]);
        store.turn(alive[0]);
        is_whole(&store, published);
    }
}

//! Leases against a store that counts as the script does, on times that the
//! tests choose.

use super::*;

const MILLI: u64 = 1_000_000;
/// 100 per second, 40 at once, ten to a lease.
const TERMS: Terms = Terms {
    pace: Pace {
        interval: 10 * MILLI,
        burst: 40,
    },
    lease: 10,
};

/// A store with one bucket, at the service of gateways since a time.
#[derive(Default)]
struct Bucket {
    full_at: u64,
    since: u64,
}

impl Bucket {
    fn count(&mut self, now: u64, question: &Question) -> Answer {
        let pace = TERMS.pace;
        // As the script, told by two gateways.
        let served = question.alone.min(now - self.since);
        let charge = question.spent.min(question.charge + served / 2);
        let full_at = self.full_at.max(now + question.floor) + charge;
        let wanted = u64::try_from(question.calls).unwrap_or(0);
        let room = (now + pace.fill()).saturating_sub(full_at) / pace.interval;
        let granted = wanted.min(room);
        let back = u64::try_from(-question.calls).unwrap_or(0);
        self.full_at = (full_at + granted * pace.interval).saturating_sub(back * pace.interval);
        Answer {
            granted: u32::try_from(granted).unwrap(),
            full_in: self.full_at.saturating_sub(now),
            wait: pace.wait(self.full_at, now),
        }
    }

    fn left(&self, now: u64) -> u32 {
        TERMS.pace.left(self.full_at, now)
    }
}

fn standing(gateways: u32) -> Standing {
    Standing {
        prompt: true,
        reachable: true,
        gateways,
        connection: 1,
    }
}

fn away(gateways: u32) -> Standing {
    Standing {
        prompt: false,
        reachable: false,
        ..standing(gateways)
    }
}

fn lease(now: u64) -> Lease {
    Lease::new(Digest::default(), now, &standing(1))
}

fn answer(lease: &mut Lease, bucket: &mut Bucket, now: u64, question: &Question, at: &Standing) {
    let counted = bucket.count(now, question);
    lease.answered(now, question.calls, &counted, &TERMS, at);
}

/// One call whose question, if any, is answered at once.
fn call(lease: &mut Lease, bucket: &mut Bucket, now: u64, at: &Standing) -> Verdict {
    let (verdict, question) = lease.take(now, &TERMS, at, false);
    if let Some(question) = question {
        answer(lease, bucket, now, &question, at);
    }
    match verdict {
        Verdict::Ask => {
            let verdict = call_again(lease, bucket, now, at);
            lease.waited();
            verdict
        }
        verdict => verdict,
    }
}

/// A call that waits.
fn call_again(lease: &mut Lease, bucket: &mut Bucket, now: u64, at: &Standing) -> Verdict {
    let (verdict, question) = lease.take(now, &TERMS, at, true);
    let Some(question) = question else {
        return verdict;
    };
    answer(lease, bucket, now, &question, at);
    lease.take(now, &TERMS, at, true).0
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Allowed { .. })
}

/// How many of a rush of calls pass.
fn rush(lease: &mut Lease, bucket: &mut Bucket, now: u64, at: &Standing) -> u32 {
    (0..1000)
        .map(|_| u32::from(passes(call(lease, bucket, now, at))))
        .sum()
}

/// How many of a rush pass without the store.
fn rush_alone(lease: &mut Lease, now: u64, at: &Standing) -> u32 {
    let mut passed = 0;
    while passes(lease.take(now, &TERMS, at, false).0) {
        passed += 1;
    }
    passed
}

#[test]
fn a_lease_takes_no_more_memory_than_is_said() {
    // A hash table keeps up to 9 of 16 places free, and a byte for each.
    let place = size_of::<(crate::limits::key::Key, Lease)>() + 1;
    assert!(place * 16 / 7 <= 256, "{place}");
}

#[test]
fn steady_calls_never_wait_once_a_lease_is_there() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    assert_eq!(lease.take(0, &TERMS, &at, false).0, Verdict::Ask);
    lease.unanswered();
    call(&mut lease, &mut bucket, 0, &at);
    for n in 1..1000 {
        let now = n * 20 * MILLI;
        let (verdict, question) = lease.take(now, &TERMS, &at, false);
        assert!(passes(verdict), "call {n}: {verdict:?}");
        if let Some(question) = question {
            answer(&mut lease, &mut bucket, now, &question, &at);
        }
    }
}

#[test]
fn a_burst_passes_and_then_one_call_per_interval_over_any_number_of_gateways() {
    let (mut bucket, at) = (Bucket::default(), standing(2));
    let (mut one, mut other) = (lease(0), lease(0));
    let mut passed = 0;
    for millis in 0..1000 {
        let now = millis * MILLI;
        for _ in 0..3 {
            passed += u32::from(passes(call(&mut one, &mut bucket, now, &at)));
            passed += u32::from(passes(call(&mut other, &mut bucket, now, &at)));
        }
    }
    assert!(
        (138..=140).contains(&passed),
        "40 and 100 a second: {passed}"
    );
}

#[test]
fn a_refusal_holds_until_the_time_that_the_store_named_and_asks_nothing() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    assert_eq!(rush(&mut lease, &mut bucket, 0, &at), 40);
    for now in [0, 3 * MILLI, 9 * MILLI] {
        let (verdict, question) = lease.take(now, &TERMS, &at, false);
        let wait = 10 * MILLI - now;
        assert_eq!(
            verdict,
            Verdict::Refused {
                wait,
                fallback: false
            }
        );
        assert_eq!(question, None);
    }
    assert!(passes(call(&mut lease, &mut bucket, 10 * MILLI, &at)));
}

#[test]
fn what_is_not_used_for_a_lease_is_given_back() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    call(&mut lease, &mut bucket, 0, &at);
    assert_eq!(bucket.left(0), 30);
    assert_eq!(
        lease.settle(MILLI, &TERMS, &at),
        None,
        "it was used just now"
    );
    assert_eq!(lease.idle_at(), u64::MAX, "it holds calls of others");
    let question = lease.settle(2 * MILLI, &TERMS, &at).unwrap();
    assert_eq!(question.calls, -9);
    answer(&mut lease, &mut bucket, 2 * MILLI, &question, &at);
    assert_eq!(bucket.left(2 * MILLI), 39);
    assert_eq!(lease.idle_at(), 10 * MILLI);
}

#[test]
fn a_slow_rate_takes_no_call_that_nobody_needs() {
    let terms = Terms { lease: 1, ..TERMS };
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    let (_, question) = lease.take(0, &terms, &at, false);
    answer(&mut lease, &mut bucket, 0, &question.unwrap(), &at);
    assert_eq!(lease.take(0, &terms, &at, true).1, None);
    assert_eq!(bucket.left(0), 39);
}

#[test]
fn without_the_store_each_gateway_has_its_share_of_what_was_left_and_of_the_rate() {
    let (mut bucket, at) = (Bucket::default(), standing(2));
    let (mut one, mut other) = (lease(0), lease(0));
    for _ in 0..10 {
        call(&mut one, &mut bucket, 0, &at);
        call(&mut other, &mut bucket, 0, &at);
    }
    let mut passed = 20;
    for millis in 0..1000 {
        for lease in [&mut one, &mut other] {
            passed += rush_alone(lease, millis * MILLI, &away(2));
        }
    }
    // The first has not heard of the last half lease of the other.
    assert!(
        (130..=145).contains(&passed),
        "40 and 100 a second: {passed}"
    );
}

#[test]
fn a_share_of_less_than_one_call_is_saved_up() {
    let terms = Terms {
        pace: Pace {
            interval: 100 * MILLI,
            burst: 1,
        },
        lease: 1,
    };
    let mut gateways: Vec<_> = (0..4).map(|_| lease(0)).collect();
    let mut passed = 0;
    for millis in 0..2000 {
        for lease in &mut gateways {
            passed += u32::from(passes(
                lease.take(millis * MILLI, &terms, &away(4), false).0,
            ));
        }
    }
    assert!((16..=21).contains(&passed), "1 and 10 a second: {passed}");
}

/// An outage of `millis` with two gateways under a rush, the second of which
/// finds the store back `later` than the first; how many pass in it, and until
/// two seconds after it.
fn outage(millis: u64, later: u64, forgets: bool) -> (u32, u32) {
    let (mut bucket, at) = (Bucket::default(), standing(2));
    let (mut one, mut other) = (lease(0), lease(0));
    let mut passed = rush(&mut one, &mut bucket, 0, &at) + rush(&mut other, &mut bucket, 0, &at);
    for now in (0..millis).map(|millis| millis * MILLI) {
        passed += rush_alone(&mut one, now, &away(2)) + rush_alone(&mut other, now, &away(2));
    }
    let during = passed;
    if forgets {
        bucket = Bucket::default();
    }
    bucket.since = millis * MILLI;
    let back = Standing {
        connection: 2,
        ..standing(2)
    };
    for now in (millis..millis + 2000).map(|millis| millis * MILLI) {
        passed += rush(&mut one, &mut bucket, now, &back);
        passed += match now < (millis + later) * MILLI {
            true => rush_alone(&mut other, now, &away(2)),
            false => rush(&mut other, &mut bucket, now, &back),
        };
    }
    (during, passed)
}

#[test]
fn the_sum_over_an_outage_keeps_the_limit_whether_or_not_the_store_remembers() {
    let limit = |millis: u64| u32::try_from(40 + millis / 10).unwrap();
    for millis in [20, 300, 5000] {
        for (later, forgets) in [(0, false), (0, true), (500, false), (500, true)] {
            let (during, passed) = outage(millis, later, forgets);
            let what = format!("{millis} ms, {later} ms later, forgets: {forgets}");
            assert!(during <= limit(millis), "{what}: {during}");
            let limit = limit(millis + 2000);
            let right = (limit - 8..=limit).contains(&passed);
            assert!(right, "{what}: {passed} of {limit}");
        }
    }
}

#[test]
fn a_gateway_that_alone_lost_the_store_is_charged_for_all_that_it_let_in() {
    let (mut bucket, at) = (Bucket::default(), standing(2));
    let (mut one, mut other) = (lease(0), lease(0));
    let mut passed = 0;
    for now in (0..3000).map(|millis| millis * MILLI) {
        passed += rush(&mut one, &mut bucket, now, &at);
        passed += match now < 1000 * MILLI {
            true => rush_alone(&mut other, now, &away(2)),
            false => rush(&mut other, &mut bucket, now, &at),
        };
    }
    assert!(
        (332..=340).contains(&passed),
        "40 and 100 a second: {passed}"
    );
}

#[test]
fn a_burst_drawn_at_the_end_of_a_quiet_outage_is_charged_and_time_since_is_not() {
    for (quiet, left) in [(0, 20), (200 * MILLI, 40)] {
        let (mut lease, mut bucket) = (lease(0), Bucket::default());
        let now = 60_000 * MILLI;
        assert_eq!(rush_alone(&mut lease, now, &away(2)), 20, "half a burst");
        let back = Standing {
            connection: 2,
            ..standing(2)
        };
        let now = now + quiet;
        if let Some(question) = lease.settle(now, &TERMS, &back) {
            answer(&mut lease, &mut bucket, now, &question, &back);
        }
        // 200 ms fill what one gateway's share was charged for.
        assert_eq!(bucket.left(now).max(left), left, "after {quiet} ns");
        assert!(bucket.left(now) >= left.min(20));
    }
}

#[test]
fn calls_let_in_while_a_slow_answer_is_on_its_way_are_charged_too() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    let slow = Standing {
        prompt: false,
        ..at
    };
    let (verdict, question) = lease.take(0, &TERMS, &at, false);
    assert_eq!(verdict, Verdict::Ask);
    for _ in 0..7 {
        assert!(passes(lease.fall_back(MILLI, &TERMS, &slow)));
    }
    answer(&mut lease, &mut bucket, 2 * MILLI, &question.unwrap(), &at);
    let question = lease.settle(2 * MILLI, &TERMS, &at).unwrap();
    assert_eq!((question.calls, question.charge), (0, 70 * MILLI));
    answer(&mut lease, &mut bucket, 2 * MILLI, &question, &at);
    // With 1 ms of the share that it had besides.
    bucket.full_at -= MILLI;
    assert_eq!(bucket.left(2 * MILLI), 23, "a lease of 10 and those 7");
    assert_eq!(
        lease.settle(2 * MILLI, &TERMS, &at).unwrap().charge,
        0,
        "once"
    );
}

#[test]
fn a_key_that_the_store_can_not_count_is_left_alone_for_a_second() {
    let (mut lease, at) = (lease(0), standing(1));
    let (_, question) = lease.take(0, &TERMS, &at, false);
    assert!(question.is_some());
    lease.broken(0);
    let (verdict, question) = lease.take(MILLI, &TERMS, &at, false);
    assert!(passes(verdict) && question.is_none());
    let (verdict, question) = lease.take(BROKEN_FOR, &TERMS, &at, false);
    assert!(verdict == Verdict::Ask && question.is_some());
}

#[test]
fn what_is_given_back_can_be_taken_without_a_question() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    assert_eq!(rush(&mut lease, &mut bucket, 0, &at), 40);
    lease.give_back();
    assert_eq!(lease.wait(0), 0);
    assert!(passes(lease.take(0, &TERMS, &at, false).0));
    assert!(!passes(lease.take(0, &TERMS, &at, false).0));
}

#[test]
fn new_numbers_start_no_fuller_than_the_old_were_and_the_store_is_told() {
    let (mut old, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    assert_eq!(rush(&mut old, &mut bucket, 0, &at), 40);
    let pace = Pace {
        interval: MILLI,
        burst: 400,
    };
    let mut new = old.renewed(TERMS.pace, pace, 0, 7);
    let (_, question) = new.take(7, &Terms { pace, lease: 10 }, &at, false);
    assert_eq!(question.unwrap().floor, 400 * MILLI);
}

/// A burst of `calls` at once at a slow rate: how many pass, and how many
/// questions that takes.
fn burst(calls: usize, bucket: &mut Bucket) -> (usize, u32) {
    let (mut lease, at) = (lease(0), standing(1));
    let terms = Terms { lease: 1, ..TERMS };
    let verdicts = (0..calls).map(|_| lease.take(0, &terms, &at, false));
    let (verdicts, questions): (Vec<_>, Vec<_>) = verdicts.unzip();
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Ask));
    let mut open = questions.into_iter().flatten().next();
    let (mut passed, mut asked) = (0, 0);
    while let Some(question) = open {
        asked += 1;
        let counted = bucket.count(0, &question);
        open = lease.answered(0, question.calls, &counted, &terms, &at);
    }
    for _ in 0..calls {
        passed += usize::from(passes(lease.take(0, &terms, &at, true).0));
        lease.waited();
    }
    (passed, asked)
}

#[test]
fn a_burst_at_a_slow_rate_passes_as_far_as_there_is_room_with_two_questions() {
    assert_eq!(burst(30, &mut Bucket::default()), (30, 2));
    assert_eq!(burst(40, &mut Bucket::default()), (40, 2));
    assert_eq!(burst(100, &mut Bucket::default()), (40, 2));
    assert_eq!(burst(1, &mut Bucket::default()), (1, 1));
}

#[test]
fn what_comes_for_calls_that_wait_is_not_taken_by_later_ones() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    let terms = Terms { lease: 1, ..TERMS };
    let (_, question) = lease.take(0, &terms, &at, false);
    let counted = bucket.count(0, &question.unwrap());
    assert_eq!(lease.answered(0, 1, &counted, &terms, &at), None);
    let (verdict, question) = lease.take(0, &terms, &at, false);
    assert_eq!((verdict, question.unwrap().calls), (Verdict::Ask, 1));
    assert!(passes(lease.take(0, &terms, &at, true).0), "the first");
    lease.waited();
    // The second is given up by its client: nobody waits, and nothing is kept for it.
    lease.waited();
    lease.unanswered();
    assert!(lease.idle_at() < u64::MAX);
}

#[test]
fn a_store_that_answered_others_of_the_same_bucket_was_not_slow() {
    let (mut lease, mut bucket, at) = (lease(0), Bucket::default(), standing(1));
    let (_, question) = lease.take(MILLI, &TERMS, &at, false);
    assert!(lease.unheard_since(MILLI) && lease.unheard_since(2 * MILLI));
    answer(&mut lease, &mut bucket, 2 * MILLI, &question.unwrap(), &at);
    assert!(!lease.unheard_since(2 * MILLI));
    lease.settle(3 * MILLI, &TERMS, &at);
    lease.settle(4 * MILLI, &TERMS, &at).unwrap();
    assert!(!lease.unheard_since(3 * MILLI), "another question");
}

use std::sync::atomic::AtomicBool;

use intellirouter::resilience::{Outcome, Permit};
use tokio::time::advance;

use super::*;
use crate::config::EjectionConfig;
use crate::test_util::allocations;
use crate::upstream::ejection;
use crate::upstream::tests::upstream_of;

const MS: Duration = Duration::from_millis(1);

/// Connected where the test says so.
struct Fake {
    endpoint: Arc<Endpoint>,
    connected: AtomicBool,
    backs_off: AtomicBool,
}

impl Candidate for Fake {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    fn backs_off(&self) -> bool {
        self.backs_off.load(Relaxed)
    }
}

impl Fake {
    /// Its breaker opens, for a second less up to half.
    fn breaks(&self) {
        for _ in 0..5 {
            self.permit().record(Outcome::Failure);
        }
    }

    fn permit(&self) -> Permit {
        self.endpoint.standing.breaker.try_acquire().unwrap()
    }

    fn answers_in(&self, time: Duration) {
        self.endpoint.standing.load.observe(time, Instant::now());
    }

    fn is_away(&self) {
        self.connected.store(false, Relaxed);
        self.backs_off.store(true, Relaxed);
    }
}

/// So many that are up and connected.
fn fakes(number: usize) -> Vec<Arc<Fake>> {
    let endpoints = upstream_of(number, "").endpoints();
    let fakes = endpoints.iter().map(|endpoint| {
        Arc::new(Fake {
            endpoint: endpoint.clone(),
            connected: true.into(),
            backs_off: false.into(),
        })
    });
    fakes.collect()
}

/// Of a call that may be repeated, or not.
fn wish(repeatable: bool) -> Wish<'static> {
    Wish {
        calls: 0,
        repeatable,
        failed_at: &[],
    }
}

/// How often each is chosen first in so many choices.
fn chosen(list: &[Arc<Fake>], wish: &Wish<'_>, times: usize) -> Vec<usize> {
    let dice = Dice::new(7);
    let mut counts = vec![0; list.len()];
    for _ in 0..times {
        counts[choose(list, wish, &dice).unwrap().best.0] += 1;
    }
    counts
}

fn only(number: usize, index: usize, times: usize) -> Vec<usize> {
    let mut counts = vec![0; number];
    counts[index] = times;
    counts
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_never_chosen_while_a_live_one_stands() {
    let deaths: [fn(&Fake); 4] = [
        Fake::breaks,
        Fake::is_away,
        |fake| fake.endpoint.standing.health.fail_for_good(),
        // Away, and about to be tried again.
        |fake| fake.connected.store(false, Relaxed),
    ];
    for number in [2, 3, 5, 20, 256] {
        for die in deaths {
            let list = fakes(number);
            let live = number / 2;
            for dead in list.iter().filter(|fake| !Arc::ptr_eq(fake, &list[live])) {
                die(dead);
            }
            // However slow and loaded it is.
            list[live].answers_in(Duration::from_secs(10));
            (0..100).for_each(|_| list[live].endpoint.standing.load.begin());
            for repeatable in [false, true] {
                let times = 10_000 / number;
                let counts = chosen(&list, &wish(repeatable), times);
                assert_eq!(counts, only(number, live, times));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn among_many_of_which_some_are_dead_no_dead_one_is_chosen_either() {
    let list = fakes(20);
    for dead in list.iter().step_by(2) {
        dead.breaks();
    }
    let counts = chosen(&list, &wish(false), 10_000);
    for (index, count) in counts.into_iter().enumerate() {
        match index % 2 {
            0 => assert_eq!(count, 0),
            _ => assert!((800..1200).contains(&count), "{index}: {count}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_none_can_have_the_call_none_is_chosen() {
    assert!(choose::<Fake>(&[], &wish(true), &Dice::new(7)).is_none());
    for number in [1, 3, 20] {
        let list = fakes(number);
        list.iter().for_each(|fake| fake.breaks());
        assert!(choose(&list, &wish(true), &Dice::new(7)).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_alike_get_alike() {
    for number in [1, 2, 3, 4, 5, 20] {
        let counts = chosen(&fakes(number), &wish(false), 1000 * number);
        let fair = |count: &usize| (850..1150).contains(count);
        assert!(counts.iter().all(fair), "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_one_that_answers_sooner_is_preferred_until_it_has_more_calls_by_as_much() {
    let list = fakes(2);
    list[0].answers_in(10 * MS);
    list[1].answers_in(MS);
    for calls in 0..9 {
        assert_eq!(chosen(&list, &wish(false), 100), [0, 100], "{calls}");
        list[1].endpoint.standing.load.begin();
    }
    // Ten times as many: as good.
    assert!(chosen(&list, &wish(false), 100)[0].abs_diff(50) < 25);
    list[1].endpoint.standing.load.begin();
    assert_eq!(chosen(&list, &wish(false), 100), [100, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_slowest_of_many_is_left_alone() {
    for number in [3, 20] {
        let list = fakes(number);
        list.iter().for_each(|fake| fake.answers_in(MS));
        list[1].answers_in(500 * MS);
        assert_eq!(chosen(&list, &wish(false), 5000)[1], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_latency_is_not_known_the_calls_in_flight_decide() {
    let list = fakes(2);
    list[0].answers_in(500 * MS);
    assert!(chosen(&list, &wish(false), 100)[0].abs_diff(50) < 25);
    list[1].endpoint.standing.load.begin();
    assert_eq!(chosen(&list, &wish(false), 100), [100, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_is_tried_again_by_itself() {
    let list = fakes(2);
    let began = Instant::now();
    list[0].answers_in(500 * MS);
    list[1].answers_in(MS);
    while chosen(&list, &wish(false), 1) == [0, 1] {
        advance(10 * MS).await;
        list[1].answers_in(MS);
    }
    let took = began.elapsed();
    assert!((5000 * MS..15_000 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn where_the_call_has_failed_it_goes_only_if_no_other_can_have_it() {
    for number in [2, 3, 20] {
        let list = fakes(number);
        let failed: Vec<_> = list[1..].iter().map(|fake| fake.endpoint.clone()).collect();
        let wish = Wish {
            failed_at: &failed,
            ..wish(true)
        };
        assert_eq!(chosen(&list, &wish, 1000), only(number, 0, 1000));
        // One that has to be connected to first is still better.
        list[0].connected.store(false, Relaxed);
        assert_eq!(chosen(&list, &wish, 1000), only(number, 0, 1000));
        list[0].breaks();
        assert_eq!(chosen(&list, &wish, 1000)[0], 0);
    }
}

/// Has the one at `index` ejected.
fn eject(list: &[Arc<Fake>], index: usize) {
    for (other, fake) in list.iter().enumerate() {
        for call in 0..20 {
            let failed = other == index && call % 3 == 0;
            let outcome = [Outcome::Success, Outcome::Failure][usize::from(failed)];
            fake.permit().record(outcome);
        }
    }
    let config = EjectionConfig {
        max_share: 0.5,
        margin: 0.2,
        min_calls: 20,
        duration: Duration::from_secs(10),
    };
    let endpoints: Vec<_> = list.iter().map(|fake| fake.endpoint.clone()).collect();
    ejection::look("b", &endpoints, &config, Instant::now());
    assert!(list[index].endpoint.standing.ejection.is_out());
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_gets_calls_only_where_no_other_can_have_them() {
    for number in [2, 3, 20] {
        let list = fakes(number);
        eject(&list, 1);
        assert_eq!(chosen(&list, &wish(false), 1000)[1], 0);
        for other in [0].into_iter().chain(2..number) {
            list[other].breaks();
        }
        let counts = chosen(&list, &wish(false), 1000);
        assert_eq!(counts, only(number, 1, 1000));
    }
}

#[tokio::test(start_paused = true)]
async fn a_due_probe_goes_first_with_a_call_that_may_be_repeated() {
    for number in [1, 2, 3, 20, 256] {
        let list = fakes(number);
        list[0].breaks();
        advance(Duration::from_secs(1)).await;
        let dice = Dice::new(7);
        let calls = (1..).find(|_| choose(&list, &wish(true), &dice).unwrap().best.0 == 0);
        assert!(calls.unwrap() <= number, "{calls:?} of {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_be_repeated_is_no_probe_while_others_stand() {
    for number in [2, 3, 20] {
        let list = fakes(number);
        list[0].breaks();
        while chosen(&list, &wish(true), number)[0] == 0 {
            advance(MS).await;
        }
        // Now it is due.
        assert_eq!(chosen(&list, &wish(false), 1000)[0], 0);
        advance(PATIENCE - MS).await;
        assert_eq!(chosen(&list, &wish(false), 1000)[0], 0);
        // For a second.
        advance(MS).await;
        assert_ne!(chosen(&list, &wish(false), number)[0], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_be_repeated_is_a_probe_where_no_other_can_have_it() {
    let list = fakes(3);
    list.iter().for_each(|fake| fake.breaks());
    while choose(&list, &wish(false), &Dice::new(7)).is_none() {
        advance(MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_is_a_probe_where_it_has_failed_already_while_others_stand() {
    let list = fakes(2);
    list[0].breaks();
    advance(3 * PATIENCE).await;
    let failed = [list[0].endpoint.clone()];
    let wish = Wish {
        failed_at: &failed,
        ..wish(true)
    };
    assert_eq!(chosen(&list, &wish, 1000), [0, 1000]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_connected_joins_while_calls_go_to_others() {
    for number in [2, 3, 20] {
        let list = fakes(number);
        list[1].connected.store(false, Relaxed);
        let dice = Dice::new(7);
        let choice = |_| choose(&list, &wish(false), &dice).unwrap();
        let choices: Vec<_> = (0..number).map(choice).collect();
        assert!(choices.iter().all(|choice| choice.best.0 != 1));
        assert!(choices.iter().any(|choice| choice.joins == Some(1)));
        // So does one whose probe is due, and none that backs off.
        list[1].breaks();
        advance(PATIENCE).await;
        assert!(
            (0..number)
                .map(choice)
                .any(|choice| choice.joins == Some(1))
        );
        list[1].permit().record(Outcome::Success);
        list[1].backs_off.store(true, Relaxed);
        assert!((0..100).map(choice).all(|choice| choice.joins.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_choice_allocates_nothing() {
    for number in [1, 3, 256] {
        let list = fakes(number);
        let dice = Dice::new(7);
        let used = allocations(|| {
            for _ in 0..100 {
                choose(&list, &wish(false), &dice).unwrap();
            }
        });
        assert_eq!(used, 0, "{number}");
    }
}

#[test]
fn of_three_each_two_are_drawn_alike_in_a_scan() {
    let dice = Dice::new(7);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..3000 {
        let mut two = Two::of(0);
        (1..3).for_each(|index| two.add(index, &dice));
        let second = two.second.unwrap();
        let pair = (two.first.min(second), two.first.max(second));
        *counts.entry(pair).or_insert(0) += 1;
    }
    let counts: Vec<_> = counts.into_values().collect();
    assert!(counts.len() == 3 && counts.iter().all(|count| (900..1100).contains(count)));
}

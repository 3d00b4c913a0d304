use intellirouter::resilience::Outcome;

use super::*;
use crate::test_util::settle;
use crate::upstream::tests::{upstream_after, upstream_at};

const CHECKED: &str =
    "[upstreams.health]\ninterval = '1s'\ntimeout = '100ms'\nunhealthy_after = 1\n";

/// Ports that nobody listens on, so that every check fails.
const NOWHERE: [&str; 2] = ["'http://127.0.0.1:1'", "'http://127.0.0.1:2'"];

fn health(upstream: &Upstream, index: usize) -> bool {
    upstream.endpoints()[index].standing.health.is_up()
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_checked_from_the_beginning_and_new_ones_within_a_second() {
    let upstream = upstream_at(NOWHERE[0], CHECKED);
    upstream.keep();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!health(&upstream, 0));

    let list: Vec<_> = NOWHERE
        .map(|url| url.trim_matches('\'').parse().unwrap())
        .into();
    upstream.replace(&list, None).unwrap();
    assert!(health(&upstream, 1));
    tokio::time::sleep(EVERY + Duration::from_millis(200)).await;
    assert!(!health(&upstream, 1));
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_gone_are_checked_no_more() {
    let upstream = upstream_at(&NOWHERE.join(", "), CHECKED);
    let gone = upstream.endpoints()[1].clone();
    let mut checks = Vec::new();
    let config = upstream.config.health.clone().unwrap();
    follow(&mut checks, &upstream.endpoints(), "b", &config);
    let kept = checks[0].task.id();
    assert_eq!(checks.len(), 2);
    follow(
        &mut checks,
        &vec![upstream.endpoints()[0].clone()],
        "b",
        &config,
    );
    assert_eq!(checks.len(), 1);
    assert_eq!(checks[0].task.id(), kept);
    settle().await;
    let weak = Arc::downgrade(&gone);
    drop((upstream, gone));
    settle().await;
    assert_eq!(weak.strong_count(), 0, "its task has ended");
}

#[tokio::test(start_paused = true)]
async fn the_tasks_end_with_the_upstream() {
    let upstream = upstream_at(NOWHERE[0], CHECKED);
    upstream.keep();
    settle().await;
    let (endpoint, weak) = (
        Arc::downgrade(&upstream.endpoints()[0]),
        Arc::downgrade(&upstream),
    );
    drop(upstream);
    tokio::time::sleep(2 * EVERY).await;
    assert_eq!((weak.strong_count(), endpoint.strong_count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_checks_after_a_reload_no_endpoint_stays_out_for_one() {
    let old = upstream_at(NOWHERE[0], CHECKED);
    old.keep();
    tokio::time::sleep(EVERY).await;
    assert!(!health(&old, 0));
    let same = upstream_after(Some(&old), NOWHERE[0], &format!("{CHECKED}service = 'x'\n"));
    assert!(!health(&same, 0), "what is known stays");
    let new = upstream_after(Some(&old), NOWHERE[0], "");
    new.keep();
    tokio::time::sleep(3 * EVERY).await;
    // The old one is still there, and has no say.
    assert!(health(&new, 0) && health(&old, 0));
}

/// Of two endpoints the second fails a third of its calls, the first none.
fn the_second_fails_more(upstream: &Upstream) {
    for (index, endpoint) in upstream.endpoints().iter().enumerate() {
        for call in 0..30 {
            let failed = index == 1 && call % 3 == 0;
            let outcome = [Outcome::Success, Outcome::Failure][usize::from(failed)];
            let permit = endpoint.standing.breaker.try_acquire().unwrap();
            permit.record(outcome);
        }
    }
}

fn is_out(upstream: &Upstream, index: usize) -> bool {
    upstream.endpoints()[index].standing.ejection.is_out()
}

#[tokio::test(start_paused = true)]
async fn each_second_it_is_looked_whether_one_is_to_be_ejected() {
    let upstream = upstream_at(&NOWHERE.join(", "), "");
    upstream.keep();
    settle().await;
    the_second_fails_more(&upstream);
    assert!(!is_out(&upstream, 1));
    tokio::time::sleep(EVERY).await;
    settle().await;
    assert!(is_out(&upstream, 1) && !is_out(&upstream, 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_reload_only_the_new_settings_eject_though_a_call_holds_the_old_ones() {
    let (urls, off) = (
        NOWHERE.join(", "),
        "[upstreams.ejection]\nmax_share = 0.0\n",
    );
    for (old, new, is_ejected) in [("", off, false), (off, "", true)] {
        let old = upstream_at(&urls, old);
        old.start();
        settle().await;
        let new = upstream_after(Some(&old), &urls, new);
        new.start();
        the_second_fails_more(&new);
        for _ in 0..3 {
            tokio::time::sleep(EVERY).await;
            settle().await;
            assert_eq!(is_out(&new, 1), is_ejected);
        }
        drop(old);
    }
}

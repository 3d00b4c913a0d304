//! Under paused time: every wait is to the millisecond.

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

use super::double::{Answer, Double};
use super::*;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Lets an answer that takes 100 ms come.
async fn settle() {
    sleep(Duration::from_millis(150)).await;
}

async fn with_one_key() -> (Double, JwksSource) {
    let double = Double::answers(Answer::Keys(vec!["a"]));
    let source = double.source();
    settle().await;
    assert_eq!((double.asked(), source.status().keys), (1, 1));
    (double, source)
}

#[tokio::test(start_paused = true)]
async fn made_up_key_names_cause_at_most_one_fetch_per_cooldown() {
    let (double, source) = with_one_key().await;
    for round in 2..5 {
        assert!(source.renew().await, "the first one waits for a fetch");
        for _ in 0..1000 {
            let began = Instant::now();
            assert!(!source.renew().await);
            assert_eq!(began.elapsed(), Duration::ZERO, "refused at once");
        }
        assert_eq!(double.asked(), round);
        sleep(secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_come_during_a_fetch_wait_for_that_one() {
    let (double, source) = with_one_key().await;
    double.now_answers(Answer::Keys(vec!["a", "b"]));
    let renewed = join_all((0..500).map(|_| source.renew())).await;
    assert!(renewed.into_iter().all(|renewed| renewed));
    assert_eq!((double.asked(), source.status().keys), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_before_the_first_answer_waits_for_it() {
    let double = Double::answers(Answer::Keys(vec!["a"]));
    let source = double.source();
    assert!(!source.is_available());
    assert!(source.renew().await);
    assert!(source.is_available());
    assert_eq!(double.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_timeout_at_most_and_1024_wait_at_once() {
    let (double, source) = with_one_key().await;
    double.now_answers(Answer::Stalls);
    let began = Instant::now();
    let mut waiting: FuturesUnordered<_> = (0..1025).map(|_| source.renew()).collect();
    assert_eq!(waiting.next().await, Some(false));
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "one too many is refused at once"
    );
    while waiting.next().await.is_some() {}
    assert_eq!(began.elapsed(), secs(2));
    let status = source.status();
    assert_eq!(status.last_error.as_deref(), Some("no answer within 2s"));
    assert_eq!((status.succeeded, status.failed, status.keys), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_regularly_and_a_removed_one_is_gone_then() {
    let (double, source) = with_one_key().await;
    let before = source.keys().generation();
    sleep(secs(300)).await;
    assert_eq!(double.asked(), 2);
    settle().await;
    assert_eq!(source.keys().generation(), before, "nothing has changed");
    double.now_answers(Answer::Keys(vec!["b"]));
    sleep(secs(301)).await;
    assert_eq!((double.asked(), source.status().keys), (3, 1));
    assert_ne!(source.keys().generation(), before);
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_usable_key_is_a_failure_and_takes_no_key_away() {
    let (double, source) = with_one_key().await;
    let before = source.keys().generation();
    double.now_answers(Answer::Keys(vec![]));
    sleep(secs(301)).await;
    let status = source.status();
    assert_eq!((status.keys, status.succeeded, status.failed), (1, 1, 1));
    assert_eq!(status.last_error.as_deref(), Some("the key set is empty"));
    assert_eq!(source.keys().generation(), before);
    // Retried soon, and dropped only once they are too old.
    sleep(secs(2)).await;
    assert_eq!(double.asked(), 3);
    sleep(secs(3600)).await;
    assert!(source.status().keys == 0 && !source.is_available());
}

#[test]
fn an_answer_with_only_unusable_keys_says_why_and_shows_no_key() {
    let text = br#"{"keys":[{"kty":"oct","k":"aGlkZGVu","kid":"a"},{"kty":"x"}]}"#;
    let set = JwkSet::parse(text, Some(&[Algorithm::Es256])).unwrap();
    let fetched = Fetched { set, max_age: None };
    let error = fetched.with_a_key().err().unwrap();
    assert!(
        error.starts_with("no usable key among 2; the first: none of the allowed algorithms"),
        "{error}"
    );
    assert!(!error.contains("aGlkZGVu") && !error.contains("hidden"));
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_settings_the_keys_stay_though_the_issuer_is_away() {
    let (double, source) = with_one_key().await;
    let generation = source.keys().generation();
    assert!(source.renew().await, "the cooldown begins");
    double.now_answers(Answer::Fails);
    sleep(secs(1)).await;
    let changed = JwksSettings {
        ca: Some((PathBuf::from("ca.crt"), Arc::from(*b"another"))),
        refresh: secs(60),
        cooldown: secs(20),
        timeout: secs(1),
        stale: secs(100),
        ..super::double::settings()
    };
    let next = double.restarted(&source, changed);
    drop(source);
    assert_eq!(next.keys().generation(), generation, "before any answer");
    assert!(next.is_available() && !next.is_starting());
    settle().await;
    let status = next.status();
    assert_eq!((status.keys, status.succeeded, status.failed), (1, 2, 1));
    assert!(
        !next.renew().await,
        "still the old cooldown, of the new length"
    );
    sleep(secs(97)).await;
    assert_eq!(next.status().keys, 1);
    sleep(secs(2)).await;
    assert_eq!(
        next.status().keys,
        0,
        "the age counts from the old fetch on"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_of_another_url_issuer_or_use_are_not_taken_over() {
    let (double, source) = with_one_key().await;
    double.now_answers(Answer::Stalls);
    let changes: [fn(&mut JwksSettings); 3] = [
        |settings| settings.url = "https://other.example/jwks".parse().unwrap(),
        |settings| settings.issuer.push('x'),
        |settings| settings.algorithms = None,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let mut settings = super::double::settings();
        change(&mut settings);
        let next = double.restarted(&source, settings);
        assert_eq!(next.status().keys, 0, "{i}");
        assert!(next.is_starting() && !next.is_available(), "{i}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_fetches_fail_the_last_good_keys_hold_for_the_stale_time_and_no_longer() {
    let (double, source) = with_one_key().await;
    double.now_answers(Answer::Fails);
    sleep(secs(3599)).await;
    let status = source.status();
    assert_eq!(
        (status.keys, status.age),
        (1, Some(secs(3599) + Duration::from_millis(50)))
    );
    assert_eq!(status.last_error.as_deref(), Some("answered 500"));
    assert!(status.failed > 10 && source.is_available());
    sleep(secs(1)).await;
    assert_eq!(source.status().keys, 0);
    assert!(!source.is_available());
    assert!(
        source.status().age > Some(secs(3600)),
        "the age still tells since when"
    );

    double.now_answers(Answer::Keys(vec!["a"]));
    sleep(LONGEST_PAUSE + secs(1)).await;
    assert_eq!(
        (source.status().keys, source.status().last_error),
        (1, None)
    );
    assert!(source.is_available());
}

#[tokio::test(start_paused = true)]
async fn after_failures_the_pauses_grow_from_one_second_to_a_minute() {
    let double = Double::answers(Answer::Fails);
    let _source = double.source();
    let (mut pauses, mut last) = (Vec::new(), Instant::now());
    while pauses.len() < 9 {
        let asked = double.asked();
        sleep(Duration::from_millis(250)).await;
        if double.asked() > asked.max(1) {
            pauses.push(last.elapsed().as_secs());
            last = Instant::now();
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_looked_for_at_once_also_in_a_pause_after_a_failure() {
    let double = Double::answers(Answer::Fails);
    let source = double.source();
    sleep(secs(100)).await;
    let asked = double.asked();
    double.now_answers(Answer::Keys(vec!["a"]));
    assert!(source.renew().await);
    assert_eq!((double.asked(), source.status().keys), (asked + 1, 1));
}

#[tokio::test(start_paused = true)]
async fn max_age_shortens_the_time_to_the_next_fetch_to_a_minute_and_never_lengthens_it() {
    for (max_age, expected) in [(120, 120), (0, 60), (30, 60), (86_400, 300)] {
        let double = Double::answers(Answer::KeysFor(vec!["a"], secs(max_age)));
        let _source = double.source();
        sleep(secs(expected)).await;
        assert_eq!(double.asked(), 1, "{max_age}");
        settle().await;
        assert_eq!(double.asked(), 2, "{max_age}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_any_more_once_the_source_is_dropped() {
    let (double, source) = with_one_key().await;
    drop(source);
    sleep(secs(1000)).await;
    assert_eq!(double.asked(), 1);
    assert!(!double.is_in_use(), "the task is gone");

    // Also in the middle of a fetch.
    double.now_answers(Answer::Stalls);
    drop(double.source());
    settle().await;
    assert!(!double.is_in_use());
}

#[tokio::test(start_paused = true)]
async fn the_query_of_the_url_is_in_no_debug_output() {
    let double = Double::answers(Answer::Fails);
    let shown = format!("{:?}", double.source());
    assert!(
        shown.contains("issuer.example") && !shown.contains("hunter2"),
        "{shown}"
    );
}

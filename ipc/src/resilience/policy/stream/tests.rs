use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::{advance, sleep};
use tonic::Code;

use super::*;
use crate::resilience::{
    BreakerReport, BreakerSettings, BreakerState, CallKind, Resilience, ResiliencePolicy, deadline,
};

type Item = Result<u32, Status>;

const SECOND: Duration = Duration::from_secs(1);

/// Opens after 2 failures for 1 s; a try has 1 s, a call 10 s, work 100 s.
fn policy() -> ResiliencePolicy {
    let settings = Resilience {
        try_timeout: SECOND,
        total_timeout: 10 * SECOND,
        work_timeout: 100 * SECOND,
        backoff_min: SECOND / 20,
        breaker: BreakerSettings {
            consecutive_failures: 2,
            open_min: SECOND,
            open_max: SECOND,
            ..BreakerSettings::default()
        },
        ..Resilience::default()
    };
    ResiliencePolicy::with_random("router", settings, || 1.0).unwrap()
}

async fn open<S>(policy: &ResiliencePolicy, source: S) -> BoxStream<'static, Item>
where
    S: Stream<Item = Item> + Send + Unpin + 'static,
{
    let mut source = Some(source);
    let attempt = || std::future::ready(Ok(source.take().unwrap()));
    policy.stream(CallKind::Work, attempt).await.unwrap()
}

/// A stream that is fed from outside, and ends when the sender is dropped.
async fn fed(policy: &ResiliencePolicy) -> (mpsc::Sender<Item>, BoxStream<'static, Item>) {
    let (sender, mut receiver) = mpsc::channel(8);
    let source = stream::poll_fn(move |context| receiver.poll_recv(context));
    (sender, open(policy, source).await)
}

async fn break_off(policy: &ResiliencePolicy) {
    let items = [Ok(1), Err(Status::unavailable("cut"))];
    let stream = open(policy, stream::iter(items)).await;
    let read: Result<Vec<_>, _> = stream.try_collect().await;
    assert_eq!(read.unwrap_err().message(), "cut");
}

/// A policy whose next call is a probe.
async fn half_open() -> ResiliencePolicy {
    let policy = policy();
    break_off(&policy).await;
    break_off(&policy).await;
    advance(SECOND).await;
    policy
}

fn report(policy: &ResiliencePolicy) -> BreakerReport {
    policy.breaker().describe()
}

/// Calls and failures.
fn counts(policy: &ResiliencePolicy) -> (u32, u32) {
    let report = report(policy);
    (report.calls, report.failures)
}

#[tokio::test(start_paused = true)]
async fn a_stream_counts_when_it_ends_and_not_when_it_begins() {
    let policy = policy();
    let (sender, mut stream) = fed(&policy).await;
    sender.send(Ok(7)).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap(), Some(7));
    assert_eq!(counts(&policy), (0, 0));
    drop(sender);
    assert_eq!(stream.try_next().await.unwrap(), None);
    assert_eq!(counts(&policy), (1, 0));
    assert!(stream.next().await.is_none(), "it may be asked again");
}

#[tokio::test(start_paused = true)]
async fn streams_that_begin_between_failures_do_not_end_the_run_of_failures() {
    let policy = policy();
    break_off(&policy).await;
    let _running = fed(&policy).await;
    assert_eq!(report(&policy).consecutive_failures, 1);
    break_off(&policy).await;
    assert_eq!(report(&policy).state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_blames_the_caller_ends_a_stream_and_is_no_failure() {
    let policy = policy();
    let items = [Err(Status::not_found("no such model"))];
    let mut stream = open(&policy, stream::iter(items)).await;
    stream.try_next().await.unwrap_err();
    assert!(stream.next().await.is_none(), "after an error it is over");
    assert_eq!(counts(&policy), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_a_stream_closes_the_breaker_at_its_end_and_not_at_its_beginning() {
    let policy = half_open().await;
    let (sender, mut stream) = fed(&policy).await;
    assert_eq!(report(&policy).state, BreakerState::HalfOpen);
    drop(sender);
    stream.try_next().await.unwrap();
    assert_eq!(report(&policy).state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_reader_drops_while_it_waits_counts_for_nothing_and_frees_the_probe() {
    let policy = half_open().await;
    let (sender, mut stream) = fed(&policy).await;
    sender.send(Ok(7)).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap(), Some(7));
    assert!(stream.next().now_or_never().is_none());
    assert_eq!(report(&policy).probes, 1);
    drop(stream);
    assert!(sender.is_closed());
    let report = report(&policy);
    assert_eq!((report.state, report.probes), (BreakerState::HalfOpen, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_has_what_it_wants_and_leaves_was_served() {
    let policy = half_open().await;
    let (sender, mut stream) = fed(&policy).await;
    sender.send(Ok(7)).await.unwrap();
    stream.try_next().await.unwrap();
    drop(stream);
    assert_eq!(report(&policy).state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_unread_counts_for_nothing() {
    let policy = policy();
    drop(fed(&policy).await);
    assert_eq!(counts(&policy), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_ends_with_deadline_exceeded_and_is_a_failure() {
    let policy = policy();
    let start = Instant::now();
    let (sender, mut stream) = fed(&policy).await;
    sender.send(Ok(7)).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap(), Some(7));

    let status = stream.try_next().await.unwrap_err();
    assert_eq!(start.elapsed(), 100 * SECOND);
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let expected = "timed out: router: the stream did not end within 100s";
    assert_eq!(status.message(), expected);
    assert_eq!(counts(&policy), (1, 1));
    assert!(sender.is_closed(), "the stream below is dropped at once");
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_back_too_late_is_told_so_and_the_service_is_not_blamed() {
    let policy = policy();
    let (sender, mut stream) = fed(&policy).await;
    sender.send(Ok(7)).await.unwrap();
    stream.try_next().await.unwrap();
    advance(100 * SECOND).await;
    let status = stream.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(counts(&policy), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn messages_without_end_do_not_outlast_the_deadline() {
    let policy = policy();
    let endless = stream::repeat_with(|| Ok(1));
    let mut stream = open(&policy, endless).await;
    for _ in 0..100 {
        stream.try_next().await.unwrap();
        advance(SECOND).await;
    }
    let status = stream.try_next().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_stream_includes_what_it_took_to_begin() {
    let policy = policy();
    let start = Instant::now();
    let attempt = || async {
        sleep(40 * SECOND).await;
        Ok(stream::pending::<Item>())
    };
    let mut stream = policy.stream(CallKind::Work, attempt).await.unwrap();
    stream.try_next().await.unwrap_err();
    assert_eq!(start.elapsed(), 100 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_repeatable_stream_has_the_time_of_a_try_to_begin_and_that_of_the_call_to_end() {
    let policy = policy();
    let tries = AtomicU32::new(0);
    let attempt = || async {
        if tries.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
        let told = Result::<_, Status>::Ok(deadline::remaining());
        Ok(stream::iter([told]))
    };
    let stream = policy.stream(CallKind::Repeatable, attempt).await.unwrap();
    let told: Vec<_> = stream.try_collect().await.unwrap();
    // The first try took 1 s, the pause 50 ms.
    assert_eq!(told, [Some(Duration::from_millis(8950))]);
}

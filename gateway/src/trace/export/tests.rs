//! A collector that is slow, away or gone costs spans, which are counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use tokio::sync::Semaphore;

use super::*;

fn span() -> SpanData {
    SpanData {
        span_context: SpanContext::empty_context(),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: "".into(),
        start_time: std::time::UNIX_EPOCH,
        end_time: std::time::UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

/// Takes one batch per permit, and fails the first `failures` of them.
#[derive(Clone, Debug)]
struct Collector {
    permits: Arc<Semaphore>,
    failures: Arc<AtomicUsize>,
    largest: Arc<AtomicUsize>,
}

impl Collector {
    fn new(permits: usize, failures: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            failures: Arc::new(AtomicUsize::new(failures)),
            largest: Arc::default(),
        }
    }
}

impl Exporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.permits.acquire().await.unwrap().forget();
        self.largest.fetch_max(batch.len(), Ordering::Relaxed);
        let order = Ordering::Relaxed;
        let failed = self
            .failures
            .fetch_update(order, order, |n| n.checked_sub(1));
        match failed {
            Ok(_) => Err(OTelSdkError::InternalFailure("away".into())),
            Err(_) => Ok(()),
        }
    }
}

fn dropped(export: &Export, reason: &'static str) -> u64 {
    let labels = DropLabels { reason };
    export.counts.dropped.get_or_create(&labels).get()
}

#[tokio::test(start_paused = true)]
async fn spans_go_together_at_most_512_in_a_request() {
    let collector = Collector::new(100, 0);
    let export = Export::through(collector.clone());
    for _ in 0..1200 {
        export.take(span());
    }
    tokio::time::sleep(LINGER * 2).await;
    assert_eq!(export.counts.exported.get(), 1200);
    assert_eq!(collector.permits.available_permits(), 97);
    assert_eq!(collector.largest.load(Ordering::Relaxed), BATCH);
}

#[tokio::test(start_paused = true)]
async fn what_a_stalled_collector_leaves_no_room_for_is_dropped_and_counted() {
    let export = Export::through(Collector::new(0, 0));
    for _ in 0..QUEUE + 100 {
        export.take(span());
    }
    assert_eq!(dropped(&export, "queue_full"), 100);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_does_not_answer_costs_its_batch_and_not_the_next() {
    let collector = Collector::new(0, 0);
    let export = Export::through(collector.clone());
    export.take(span());
    tokio::time::sleep(LINGER + EXPORT_TIMEOUT * 2).await;
    assert_eq!(dropped(&export, "export_failed"), 1);
    collector.permits.add_permits(1);
    export.take(span());
    tokio::time::sleep(LINGER * 2).await;
    assert_eq!(export.counts.exported.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_refuses_costs_spans_until_it_takes_them_again() {
    let export = Export::through(Collector::new(100, 1));
    for _ in 0..2 {
        export.take(span());
        tokio::time::sleep(LINGER * 2).await;
    }
    assert_eq!(dropped(&export, "export_failed"), 1);
    assert_eq!(export.counts.exported.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_what_waits() {
    let export = Export::through(Collector::new(100, 0));
    for _ in 0..700 {
        export.take(span());
    }
    let begun = tokio::time::Instant::now();
    export.shutdown(Duration::from_secs(2)).await;
    assert_eq!(export.counts.exported.get(), 700);
    assert!(begun.elapsed() < LINGER, "nothing lingers at the end");
    export.take(span());
    assert_eq!(dropped(&export, "shutdown"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_no_longer_than_it_may() {
    let export = Export::through(Collector::new(0, 0));
    export.take(span());
    let begun = tokio::time::Instant::now();
    export.shutdown(Duration::from_secs(2)).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[test]
fn a_file_of_authorities_that_holds_none_is_a_fault_before_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = |endpoint: &str| TraceConfig {
        endpoint: endpoint.into(),
        ca_file: Some(file.path().to_owned()),
        sample: 1.0,
        follow_caller: false,
        service_name: "test".into(),
        include_subject: false,
    };
    assert!(check(&config("https://127.0.0.1:4317")).is_some());
    assert!(
        check(&config("http://127.0.0.1:4317")).is_none(),
        "it is not read"
    );
}

use std::slice::from_ref;

use intellirouter::resilience::Outcome;

use super::*;
use crate::test_util::config;

/// An upstream with these endpoints, as the next generation of `old`.
fn upstream(old: Option<&Arc<Upstream>>, ports: &[u16], settings: &str) -> Arc<Upstream> {
    let urls = ports
        .iter()
        .map(|port| format!("'http://127.0.0.1:{port}'"));
    let urls = urls.collect::<Vec<_>>().join(", ");
    let config = config(&format!(
        "[[upstreams]]\nname = 'b'\nendpoints = [{urls}]\n{settings}"
    ));
    Upstream::open(&config.upstreams[0], old, &Default::default()).unwrap()
}

/// What is shown of these, without the prefix, in order.
fn shown(metrics: &UpstreamMetrics, registry: &Registry, upstreams: &[Arc<Upstream>]) -> String {
    metrics.observe(upstreams);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut lines: Vec<_> = lines
        .map(|line| line.replace("upstream=\"b\",endpoint=\"http://127.0.0.1:", "\""))
        .collect();
    lines.sort();
    lines.join("\n")
}

fn metrics() -> (UpstreamMetrics, Registry) {
    let mut registry = Registry::default();
    (UpstreamMetrics::register(&mut registry), registry)
}

fn breaks(upstream: &Upstream, index: usize) {
    let breaker = upstream.endpoints()[index].figures().breaker;
    while let Ok(permit) = breaker.try_acquire() {
        permit.record(Outcome::Failure);
    }
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_is_shown_as_it_is() {
    let (metrics, registry) = metrics();
    let upstream = upstream(None, &[1, 2], "");
    breaks(&upstream, 1);
    let expected = "\
upstream_breaker_opened_total{\"1\"} 0
upstream_breaker_opened_total{\"2\"} 1
upstream_breaker_refused_total{\"1\"} 0
upstream_breaker_refused_total{\"2\"} 1
upstream_breaker_state{\"1\"} 0
upstream_breaker_state{\"2\"} 2
upstream_calls_in_flight{\"1\"} 0
upstream_calls_in_flight{\"2\"} 0
upstream_ejected{\"1\"} 0
upstream_ejected{\"2\"} 0
upstream_healthy{\"1\"} 1
upstream_healthy{\"2\"} 1";
    for _ in 0..2 {
        assert_eq!(shown(&metrics, &registry, from_ref(&upstream)), expected);
    }
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let breaker = upstream.endpoints()[1].figures().breaker;
    let _probe = breaker.try_acquire().unwrap();
    let half_open = shown(&metrics, &registry, &[upstream]);
    assert!(half_open.contains("breaker_state{\"2\"} 1"), "{half_open}");
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_is_shown_no_more() {
    let (metrics, registry) = metrics();
    let both = upstream(None, &[1, 2], "");
    shown(&metrics, &registry, &[both]);
    let one = upstream(None, &[2], "");
    let text = shown(&metrics, &registry, &[one]);
    assert!(
        !text.contains("\"1\"") && text.lines().count() == 6,
        "{text}"
    );
    assert_eq!(shown(&metrics, &registry, &[]), "");
}

#[tokio::test(start_paused = true)]
async fn a_counter_never_goes_back_while_its_endpoint_is_there() {
    let (metrics, registry) = metrics();
    let opened = |upstream: &Arc<Upstream>| {
        let text = shown(&metrics, &registry, from_ref(upstream));
        let line = text.lines().next().unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let old = upstream(None, &[1], "");
    breaks(&old, 0);
    assert_eq!(opened(&old), 1);
    // Taken over, then with a new breaker of other settings.
    let same = upstream(Some(&old), &[1], "connect_timeout = '9s'\n");
    assert_eq!(opened(&same), 1);
    let new = upstream(Some(&same), &[1], "[upstreams.breaker]\nmin_calls = 7\n");
    assert_eq!(opened(&new), 1);
    breaks(&new, 0);
    assert_eq!(opened(&new), 2);
}

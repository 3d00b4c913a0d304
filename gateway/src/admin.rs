//! What operators read of the gateway: `/livez`, `/readyz`, `/metrics`,
//! `/config`, `/upstreams`; and `POST /drain`, which stops it as SIGTERM does.
//! The server under it, with its bounds, is [`intellirouter::admin`].

use std::sync::Arc;

use http::StatusCode;
use intellirouter::admin::{self, Answer, Page};
use tokio::net::TcpListener;

use crate::gateway::Gateway;
use crate::layers::authenticate::status;

/// Serves until the future is dropped.
pub(crate) async fn serve(gateway: Arc<Gateway>, listener: TcpListener) {
    admin::serve(listener, Arc::new(GatewayPage(gateway))).await;
}

struct GatewayPage(Arc<Gateway>);

impl Page for GatewayPage {
    fn get(&self, path: &str) -> Option<Answer> {
        Some(match path {
            "/livez" => Answer::text("ok\n"),
            "/readyz" => ready(&self.0),
            "/metrics" => metrics(&self.0),
            "/config" => config(&self.0),
            "/upstreams" => upstreams(&self.0),
            _ => return None,
        })
    }

    fn paths(&self) -> &'static [&'static str] {
        &[
            "/livez",
            "/readyz",
            "/metrics",
            "/config",
            "/upstreams",
            "POST /drain",
        ]
    }

    fn post(&self, path: &str) -> Option<Answer> {
        (path == "/drain").then(|| {
            self.0.stop_asked.cancel();
            Answer::text_with(StatusCode::ACCEPTED, "draining\n")
        })
    }
}

fn ready(gateway: &Gateway) -> Answer {
    if gateway.stopping.is_cancelled() {
        return Answer::text_with(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    // A store that is away stops events, not calls; a faulty configuration on
    // disk stops nothing.
    let runtime = gateway.runtime();
    let issuers = runtime.authenticate.statuses();
    let lines = status::lines(&issuers);
    if !status::any_usable(&issuers) {
        let text = format!("no issuer has a key: no token can be verified\n{lines}");
        return Answer::text_with(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let events = runtime.events.status();
    let revocations = gateway.revocations.status();
    if !gateway.revocations.are_known() {
        let text = format!("revocation store never read: revoked tokens pass\n{revocations}\n");
        return Answer::text_with(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let mut text = format!("ready\n{events}\n{revocations}\n{lines}");
    if let Some(status) = runtime.limits.status() {
        // Nor limits: each gateway then keeps to its share.
        text.push_str(&status);
        text.push('\n');
    }
    if gateway.reload.fault().is_some() {
        text.push_str("configuration: the last good one; see /config\n");
    }
    Answer::text(text)
}

fn config(gateway: &Gateway) -> Answer {
    let runtime = gateway.runtime();
    let state = gateway.reload.describe("# ");
    Answer::text(format!("{state}{}", runtime.config.masked()))
}

fn upstreams(gateway: &Gateway) -> Answer {
    let runtime = gateway.runtime();
    let upstreams: Vec<_> = runtime
        .upstreams
        .iter()
        .map(|upstream| upstream.describe())
        .collect();
    Answer::json(format!("{:#}\n", serde_json::json!(upstreams)))
}

fn metrics(gateway: &Gateway) -> Answer {
    let runtime = gateway.runtime();
    runtime.events.observe();
    for upstream in &runtime.upstreams {
        upstream.observe();
    }
    runtime.limits.observe(&gateway.telemetry.limits);
    gateway.telemetry.upstreams.observe(&runtime.upstreams);
    gateway.revocations.observe(&gateway.telemetry.revocation);
    let issuers = status::metrics(&runtime.authenticate.statuses());
    let more = gateway.services.iter().chain([&issuers]);
    gateway
        .telemetry
        .encode(gateway.calls.count(), more)
        .map_or_else(|_| Answer::metrics_failed(), Answer::open_metrics)
}

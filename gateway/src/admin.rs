//! What operators read of the gateway: `/livez`, `/readyz`, `/metrics`,
//! `/config`. The server under it, with its bounds, is
//! [`intellirouter::admin`].

use std::sync::Arc;

use http::StatusCode;
use intellirouter::admin::{self, Answer, Page};
use tokio::net::TcpListener;

use crate::gateway::Gateway;

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
            "/config" => Answer::text(self.0.config.masked()),
            _ => return None,
        })
    }

    fn paths(&self) -> &'static [&'static str] {
        &["/livez", "/readyz", "/metrics", "/config"]
    }
}

fn ready(gateway: &Gateway) -> Answer {
    if gateway.drain.is_cancelled() {
        return Answer::text_with(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    // A store that is away stops events, not calls.
    Answer::text(format!("ready\n{}\n", gateway.events.status()))
}

fn metrics(gateway: &Gateway) -> Answer {
    gateway.events.observe();
    gateway
        .telemetry
        .encode(gateway.services.as_ref())
        .map_or_else(|_| Answer::metrics_failed(), Answer::open_metrics)
}

//! A host that is looked up again and again: each of its addresses is an
//! endpoint.
//!
//! It is the system's resolver that looks up, and what it remembers counts: the
//! lifetimes of answers are its concern. It may hang, and its thread with it, so
//! a look-up that takes longer than [`LIMIT`] has failed, and none begins while
//! an earlier one still runs. Looks come every `refresh`; after a connection
//! could not be made, sooner, but [`APART`]; after a look that failed, first
//! after 1 to 2 s and then after twice as long each time, up to `refresh`.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use intellirouter::resilience::Backoff;
use tokio::time::Instant;

use super::{Found, Shared};
use crate::config::EndpointConfig;

/// The longest that a look-up may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks.
const APART: Duration = Duration::from_secs(1);
/// After a look that failed; up to half less by chance.
const AGAIN: Duration = Duration::from_secs(2);

/// The addresses of a host, as the system knows them.
pub(super) async fn system(host: String) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Looks until it is aborted.
pub(super) async fn follow<R, F>(
    shared: Arc<Shared>,
    host: EndpointConfig,
    refresh: Duration,
    resolve: R,
) where
    R: Fn(String) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let backoff = Backoff::new(AGAIN, refresh.max(AGAIN));
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let pause = match look(&shared, &host, &resolve).await {
            Ok(found) => {
                failures = 0;
                shared.good(found);
                refresh
            }
            Err(error) => {
                failures += 1;
                shared.bad(format!("{}: {error}", host.host));
                backoff.delay(failures).min(refresh)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.failed.notified() => {}
        }
        tokio::time::sleep_until(began + APART).await;
    }
}

async fn look<R, F>(shared: &Shared, host: &EndpointConfig, resolve: &R) -> Result<Found, String>
where
    R: Fn(String) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
{
    let Ok(turn) = shared.looking.clone().try_acquire_owned() else {
        return Err("an earlier look-up hangs".to_owned());
    };
    let looking = resolve(host.host.clone());
    // On its own, so that it is known how long its thread is in use.
    let looking = tokio::spawn(async move {
        let _turn = turn;
        looking.await
    });
    let addresses = match tokio::time::timeout(LIMIT, looking).await {
        Ok(Ok(addresses)) => addresses.map_err(|error| error.to_string())?,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("not looked up within {LIMIT:?}")),
    };
    found(host, addresses).ok_or_else(|| "has no address".to_owned())
}

/// The same for the same addresses, in whatever order they come.
fn found(host: &EndpointConfig, mut addresses: Vec<IpAddr>) -> Option<Found> {
    addresses.sort_unstable();
    let endpoints = addresses.iter().map(|address| EndpointConfig {
        host: address.to_string(),
        ..host.clone()
    });
    let found = Found::new(endpoints.collect());
    (!found.endpoints.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests;

//! `grpc.health.v1.Health` of a server: whether it, and each of its services, takes calls.
//!
//! Everything that is served is SERVING from the start, until its author says otherwise; once the
//! drain begins, all is NOT_SERVING for good, and watches end with that word, so that they do not hold
//! the drain up. A `Check` does not learn of the drain: it is a new call, which the drain lets nobody
//! begin, so that it fails with UNAVAILABLE. A service that is not served is NOT_FOUND for `Check` and SERVICE_UNKNOWN for
//! `Watch`, as the protocol asks. The number of names is that of the services.

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::error::{IpcError, IpcResult};

/// What a request may have, in bytes: one name.
const MAX_REQUEST_BYTES: usize = 4096;

/// Says which services of a server take calls; see [`SecureRouter::health`](super::SecureRouter::health).
/// Clones speak of the same server.
#[derive(Debug, Clone)]
pub struct HealthReporter {
    states: watch::Sender<States>,
}

#[derive(Debug)]
struct States {
    draining: bool,
    /// By service name; the empty one is the server as a whole.
    serving: HashMap<String, bool>,
}

impl States {
    fn of(&self, service: &str) -> Option<bool> {
        let serving = self.serving.get(service)?;
        Some(*serving && !self.draining)
    }
}

impl HealthReporter {
    pub(super) fn new() -> Self {
        let states = States {
            draining: false,
            serving: HashMap::from([(String::new(), true)]),
        };
        Self {
            states: watch::Sender::new(states),
        }
    }

    pub(super) fn add(&self, service: &str) {
        self.states.send_modify(|states| {
            states.serving.insert(service.to_owned(), true);
        });
    }

    /// Says whether a service takes calls; the empty name is the server as a whole. The server
    /// itself refuses nothing because of it.
    ///
    /// Fails with [`IpcError::NotFound`] where the server has no such service. During the drain all
    /// stays NOT_SERVING, whatever is said.
    pub fn set_serving(&self, service: &str, serving: bool) -> IpcResult<()> {
        let mut known = false;
        self.states
            .send_if_modified(|states| match states.serving.get_mut(service) {
                Some(state) => {
                    known = true;
                    std::mem::replace(state, serving) != serving
                }
                None => false,
            });
        if known {
            return Ok(());
        }
        Err(IpcError::NotFound(format!(
            "the server has no service {service:?}"
        )))
    }

    /// What `Check` would say: `None` where the server has no such service.
    pub fn is_serving(&self, service: &str) -> Option<bool> {
        self.states.borrow().of(service)
    }

    pub(super) fn drain(&self) {
        self.states.send_modify(|states| states.draining = true);
    }

    pub(super) fn into_service(self) -> HealthServer<Self> {
        HealthServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

fn response(serving: Option<bool>) -> HealthCheckResponse {
    let status = match serving {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::ServiceUnknown,
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthReporter {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.is_serving(&request.get_ref().service) {
            None => Err(Status::not_found("the server has no such service")),
            serving => Ok(Response::new(response(serving))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let watch = Watch {
            states: self.states.subscribe(),
            service,
            told: None,
        };
        let told = stream::unfold(watch, |mut watch| async {
            let next = watch.next().await?;
            Some((Ok(response(next)), watch))
        });
        Ok(Response::new(Box::pin(told)))
    }
}

struct Watch {
    states: watch::Receiver<States>,
    service: String,
    told: Option<Option<bool>>,
}

impl Watch {
    /// The state now, and then each other one; `None` once all is said.
    async fn next(&mut self) -> Option<Option<bool>> {
        loop {
            let (state, draining) = {
                let states = self.states.borrow_and_update();
                (states.of(&self.service), states.draining)
            };
            if self.told != Some(state) {
                self.told = Some(state);
                return Some(state);
            }
            if draining || self.states.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_serving_until_its_author_says_otherwise() {
        let health = HealthReporter::new();
        health.add("a.S");
        assert_eq!(health.is_serving("a.S"), Some(true));
        health.set_serving("a.S", false).unwrap();
        assert_eq!(health.is_serving("a.S"), Some(false));
        assert_eq!(health.is_serving(""), Some(true));
        health.set_serving("a.S", true).unwrap();
        assert_eq!(health.is_serving("a.S"), Some(true));
    }

    #[test]
    fn nothing_can_be_said_of_a_service_that_is_not_there() {
        let health = HealthReporter::new();
        let error = health.set_serving("a.T", true).unwrap_err();
        assert!(matches!(error, IpcError::NotFound(_)), "{error}");
        assert_eq!(health.is_serving("a.T"), None);
    }

    #[test]
    fn a_drain_is_final() {
        let health = HealthReporter::new();
        health.add("a.S");
        health.drain();
        health.set_serving("a.S", true).unwrap();
        assert_eq!(health.is_serving("a.S"), Some(false));
        assert_eq!(health.is_serving(""), Some(false));
    }
}

//! A closed loop of calls for as long as a test wants, and what became of
//! each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::Gateway;
use crate::client::Connection;

/// One finished call.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// When it was answered, since the load began.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// Its gRPC code.
    pub code: i32,
}

/// Connections that call one after the other, until they are told to stop.
pub struct Load {
    began: Instant,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Done>>>,
}

impl Load {
    /// Begins with this many connections to each gateway.
    pub async fn start(gateways: &[&Gateway], each: usize, path: &str, bearer: &str) -> Self {
        let mut connections = Vec::new();
        for gateway in gateways {
            for _ in 0..each {
                connections.push(Connection::open(gateway.port, &gateway.ca).await);
            }
        }
        let (began, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let callers = connections.into_iter().map(|client| {
            let (path, bearer) = (path.to_owned(), bearer.to_owned());
            tokio::spawn(call_on(client, path, bearer, began, Arc::clone(&stop)))
        });
        Self {
            began,
            callers: callers.collect(),
            stop,
        }
    }

    /// How long it goes on already.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets it go on until it is this old.
    pub async fn until(&self, age: Duration) {
        tokio::time::sleep_until((self.began + age).into()).await;
    }

    /// Stops it; gives every call in the order of their answers.
    pub async fn stop(self) -> Vec<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for caller in self.callers {
            all.extend(caller.await.expect("a caller ends"));
        }
        all.sort_by_key(|done| done.at);
        all
    }
}

async fn call_on(
    mut client: Connection,
    path: String,
    bearer: String,
    began: Instant,
    stop: Arc<AtomicBool>,
) -> Vec<Done> {
    let mut all = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let headers = [("authorization", bearer.as_str())];
        let code = client.unary(&path, &headers, b"").await.status().code;
        all.push(Done {
            at: began.elapsed(),
            took: start.elapsed(),
            code,
        });
    }
    all
}

/// The time that this part of the calls took at most.
pub fn quantile(calls: &[Done], part: f64) -> Duration {
    let mut times: Vec<_> = calls.iter().map(|done| done.took).collect();
    times.sort();
    let index = (times.len() as f64 * part) as usize;
    times[index.min(times.len() - 1)]
}

//! One thread of the data plane: its connections to backends, and the
//! generation of the configuration that it serves with.
//!
//! Decisions are made per process ([`Gateway`]); sockets belong to a worker. A
//! worker that hears of a new generation makes pools for the upstreams that
//! changed and keeps the others. Calls that are under way end on what they
//! began with: a pool that nobody asks any more closes its connections as
//! their last calls end.

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::gateway::Gateway;
use crate::runtime::Runtime;
use crate::upstream::Pool;

/// See the module's comment.
pub(crate) struct Worker {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) number: usize,
    serving: ArcSwap<Serving>,
}

/// What a worker serves with.
pub(crate) struct Serving {
    pub(crate) runtime: Arc<Runtime>,
    /// By upstream index.
    pub(crate) pools: Vec<Arc<Pool>>,
}

impl Worker {
    pub(crate) fn new(gateway: Arc<Gateway>, number: usize) -> Arc<Self> {
        let serving = Serving::new(gateway.runtime(), &[]);
        Arc::new(Self {
            gateway,
            number,
            serving: ArcSwap::from_pointee(serving),
        })
    }

    /// What calls that begin now are served with.
    pub(crate) fn serving(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// Takes each new generation, and says so, for as long as it is polled.
    pub(crate) async fn follow(&self) -> Infallible {
        let mut generations = self.gateway.generations();
        loop {
            // What was published before this began counts too.
            let runtime = generations.borrow_and_update().clone();
            if !Arc::ptr_eq(&runtime, &self.serving().runtime) {
                let serving = Serving::new(runtime, &self.serving().pools);
                self.serving.store(Arc::new(serving));
            }
            self.gateway.taken_by(self.number);
            if generations.changed().await.is_err() {
                // The gateway itself is gone, and nobody will call.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Serving {
    fn new(runtime: Arc<Runtime>, old: &[Arc<Pool>]) -> Self {
        let pools = runtime.upstreams.iter().map(|upstream| {
            let same = old.iter().find(|pool| pool.serves(upstream));
            same.cloned().unwrap_or_else(|| Pool::new(upstream.clone()))
        });
        Self {
            pools: pools.collect(),
            runtime,
        }
    }
}

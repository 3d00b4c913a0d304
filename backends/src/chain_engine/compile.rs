//! Compiles the templates of chains on threads where that may take its time, and where a fault of
//! the library harms one request only.
//!
//! Owns how many are compiled at a time, [`AT_A_TIME`]; others wait for a place. What a template may
//! say is `template`'s. A thread cannot be stopped: whoever goes away while it works leaves its
//! place taken, and what it gave along held, until the thread is done. It fails with
//! INVALID_ARGUMENT, which names every template that is wrong.

use std::sync::Arc;

use intellirouter_proto::intellirouter::chain_engine::v1::ChainStep;
use tokio::sync::Semaphore;
use tonic::Status;

use super::error::EngineError;
use super::template::{TemplateFault, Templates};
use crate::faults::Faults;

/// Chains whose templates are compiled at a time.
pub(super) const AT_A_TIME: usize = 4;

/// The places where chains are compiled.
pub(super) struct Compiler {
    pub(super) places: Arc<Semaphore>,
}

/// A chain's steps, ready to run.
pub(super) struct Compiled<H> {
    pub(super) steps: Vec<ChainStep>,
    pub(super) templates: Templates,
    /// What came along.
    pub(super) held: H,
}

impl Compiler {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Compiles the templates of a chain that is in order otherwise. `held` is not dropped before
    /// the work is done, even if nobody waits for it any more.
    pub(super) async fn compile<H: Send + 'static>(
        &self,
        steps: Vec<ChainStep>,
        held: H,
    ) -> Result<Compiled<H>, Status> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        // It is never closed.
        let place = place.map_err(|_| EngineError::Internal)?;
        let compiling = tokio::task::spawn_blocking(move || {
            let compiled = Templates::compile(&steps);
            drop(place);
            (compiled, steps, held)
        });
        // A panic of the library: it was logged by the panic itself.
        let (compiled, steps, held) = compiling.await.map_err(|_| EngineError::Internal)?;
        Ok(Compiled {
            templates: compiled.map_err(refusal)?,
            steps,
            held,
        })
    }
}

fn refusal(found: Vec<(usize, TemplateFault)>) -> Status {
    let mut faults = Faults::default();
    for (index, fault) in found {
        let field = format!("chain.steps[{index}].input_template");
        faults.add(field, fault.to_string());
    }
    // There was at least one fault.
    let none = || EngineError::Internal.into();
    faults.into_result().err().unwrap_or_else(none)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    /// Tells how many places are free when it is let go.
    struct Held {
        places: Arc<Semaphore>,
        tell: Option<oneshot::Sender<usize>>,
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let free = self.places.available_permits();
            self.tell.take().unwrap().send(free).unwrap();
        }
    }

    #[tokio::test]
    async fn what_came_along_is_held_until_the_thread_is_done_though_nobody_waits_any_more() {
        let compiler = Compiler::new();
        let (tell, let_go) = oneshot::channel();
        let held = Held {
            places: Arc::clone(&compiler.places),
            tell: Some(tell),
        };
        // Long enough that the thread works when the caller goes.
        let step = |id: usize| ChainStep {
            id: id.to_string(),
            input_template: "{{input}}".repeat(200),
            ..Default::default()
        };
        let mut caller = Box::pin(compiler.compile((0..64).map(step).collect(), held));
        assert!(caller.as_mut().now_or_never().is_none());
        assert_eq!(compiler.places.available_permits(), AT_A_TIME - 1);
        drop(caller);
        assert_eq!(let_go.await.unwrap(), AT_A_TIME);
    }
}

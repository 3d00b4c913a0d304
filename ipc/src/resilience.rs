//! What keeps a call from waiting for, or hammering, a service that does not answer: timeouts,
//! retries within a budget, and a circuit breaker.
//!
//! The parts stand alone and know nothing of gRPC clients, so that the gateway, which forwards bytes,
//! uses the same ones: [`Backoff`] (how long to wait), [`RetryBudget`] (how many retries in all),
//! [`Breaker`] (whether to call at all). [`ResiliencePolicy`] puts them together around one call, and
//! the `Resilient…Client`s of [`clients`](crate::clients) put it around every method of a service.
//!
//! Owns no connection, no queue and no task: a call waits in the future of its caller, and dropping
//! that ends it. Nothing here waits while it holds a lock, and no state grows with the traffic.
//!
//! What the end of a try means for the breaker:
//!
//! | end of the try | for the breaker |
//! |---|---|
//! | a message, or the end of a stream of them; any status that is not named below | success: the service answers, it is the caller who erred |
//! | `UNAVAILABLE`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNKNOWN`, `DATA_LOSS` | failure |
//! | no connection, a broken one, no answer in time | failure |
//! | `CANCELLED`, or dropped by the caller | nothing |
//! | refused before it was sent (bad argument, no token, bad URL) | nothing |
//!
//! A stream of messages is one try, and counts when it ends, not when it begins: a service that begins
//! every stream and breaks it off does not look alive. A reader that drops it after a message was
//! served.
//!
//! And what is tried again, all of it only within the budget, the tries and the total time:
//!
//! | end of the try | a repeatable call | any other call |
//! |---|---|---|
//! | no connection could be made, so nothing was sent | yes | yes |
//! | `UNAVAILABLE`, `DEADLINE_EXCEEDED`, a broken connection, no answer in time | yes | no |
//! | `RESOURCE_EXHAUSTED` with `google.rpc.RetryInfo` | yes | no |
//! | refused by the breaker | no | no |
//! | everything else | no | no |

mod backoff;
mod breaker;
mod budget;
pub(crate) mod deadline;
mod policy;
mod settings;
mod verdict;

pub use backoff::{Backoff, Random};
pub use breaker::{
    Breaker, BreakerOpen, BreakerReport, BreakerState, OpenReason, Permit, Readiness,
};
pub use budget::RetryBudget;
pub use policy::{CallKind, ResiliencePolicy};
pub use settings::{BreakerSettings, Resilience};
pub use verdict::{Outcome, outcome_of, outcome_of_code};

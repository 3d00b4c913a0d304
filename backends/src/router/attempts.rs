//! Asks one model after the other until one answers.
//!
//! Owns the turns, the repeated calls to one model, what is remembered of failures, and the end of
//! the request's time. It does not own what an answer is: a whole one, or one that has begun, is
//! the [`Ask`]'s concern. A model is picked once per request; after a failure that may pass
//! (no connection, 5xx) it is called again, up to its own `max_retries` and at most [`RETRIES`]
//! times. Dropping the future ends the call that is in progress.
//!
//! It fails with [`RouteError`]: at once if the request itself is refused or its answer is too large,
//! else when no model is left, when enough were tried, or when the time is over.

use std::sync::PoisonError;
use std::time::Duration;

use intellirouter_proto::intellirouter::model_registry::v1::ChatCompletionRequest;
use tokio::time::{Instant, sleep, timeout_at};

use super::Shared;
use super::candidate::{Candidate, InFlight};
use super::error::{RouteError, Tried};
use super::limits::{RETRIES, RETRY_PAUSE};
use super::plan::Plan;
use super::select::{Pool, Reason};
use super::strategies::Pick;
use crate::connectors::{ConnectorError, Connectors, Endpoint};

/// A way to ask a model.
pub(super) trait Ask {
    /// What it takes for a model to have answered.
    type Answer: Send;

    /// Asks once, for at most `limit`.
    fn ask(
        connectors: &Connectors,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        limit: Duration,
    ) -> impl Future<Output = Result<Self::Answer, ConnectorError>> + Send;
}

/// An answer, and how it came about.
#[derive(Debug)]
pub(super) struct Answered<T> {
    pub(super) answer: T,
    pub(super) chosen: Chosen,
    /// Those that failed before.
    pub(super) tried: Vec<Tried>,
    /// Repeated calls, to all models together.
    pub(super) retries: u32,
    /// What came of the models that were looked at, without the models.
    pub(super) pool: Pool,
}

/// A model whose turn it is.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) candidate: Candidate,
    /// Why this one, in words.
    pub(super) why: String,
    pub(super) at: Instant,
    /// Held until the answer is whole.
    _in_flight: InFlight,
}

impl Chosen {
    fn id(&self) -> &str {
        &self.candidate.model.id
    }
}

/// Gets an answer for the plan.
pub(super) async fn answer<A: Ask>(
    shared: &Shared,
    plan: &Plan,
) -> Result<Answered<A::Answer>, RouteError> {
    let mut pool = Pool::gather(shared.source.as_ref(), &plan.conditions).await;
    let mut tried = Vec::new();
    let mut retries = 0;
    while tried.len() < plan.max_attempts {
        let Some(chosen) = next(shared, plan, &mut pool, tried.len()) else {
            break;
        };
        let asking = call::<A>(shared, plan, &chosen, &mut retries);
        let error = match timeout_at(plan.deadline(), asking).await {
            Ok(Ok(answer)) => {
                // A stream may take minutes, and the models may be many.
                pool.candidates = Vec::new();
                return Ok(Answered {
                    answer,
                    chosen,
                    tried,
                    retries,
                    pool,
                });
            }
            Ok(Err(error)) => error,
            Err(_) => ConnectorError::TimedOut(chosen.at.elapsed()),
        };
        let failed = remember(shared, plan, &chosen, error);
        if !failed.error.another_may_do() {
            return Err(match failed.error {
                ConnectorError::TooLarge(_) => RouteError::TooLarge(failed),
                _ => RouteError::Refused(failed),
            });
        }
        tried.push(failed);
        if Instant::now() >= plan.deadline() {
            let limit = plan.limit;
            return Err(RouteError::Deadline { limit, tried });
        }
    }
    Err(match tried.is_empty() {
        true => RouteError::NoModel(pool.left_out),
        false => RouteError::AllFailed(tried),
    })
}

/// The next model to ask. Picking, and taking note of the pick, is one step for all requests, so
/// that two at once never take the same turn.
fn next(shared: &Shared, plan: &Plan, pool: &mut Pool, failed: usize) -> Option<Chosen> {
    let mut turns = shared.turns.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let Some(Pick { index, why }) = pick(plan, &pool.candidates, failed) else {
            let unwanted = u32::try_from(pool.candidates.len()).unwrap_or(u32::MAX);
            pool.left_out.add(Reason::Strategy, unwanted);
            return None;
        };
        let candidate = pool.candidates.remove(index);
        let (load, now) = (&candidate.load, Instant::now());
        // Both may have changed since the pool was gathered.
        if load.standing.rests_for(now).is_some() {
            pool.left_out.add(Reason::EndpointLimit, 1);
        } else if !load.take_call(candidate.model.max_requests_per_minute, now) {
            pool.left_out.add(Reason::Calls, 1);
        } else {
            *turns += 1;
            load.standing.picked(*turns);
            return Some(Chosen {
                why: match failed {
                    0 => why,
                    n => format!("{why}; {n} failed before"),
                },
                at: now,
                _in_flight: load.begin(),
                candidate,
            });
        }
    }
}

/// First the model that the caller asks for; then the strategy's choice; after a failure, or if
/// that wants none, the fallback strategy's, if there is one.
fn pick(plan: &Plan, pool: &[Candidate], failed: usize) -> Option<Pick> {
    let preferred = plan.conditions.preferred.as_ref();
    if let Some(id) = preferred
        && let Some(index) = pool.iter().position(|candidate| candidate.model.id == *id)
    {
        let why = "the request asks for it".to_owned();
        return Some(Pick { index, why });
    }
    let strategies = match (&plan.fallback, failed) {
        (Some(fallback), 0) => [Some(&plan.strategy), Some(fallback)],
        (Some(fallback), _) => [Some(fallback), None],
        (None, _) => [Some(&plan.strategy), None],
    };
    let mut strategies = strategies.into_iter().flatten();
    strategies.find_map(|ready| ready.strategy.pick(pool, &plan.asked))
}

/// Calls a model until it answers, or fails in a way that a repetition does not help.
async fn call<A: Ask>(
    shared: &Shared,
    plan: &Plan,
    chosen: &Chosen,
    retries: &mut u32,
) -> Result<A::Answer, ConnectorError> {
    let Candidate {
        model,
        api_key,
        load,
    } = &chosen.candidate;
    let config = model.connector_config.clone().unwrap_or_default();
    let max_retries = config.max_retries.min(RETRIES);
    let endpoint = Endpoint {
        model_id: model.id.clone(),
        config,
        api_key: api_key.clone(),
    };
    let mut repeated = 0;
    loop {
        let began = Instant::now();
        let left = plan.deadline().saturating_duration_since(began);
        match A::ask(&shared.connectors, &endpoint, &plan.completion, left).await {
            Ok(answer) => {
                load.observe_latency(began.elapsed());
                return Ok(answer);
            }
            Err(error) if repeated == max_retries || !may_pass(&error) => return Err(error),
            Err(error) => {
                sleep(pause(repeated, shared.dice)).await;
                if !load.take_call(model.max_requests_per_minute, Instant::now()) {
                    return Err(error);
                }
            }
        }
        repeated += 1;
        *retries += 1;
    }
}

/// Whether the same model may answer a moment later.
fn may_pass(error: &ConnectorError) -> bool {
    match error {
        ConnectorError::Connection(_) => true,
        // 501 and the like stay as they are.
        ConnectorError::Failed { status, .. } => matches!(status, 500 | 502 | 503 | 504),
        _ => false,
    }
}

fn pause(repeated: u32, dice: fn(u64) -> u64) -> Duration {
    // At random, so that callers who failed together don't come back together.
    let percent = 100 - u32::try_from(dice(51)).unwrap_or(0);
    RETRY_PAUSE * 2_u32.pow(repeated) * percent / 100
}

/// Takes note of a failure, for this request and for all others.
fn remember(shared: &Shared, plan: &Plan, chosen: &Chosen, error: ConnectorError) -> Tried {
    let (model_id, now) = (chosen.id(), Instant::now());
    tracing::warn!(model_id, request_id = plan.request_id, %error, "a model gave no answer");
    shared.metrics.attempt_failed();
    let standing = &chosen.candidate.load.standing;
    match &error {
        ConnectorError::Limited(wanted) => standing.rest(now, *wanted),
        // The model has nothing to do with it.
        error if !error.another_may_do() => {}
        ConnectorError::Connection(why) => {
            standing.failed(now);
            shared.source.report_unreachable(model_id, why);
        }
        _ => standing.failed(now),
    }
    Tried {
        model_id: model_id.to_owned(),
        error,
    }
}

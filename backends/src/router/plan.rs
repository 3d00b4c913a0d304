//! Turns a request into a plan: what is sent, which models may get it, by which rule, how often
//! and until when.
//!
//! Owns what a request's fields mean together with the settings of its strategy. It looks at no
//! model but the preferred one. It fails with [`RouteError`]: for a malformed request, which names
//! every field at fault, for one that holds too much, and for a strategy or a preferred model that
//! is not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, RouteRequestRequest, RoutingRequest, RoutingStrategy, StrategyConfig,
};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::catalog::{Ready, Setting};
use super::check;
use super::error::RouteError;
use super::limits::{ATTEMPTS, RULE_TEXT_BYTES, TIMEOUT_MS};
use super::places::{Place, weight};
use super::select::{Conditions, Needs};
use super::strategies::{Asked, Wanted, takes_long};
use crate::faults::Faults;

/// See the module.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request_id: String,
    /// What the model gets.
    pub(super) completion: ChatCompletionRequest,
    pub(super) kind: RoutingStrategy,
    pub(super) strategy: Ready,
    /// Picks instead once the first model has failed, or if the strategy wants none.
    pub(super) fallback: Option<Ready>,
    pub(super) conditions: Conditions,
    pub(super) asked: Asked,
    pub(super) max_attempts: usize,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    /// For all of it, from `started` on.
    pub(super) limit: Duration,
}

impl Plan {
    /// Plans a request that came just now; `place` counts what it holds.
    pub(super) async fn of(
        shared: &Shared,
        place: &mut Place,
        request: RouteRequestRequest,
        streaming: bool,
    ) -> Result<Self, RouteError> {
        let (started, started_at) = (Instant::now(), (shared.clock)());
        let RouteRequestRequest {
            context,
            request,
            routing,
        } = request;
        let (context, mut routing) = (context.unwrap_or_default(), routing.unwrap_or_default());

        let mut faults = Faults::default();
        check::context(&mut faults, &context);
        check::routing(&mut faults, &routing);
        let completion = completion(request, &mut routing, &mut faults);
        let preferred = preferred(&completion, &routing, &mut faults);
        faults.into_result()?;
        place.hold(weight(&completion, &routing))?;

        let setting = shared.catalog.enabled(routing.strategy())?;
        let fallback = fallback(shared, &setting.config);
        let limit = limit(&routing, &setting, shared.settings.default_timeout);
        let rules = Rules {
            setting: Arc::clone(&setting),
            overrides: std::mem::take(&mut routing.strategy_parameters),
            fallback: fallback.as_ref().map(|setting| setting.ready.clone()),
            text: beginning(last_user_message(&completion)),
        };
        let fallback_takes_long = fallback.is_some_and(|fallback| takes_long(fallback.kind));
        let read = match takes_long(setting.kind) || fallback_takes_long {
            false => rules.read()?,
            true => {
                let reading = shared.readings.run(move || rules.read());
                let tried = Vec::new();
                let late = |_| RouteError::Deadline { limit, tried };
                timeout_at(started + limit, reading)
                    .await
                    .map_err(late)???
            }
        };
        let Read {
            strategy,
            fallback,
            wanted,
        } = read;
        if let Some(id) = &preferred
            && shared.source.candidate(id).is_none()
        {
            return Err(RouteError::NotRegistered(id.clone()));
        }

        let config = &setting.config;
        let prompt_tokens = prompt_tokens(&completion);
        Ok(Self {
            request_id: request_id(context.request_id),
            kind: setting.kind,
            max_attempts: max_attempts(&routing, config),
            limit,
            asked: Asked {
                wanted,
                prompt_tokens,
                max_tokens: completion.max_tokens,
                answers: completion.n.max(1),
                now: started,
                dice: shared.dice,
            },
            conditions: Conditions {
                needs: needs(&completion, prompt_tokens, streaming),
                preferred,
                include_limited: config.include_limited_models,
                max_latency_ms: match config.include_high_latency_models {
                    true => None,
                    false => strategy.max_latency_ms,
                },
                filter: routing.model_filter.unwrap_or_default(),
                excluded: routing.excluded_model_ids.into_iter().collect(),
            },
            completion,
            strategy,
            fallback,
            started,
            started_at,
        })
    }

    /// When it is over.
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.limit
    }
}

/// The chat that counts: `request`, else `routing.context.request`. An empty one counts as none;
/// of two that differ nobody could say which is meant.
fn completion(
    request: Option<ChatCompletionRequest>,
    routing: &mut RoutingRequest,
    faults: &mut Faults,
) -> ChatCompletionRequest {
    let empty = ChatCompletionRequest::default();
    let request = request.filter(|request| *request != empty);
    let context = routing.context.as_mut();
    let inner = context.and_then(|context| context.request.take());
    let inner = inner.filter(|inner| *inner != empty);
    if request.is_some() && inner.is_some() && request != inner {
        faults.add(
            "routing.context.request",
            "expected nothing, or the same as in request",
        );
    }
    let at = match request.is_none() && inner.is_some() {
        true => "routing.context.request",
        false => "request",
    };
    match request.or(inner) {
        Some(completion) => {
            check::completion(faults, at, &completion);
            completion
        }
        None => {
            faults.add("request", "required");
            empty
        }
    }
}

/// The model that the caller asks for by id.
fn preferred(
    completion: &ChatCompletionRequest,
    routing: &RoutingRequest,
    faults: &mut Faults,
) -> Option<String> {
    let ids = [&routing.preferred_model_id, &completion.model];
    let id = ids.into_iter().find(|id| !id.is_empty())?;
    if routing.excluded_model_ids.contains(id) {
        let expected = "expected other models than the one that is preferred";
        faults.add("routing.excluded_model_ids", expected);
    }
    Some(id.clone())
}

/// What it takes to read a request's rules, and to look for what they match. It stands alone, so
/// that this can be done on another thread.
struct Rules {
    setting: Arc<Setting>,
    overrides: HashMap<String, String>,
    fallback: Option<Ready>,
    text: String,
}

struct Read {
    strategy: Ready,
    fallback: Option<Ready>,
    wanted: Option<Wanted>,
}

impl Rules {
    fn read(self) -> Result<Read, RouteError> {
        let mut faults = Faults::default();
        let strategy = self.setting.with(&self.overrides, &mut faults);
        faults.into_result()?;
        let wanted = strategy.strategy.look(&self.text).or_else(|| {
            let fallback = self.fallback.as_ref()?;
            fallback.strategy.look(&self.text)
        });
        Ok(Read {
            strategy,
            fallback: self.fallback,
            wanted,
        })
    }
}

/// The strategy's fallback strategy, with its own settings; a disabled one is none.
fn fallback(shared: &Shared, config: &StrategyConfig) -> Option<Arc<Setting>> {
    match config.fallback_strategy() {
        RoutingStrategy::Unspecified => None,
        kind => shared.catalog.enabled(kind).ok(),
    }
}

fn max_attempts(routing: &RoutingRequest, config: &StrategyConfig) -> usize {
    let attempts = match routing.max_attempts {
        0 => config.max_fallback_attempts.saturating_add(1),
        said => said,
    };
    attempts.min(ATTEMPTS) as usize
}

fn limit(routing: &RoutingRequest, setting: &Setting, default: Duration) -> Duration {
    let said = [routing.timeout_ms, setting.config.timeout_ms];
    let said = said.into_iter().find(|ms| *ms > 0);
    let longest = Duration::from_millis(TIMEOUT_MS.into());
    said.map_or(default, |ms| Duration::from_millis(ms.into()))
        .min(longest)
}

fn request_id(given: String) -> String {
    match given.is_empty() {
        true => uuid::Uuid::new_v4().to_string(),
        false => given,
    }
}

fn last_user_message(completion: &ChatCompletionRequest) -> &str {
    let mut messages = completion.messages.iter().rev();
    let last = messages.find(|message| message.role == "user");
    last.map_or("", |message| message.content.as_str())
}

/// As much of a text as rules look at.
fn beginning(text: &str) -> String {
    text[..text.floor_char_boundary(RULE_TEXT_BYTES)].to_owned()
}

/// An estimate, as every model counts in its own way: a token for every four bytes of each message
/// and tool, rounded up, and four more for each.
fn prompt_tokens(completion: &ChatCompletionRequest) -> u32 {
    let messages = completion.messages.iter().map(|m| m.content.len());
    let functions = completion.tools.iter().filter_map(|t| t.function.as_ref());
    let tools = functions.map(|f| f.name.len() + f.description.len() + f.parameters.len());
    let tokens: usize = messages
        .chain(tools)
        .map(|bytes| bytes.div_ceil(4) + 4)
        .sum();
    // Requests are far smaller than that.
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn needs(completion: &ChatCompletionRequest, prompt_tokens: u32, streaming: bool) -> Needs {
    let format = completion.response_format.as_ref();
    Needs {
        streaming,
        tools: !completion.tools.is_empty(),
        json: format.is_some_and(|format| format.r#type == "json_object"),
        max_tokens: completion.max_tokens,
        tokens: prompt_tokens.saturating_add(completion.max_tokens),
    }
}

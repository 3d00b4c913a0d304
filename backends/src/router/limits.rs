//! How much one request to the router may bring and ask for.
//!
//! What goes beyond is refused with INVALID_ARGUMENT and the name of the field. Ids, filters, short
//! lists and ordinary maps have the registry's bounds, in
//! [`model_registry::limits`](crate::model_registry::limits). How much the router does at a time is
//! [`RouterSettings`](super::RouterSettings)' concern.

use std::time::Duration;

/// Most messages of a chat.
pub const MESSAGES: usize = 1_000;
/// Most bytes of all messages and tools together.
pub const CONTENT_BYTES: usize = 1024 * 1024;
/// Longest role of a message, in bytes.
pub const ROLE_BYTES: usize = 64;
/// Most answers to one request.
pub const ANSWERS: u32 = 16;
/// Most tools.
pub const TOOLS: usize = 128;
/// Longest name of a function, in bytes.
pub const FUNCTION_NAME_BYTES: usize = 128;
/// Most texts at which an answer ends.
pub const STOPS: usize = 16;
/// Longest of these texts, in bytes. It is never empty.
pub const STOP_BYTES: usize = 256;
/// Most entries of `logit_bias`.
pub const LOGIT_BIAS_ENTRIES: usize = 1_000;
/// Most entries of `additional_parameters`.
pub const ADDITIONAL_PARAMETERS: usize = 64;
/// Longest value of `additional_parameters`, in bytes.
pub const ADDITIONAL_PARAMETER_BYTES: usize = 16 * 1024;

/// Most models that may be excluded.
pub const EXCLUDED_MODELS: usize = 256;
/// Most models that are tried for one request.
pub const ATTEMPTS: u32 = 10;
/// Largest answer, or piece of one, in bytes: gRPC clients take 4 MiB unless told otherwise, and
/// what is told about the choice needs some room too.
pub const ANSWER_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Longest time for one request, in milliseconds.
pub const TIMEOUT_MS: u32 = 600_000;
/// Most calls that follow a failed one to the same model, whatever its `max_retries` says.
pub const RETRIES: u32 = 3;

/// Most rules of the content based strategy.
pub const RULES: usize = 32;
/// Longest regular expression of a rule, in bytes.
pub const RULE_BYTES: usize = 256;
/// Most bytes of the expressions of all rules together.
pub const RULES_BYTES: usize = 2 * 1024;
/// Most bytes of one expression once it is compiled.
pub const RULE_COMPILED_BYTES: usize = 32 * 1024;
/// Most bytes of all of them once they are compiled. Times the text that they look at, this is what
/// a request can cost in computing time: some tens of milliseconds.
pub const RULES_COMPILED_BYTES: usize = 128 * 1024;
/// How much of a message the rules look at, from its beginning, in bytes.
pub const RULE_TEXT_BYTES: usize = 4 * 1024;
/// Most requests whose rules are compiled or looked up at a time; others wait, for as long as they
/// have time at all.
pub const READINGS: usize = 2;
/// Largest weight of the custom strategy.
pub const WEIGHT: u32 = 1_000_000;

/// The wait before the first repeated call to a model; it doubles with each further one, and is
/// shortened by up to a half, at random.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);

//! How much one request, one step and one execution may bring: bounds in bytes, entries and
//! seconds.
//!
//! What a request brings beyond them is refused with INVALID_ARGUMENT and the name of the field;
//! what grows beyond them while a chain runs ends the step. How much the engine holds as a whole
//! is [`ChainEngineSettings`](super::ChainEngineSettings)' concern.

/// Longest id of a chain, in bytes. Its characters are `A-Z a-z 0-9 . _ : / -`.
pub const CHAIN_ID_BYTES: usize = 128;
/// Longest id of a step, in bytes. Its characters are `A-Z a-z 0-9 _ -`.
pub const STEP_ID_BYTES: usize = 64;
/// Longest name of a chain and text of a request's context, in bytes; what the router is told of a
/// longer name of a caller, or an answer of a longer name of a model, is cut to it.
pub const NAME_BYTES: usize = 256;
/// Longest description of a chain or a step, in bytes.
pub const DESCRIPTION_BYTES: usize = 4096;
/// Most steps of a chain; it has at least one.
pub const STEPS: usize = 64;
/// Longest template of a step, in bytes.
pub const TEMPLATE_BYTES: usize = 16 * 1024;
/// Longest system prompt of a step, in bytes.
pub const SYSTEM_PROMPT_BYTES: usize = 64 * 1024;
/// Largest chain, in its encoded form, in bytes.
pub const CHAIN_BYTES: usize = 1024 * 1024;
/// Highest temperature.
pub const TEMPERATURE: f32 = 2.0;

/// Longest input of an execution, in bytes.
pub const INPUT_BYTES: usize = 256 * 1024;
/// Most variables of an execution.
pub const VARIABLES: usize = 64;
/// Longest name of a variable, in bytes. It is never empty.
pub const VARIABLE_NAME_BYTES: usize = 128;
/// Longest value of a variable, in bytes.
pub const VARIABLE_BYTES: usize = 64 * 1024;
/// Most bytes of all variables of an execution, names and values.
pub const VARIABLES_BYTES: usize = 512 * 1024;
/// Longest time that an execution may ask for, in seconds.
pub const TIMEOUT_SECONDS: u32 = 3600;

/// Longest text that a template may give, in bytes.
pub const STEP_INPUT_BYTES: usize = 256 * 1024;
/// Longest output of a step, in bytes.
pub const STEP_OUTPUT_BYTES: usize = 1024 * 1024;
/// Most bytes of all inputs and outputs of all steps of an execution. With the last output, which
/// an answer holds twice, it stays below the 4 MiB that gRPC clients take unless told otherwise.
pub const EXECUTION_BYTES: usize = 2560 * 1024;
/// Longest message of an error, in bytes; what is longer is cut.
pub const ERROR_BYTES: usize = 1024;
/// Longest output that an event on a channel carries, in bytes. What is longer is cut there, and
/// the event's `metadata` has its whole length as `output_bytes`.
pub const EVENT_OUTPUT_BYTES: usize = 64 * 1024;
/// Events of one execution that wait for a reader of StreamChainExecution. The execution waits
/// while there are that many.
pub const WAITING_EVENTS: usize = 64;

/// Page of ListChains if the request names no limit, in chains.
pub const PAGE: u32 = 100;
/// Largest page of ListChains, in chains.
pub const LARGEST_PAGE: u32 = 1000;
/// A page of ListChains ends before it grows beyond this, in bytes.
pub const PAGE_BYTES: usize = 3584 * 1024;

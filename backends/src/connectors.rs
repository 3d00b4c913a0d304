//! Ways to reach a model: what a completion is asked for with, and what comes back.
//!
//! Owns the two connectors, `local` and `openai`, and the shapes that they share. It does not own
//! the choice of a model, nor a second try: the router's. Nor does it count the calls in progress:
//! whoever calls bounds them. It fails with [`ConnectorError`], which says whether another model may
//! do better.
//!
//! Every call has a limit in time, at most 24 hours. Dropping a call or its stream ends the work at
//! once, at the endpoint too: its connection is closed. What an answer may take in memory is in
//! [`ConnectorSettings`].

mod deadline;
mod keys;
mod local;
mod openai;
mod origin;
mod settings;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChunk, ChatCompletionRequest, ChatCompletionResponse, ConnectorConfig, UsageInfo,
};

use self::deadline::Deadline;
use self::openai::OpenAi;

pub use self::keys::NamedKey;
pub use self::settings::ConnectorSettings;

/// Additional parameters that no request may name: what decides who answers what and how, and what
/// has a field of its own, which limits look at.
pub(crate) const RESERVED_PARAMETERS: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "user",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
];

/// The connectors. Cheap to clone; all clones share their connections.
#[derive(Clone, Debug)]
pub struct Connectors {
    openai: Arc<OpenAi>,
}

impl Connectors {
    /// The types that a model's connector may have.
    ///
    /// `local` runs in this process and is no language model. `openai` calls whatever speaks the
    /// OpenAI HTTP API.
    pub const NAMES: [&'static str; 2] = ["local", "openai"];

    /// Reads what the settings name, the CA file and the keys, so that a fault shows at the start.
    ///
    /// # Errors
    /// [`ConnectorError::Settings`] that says which setting can't work.
    pub fn new(settings: ConnectorSettings) -> Result<Self, ConnectorError> {
        Ok(Self {
            openai: Arc::new(OpenAi::new(settings)?),
        })
    }

    /// Whether a model with this connector can be called at all. Nothing is sent.
    ///
    /// # Errors
    /// [`ConnectorError::Settings`], whose text begins with the field: `type`, `endpoint_url`,
    /// `org_id` or `parameters.NAME`. Parameters that the connector does not know are left alone.
    pub fn check_settings(&self, config: &ConnectorConfig) -> Result<(), ConnectorError> {
        match Kind::of(config)? {
            Kind::Local => local::check_settings(config),
            Kind::OpenAi => self.openai.check_settings(config),
        }
    }

    /// Asks for a whole answer, and waits for it at most `limit`, or the connector's `timeout_ms` if
    /// that is shorter.
    ///
    /// # Errors
    /// [`ConnectorError`] of any kind.
    pub async fn complete(
        &self,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        limit: Duration,
    ) -> Result<ChatCompletionResponse, ConnectorError> {
        let deadline = Deadline::of(&endpoint.config, limit);
        match Kind::of(&endpoint.config)? {
            Kind::Local => local::complete(endpoint, request, deadline).await,
            Kind::OpenAi => self.openai.complete(endpoint, request, deadline).await,
        }
    }

    /// Asks for an answer piece by piece. It comes back when the endpoint has begun to answer;
    /// `limit`, or the connector's `timeout_ms` if that is shorter, is for the whole answer.
    ///
    /// # Errors
    /// [`ConnectorError`] of any kind, here or in the stream.
    pub async fn stream(
        &self,
        endpoint: &Endpoint,
        request: &ChatCompletionRequest,
        limit: Duration,
    ) -> Result<Parts, ConnectorError> {
        let deadline = Deadline::of(&endpoint.config, limit);
        match Kind::of(&endpoint.config)? {
            Kind::Local => local::stream(endpoint, request, deadline),
            Kind::OpenAi => self.openai.stream(endpoint, request, deadline).await,
        }
    }

    /// Where a model with this connector is reached: scheme, host and port. None for one that runs
    /// in this process, and for an URL that leads nowhere.
    pub(crate) fn origin(config: &ConnectorConfig) -> Option<String> {
        match Kind::of(config).ok()? {
            Kind::Local => None,
            Kind::OpenAi => openai::origin(config),
        }
    }

    /// Asks for a sign of life, which costs no tokens.
    ///
    /// An `openai` endpoint is asked for its list of models. One that has no such list (404, 405)
    /// is alive too, since something there speaks HTTP and took the request.
    ///
    /// # Errors
    /// [`ConnectorError`] that says why a call would fail too: no answer, a refused key (401, 403),
    /// a failure (5xx).
    pub async fn check(&self, endpoint: &Endpoint, limit: Duration) -> Result<(), ConnectorError> {
        let deadline = Deadline::of(&endpoint.config, limit);
        match Kind::of(&endpoint.config)? {
            Kind::Local => local::check(endpoint, deadline).await,
            Kind::OpenAi => self.openai.check(endpoint, deadline).await,
        }
    }
}

/// What an endpoint would be sent.
#[cfg(test)]
pub(crate) fn request_body_for_tests(request: &ChatCompletionRequest) -> Vec<u8> {
    openai::request_body("model", request, Some(true)).unwrap_or_default()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Local,
    OpenAi,
}

impl Kind {
    fn of(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        let [local, openai] = Connectors::NAMES;
        match config.r#type.as_str() {
            name if name == local => Ok(Self::Local),
            name if name == openai => Ok(Self::OpenAi),
            _ => Err(ConnectorError::Settings(format!(
                "type: expected one of {}",
                Connectors::NAMES.join(", ")
            ))),
        }
    }
}

/// A secret: it has no way out but to a connector. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKey(Arc<str>);

impl ApiKey {
    /// Takes a key in.
    pub fn new(key: String) -> Self {
        Self(key.into())
    }

    /// No key was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key itself, for the connector and for the database alone.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// A model, as a connector sees it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The model's id in the registry.
    pub model_id: String,
    /// How it is reached, without the key.
    pub config: ConnectorConfig,
    /// The key that was registered with it; may be empty.
    pub api_key: ApiKey,
}

/// One piece of an answer that comes bit by bit.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// More text, a role, or the reason why it ended.
    Chunk(ChatCompletionChunk),
    /// What the answer took in all; comes once, last, if the model tells.
    Usage(UsageInfo),
}

/// An answer that comes bit by bit. It ends after the first error; an end that the model did not
/// announce, by a finish reason or by its protocol's last word, is an error too.
pub type Parts = Pin<Box<dyn Stream<Item = Result<Part, ConnectorError>> + Send>>;

/// Why a model gave no answer. No text here holds a key, or anything of the endpoint's answer but
/// its own error message, cut to 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// No connector has this name, or its settings cannot work.
    #[error("connector settings: {0}")]
    Settings(String),
    /// The request itself can't be put into the model's terms; the text begins with the field.
    #[error("the request cannot be sent to a model: {0}")]
    Invalid(String),
    /// The endpoint can't be reached, or the connection broke before the answer was whole.
    #[error("connection to the model failed: {0}")]
    Connection(String),
    /// What was waited for did not come within this time: a connection, the next piece, or the whole
    /// answer.
    #[error("the model did not answer within {0:?}")]
    TimedOut(Duration),
    /// The endpoint has enough of us (429), perhaps until a while from now.
    #[error("the model's endpoint limits calls")]
    Limited(Option<Duration>),
    /// The endpoint failed: 5xx, or it says so in its answer, after the status.
    #[error("the model's endpoint failed with status {status}: {message}")]
    Failed {
        /// The HTTP status.
        status: u16,
        /// What the endpoint says.
        message: String,
    },
    /// The endpoint refuses this request (4xx).
    #[error("the model's endpoint refused with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the endpoint says.
        message: String,
    },
    /// What came is not an answer.
    #[error("the model's answer is unusable: {0}")]
    Unusable(String),
    /// The answer has more bytes than are taken. It was made as the request wants it, and is paid
    /// for: another model would hardly make a shorter one.
    #[error("the model's answer has more than {0} bytes")]
    TooLarge(usize),
}

impl ConnectorError {
    /// Whether another model may answer where this one did not. A request that is refused as such
    /// (400, 422) would be refused there too; a bad key or an unknown model (401, 403, 404) is this
    /// model's own trouble.
    pub fn another_may_do(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::TooLarge(_) => false,
            Self::Refused { status, .. } => !matches!(status, 400 | 413 | 422),
            _ => true,
        }
    }
}

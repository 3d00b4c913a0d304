//! Ways to reach a model: what a completion is asked for with, and what comes back.
//!
//! Owns the two connectors, `local` and `openai`, and the shapes that they share. It does not own
//! the choice of a model, nor a second try: the router's. It fails with [`ConnectorError`], which
//! says whether another model may do better.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionChunk, ConnectorConfig, UsageInfo,
};

/// A secret: it has no way out but to a connector.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key in.
    pub fn new(key: String) -> Self {
        Self(key)
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

/// An answer that comes bit by bit. It ends after the first error; an end without a finish reason
/// is an error too.
pub type Parts = Pin<Box<dyn Stream<Item = Result<Part, ConnectorError>> + Send>>;

/// Why a model gave no answer. No text here holds a key, or anything of the endpoint's answer but
/// its own error message, cut to 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// No connector has this name, or its settings cannot work.
    #[error("connector settings: {0}")]
    Settings(String),
    /// The endpoint can't be reached, or the connection broke before the answer was whole.
    #[error("connection to the model failed: {0}")]
    Connection(String),
    /// Nothing came within this time.
    #[error("the model gave nothing for {0:?}")]
    TimedOut(Duration),
    /// The endpoint has enough of us (429), perhaps until a while from now.
    #[error("the model's endpoint limits calls")]
    Limited(Option<Duration>),
    /// The endpoint failed (5xx).
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
    /// What came is not an answer, or is larger than is taken.
    #[error("the model's answer is unusable: {0}")]
    Unusable(String),
}

impl ConnectorError {
    /// Whether another model may answer where this one did not. A request that is refused as such
    /// (400, 422) would be refused there too; a bad key or an unknown model (401, 403, 404) is this
    /// model's own trouble.
    pub fn another_may_do(&self) -> bool {
        match self {
            Self::Refused { status, .. } => !matches!(status, 400 | 413 | 422),
            _ => true,
        }
    }
}

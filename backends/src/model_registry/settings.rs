//! What an operator sets for the registry, and the defaults.

use std::time::Duration;

/// How much the registry holds and answers.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Most models. 10,000 unless set.
    pub max_models: usize,
    /// Most bytes of all models, in their encoded form; decoded, in memory, they take more, and on
    /// disk about as much. Reasons of a status and outcomes of checks come on top, at most 1.2 KiB
    /// per model. 64 MiB unless set.
    pub max_total_bytes: usize,
    /// Largest answer of ListModels and FindModels, in bytes. 4 MiB unless set, which is what gRPC
    /// clients take unless told otherwise.
    pub max_answer_bytes: usize,
    /// How long a health check waits if neither the request nor the connector says, and the longest
    /// wait of one that nobody called for. 5 seconds unless set; never longer than [`HEALTH_TIMEOUT_MS`](super::limits::HEALTH_TIMEOUT_MS).
    pub health_timeout: Duration,
    /// How often the health of a model is checked without a call. 30 seconds unless set; 0: never.
    pub health_interval: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            max_models: 10_000,
            max_total_bytes: 64 * 1024 * 1024,
            max_answer_bytes: 4 * 1024 * 1024,
            health_timeout: Duration::from_secs(5),
            health_interval: Duration::from_secs(30),
        }
    }
}

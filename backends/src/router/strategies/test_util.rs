//! Candidates and requests for the strategies' own tests.

use std::sync::Arc;

use intellirouter_proto::intellirouter::model_registry::v1::ModelMetadata;
use tokio::time::Instant;

use super::Asked;
use crate::connectors::ApiKey;
use crate::router::candidate::{Candidate, Load};

pub(crate) fn asked() -> Asked {
    Asked {
        wanted: None,
        prompt_tokens: 0,
        max_tokens: 0,
        answers: 1,
        now: Instant::now(),
        dice: |_| 0,
    }
}

pub(crate) fn of(model: ModelMetadata) -> Candidate {
    Candidate {
        model: Arc::new(model),
        api_key: ApiKey::default(),
        load: Arc::new(Load::default()),
    }
}

pub(crate) fn candidate(id: &str) -> Candidate {
    tagged(id, &[])
}

pub(crate) fn pool<const N: usize>(ids: [&str; N]) -> [Candidate; N] {
    ids.map(candidate)
}

pub(crate) fn tagged(id: &str, tags: &[&str]) -> Candidate {
    of(ModelMetadata {
        id: id.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..Default::default()
    })
}

pub(crate) fn priced(id: &str, input: f32, output: f32) -> Candidate {
    of(ModelMetadata {
        id: id.to_owned(),
        cost_per_1k_input: input,
        cost_per_1k_output: output,
        ..Default::default()
    })
}

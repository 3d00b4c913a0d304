//! An issuer whose answers a test decides.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::{Fetch, Fetched, JwksSettings, JwksSource, State};
use crate::security::verifier::{Algorithm, JwkSet};

/// What the issuer answers from now on.
#[derive(Clone)]
pub(in crate::security) enum Answer {
    /// HS256 keys of these names; the secret is the name, repeated.
    Keys(Vec<&'static str>),
    KeysFor(Vec<&'static str>, Duration),
    Fails,
    Stalls,
}

/// The secret of the key of this name.
pub(in crate::security) fn secret(kid: &str) -> Vec<u8> {
    kid.as_bytes().iter().copied().cycle().take(32).collect()
}

#[derive(Clone)]
pub(in crate::security) struct Double {
    state: Arc<Mutex<(Answer, usize)>>,
}

impl Double {
    pub(in crate::security) fn answers(answer: Answer) -> Self {
        Self {
            state: Arc::new(Mutex::new((answer, 0))),
        }
    }

    pub(in crate::security) fn now_answers(&self, answer: Answer) {
        self.state.lock().unwrap().0 = answer;
    }

    /// How often it was asked.
    pub(in crate::security) fn asked(&self) -> usize {
        self.state.lock().unwrap().1
    }

    /// Whether anybody still fetches from it.
    pub(in crate::security) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.state) > 1
    }

    pub(in crate::security) fn source(&self) -> JwksSource {
        JwksSource::with(State::new(settings()), self.clone())
    }

    /// What takes the place of `source` after a change of the settings.
    pub(in crate::security) fn restarted(
        &self,
        source: &JwksSource,
        settings: JwksSettings,
    ) -> JwksSource {
        source.restart_with(settings, self.clone())
    }
}

/// Refresh 300 s, cooldown 10 s, timeout 2 s, stale 3600 s.
pub(in crate::security) fn settings() -> JwksSettings {
    JwksSettings {
        issuer: "fetched".to_owned(),
        url: "https://issuer.example/jwks?secret=hunter2"
            .parse()
            .unwrap(),
        ca: None,
        algorithms: Some(vec![Algorithm::Hs256]),
        refresh: Duration::from_secs(300),
        cooldown: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        stale: Duration::from_secs(3600),
    }
}

#[async_trait]
impl Fetch for Double {
    async fn fetch(&self) -> Result<Fetched, String> {
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.1 += 1;
            state.0.clone()
        };
        let (names, max_age) = match answer {
            Answer::Keys(names) => (names, None),
            Answer::KeysFor(names, max_age) => (names, Some(max_age)),
            Answer::Fails => return Err("answered 500".to_owned()),
            Answer::Stalls => std::future::pending().await,
        };
        // As long as an answer takes, so that calls can come meanwhile.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let key = |kid| json!({"kty": "oct", "kid": kid, "k": URL_SAFE_NO_PAD.encode(secret(kid))});
        let keys: Vec<_> = names.into_iter().map(key).collect();
        let json = json!({ "keys": keys }).to_string();
        let set = JwkSet::parse(json.as_bytes(), Some(&[Algorithm::Hs256]));
        Ok(Fetched {
            set: set.unwrap(),
            max_age,
        })
    }
}

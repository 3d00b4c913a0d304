//! Configuration: the settings file of a service.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use intellirouter::events::{LogSettings, RedisClientImpl};
use intellirouter::resilience::Resilience;
use intellirouter::security::{JwtAuthenticator, JwtConfig, TlsConfig};
use intellirouter::{IpcError, IpcResult};
use serde::Deserialize;

use super::document::{block_with, text};
use super::support::Certs;

// guide: settings
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: SocketAddr,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub ca_file: PathBuf,
    pub jwt_secret_file: PathBuf,
    pub event_store: String,
    pub event_ca_file: Option<PathBuf>,
}

impl Settings {
    pub fn load(text: &str) -> IpcResult<Self> {
        toml::from_str(text).map_err(|error| IpcError::InvalidArgument(error.to_string()))
    }

    pub fn tls(&self) -> TlsConfig {
        let (cert, key) = (self.cert_file.clone(), self.key_file.clone());
        TlsConfig::new(cert, key, self.ca_file.clone())
    }

    pub fn jwt(&self) -> IpcResult<Arc<JwtAuthenticator>> {
        let file = self.jwt_secret_file.display();
        let secret = fs::read_to_string(&self.jwt_secret_file)
            .map_err(|error| IpcError::Security(format!("{file}: {error}")))?;
        Ok(Arc::new(JwtAuthenticator::new(JwtConfig {
            secret: secret.trim_end_matches('\n').to_owned(),
            issuer: "intellirouter".to_owned(),
            audience: "intellirouter-services".to_owned(),
            expiration_seconds: 3600,
        })))
    }

    pub async fn redis(&self) -> IpcResult<RedisClientImpl> {
        let settings = LogSettings {
            ca_file: self.event_ca_file.clone(),
            ..RedisClientImpl::settings()
        };
        RedisClientImpl::with_settings(&self.event_store, settings).await
    }
}
// guide: end

/// The settings file of the guide, with the files of a test and a store of its own.
pub(crate) fn example(certs: &Certs) -> Settings {
    let mut settings = Settings::load(&shown()).unwrap();
    for file in [
        &mut settings.cert_file,
        &mut settings.key_file,
        &mut settings.ca_file,
        &mut settings.jwt_secret_file,
    ] {
        *file = certs.path().join(file.strip_prefix("certs").unwrap());
    }
    "memory:".clone_into(&mut settings.event_store);
    settings
}

fn shown() -> String {
    block_with("toml", "jwt_secret_file")
}

#[tokio::test]
async fn the_settings_file_of_the_guide_gives_tls_tokens_and_a_store() {
    let certs = Certs::new();
    let settings = example(&certs);

    settings.tls().load_server_config().unwrap();
    settings.tls().load_client_config("localhost").unwrap();
    let jwt = settings.jwt().unwrap();
    let token = jwt.generate_token("chain_engine", vec!["service".to_owned()]);
    let claims = jwt.validate_token(&token.unwrap()).unwrap();
    assert_eq!(claims.exp - claims.iat, 3600);
    assert!(settings.redis().await.unwrap().status().connected);
}

#[test]
fn a_settings_file_with_a_key_that_nobody_knows_is_refused_by_name() {
    let Err(error) = Settings::load(&shown().replace("key_file", "kee_file")) else {
        panic!("an unknown key was accepted");
    };
    assert!(error.to_string().contains("kee_file"), "{error}");
}

#[test]
fn the_limits_that_the_guide_names_are_the_real_ones() {
    let store = RedisClientImpl::settings();
    let r = Resilience::default();
    let millis = |time: Duration| time.as_millis();
    let rows = [
        format!("| `retain_bytes` | {} MiB |", store.retain_bytes >> 20),
        format!("| `retain_events` | {},000 |", store.retain_events / 1000),
        format!("| `retain_age` | {} min |", store.retain_age.as_secs() / 60),
        format!("| `max_payload` | {} MiB |", store.max_payload >> 20),
        format!(
            "| `publish_timeout` | {} s |",
            store.publish_timeout.as_secs()
        ),
        format!(
            "| `reconnect_min`, `reconnect_max` | {} ms, {} s |",
            millis(store.reconnect_min),
            store.reconnect_max.as_secs()
        ),
        format!("| `replicas` | {} |", store.replicas),
        format!("| `usage` | `{:?}` |", store.usage),
        format!(
            "| `try_timeout`, `total_timeout` | {} s, {} s |",
            r.try_timeout.as_secs(),
            r.total_timeout.as_secs()
        ),
        format!("| {} s |", r.work_timeout.as_secs()),
        format!("| `max_tries` | {} |", r.max_tries),
        format!(
            "| `backoff_min`, `backoff_max` | {} ms, {} s |",
            millis(r.backoff_min),
            r.backoff_max.as_secs()
        ),
        format!(
            "{} of the calls, and {} |",
            r.retry_ratio, r.retries_per_second
        ),
        format!("{} failures in a row", r.breaker.consecutive_failures),
        format!(
            "of {} or more calls in {} s; {} s to {} s open |",
            r.breaker.min_calls,
            r.breaker.window.as_secs(),
            r.breaker.open_min.as_secs(),
            r.breaker.open_max.as_secs()
        ),
    ];
    let guide = text();
    for row in rows {
        assert!(guide.contains(&row), "{row} is not in the guide");
    }
}

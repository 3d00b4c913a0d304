//! `intellirouter token --subject S --role R …`

use std::path::{Path, PathBuf};
use std::time::Duration;

use intellirouter::security::{JwtAuthenticator, JwtConfig};

use super::Failure;

/// The longest life of a token, in seconds: one year.
const MAX_TTL: u64 = 365 * 86_400;

#[derive(clap::Args)]
pub(super) struct Token {
    /// Who the token is for (`sub`)
    #[arg(long)]
    subject: String,
    /// A role; may be repeated
    #[arg(long = "role", required = true)]
    roles: Vec<String>,
    /// How long it holds, such as 15m or 1h
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// The folder with jwt.secret
    #[arg(long, value_name = "DIR", default_value = "certs")]
    certs: PathBuf,
    /// The issuer (`iss`)
    #[arg(long, default_value = "intellirouter")]
    issuer: String,
    /// The audience (`aud`)
    #[arg(long, default_value = "intellirouter-services")]
    audience: String,
}

fn ttl(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .filter(|ttl| (1..=MAX_TTL).contains(&ttl.as_secs()))
        .ok_or_else(|| "expected 1s to 8760h, such as 15m or 1h".to_owned())
}

impl Token {
    pub(super) fn run(self) -> Result<(), Failure> {
        let token = mint(
            &self.certs,
            &self.subject,
            self.roles,
            self.ttl,
            (self.issuer, self.audience),
        )?;
        super::say(&token);
        Ok(())
    }
}

/// A token signed with the secret in `certs`.
pub(super) fn mint(
    certs: &Path,
    subject: &str,
    roles: Vec<String>,
    ttl: Duration,
    (issuer, audience): (String, String),
) -> Result<String, Failure> {
    let path = certs.join("jwt.secret");
    let secret = std::fs::read_to_string(&path)
        .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
    let config = JwtConfig {
        secret: secret.trim_end_matches(['\r', '\n']).to_owned(),
        issuer,
        audience,
        expiration_seconds: ttl.as_secs(),
    };
    JwtAuthenticator::new(config)
        .generate_token(subject, roles)
        .map_err(Failure::other)
}

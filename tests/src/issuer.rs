//! An issuer of another make: `clients/issuer.mjs`, with keys and tokens by Node's own crypto, and
//! a JWK set that it serves.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::token::now;
use crate::{Process, here};

/// A running issuer; it ends when it is dropped.
pub struct ForeignIssuer {
    process: RefCell<Process>,
    /// Where its JWK set is.
    pub url: String,
}

impl ForeignIssuer {
    /// Serves its set over plain HTTP, on this port or on any with 0.
    pub fn start(port: u16) -> Self {
        Self::run(port, None)
    }

    /// Serves its set over HTTPS with a certificate for `localhost`.
    pub fn start_tls(cert: &Path, key: &Path) -> Self {
        Self::run(0, Some((cert, key)))
    }

    fn run(port: u16, tls: Option<(&Path, &Path)>) -> Self {
        let mut command = Command::new("node");
        command
            .arg(here("clients/issuer.mjs"))
            .arg(port.to_string());
        if let Some((cert, key)) = tls {
            command.arg(cert).arg(key);
        }
        let mut process = Process::spawn("issuer", &command);
        let first = process.next_line().expect("the issuer tells its port");
        let first: Value = serde_json::from_str(&first).expect("the issuer writes JSON");
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self {
            url: format!("{scheme}://localhost:{}/jwks?key=hunter2", first["port"]),
            process: RefCell::new(process),
        }
    }

    /// Makes a key that is in the set, with its `alg`.
    pub fn add(&self, kid: &str, alg: &str) {
        self.ask(json!({"act": "add", "kid": kid, "alg": alg}));
    }

    /// Makes a key that is in the set without `alg`.
    pub fn add_unnamed(&self, kid: &str, alg: &str) {
        self.ask(json!({"act": "add", "kid": kid, "alg": alg, "named": false}));
    }

    /// Takes a key out of the set.
    pub fn withdraw(&self, kid: &str) {
        self.ask(json!({"act": "publish", "kid": kid, "published": false}));
    }

    /// A token of `alice`, a `tester`, for one hour, signed by the key of `kid`.
    pub fn token(&self, issuer: &str, kid: &str) -> String {
        self.sign(json!({"kid": kid, "claims": claims(issuer)}))
    }

    /// A token as described: `kid`, `claims`, and maybe `header` fields or the key to sign `as`.
    pub fn sign(&self, mut token: Value) -> String {
        token["act"] = "sign".into();
        let answer = self.ask(token);
        answer["signed"].as_str().expect("a token").to_owned()
    }

    /// The JWK set.
    pub fn jwks(&self) -> Value {
        self.ask(json!({"act": "jwks"}))["jwks"].take()
    }

    /// How it answers from now on: `ok`, `fails`, `redirects`, `stalls`.
    pub fn mode(&self, mode: &str) {
        self.ask(json!({"act": "mode", "to": mode}));
    }

    /// How often its set was asked for.
    pub fn fetches(&self) -> u64 {
        self.ask(json!({"act": "fetches"}))["fetches"]
            .as_u64()
            .expect("a number")
    }

    fn ask(&self, command: Value) -> Value {
        let mut process = self.process.borrow_mut();
        process.send(&command.to_string());
        let line = process
            .next_line()
            .unwrap_or_else(|| panic!("no answer to {command}\n{}", process.output()));
        serde_json::from_str(&line).expect("the issuer writes JSON")
    }
}

/// The claims of [`ForeignIssuer::token`].
pub fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": "alice", "aud": "intellirouter-services", "roles": ["tester"],
        "iat": now(), "exp": now() + 3600,
    })
}

//! The keys that the operator lends to models by name.
//!
//! Owns where each key is read from and which origin it may be sent to: whoever may register models
//! can name a key, but never have it sent elsewhere. It does not own the keys that are registered
//! with a model. It fails with [`ConnectorError::Settings`], which never holds a key.
//!
//! Limits: 256 keys; a name has at most 64 characters, a key 8,192 bytes. A file is read each time
//! its key is used, so that a new key needs no restart; the environment is what it was at the start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::origin::Origin;
use super::{ApiKey, ConnectorError};

const MAX_KEYS: usize = 256;
const MAX_NAME: usize = 64;
const MAX_KEY_BYTES: u64 = 8192;

/// A key that models may use by the connector parameter `api_key_name`.
///
/// Written `NAME=ORIGIN,env=VARIABLE` or `NAME=ORIGIN,file=PATH`, for example
/// `main=https://api.example.com,file=/run/secrets/main`. The key is sent to URLs of this origin
/// alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKey {
    name: String,
    origin: Origin,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Env(String),
    File(PathBuf),
}

impl FromStr for NamedKey {
    type Err = ConnectorError;

    // No text here repeats the entry: somebody may have written the key itself.
    fn from_str(entry: &str) -> Result<Self, ConnectorError> {
        let fault = |why: &str| ConnectorError::Settings(format!("key entry: {why}"));
        let form = "expected NAME=ORIGIN,env=VARIABLE or NAME=ORIGIN,file=PATH";
        let (name, rest) = entry.split_once('=').ok_or_else(|| fault(form))?;
        let (origin, source) = rest.split_once(',').ok_or_else(|| fault(form))?;
        if !is_name(name) {
            return Err(fault(
                "expected a name of 1 to 64 characters of A-Z a-z 0-9 . _ -",
            ));
        }
        let origin = Origin::parse(origin).ok_or_else(|| {
            fault("expected an origin such as https://api.example.com or http://host:8080, no path")
        })?;
        let source = match source.split_once('=') {
            Some((_, "")) | None => return Err(fault(form)),
            Some(("env", variable)) => Source::Env(variable.to_owned()),
            Some(("file", path)) => Source::File(path.into()),
            Some(_) => return Err(fault(form)),
        };
        Ok(Self {
            name: name.to_owned(),
            origin,
            source,
        })
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

/// All named keys, by name.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<String, NamedKey>);

impl Keys {
    /// Reads each key once, so that a missing one shows at the start.
    pub(super) fn new(keys: Vec<NamedKey>) -> Result<Self, ConnectorError> {
        if keys.len() > MAX_KEYS {
            let why = format!("keys: {}, expected at most {MAX_KEYS}", keys.len());
            return Err(ConnectorError::Settings(why));
        }
        let mut by_name = BTreeMap::new();
        for key in keys {
            key.source.read(&key.name)?;
            let name = key.name.clone();
            if by_name.insert(name, key).is_some() {
                return Err(ConnectorError::Settings(
                    "keys: two have the same name".to_owned(),
                ));
            }
        }
        Ok(Self(by_name))
    }

    /// Whether this key exists and may be sent to this origin.
    pub(super) fn check(&self, name: &str, origin: &Origin) -> Result<(), ConnectorError> {
        self.get(name, origin).map(|_| ())
    }

    /// The key itself; the origin is checked first.
    pub(super) async fn read(&self, name: &str, origin: &Origin) -> Result<ApiKey, ConnectorError> {
        let key = self.get(name, origin)?.clone();
        let read = tokio::task::spawn_blocking(move || key.source.read(&key.name)).await;
        match read {
            Ok(Ok(key)) => Ok(key),
            // Where the operator keeps keys is not the caller's to know.
            Ok(Err(error)) => {
                tracing::warn!(%error, "a key cannot be read");
                Err(fault("the key cannot be read at the moment"))
            }
            // The runtime is shutting down.
            Err(_) => Err(fault("the key was not read")),
        }
    }

    fn get(&self, name: &str, origin: &Origin) -> Result<&NamedKey, ConnectorError> {
        let key = self
            .0
            .get(name)
            .ok_or_else(|| fault("no key has this name on this server"))?;
        if key.origin != *origin {
            return Err(fault(&format!("this key is not for {origin}")));
        }
        Ok(key)
    }
}

fn fault(why: &str) -> ConnectorError {
    ConnectorError::Settings(format!("parameters.api_key_name: {why}"))
}

impl Source {
    fn read(&self, name: &str) -> Result<ApiKey, ConnectorError> {
        let (place, text) = match self {
            Self::Env(variable) => (format!("variable {variable}"), from_env(variable)),
            Self::File(path) => (format!("file {}", path.display()), from_file(path)),
        };
        text.and_then(|text| match text.trim() {
            "" => Err("it is empty".to_owned()),
            // A space or line break within is two keys, or no key.
            key if !key.bytes().all(|c| c.is_ascii_graphic()) => {
                Err("expected printable ASCII without spaces".to_owned())
            }
            key => Ok(ApiKey::new(key.to_owned())),
        })
        .map_err(|why| ConnectorError::Settings(format!("key {name}: {place}: {why}")))
    }
}

fn from_env(variable: &str) -> Result<String, String> {
    match std::env::var(variable) {
        Ok(text) if text.len() as u64 > MAX_KEY_BYTES => Err(too_long()),
        Ok(text) => Ok(text),
        // The error for text that is not UTF-8 would hold the text.
        Err(std::env::VarError::NotUnicode(_)) => Err("it is not UTF-8".to_owned()),
        Err(std::env::VarError::NotPresent) => Err("it is not set".to_owned()),
    }
}

fn from_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_KEY_BYTES {
        return Err(too_long());
    }
    Ok(text)
}

fn too_long() -> String {
    format!("it has more than {MAX_KEY_BYTES} bytes")
}

//! Keys that are named one by one, and the algorithms that they are for.

use intellirouter::security::{Algorithm, MAX_KEYS};

use super::{FileKey, KeyConfig, KeySource};
use crate::config::validate::Validate;

impl Validate<'_, '_> {
    pub(super) fn algorithms(&mut self, at: &str, names: &[String]) -> Vec<Algorithm> {
        if names.is_empty() {
            self.source
                .fault(at, "empty; name an algorithm, or leave the key out");
        }
        let mut algorithms = Vec::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            algorithms.extend(self.algorithm(&format!("{at}[{i}]"), name));
        }
        algorithms
    }

    fn algorithm(&mut self, at: &str, name: &str) -> Option<Algorithm> {
        let algorithm = Algorithm::from_name(name);
        if algorithm.is_none() {
            let names = Algorithm::ALL.map(Algorithm::name).join(", ");
            self.source.fault(at, format!("expected one of {names}"));
        }
        algorithm
    }

    pub(super) fn keys(
        &mut self,
        at: &str,
        files: &[FileKey],
        allowed: &Option<Vec<Algorithm>>,
    ) -> Vec<KeyConfig> {
        if files.len() > MAX_KEYS {
            let message = format!("expected at most {MAX_KEYS}, found {}", files.len());
            self.source.fault(at, message);
        }
        let mut keys = Vec::with_capacity(files.len());
        for (i, file) in files.iter().enumerate() {
            let at = format!("{at}[{i}]");
            let Some(key) = self.key(&at, file) else {
                continue;
            };
            if allowed
                .as_ref()
                .is_some_and(|list| !list.contains(&key.algorithm))
            {
                let message = format!("{} is not in algorithms", key.algorithm);
                self.source.fault(&format!("{at}.algorithm"), message);
            }
            keys.push(key);
        }
        keys
    }

    fn key(&mut self, at: &str, file: &FileKey) -> Option<KeyConfig> {
        let Some(algorithm) = &file.algorithm else {
            self.source.fault(at, "algorithm: missing");
            return None;
        };
        let algorithm = self.algorithm(&format!("{at}.algorithm"), algorithm)?;
        if file.kid.as_deref() == Some("") {
            let message = "empty; name the key, or leave it out";
            self.source.fault(&format!("{at}.kid"), message);
        }
        let source = self.key_source(at, file)?;
        if algorithm.is_hmac() == matches!(source, KeySource::PublicKeyFile(_)) {
            let expected = match algorithm.is_hmac() {
                true => "a secret",
                false => "public_key_file",
            };
            self.source
                .fault(at, format!("{algorithm} needs {expected}"));
        }
        Some(KeyConfig {
            algorithm,
            kid: file.kid.clone(),
            source,
        })
    }

    fn key_source(&mut self, at: &str, file: &FileKey) -> Option<KeySource> {
        let FileKey {
            secret_file,
            secret_env,
            public_key_file,
            ..
        } = file;
        match (secret_file, secret_env, public_key_file) {
            (Some(path), None, None) => {
                let path = self.file(&format!("{at}.secret_file"), Some(path.clone()));
                Some(KeySource::SecretFile(path))
            }
            (None, Some(name), None) => {
                if std::env::var_os(name).is_none() {
                    let message = format!("the environment variable {name} is not set");
                    self.source.fault(&format!("{at}.secret_env"), message);
                }
                Some(KeySource::SecretEnv(name.clone()))
            }
            (None, None, Some(path)) => {
                let path = self.file(&format!("{at}.public_key_file"), Some(path.clone()));
                Some(KeySource::PublicKeyFile(path))
            }
            _ => {
                let message = "expected exactly one of secret_file, secret_env, public_key_file";
                self.source.fault(at, message);
                None
            }
        }
    }
}

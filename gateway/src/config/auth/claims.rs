//! What an issuer's tokens must say, and which roles they may give.

use std::collections::BTreeMap;

use intellirouter::security::{
    ClaimPath, Expected, MAX_REQUIRED_CLAIMS, MAX_ROLE_BYTES, MAX_ROLES,
};

use super::FileExpected;
use crate::config::validate::Validate;

impl Validate<'_, '_> {
    /// An empty list is no fault: it gives no role.
    pub(super) fn allowed_roles(
        &mut self,
        at: &str,
        file: &Option<Vec<String>>,
    ) -> Option<Vec<String>> {
        let roles = file.as_ref()?;
        if roles.len() > MAX_ROLES {
            let message = format!("expected at most {MAX_ROLES}, found {}", roles.len());
            self.source.fault(at, message);
        }
        for (i, role) in roles.iter().enumerate() {
            let at = format!("{at}[{i}]");
            if !(1..=MAX_ROLE_BYTES).contains(&role.len()) {
                let message = format!("expected a role of 1 to {MAX_ROLE_BYTES} bytes");
                self.source.fault(&at, message);
            } else if role == "*" {
                let message =
                    "expected the name of a role; to allow every role, leave the list out";
                self.source.fault(&at, message);
            }
        }
        Some(roles.clone())
    }

    pub(super) fn roles_claim(&mut self, at: &str, file: &Option<String>) -> ClaimPath {
        match file.as_deref() {
            None => ClaimPath::default(),
            Some(path) => self.claim_path(at, path),
        }
    }

    fn claim_path(&mut self, at: &str, path: &str) -> ClaimPath {
        if matches!(path, "" | "/") {
            let message = "expected the name of a claim, or a JSON pointer such as \
                           \"/realm_access/roles\"";
            self.source.fault(at, message);
        }
        ClaimPath::new(path)
    }

    pub(super) fn required_claims(
        &mut self,
        at: &str,
        file: &BTreeMap<String, FileExpected>,
    ) -> Vec<(ClaimPath, Expected)> {
        let at = format!("{at}.required_claims");
        if file.len() > MAX_REQUIRED_CLAIMS {
            let message = format!("expected at most {MAX_REQUIRED_CLAIMS} claims");
            self.source.fault(&at, message);
        }
        let mut claims = Vec::with_capacity(file.len());
        for (path, expected) in file {
            let expected = match expected {
                FileExpected::Text(text) if text == "*" => Expected::Any,
                FileExpected::Text(text) => Expected::Text(text.clone()),
                FileExpected::Flag(flag) => Expected::Flag(*flag),
                FileExpected::Integer(number) => Expected::Integer(*number),
                FileExpected::Number(number) => Expected::Number(*number),
            };
            claims.push((self.claim_path(&at, path), expected));
        }
        claims
    }
}

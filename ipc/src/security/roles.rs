//! Which service has which roles: a plain table, for code that hands out tokens.
//!
//! Owns the table only. What a role allows is decided where it is asked for; the gateway's own rules
//! stand in its config. Nothing here fails. Bounded by what the program itself adds.

use std::collections::{HashMap, HashSet};

/// The role that may do everything.
pub const ADMIN_ROLE: &str = "admin";

/// Roles by service name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleConfig {
    roles: HashMap<String, HashSet<String>>,
}

impl RoleConfig {
    /// A table in which nobody has a role.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a role to a service; giving it twice changes nothing.
    pub fn add_role(&mut self, service: impl Into<String>, role: impl Into<String>) -> &mut Self {
        self.roles
            .entry(service.into())
            .or_default()
            .insert(role.into());
        self
    }

    /// Whether exactly this role was given to the service. `admin` does not imply others here.
    pub fn has_role(&self, service: &str, role: &str) -> bool {
        self.roles
            .get(service)
            .is_some_and(|roles| roles.contains(role))
    }

    /// All roles of a service, sorted; what `generate_token` takes.
    pub fn roles_of(&self, service: &str) -> Vec<String> {
        let mut roles: Vec<_> = self
            .roles
            .get(service)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        roles.sort_unstable();
        roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_exactly_the_roles_that_were_given_to_it() {
        let mut config = RoleConfig::new();
        config
            .add_role("chain_engine", "writer")
            .add_role("chain_engine", "reader");
        config.add_role("memory", String::from("reader"));

        assert!(config.has_role("chain_engine", "reader"));
        assert!(config.has_role("chain_engine", "writer"));
        assert!(!config.has_role("memory", "writer"));
        assert!(!config.has_role("unknown", "reader"));
        assert_eq!(config.roles_of("chain_engine"), ["reader", "writer"]);
        assert_eq!(config.roles_of("unknown"), [""; 0]);
    }
}

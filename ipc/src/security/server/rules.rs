//! Which rule a method has: what its author wrote in the builder, else what stands in the descriptor
//! set, else nothing, and then nobody may call it.
//!
//! Where the author gave neither descriptors nor rules, every method is open to whoever has a valid
//! token (and the roles that the server asks of everybody).

use prost_reflect::DescriptorPool;

use crate::error::{IpcError, IpcResult};
use crate::security::policy::{Access, MethodPolicy, is_name, method_policies};

pub(super) const HEALTH: &str = "grpc.health.v1.Health";
pub(super) const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";

#[derive(Debug)]
pub(super) struct Rules {
    /// Everything that is known about methods, also those of the built-in services.
    policies: Vec<MethodPolicy>,
    patterns: Vec<(Pattern, Access)>,
    /// Neither descriptors nor patterns were given.
    open: bool,
}

/// `/package.Service/Method` or `/package.Service/*`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) service: String,
    /// All methods where there is none.
    pub(super) method: Option<String>,
}

impl Rules {
    pub(super) fn new(
        descriptors: &[&'static [u8]],
        method_roles: &[(String, Vec<String>)],
    ) -> IpcResult<Self> {
        let patterns = method_roles
            .iter()
            .map(|(pattern, roles)| rule(pattern, roles))
            .collect::<IpcResult<Vec<_>>>()?;
        for (i, (pattern, _)) in patterns.iter().enumerate() {
            if patterns[..i].iter().any(|(other, _)| other == pattern) {
                let pattern = &method_roles[i].0;
                return Err(IpcError::InvalidArgument(format!(
                    "with_method_roles: {pattern:?} was given twice"
                )));
            }
        }
        let mut policies = Vec::new();
        let built_in = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        for set in built_in.iter().chain(descriptors) {
            let pool = DescriptorPool::decode(*set).map_err(|error| {
                IpcError::InvalidArgument(format!(
                    "with_descriptors: expected a FileDescriptorSet with its imports: {error}"
                ))
            })?;
            policies.extend(method_policies(&pool));
        }
        misspelt(&patterns, &policies)?;
        Ok(Self {
            policies,
            open: descriptors.is_empty() && patterns.is_empty(),
            patterns,
        })
    }

    /// What the descriptor sets say of the methods of a service.
    pub(super) fn policies_of(&self, service: &str) -> impl Iterator<Item = &MethodPolicy> {
        policies_of(&self.policies, service)
    }

    /// The methods of a service that the author wrote a rule for by name.
    pub(super) fn named_in(&self, service: &str) -> impl Iterator<Item = &str> {
        self.patterns
            .iter()
            .filter(move |(pattern, _)| pattern.service == service)
            .filter_map(|(pattern, _)| pattern.method.as_deref())
    }

    /// Who may call a method; the name is `None` for methods that nobody named.
    pub(super) fn access(
        &self,
        service: &str,
        method: Option<&str>,
        written: Option<&Access>,
    ) -> Access {
        let of = |wanted: Option<&str>| {
            let found = self.patterns.iter().find(|(pattern, _)| {
                pattern.service == service && pattern.method.as_deref() == wanted
            });
            found.map(|(_, access)| access.clone())
        };
        method
            .and_then(|method| of(Some(method)))
            .or_else(|| of(None))
            .unwrap_or_else(|| match (service, written) {
                (HEALTH, _) => Access::Public,
                (REFLECTION, _) => Access::anyone(),
                (_, Some(access)) if *access != Access::NoRule => access.clone(),
                _ if self.open => Access::anyone(),
                _ => Access::NoRule,
            })
    }

    /// A rule for a service that is not served protects nothing: it is a misspelt one.
    pub(super) fn check(&self, services: &[&'static str]) -> IpcResult<()> {
        let stray = self
            .patterns
            .iter()
            .find(|(pattern, _)| !services.contains(&pattern.service.as_str()));
        match stray {
            None => Ok(()),
            Some((pattern, _)) => Err(IpcError::InvalidArgument(format!(
                "with_method_roles: the server has no service {}",
                pattern.service
            ))),
        }
    }
}

fn policies_of<'a>(
    policies: &'a [MethodPolicy],
    service: &str,
) -> impl Iterator<Item = &'a MethodPolicy> {
    policies
        .iter()
        .filter(move |policy| split(&policy.path).is_some_and(|(of, _)| of == service))
}

/// A rule for a method that its service does not have, by the descriptors, would leave the one that
/// is meant to a wider rule.
fn misspelt(patterns: &[(Pattern, Access)], policies: &[MethodPolicy]) -> IpcResult<()> {
    for (pattern, _) in patterns {
        let Some(method) = &pattern.method else {
            continue;
        };
        let service = &pattern.service;
        let path = format!("/{service}/{method}");
        let mut known = policies_of(policies, service).peekable();
        if known.peek().is_some() && !known.any(|policy| policy.path == path) {
            return Err(IpcError::InvalidArgument(format!(
                "with_method_roles: the descriptors of {service} have no method {method}"
            )));
        }
    }
    Ok(())
}

/// The service and the method in a path.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

fn rule(pattern: &str, roles: &[String]) -> IpcResult<(Pattern, Access)> {
    let refuse = |why: &str| {
        Err(IpcError::InvalidArgument(format!(
            "with_method_roles: {pattern:?}: {why}"
        )))
    };
    let Some((service, method)) = split(pattern) else {
        return refuse("expected /package.Service/Method or /package.Service/*");
    };
    if !service.split('.').all(is_name) || !(method == "*" || is_name(method)) {
        return refuse("expected /package.Service/Method or /package.Service/*");
    }
    if roles.is_empty() {
        return refuse("no role is named; \"*\" stands for every caller with a valid token");
    }
    let pattern = Pattern {
        service: service.to_owned(),
        method: (method != "*").then(|| method.to_owned()),
    };
    Ok((pattern, Access::any_of(roles.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "intellirouter.memory.v1.MemoryService";

    fn roles(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn rules(descriptors: &[&'static [u8]], patterns: &[(&str, &[&str])]) -> IpcResult<Rules> {
        let patterns: Vec<_> = patterns
            .iter()
            .map(|(pattern, names)| ((*pattern).to_owned(), roles(names)))
            .collect();
        Rules::new(descriptors, &patterns)
    }

    fn access(rules: &Rules, service: &str, method: &str) -> Access {
        let path = format!("/{service}/{method}");
        let written = rules.policies.iter().find(|policy| policy.path == path);
        rules.access(service, Some(method), written.map(|policy| &policy.access))
    }

    #[test]
    fn the_builder_goes_before_the_options_and_a_method_before_its_service() {
        let service = format!("/{MEMORY}/*");
        let method = format!("/{MEMORY}/GetHistory");
        let rules = rules(
            &[intellirouter_proto::FILE_DESCRIPTOR_SET],
            &[(&service, &["a"]), (&method, &["b"])],
        )
        .unwrap();
        for (name, role) in [("GetHistory", "b"), ("AddMessage", "a"), ("Unheard", "a")] {
            assert_eq!(
                access(&rules, MEMORY, name),
                Access::any_of(roles(&[role])),
                "{name}"
            );
        }
        assert_eq!(
            access(
                &rules,
                "intellirouter.memory.v1.MemoryChainIntegrationService",
                "StoreChainResultInConversation"
            ),
            Access::any_of(roles(&["operator", "service"]))
        );
    }

    #[test]
    fn with_any_rule_a_method_without_one_lets_nobody_in() {
        let options = rules(&[intellirouter_proto::FILE_DESCRIPTOR_SET], &[]).unwrap();
        let written = rules(&[], &[("/a.S/M", &["r"])]).unwrap();
        assert_eq!(access(&options, "a.S", "M"), Access::NoRule);
        assert_eq!(access(&options, MEMORY, "Unheard"), Access::NoRule);
        assert_eq!(access(&written, "a.S", "Other"), Access::NoRule);
        assert_eq!(written.access("a.S", None, None), Access::NoRule);
    }

    #[test]
    fn without_any_rule_a_valid_token_is_enough() {
        let none = rules(&[], &[]).unwrap();
        assert_eq!(access(&none, "a.S", "M"), Access::anyone());
    }

    #[test]
    fn health_is_public_and_reflection_for_callers_unless_the_author_says_otherwise() {
        let options = rules(&[intellirouter_proto::FILE_DESCRIPTOR_SET], &[]).unwrap();
        assert_eq!(access(&options, HEALTH, "Check"), Access::Public);
        assert_eq!(
            access(&options, REFLECTION, "ServerReflectionInfo"),
            Access::anyone()
        );
        let narrowed = rules(&[], &[("/grpc.health.v1.Health/*", &["ops"])]).unwrap();
        assert_eq!(
            access(&narrowed, HEALTH, "Check"),
            Access::any_of(roles(&["ops"]))
        );
    }

    #[test]
    fn what_is_no_pattern_or_names_no_role_is_refused_with_its_text() {
        for (pattern, names) in [
            ("", &["r"][..]),
            ("a.S/M", &["r"]),
            ("/a.S", &["r"]),
            ("/a.S/", &["r"]),
            ("/*", &["r"]),
            ("/a.*/M", &["r"]),
            ("/a.S/M*", &["r"]),
            ("/a.S/M/N", &["r"]),
            ("/a.S/M", &[]),
        ] {
            let error = rules(&[], &[(pattern, names)]).unwrap_err();
            assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
            assert!(
                error.to_string().contains(&format!("{pattern:?}")),
                "{error}"
            );
        }
        let twice = rules(&[], &[("/a.S/*", &["r"]), ("/a.S/*", &["q"])]).unwrap_err();
        assert!(twice.to_string().contains("twice"), "{twice}");
    }

    #[test]
    fn a_rule_for_a_service_that_is_not_served_is_reported() {
        let rules = rules(&[], &[("/a.S/M", &["r"])]).unwrap();
        assert!(rules.check(&["a.S", HEALTH]).is_ok());
        let error = rules.check(&[HEALTH]).unwrap_err();
        assert!(error.to_string().contains("a.S"), "{error}");
    }

    #[test]
    fn a_rule_for_a_method_that_the_descriptors_do_not_have_is_refused_by_name() {
        let set = &[intellirouter_proto::FILE_DESCRIPTOR_SET];
        let known = format!("/{MEMORY}/GetHistory");
        let unknown = format!("/{MEMORY}/GetHistories");
        assert!(rules(set, &[(&known, &["r"])]).is_ok());
        let error = rules(set, &[(&unknown, &["r"])]).unwrap_err();
        assert!(error.to_string().contains("GetHistories"), "{error}");
        // Where nothing is known of the service, nothing can be said.
        assert!(rules(set, &[("/a.S/M", &["r"])]).is_ok());
        assert!(rules(&[], &[(&unknown, &["r"])]).is_ok());
    }

    #[test]
    fn what_is_no_descriptor_set_is_refused() {
        let error = rules(&[b"rubbish"], &[]).unwrap_err();
        assert!(error.to_string().contains("FileDescriptorSet"), "{error}");
    }
}

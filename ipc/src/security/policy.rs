//! Who may call a method, how long a call may take, and what may be retried: read from the options
//! that stand beside the methods, and judged.
//!
//! Owns reading `intellirouter.options.v1` and the standard `idempotency_level` from a descriptor
//! set, and the one verdict on a caller's roles that the gateway and every server share. It does not
//! own who the caller is, nor rules from elsewhere (a gateway's config, a server's builder).
//!
//! Default deny: a method without a rule, or with one that cannot be read, lets nobody in. Nothing
//! here fails. Bounded by the descriptor set, which is the program's own or the operator's.

use std::time::Duration;

use intellirouter_proto::intellirouter::options::v1 as options;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};

use super::roles::ADMIN_ROLE;

/// In a list of roles: any caller with a valid token. Never a part of a longer name.
pub const ANYONE: &str = "*";

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody; no token is needed.
    Public,
    /// Whoever has one of `any` (or anybody, where that is empty or has [`ANYONE`]), and all of
    /// `all`.
    Roles {
        /// One of these is needed.
        any: Vec<String>,
        /// Each of these is needed.
        all: Vec<String>,
    },
    /// Nobody: no rule speaks of the method.
    NoRule,
}

/// Why a caller may not call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No rule lets anybody call the method.
    NoRule,
    /// The caller's roles are not those that the rule asks for.
    RoleMissing,
}

impl Access {
    /// For everybody who has a valid token, whatever the roles.
    pub fn anyone() -> Self {
        Self::any_of(vec![ANYONE.to_owned()])
    }

    /// For everybody who has one of `roles`.
    pub fn any_of(roles: Vec<String>) -> Self {
        Self::Roles {
            any: roles,
            all: Vec::new(),
        }
    }

    /// Whether a caller with `roles` may call. The role `admin` may do everything that a rule speaks
    /// of.
    pub fn judge(&self, roles: &[String]) -> Result<(), Denied> {
        let (any, all) = match self {
            Self::Public => return Ok(()),
            Self::NoRule => return Err(Denied::NoRule),
            Self::Roles { any, all } => (any, all),
        };
        let has = |role: &String| role == ANYONE || roles.contains(role);
        if roles.iter().any(|role| role == ADMIN_ROLE)
            || ((any.is_empty() || any.iter().any(has)) && all.iter().all(has))
        {
            return Ok(());
        }
        Err(Denied::RoleMissing)
    }
}

/// What a repeated call does (`google.protobuf.MethodOptions.IdempotencyLevel`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing is said: a second call may do harm.
    #[default]
    Unknown,
    /// A call changes nothing.
    NoSideEffects,
    /// A second call changes nothing more.
    Idempotent,
}

/// What a descriptor set says about one method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodPolicy {
    /// `/package.Service/Method`.
    pub path: String,
    /// Who may call; [`Access::NoRule`] where neither the method nor its service has a policy.
    pub access: Access,
    /// The longest time for a call, to the end of a stream.
    pub timeout: Option<Duration>,
    /// What may be retried.
    pub idempotency: Idempotency,
}

/// The policy of every method of every service in the set.
pub fn method_policies(descriptors: &DescriptorPool) -> Vec<MethodPolicy> {
    descriptors
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| read(&method))
        .collect()
}

/// Whether `text` is one segment of a package, service or method name.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn read(method: &MethodDescriptor) -> MethodPolicy {
    let policy = option_of(method);
    MethodPolicy {
        path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
        access: policy.as_ref().map_or(Access::NoRule, access),
        timeout: policy
            .and_then(|policy| policy.timeout)
            .and_then(|timeout| Duration::try_from(timeout).ok()),
        idempotency: idempotency(&method.options()),
    }
}

/// The option of a method, else that of its service.
fn option_of(method: &MethodDescriptor) -> Option<options::MethodPolicy> {
    let pool = method.parent_pool();
    let read = |options: DynamicMessage, name: &str| {
        let extension = pool.get_extension_by_name(name)?;
        if !options.has_extension(&extension) {
            return None;
        }
        let value = options.get_extension(&extension);
        value.as_message()?.transcode_to().ok()
    };
    read(method.options(), "intellirouter.options.v1.policy").or_else(|| {
        read(
            method.parent_service().options(),
            "intellirouter.options.v1.default_policy",
        )
    })
}

fn access(policy: &options::MethodPolicy) -> Access {
    if policy.public {
        Access::Public
    } else if policy.roles.is_empty() && policy.all_roles.is_empty() {
        Access::NoRule
    } else {
        Access::Roles {
            any: policy.roles.clone(),
            all: policy.all_roles.clone(),
        }
    }
}

// The numbers stand in descriptor.proto.
fn idempotency(options: &DynamicMessage) -> Idempotency {
    let level = options.get_field_by_name("idempotency_level");
    match level.as_deref().and_then(Value::as_enum_number) {
        Some(1) => Idempotency::NoSideEffects,
        Some(2) => Idempotency::Idempotent,
        _ => Idempotency::Unknown,
    }
}

#[cfg(test)]
mod tests;

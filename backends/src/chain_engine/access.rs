//! Who may see and stop an execution: whoever started it, and the roles that operate the engine; and
//! in whose name it runs.
//!
//! It does not own who may call at all (the gateway's rules, and the server's check of callers). A
//! server that checks nobody gives no claims; then nothing is held back here either.

use intellirouter::security::Claims;
use tonic::Extensions;

/// Roles that may see and stop every execution, beside `admin`.
const OPERATING: [&str; 2] = ["operator", "service"];

/// Who calls.
pub(super) struct Caller<'a>(Option<&'a Claims>);

impl<'a> Caller<'a> {
    /// As the server found it.
    pub(super) fn of(extensions: &'a Extensions) -> Self {
        Self(extensions.get())
    }

    /// The caller's name, if callers are checked.
    pub(super) fn subject(&self) -> Option<String> {
        self.0.map(|claims| claims.sub.clone())
    }

    /// In whose share of the executions it runs. None: in nobody's, as callers are not checked, or
    /// as it is a service, which speaks for many.
    pub(super) fn share(&self) -> Option<String> {
        let service = |role: &String| role == "service";
        let one = self.0.filter(|claims| !claims.roles.iter().any(service));
        one.map(|claims| claims.sub.clone())
    }

    /// Whether it may see and stop an execution that `owner` started.
    pub(super) fn may_reach(&self, owner: Option<&str>) -> bool {
        self.0.is_none_or(|claims| {
            owner == Some(claims.sub.as_str()) || claims.has_any_role(&OPERATING)
        })
    }
}

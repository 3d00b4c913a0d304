//! The steps of the request path, one concern each.

pub(crate) mod authenticate;
pub(crate) mod certificate;
pub(crate) mod conduct;
pub(crate) mod cors;
pub(crate) mod deadline;
pub(crate) mod given_up;
pub(crate) mod grpc_web;
pub(crate) mod roles;

//! The clients against the contract: no service and no method is missing, and each is repeated only
//! if the `.proto` allows it.

use std::collections::BTreeMap;

use intellirouter_proto::FILE_DESCRIPTOR_SET;
use intellirouter_proto::intellirouter::options::v1::MethodPolicy;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage};

use super::*;
use crate::resilience::CallKind;

/// A service as its clients describe it: the methods' names, `unary` or `stream`, and kinds.
pub(super) struct Description {
    pub(super) service: &'static str,
    pub(super) methods: Vec<(&'static str, &'static str, CallKind)>,
}

/// Service and method to `unary` or `stream` and the kind.
type Methods = BTreeMap<(String, String), (&'static str, CallKind)>;

fn described() -> Methods {
    let services = [
        ResilientChainEngineClient::description(),
        ResilientChainStoreClient::description(),
        ResilientMemoryClient::description(),
        ResilientMemoryChainIntegrationClient::description(),
        ResilientModelRegistryClient::description(),
        ResilientRouterClient::description(),
        ResilientRagManagerClient::description(),
        ResilientPersonaLayerClient::description(),
        ResilientRagPersonaIntegrationClient::description(),
    ];
    let methods = services.into_iter().flat_map(|description| {
        let service = description.service;
        let methods = description.methods.into_iter();
        methods.map(move |(name, shape, kind)| ((service.to_owned(), camel(name)), (shape, kind)))
    });
    methods.collect()
}

/// What the descriptor set says. The event service is the gateway's and has no trait here.
fn promised() -> Methods {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let services = pool.services();
    let services = services.filter(|service| service.package_name() != "intellirouter.events.v1");
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .map(|method| {
            let name = (
                method.parent_service().full_name().to_owned(),
                method.name().to_owned(),
            );
            assert!(!method.is_client_streaming(), "{name:?}");
            let shape = match method.is_server_streaming() {
                true => "stream",
                false => "unary",
            };
            (name, (shape, kind(&pool, &method)))
        })
        .collect()
}

fn kind(pool: &DescriptorPool, method: &MethodDescriptor) -> CallKind {
    let options = method.options();
    let field = options
        .descriptor()
        .get_field_by_name("idempotency_level")
        .unwrap();
    let known = options.get_field(&field).as_enum_number() != Some(0);
    // Work is what gets more time than the usual 30 seconds.
    let long = seconds(pool, &options).is_some_and(|seconds| seconds > 30);
    match (known, long) {
        (true, _) => CallKind::Repeatable,
        (false, true) => CallKind::Work,
        (false, false) => CallKind::Once,
    }
}

fn seconds(pool: &DescriptorPool, options: &DynamicMessage) -> Option<i64> {
    let extension = pool.get_extension_by_name("intellirouter.options.v1.policy");
    let value = options.get_extension(&extension.unwrap()).into_owned();
    let policy: MethodPolicy = value.as_message().unwrap().transcode_to().unwrap();
    policy.timeout.map(|timeout| timeout.seconds)
}

fn camel(name: &str) -> String {
    let words = name.split('_');
    words
        .map(|word| word[..1].to_uppercase() + &word[1..])
        .collect()
}

#[test]
fn every_method_has_a_client_of_its_shape_and_is_repeated_only_as_the_contract_says() {
    let promised = promised();
    assert!(promised.len() > 40, "{}", promised.len());
    assert_eq!(described(), promised);
}

//! The published contract holds: every name, number, type, label and oneof in `contract.txt` is in
//! the descriptor set, and nothing was added to it under a number that clients may think free.

#![allow(
    clippy::expect_used,
    reason = "a test may fail on what it did not expect"
)]

use std::collections::BTreeSet;

use intellirouter_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_reflect::{
    DescriptorPool, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, MessageDescriptor,
    MethodDescriptor,
};
use prost_types::FileDescriptorSet;

const CONTRACT: &str = include_str!("contract.txt");

/// Lower numbers belong to the contract as it was published.
const FIRST_FREE_NUMBER: i64 = 100;

/// One thing that a client may rely on.
struct Fact {
    /// As it stands in `contract.txt`.
    line: String,
    /// The message or enum that it belongs to, as its lines begin, and its number there.
    place: Option<(String, i64)>,
}

#[test]
fn contract_numbers_and_names_hold() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("descriptor set");
    let breaches = breaches(&pool);
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn a_moved_field_is_a_breach() {
    let breaches = breaches_after(|set| role_field(set).number = Some(7));
    assert_eq!(
        breaches,
        [
            "missing: field intellirouter.common.v1.Message 1 role: string",
            "number below 100: field intellirouter.common.v1.Message 7 role: string",
        ]
    );
}

#[test]
fn a_new_field_may_take_a_number_from_100_up_only() {
    let add = |set: &mut FileDescriptorSet, number| {
        let mut added = role_field(set).clone();
        added.name = Some("added".into());
        added.json_name = None;
        added.number = Some(number);
        message(set).field.push(added);
    };
    assert_eq!(
        breaches_after(|set| add(set, 100)),
        Vec::<String>::new(),
        "100 is free"
    );
    assert_eq!(
        breaches_after(|set| add(set, 99)),
        ["number below 100: field intellirouter.common.v1.Message 99 added: string"]
    );
}

/// The breaches after `change` was made to the descriptor set.
fn breaches_after(change: impl Fn(&mut FileDescriptorSet)) -> Vec<String> {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptor set");
    change(&mut set);
    let pool = DescriptorPool::from_file_descriptor_set(set).expect("changed descriptor set");
    breaches(&pool)
}

fn message(set: &mut FileDescriptorSet) -> &mut prost_types::DescriptorProto {
    set.file
        .iter_mut()
        .find(|file| file.package() == "intellirouter.common.v1")
        .and_then(|file| file.message_type.iter_mut().find(|m| m.name() == "Message"))
        .expect("common.Message")
}

fn role_field(set: &mut FileDescriptorSet) -> &mut prost_types::FieldDescriptorProto {
    message(set).field.first_mut().expect("role")
}

/// Every way in which the descriptor set differs from the contract to a client's harm.
fn breaches(pool: &DescriptorPool) -> Vec<String> {
    let contract: BTreeSet<&str> = CONTRACT
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let facts = facts(pool);
    let found: BTreeSet<&str> = facts.iter().map(|fact| fact.line.as_str()).collect();

    let missing = contract
        .difference(&found)
        .map(|line| format!("missing: {line}"));
    let squatting = facts
        .iter()
        .filter(|fact| !contract.contains(fact.line.as_str()))
        .filter(|fact| {
            fact.place.as_ref().is_some_and(|(owner, number)| {
                *number < FIRST_FREE_NUMBER && contract.iter().any(|line| line.starts_with(owner))
            })
        })
        .map(|fact| format!("number below {FIRST_FREE_NUMBER}: {}", fact.line));
    missing.chain(squatting).collect()
}

fn facts(pool: &DescriptorPool) -> Vec<Fact> {
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().map(|method| rpc(&method)).collect();
        methods
    });
    let values = pool.all_enums().flat_map(|e| values(&e));
    let fields = pool.all_messages().flat_map(|message| fields(&message));
    let extensions = pool.all_extensions().map(|e| extension(&e));
    methods
        .chain(values)
        .chain(fields)
        .chain(extensions)
        .collect()
}

fn rpc(method: &MethodDescriptor) -> Fact {
    let stream = |yes| if yes { "stream " } else { "" };
    Fact {
        line: format!(
            "rpc {}({}{}) returns ({}{})",
            method.full_name(),
            stream(method.is_client_streaming()),
            method.input().full_name(),
            stream(method.is_server_streaming()),
            method.output().full_name(),
        ),
        place: None,
    }
}

fn values(e: &EnumDescriptor) -> Vec<Fact> {
    let owner = format!("enum {} ", e.full_name());
    e.values()
        .map(|value| Fact {
            line: format!("{owner}{} = {}", value.name(), value.number()),
            place: Some((owner.clone(), value.number().into())),
        })
        .collect()
}

fn fields(message: &MessageDescriptor) -> Vec<Fact> {
    let owner = format!("field {} ", message.full_name());
    message
        .fields()
        .map(|field| Fact {
            line: format!(
                "{owner}{} {}: {}{}",
                field.number(),
                field.name(),
                field_type(&field),
                oneof(&field),
            ),
            place: Some((owner.clone(), field.number().into())),
        })
        .collect()
}

fn field_type(field: &FieldDescriptor) -> String {
    let kind = field.kind();
    if let Some(entry) = kind.as_message().filter(|_| field.is_map()) {
        let key = entry.map_entry_key_field().kind();
        let value = entry.map_entry_value_field().kind();
        return format!("map<{key:?},{value:?}>");
    }
    let optional = field.containing_oneof().is_some_and(|o| o.is_synthetic());
    let label = match (field.is_list(), optional) {
        (true, _) => "repeated ",
        (_, true) => "optional ",
        _ => "",
    };
    format!("{label}{kind:?}")
}

fn oneof(field: &FieldDescriptor) -> String {
    match field.containing_oneof() {
        Some(oneof) if !oneof.is_synthetic() => format!(" (oneof {})", oneof.name()),
        _ => String::new(),
    }
}

fn extension(extension: &ExtensionDescriptor) -> Fact {
    Fact {
        line: format!(
            "extend {} {} {}: {:?}",
            extension.containing_message().full_name(),
            extension.number(),
            extension.full_name(),
            extension.kind(),
        ),
        place: None,
    }
}

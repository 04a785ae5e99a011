//! Names, numbers and types of messages: what is on the wire must never change.

use std::collections::BTreeSet;

use prost_reflect::{Cardinality, FieldDescriptor, Kind};

use crate::dynamic::pool;

const FILES: [&str; 3] = ["orchestrator.proto", "info.proto", "template-manager.proto"];

fn field(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(_) if field.is_map() => "map".to_owned(),
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    let label = match field.cardinality() {
        Cardinality::Repeated if !field.is_map() => "repeated ",
        _ if field.containing_oneof().is_some_and(|group| group.is_synthetic()) => "optional ",
        _ if field.containing_oneof().is_some() => "oneof ",
        _ => "",
    };
    format!("{} {} {label}{kind}", field.number(), field.name())
}

/// Fields from 1001 on are ours, beside E2B's.
#[test]
fn e2bs_services_and_messages_have_the_names_numbers_and_types_they_had() {
    let pool = pool();
    let mut lines = Vec::new();
    let mut files = pool.files().filter(|file| FILES.contains(&file.name())).collect::<Vec<_>>();
    files.sort_by_key(|file| FILES.iter().position(|name| *name == file.name()));
    for file in files {
        assert_eq!(file.package_name(), "");
        for method in file.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let (path, input, output) = (method.full_name(), method.input(), method.output());
            lines.push(format!("{path}: {} -> {}", input.full_name(), output.full_name()));
        }
        for kind in file.enums() {
            let values = kind.values().map(|value| format!("{}={}", value.name(), value.number()));
            lines.push(format!("{}: {}", kind.name(), values.collect::<Vec<_>>().join(", ")));
        }
        for message in file.messages() {
            let mut fields: Vec<_> = message.fields().collect();
            fields.sort_by_key(FieldDescriptor::number);
            let fields: Vec<_> = fields.iter().map(field).collect();
            lines.push(format!("{}: {}", message.full_name(), fields.join(", ")));
        }
    }
    let found = lines.join("\n") + "\n";
    assert_eq!(found, include_str!("golden/e2b_wire.txt"), "found:\n{found}");
}

/// Each on a line: our own service may have more than it had, but not less and nothing else. Peers of
/// another version rely on it.
#[test]
fn what_our_own_service_had_it_has() {
    let pool = pool();
    let file = pool.get_file_by_name("cofferdam/node/v1/node.proto").unwrap();
    let mut found = BTreeSet::new();
    for method in file.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let stream = if method.is_server_streaming() { "stream " } else { "" };
        let (input, output) = (method.input(), method.output());
        let line = format!("{}: {} -> {stream}{}", method.name(), input.name(), output.name());
        found.insert(line);
    }
    for kind in file.enums() {
        let value = |name: &str, number| format!("{}: {number} {name}", kind.name());
        found.extend(kind.values().map(|known| value(known.name(), known.number())));
    }
    for message in file.messages() {
        found
            .extend(message.fields().map(|known| format!("{}: {}", message.name(), field(&known))));
    }
    let lines = || found.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    for had in include_str!("golden/node_wire.txt").lines() {
        assert!(found.contains(had), "not so any more: {had}\nfound:\n{}", lines());
    }
}

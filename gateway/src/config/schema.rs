//! The JSON schema of the config file, for editors: made from the `File*`
//! types, kept in `config/schema.json`, and never older than they are.

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::file::FileConfig;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/schema.json")
}

fn generated() -> Value {
    let schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<FileConfig>();
    let mut schema = schema.to_value();
    without_null(&mut schema);
    schema
}

/// TOML has no null: what may be absent is simply not required.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|name, value| !(name == "default" && value.is_null()));
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [one] = &types[..] {
                    object["type"] = one.clone();
                }
            }
            if let Some(Value::Array(any)) = object.get_mut("anyOf") {
                any.retain(|of| of["type"] != "null");
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(array) => array.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Calls `see` with every object of the schema that has properties.
fn objects<'a>(value: &'a Value, see: &mut impl FnMut(&'a serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            if object.get("properties").is_some_and(Value::is_object) {
                see(object);
            }
            object.values().for_each(|value| objects(value, see));
        }
        Value::Array(array) => array.iter().for_each(|value| objects(value, see)),
        _ => {}
    }
}

/// `UPDATE_SCHEMA=1 cargo test -p intellirouter-gateway schema` writes it anew.
#[test]
fn the_schema_in_the_repository_is_that_of_the_code() {
    let text = format!("{:#}\n", generated());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path(), &text).unwrap();
    }
    let kept = std::fs::read_to_string(path()).unwrap_or_default();
    let hint = "config/schema.json is old; UPDATE_SCHEMA=1 writes it anew";
    assert!(kept == text, "{hint}");
}

#[test]
fn no_table_takes_a_key_that_the_schema_does_not_name() {
    objects(&generated(), &mut |object| {
        assert_eq!(object["additionalProperties"], false, "{object:?}");
    });
}

#[test]
fn every_key_says_what_it_is_for() {
    let schema = generated();
    let mut silent = Vec::new();
    objects(&schema, &mut |object| {
        for (name, property) in object["properties"].as_object().unwrap() {
            if property.get("description").is_none() {
                silent.push(format!("{name} in {:?}", object.get("description")));
            }
        }
    });
    assert!(silent.is_empty(), "without a doc comment: {silent:#?}");
}

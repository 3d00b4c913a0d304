//! What an event of the checker looks like: it names itself, and every byte of it is known to who reads it.

use serde_json::Value;

use super::history::Key;

/// The payload of an event with so many bytes of padding.
pub(super) fn write(key: Key, size: usize) -> String {
    let Key { publisher, number } = key;
    let pad = pad(key, size);
    format!(r#"{{"publisher":{publisher},"number":{number},"size":{size},"pad":"{pad}"}}"#)
}

/// Which event a payload is of; none if it is not to the byte what was published.
pub(super) fn read(text: &[u8]) -> Option<Key> {
    let (key, size) = parts(&serde_json::from_slice(text).ok()?)?;
    (write(key, size).as_bytes() == text).then_some(key)
}

/// The same where the spelling has got lost.
pub(super) fn read_value(value: &Value) -> Option<Key> {
    let (key, size) = parts(value)?;
    (value["pad"] == pad(key, size)).then_some(key)
}

fn parts(value: &Value) -> Option<(Key, usize)> {
    let key = Key {
        publisher: value["publisher"].as_u64()?.try_into().ok()?,
        number: value["number"].as_u64()?.try_into().ok()?,
    };
    Some((key, value["size"].as_u64()?.try_into().ok()?))
}

fn pad(key: Key, size: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(key.number % 26).unwrap_or(0));
    String::from(letter).repeat(size)
}

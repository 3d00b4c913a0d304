//! The messages of the workloads, as gRPC puts them on the wire.
//!
//! Owns: the sizes. A message is a valid protobuf message `{ bytes data = 1; }`
//! behind gRPC's five-byte prefix, so that any gRPC client may decode it.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of gRPC's message prefix: one for compression, four for the length.
pub const PREFIX: usize = 5;

/// Messages in one reply of `/bench.Bench/Stream`.
pub const STREAM_MESSAGES: usize = 1000;

/// Bytes of each of them, without the prefix.
pub const STREAM_MESSAGE: usize = 100;

/// A gRPC message of exactly `size` bytes behind its prefix. Sizes below two
/// bytes, or for which protobuf has no length of its own, give an empty message
/// of the nearest smaller size that exists.
#[must_use]
pub fn message(size: usize) -> Bytes {
    let data = (0..size).rev().find(|data| encoded(*data) <= size);
    let size = data.map_or(0, encoded);
    let mut out = BytesMut::with_capacity(PREFIX + size);
    out.put_u8(0);
    out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    if let Some(data) = data {
        out.put_u8(0x0a);
        put_varint(&mut out, data);
        out.put_bytes(b'x', data);
    }
    out.freeze()
}

fn encoded(data: usize) -> usize {
    let mut length = 1;
    let mut rest = data >> 7;
    while rest > 0 {
        length += 1;
        rest >>= 7;
    }
    1 + length + data
}

fn put_varint(out: &mut BytesMut, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        out.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_size_it_is_asked_for_and_names_it_in_its_prefix() {
        for size in [2, 100, 128, 65_536] {
            let message = message(size);
            assert_eq!(message.len(), PREFIX + size);
            assert_eq!(&message[1..PREFIX], &(size as u32).to_be_bytes());
        }
    }

    #[test]
    fn a_message_is_one_protobuf_field_that_fills_it() {
        let message = message(65_536);
        // 65,532 bytes of data: 0x7c 0xff7f.. as a varint of three bytes.
        assert_eq!(&message[PREFIX..PREFIX + 4], &[0x0a, 0xfc, 0xff, 0x03]);
    }
}

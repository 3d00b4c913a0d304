//! Where messages end in an answer that is on its way.
//!
//! A call that is ended while its client takes little has its status behind
//! all that waits to be sent, and the client may not live to see it. Between
//! two whole messages the rest can be left out. So this follows the messages
//! as they are handed out and remembers where they end, in bytes of the
//! encoded body: the newest end, and older ones at least [`SPACING`] apart.
//! Knows nothing of what stands in a message. Bounds: an entry of 8 bytes per
//! KiB that waits.

use std::collections::VecDeque;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::Encoding;

/// How far apart older ends are, in bytes.
const SPACING: u64 = 1024;

/// The flag and the length before a message.
const PREFIX: u8 = 5;

#[derive(Default)]
pub(super) struct Ends {
    message: Message,
    handed_out: u64,
    sent: u64,
    /// Ascending; none before `sent`.
    ends: VecDeque<u64>,
    /// Where the status begins.
    status: u64,
}

impl Ends {
    /// Encodes messages that are handed out. Base64 is padded after each, so
    /// that it can end there.
    pub(super) fn messages(&mut self, bytes: Bytes, encoding: Encoding) -> Bytes {
        let mut text = String::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (length, ended) = self.message.follow(rest);
            let (piece, after) = rest.split_at(length);
            rest = after;
            let encoded = match encoding {
                Encoding::Binary => length,
                Encoding::Text => {
                    let before = text.len();
                    STANDARD.encode_string(piece, &mut text);
                    text.len() - before
                }
            };
            self.handed_out += encoded as u64;
            if ended {
                self.note(self.handed_out);
            }
        }
        match encoding {
            Encoding::Binary => bytes,
            Encoding::Text => text.into(),
        }
    }

    /// The status is handed out, encoded.
    pub(super) fn status(&mut self, bytes: &Bytes) {
        self.status = self.handed_out;
        self.handed_out += bytes.len() as u64;
    }

    /// So many more bytes were sent; all of them for `usize::MAX`.
    pub(super) fn sent(&mut self, bytes: usize) {
        let most = self.handed_out - self.sent;
        self.sent += most.min(bytes as u64);
        while self.ends.front().is_some_and(|end| *end < self.sent) {
            self.ends.pop_front();
        }
    }

    /// What can be left out between the last message that has to be sent and
    /// the status, counted from the first byte that is not sent. `None` where
    /// the message under way has no end.
    pub(super) fn spare(&self) -> Option<Range<usize>> {
        let from = self.ends.front()?.checked_sub(self.sent)?;
        let to = self.status.checked_sub(self.sent)?;
        Some(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
    }

    fn note(&mut self, end: u64) {
        let mut newest = self.ends.iter().rev();
        if let (Some(_), Some(before)) = (newest.next(), newest.next())
            && end - before < SPACING
        {
            self.ends.pop_back();
        }
        self.ends.push_back(end);
    }
}

/// One message as it comes: a flag, 4 bytes of length, that many bytes.
#[derive(Default)]
struct Message {
    prefix: u8,
    left: u32,
}

impl Message {
    /// How many of `bytes` belong to this message, and whether it ends there.
    fn follow(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut taken = 0;
        for byte in bytes {
            if self.prefix == PREFIX {
                break;
            }
            // The flag comes first and is pushed out by the length.
            self.left = self.left << 8 | u32::from(*byte);
            self.prefix += 1;
            taken += 1;
        }
        if self.prefix < PREFIX {
            return (taken, false);
        }
        let content = (bytes.len() - taken).min(self.left as usize);
        self.left -= content as u32;
        let ended = self.left == 0;
        if ended {
            *self = Self::default();
        }
        (taken + content, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(length + 5, 0xff);
        bytes
    }

    proptest! {
        /// What is left stays a body of whole messages and the status, however
        /// messages were cut into chunks and whatever of them was sent.
        #[test]
        fn what_is_left_out_lies_between_a_message_and_the_status(
            lengths in proptest::collection::vec(0usize..3000, 1..40),
            chunk in 1usize..5000,
            sent in 0usize..100_000,
            text: bool,
        ) {
            let encoding = if text { Encoding::Text } else { Encoding::Binary };
            let mut ends = Ends::default();
            let mut out = Vec::new();
            for bytes in lengths.iter().flat_map(|length| message(*length)).collect::<Vec<_>>().chunks(chunk) {
                out.extend_from_slice(&ends.messages(Bytes::copy_from_slice(bytes), encoding));
            }
            let status = encoding.encode(Bytes::from_static(b"\x80\0\0\0\x02ok"));
            ends.status(&status);
            let messages = out.len();
            out.extend_from_slice(&status);
            let sent = sent.min(messages);
            ends.sent(sent);
            let spare = ends.spare().unwrap();
            prop_assert!(spare.end == messages - sent);
            out.drain(sent + spare.start..sent + spare.end);
            let decoded = if text { decode(&out) } else { out };
            let mut rest = &decoded[..];
            for length in lengths {
                if rest[0] == 0x80 {
                    break;
                }
                prop_assert_eq!(&rest[..length + 5], &message(length)[..]);
                rest = &rest[length + 5..];
            }
            prop_assert_eq!(rest, b"\x80\0\0\0\x02ok");
        }
    }

    fn decode(text: &[u8]) -> Vec<u8> {
        let groups = text.chunks(4).map(|group| STANDARD.decode(group).unwrap());
        groups.flatten().collect()
    }

    #[test]
    fn little_more_is_kept_than_the_message_under_way() {
        let mut ends = Ends::default();
        for _ in 0..1000 {
            ends.messages(message(95).into(), Encoding::Binary);
        }
        ends.status(&Bytes::from_static(b"status"));
        ends.sent(30_001);
        let spare = ends.spare().unwrap();
        assert!(spare.start <= 1124, "{spare:?}");
        assert_eq!(spare.end, 100_000 - 30_001);
        assert!(ends.ends.len() <= 100, "{}", ends.ends.len());
    }

    #[test]
    fn a_message_whose_end_has_not_come_can_not_be_left() {
        let mut ends = Ends::default();
        ends.messages(Bytes::from(message(100)).slice(..50), Encoding::Binary);
        ends.status(&Bytes::from_static(b"status"));
        assert_eq!(ends.spare(), None);
        // Nothing of it was sent, but its beginning may be on its way.
        ends.sent(10);
        assert_eq!(ends.spare(), None);
    }
}

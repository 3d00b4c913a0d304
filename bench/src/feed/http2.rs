//! Many subscribers on one HTTP/2 connection: as much of RFC 9113 as they need.
//!
//! Windows are as large as they can be, and the connection's is filled up when
//! half of it is used. A stream's is not: 2 GiB for each.

use super::Tally;
use super::follower::Follower;
use super::link::{Link, Open, Tls};
use crate::Error;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// Types of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// `SETTINGS_INITIAL_WINDOW_SIZE`
const INITIAL_WINDOW: [u8; 2] = [0, 4];
const WHOLE_WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = 65_535;
/// `:status: 200` in HPACK's static table (RFC 7541, A).
const STATUS_200: u8 = 0x88;

/// See the module's comment.
pub struct Http2 {
    link: Link,
    frames: Frames,
}

impl Http2 {
    /// Subscribes so many times, and waits for the heads of all answers.
    ///
    /// # Errors
    /// If an answer is not 200, or the connection fails.
    pub fn open(
        tls: &Tls,
        path: &str,
        authorization: &str,
        streams: usize,
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Self, Error> {
        let mut hello = PREFACE.to_vec();
        let window = [&INITIAL_WINDOW[..], &WHOLE_WINDOW.to_be_bytes()].concat();
        frame(&mut hello, SETTINGS, 0, 0, &window);
        let more = (WHOLE_WINDOW - FIRST_WINDOW).to_be_bytes();
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &more);
        let block = header_block(path, authorization);
        for stream in 0..streams {
            let id = u32::try_from(2 * stream + 1)?;
            frame(&mut hello, HEADERS, END_STREAM | END_HEADERS, id, &block);
        }
        let followers = (0..streams).map(|_| Follower::default()).collect();
        let link = tls.connect(&hello)?;
        let frames = Frames {
            followers,
            ..Frames::default()
        };
        let mut this = Self { link, frames };
        while this.frames.answered < streams {
            if !this.read(buffer, tally)? {
                return Err("the server closed the connection".into());
            }
        }
        this.link.unblock()?;
        Ok(this)
    }

    /// Reads what has come; false when no stream is left.
    ///
    /// # Errors
    /// If it is not what it should be.
    pub fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<bool, Error> {
        let frames = &mut self.frames;
        let mut open = self.link.read(buffer, |plain| frames.feed(plain, tally))? == Open::Yes;
        if !self.frames.reply.is_empty() {
            let reply = std::mem::take(&mut self.frames.reply);
            self.link.write(&reply)?;
        }
        open &= !self.frames.followers.iter().all(Follower::is_over);
        if !open {
            self.frames
                .followers
                .iter_mut()
                .for_each(|follower| follower.end(tally));
        }
        Ok(open)
    }

    /// From this event on everything must come.
    pub fn expect(&mut self, next: u64) {
        self.frames
            .followers
            .iter_mut()
            .for_each(|follower| follower.expect(next));
    }

    /// Events before this one that have not come are lost.
    pub fn settle(&mut self, next: u64, tally: &mut Tally) {
        for follower in &mut self.frames.followers {
            follower.settle(next, tally);
        }
    }

    /// How many subscribers this is.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.frames.followers.len()
    }

    /// The connection, to wait for.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}

#[derive(Default)]
struct Frames {
    followers: Vec<Follower>,
    answered: usize,
    /// The begin of a frame whose end has not come.
    partial: Vec<u8>,
    /// What to send in return.
    reply: Vec<u8>,
    /// How much of the connection's window is used, in bytes.
    used: u32,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], tally: &mut Tally) -> Result<(), Error> {
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(bytes);
            let whole = std::mem::take(&mut self.partial);
            let rest = self.every(&whole, tally)?;
            self.partial = whole[whole.len() - rest..].to_vec();
            return Ok(());
        }
        let rest = self.every(bytes, tally)?;
        bytes = &bytes[bytes.len() - rest..];
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes whole frames; tells how many bytes are left.
    fn every(&mut self, mut bytes: &[u8], tally: &mut Tally) -> Result<usize, Error> {
        while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some((content, rest)) = rest.split_at_checked(length) else {
                break;
            };
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.frame(head[3], head[4], id, content, tally)?;
            bytes = rest;
        }
        Ok(bytes.len())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        id: u32,
        content: &[u8],
        tally: &mut Tally,
    ) -> Result<(), Error> {
        match kind {
            DATA | HEADERS if flags & PADDED != 0 => {
                return Err("padded frames are not read".into());
            }
            DATA => {
                self.follower(id)?.feed(content, tally);
                self.fill_up(content.len())?;
            }
            HEADERS if self.answered < self.followers.len() => {
                // A change of the table's size may come first (RFC 7541, 6.3).
                let first = content.iter().find(|byte| **byte & 0xe0 != 0x20);
                if first != Some(&STATUS_200) {
                    return Err("not subscribed: the status is not 200".into());
                }
                self.answered += 1;
            }
            SETTINGS if flags & ACK == 0 => frame(&mut self.reply, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.reply, PING, ACK, 0, content),
            GOAWAY => return Err("the server said GOAWAY".into()),
            _ => {}
        }
        if kind == RST_STREAM || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0) {
            self.follower(id)?.end(tally);
        }
        Ok(())
    }

    fn follower(&mut self, id: u32) -> Result<&mut Follower, Error> {
        let index = usize::try_from(id / 2)?;
        let found = self.followers.get_mut(index);
        found.ok_or_else(|| format!("no stream has the number {id}").into())
    }

    fn fill_up(&mut self, bytes: usize) -> Result<(), Error> {
        self.used += u32::try_from(bytes)?;
        if self.used > WHOLE_WINDOW / 2 {
            frame(
                &mut self.reply,
                WINDOW_UPDATE,
                0,
                0,
                &self.used.to_be_bytes(),
            );
            self.used = 0;
        }
        Ok(())
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, content: &[u8]) {
    // Nothing written here comes near 16 MiB.
    let length = u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(content);
}

/// Every header as a literal that is not to be indexed (RFC 7541, 6.2.2), so that
/// a block stands by itself.
fn header_block(path: &str, authorization: &str) -> Vec<u8> {
    let headers = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("accept", "text/event-stream"),
        ("authorization", authorization),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        put_text(&mut block, name);
        put_text(&mut block, value);
    }
    block
}

/// A string without Huffman's code; its length with a prefix of 7 bits.
fn put_text(block: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::payload;

    #[test]
    fn frames_reach_their_followers_wherever_they_are_cut() -> Result<(), Error> {
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, 0, 0, &[]);
        for id in [1, 3] {
            frame(&mut bytes, HEADERS, END_HEADERS, id, &[0x20, STATUS_200]);
        }
        for (id, number) in [(1, 1), (3, 1), (1, 2)] {
            let text = format!("data: {}\n\n", payload(number, 0));
            frame(&mut bytes, DATA, 0, id, text.as_bytes());
        }
        frame(&mut bytes, RST_STREAM, 0, 3, &[0; 4]);
        for step in [1, 8, 100, 4000] {
            let followers = vec![Follower::default(), Follower::default()];
            let (mut frames, mut tally) = (
                Frames {
                    followers,
                    ..Frames::default()
                },
                Tally::default(),
            );
            for part in bytes.chunks(step) {
                frames.feed(part, &mut tally)?;
            }
            assert_eq!((frames.answered, tally.delivered, tally.cut), (2, 3, 1));
            assert!(!frames.followers[0].is_over() && frames.followers[1].is_over());
        }
        Ok(())
    }

    #[test]
    fn long_texts_have_a_length_of_several_bytes() {
        let mut block = Vec::new();
        put_text(&mut block, &"x".repeat(127 + 300));
        assert_eq!(block[..3], [127, (300_u16 as u8 % 128) | 128, 2]);
    }
}

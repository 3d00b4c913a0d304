//! A subscriber on an HTTP/1.1 connection of its own.

use super::Tally;
use super::follower::Follower;
use super::link::{Link, Open, Tls};
use crate::Error;

/// See the module's comment.
pub struct Http1 {
    link: Link,
    body: Body,
    follower: Follower,
}

impl Http1 {
    /// Subscribes, and waits for the head of the answer.
    ///
    /// # Errors
    /// If the answer is not 200, or the connection fails.
    pub fn open(
        tls: &Tls,
        path: &str,
        authorization: &str,
        buffer: &mut [u8],
        tally: &mut Tally,
    ) -> Result<Self, Error> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\
             authorization: {authorization}\r\n\r\n"
        );
        let link = tls.connect(request.as_bytes())?;
        let (body, follower) = (Body::default(), Follower::default());
        let mut this = Self {
            link,
            body,
            follower,
        };
        while this.body.state == State::Head {
            if !this.read(buffer, tally)? {
                return Err("the server closed the connection".into());
            }
        }
        this.link.unblock()?;
        Ok(this)
    }

    /// Reads what has come; false at the end of the stream.
    ///
    /// # Errors
    /// If it is not what it should be.
    pub fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<bool, Error> {
        let (body, follower) = (&mut self.body, &mut self.follower);
        let open = self.link.read(buffer, |plain| {
            body.feed(plain, |part| follower.feed(part, tally))
        })?;
        let open = open == Open::Yes && self.body.state != State::Over;
        if !open {
            self.follower.end(tally);
        }
        Ok(open)
    }

    /// From this event on everything must come.
    pub fn expect(&mut self, next: u64) {
        self.follower.expect(next);
    }

    /// Events before this one that have not come are lost.
    pub fn settle(&mut self, next: u64, tally: &mut Tally) {
        self.follower.settle(next, tally);
    }

    /// The connection, to wait for.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}

/// Takes the head of an answer and the chunks of its body apart.
#[derive(Default)]
struct Body {
    state: State,
    /// A line of the head, or of a chunk's size, that is not whole.
    text: Vec<u8>,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// No chunks: everything up to the end of the connection.
    Plain,
    Size,
    Chunk(usize),
    /// The line end behind a chunk.
    Behind(usize),
    Over,
}

impl Body {
    fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Head => self.head(bytes)?,
                State::Size => self.size(bytes)?,
                State::Plain => {
                    take(bytes);
                    &[]
                }
                State::Chunk(left) => {
                    let (part, rest) = bytes.split_at(left.min(bytes.len()));
                    take(part);
                    self.state = match left - part.len() {
                        0 => State::Behind(2),
                        left => State::Chunk(left),
                    };
                    rest
                }
                State::Behind(left) => {
                    let skipped = left.min(bytes.len());
                    self.state = match left - skipped {
                        0 => State::Size,
                        left => State::Behind(left),
                    };
                    &bytes[skipped..]
                }
                State::Over => &[],
            };
        }
        Ok(())
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let before = self.text.len();
        self.text.extend_from_slice(bytes);
        let Some(end) = self.text.windows(4).position(|part| part == b"\r\n\r\n") else {
            return Ok(&[]);
        };
        let text = String::from_utf8_lossy(&self.text[..end]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200 ") {
            return Err(format!("not subscribed: {text}").into());
        }
        self.state = match text.contains("transfer-encoding: chunked") {
            true => State::Size,
            false => State::Plain,
        };
        self.text.clear();
        Ok(&bytes[end + 4 - before..])
    }

    fn size<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        self.text
            .extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        let Some(end) = end else { return Ok(&[]) };
        let line = std::str::from_utf8(&self.text)?;
        self.state = match usize::from_str_radix(line.trim(), 16)? {
            0 => State::Over,
            size => State::Chunk(size),
        };
        self.text.clear();
        Ok(&bytes[end + 1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(text: &str, step: usize) -> Result<(Vec<u8>, bool), Error> {
        let (mut body, mut got) = (Body::default(), Vec::new());
        for part in text.as_bytes().chunks(step) {
            body.feed(part, |bytes| got.extend_from_slice(bytes))?;
        }
        Ok((got, body.state == State::Over))
    }

    #[test]
    fn chunks_are_taken_apart_wherever_they_are_cut() -> Result<(), Error> {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        for step in 1..text.len() {
            assert_eq!(fed(text, step)?, (b"abc0123456789".to_vec(), true));
        }
        Ok(())
    }

    #[test]
    fn a_body_without_chunks_goes_on_to_the_end() -> Result<(), Error> {
        let (got, over) = fed("HTTP/1.1 200 OK\r\n\r\nabc", 4)?;
        assert_eq!((&*got, over), (&b"abc"[..], false));
        Ok(())
    }

    #[test]
    fn a_refusal_is_an_error() {
        assert!(fed("HTTP/1.1 403 Forbidden\r\n\r\n", 5).is_err());
    }
}

//! Publishes over one HTTP/1.1 connection, without waiting for the answers.
//!
//! Servers close a connection that asks for nothing, so each run has a new one.

use super::link::{Link, Open, Tls};
use super::{Tally, payload};
use crate::Error;

/// See the module's comment.
pub struct Publisher {
    link: Link,
    head: String,
    /// The number of the next event.
    next: u64,
    answered: u64,
    /// Answers that are not whole.
    partial: Vec<u8>,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn open(tls: &Tls, path: &str, authorization: &str) -> Result<Self, Error> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nauthorization: {authorization}\r\n\r\n",
            super::PAYLOAD
        );
        let link = connect(tls)?;
        Ok(Self {
            link,
            head,
            next: 0,
            answered: 0,
            partial: Vec::new(),
        })
    }

    /// Connects again. What has no answer yet gets none.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn reopen(&mut self, tls: &Tls) -> Result<(), Error> {
        self.link = connect(tls)?;
        self.answered = self.next;
        self.partial.clear();
        Ok(())
    }

    /// Sends so many events, in one write.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn send(&mut self, count: u64, tally: &Tally) -> Result<(), Error> {
        let mut text = String::new();
        for _ in 0..count {
            text.push_str(&self.head);
            text.push_str(&payload(self.next, tally.clock()));
            self.next += 1;
        }
        Ok(self.link.write(text.as_bytes())?)
    }

    /// Reads the answers that have come.
    ///
    /// # Errors
    /// If one is not 2xx, or the connection ends.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let partial = &mut self.partial;
        let open = self.link.read(buffer, |plain| {
            partial.extend_from_slice(plain);
            Ok(())
        })?;
        if open == Open::No {
            return Err("the server closed the publisher's connection".into());
        }
        while let Some(length) = answer(&self.partial)? {
            self.partial.drain(..length);
            self.answered += 1;
        }
        Ok(())
    }

    /// The number of the next event.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Events without an answer.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.next - self.answered
    }

    /// The connection, to wait for.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}

fn connect(tls: &Tls) -> Result<Link, Error> {
    let link = tls.connect(b"")?;
    link.unblock()?;
    Ok(link)
}

/// The length of the first answer, once it is whole.
fn answer(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 2") {
        return Err(format!("not published: {}", String::from_utf8_lossy(bytes)).into());
    }
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.ok_or("an answer without a length")?.trim().parse()?;
    let whole = end + 4 + length;
    Ok((bytes.len() >= whole).then_some(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body() -> Result<(), Error> {
        let text = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 202";
        assert_eq!(answer(&text[..44])?, None);
        assert_eq!(answer(text)?, Some(46));
        assert!(answer(b"HTTP/1.1 403 Forbidden\r\n\r\n").is_err());
        Ok(())
    }
}

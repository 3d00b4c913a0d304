//! One subscriber: reads server-sent events and checks that none is missing.

use super::{Tally, parse};

/// What stands before a payload.
const DATA: &[u8] = b"data: ";
const EVENT: &[u8] = b"event: ";

/// See the module's comment.
#[derive(Default)]
pub(super) struct Follower {
    /// The number of the next event; none has come yet while it is unknown.
    next: Option<u64>,
    /// The begin of a line whose end has not come.
    line: Vec<u8>,
    /// A gap was announced since the last event.
    gap: bool,
    /// The stream has said why it ends.
    told: bool,
    over: bool,
}

impl Follower {
    /// From this event on everything must come.
    pub(super) fn expect(&mut self, next: u64) {
        self.next = Some(next);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the next bytes of the body.
    pub(super) fn feed(&mut self, mut bytes: &[u8], tally: &mut Tally) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            if self.line.is_empty() {
                self.take(&line[..end], tally);
            } else {
                self.line.extend_from_slice(&line[..end]);
                let whole = std::mem::take(&mut self.line);
                self.take(&whole, tally);
            }
            bytes = rest;
        }
        self.line.extend_from_slice(bytes);
    }

    fn take(&mut self, line: &[u8], tally: &mut Tally) {
        if let Some(data) = line.strip_prefix(DATA) {
            if let Some((number, sent)) = parse(data) {
                self.event(number, sent, tally);
            }
        } else if let Some(name) = line.strip_prefix(EVENT) {
            self.gap |= name == b"ir.gap";
            self.told |= name == b"ir.error";
        }
    }

    fn event(&mut self, number: u64, sent: u64, tally: &mut Tally) {
        let next = self.next.unwrap_or(number);
        if number < next {
            tally.repeated += 1;
            return;
        }
        self.miss(next, number, tally);
        self.gap = false;
        self.next = Some(number + 1);
        tally.deliver(sent);
        tally.pass(next, number + 1);
    }

    fn miss(&self, from: u64, to: u64, tally: &mut Tally) {
        let missed = to.saturating_sub(from);
        if self.gap || self.told {
            tally.announced += missed;
        } else {
            tally.lost += missed;
        }
    }

    /// Nothing more comes of events before `next`: what is missing now is lost.
    pub(super) fn settle(&mut self, next: u64, tally: &mut Tally) {
        if let Some(from) = self.next {
            self.miss(from, next, tally);
        }
        self.next = Some(next);
    }

    /// The stream has ended.
    pub(super) fn end(&mut self, tally: &mut Tally) {
        if !std::mem::replace(&mut self.over, true) {
            match self.told {
                true => tally.told += 1,
                false => tally.cut += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::payload;

    fn sse(number: u64) -> String {
        format!(
            "id: 1-{number}\nevent: load\ndata: {}\n\n",
            payload(number, 0)
        )
    }

    fn followed(text: &str, chunk: usize) -> Tally {
        let (mut tally, mut follower) = (Tally::default(), Follower::default());
        follower.expect(1);
        for part in text.as_bytes().chunks(chunk) {
            follower.feed(part, &mut tally);
        }
        follower.settle(5, &mut tally);
        tally
    }

    #[test]
    fn what_comes_in_order_is_delivered_however_it_is_cut() {
        let text = [1, 2, 3, 4].map(sse).concat();
        for chunk in [1, 7, 300, 5000] {
            let tally = followed(&text, chunk);
            assert_eq!((tally.delivered, tally.lost), (4, 0));
        }
    }

    #[test]
    fn a_hole_is_a_loss_unless_a_gap_was_announced() {
        let tally = followed(&[1, 4].map(sse).concat(), 100);
        assert_eq!((tally.delivered, tally.lost, tally.announced), (2, 2, 0));
        let gap = "id: 1-3\nevent: ir.gap\ndata: {}\n\n";
        let tally = followed(&[&sse(1), gap, &sse(4)].concat(), 100);
        assert_eq!((tally.delivered, tally.lost, tally.announced), (2, 0, 2));
    }

    #[test]
    fn what_never_came_is_lost_unless_the_stream_said_its_end() {
        assert_eq!(followed(&sse(1), 100).lost, 3);
        let tally = followed(&(sse(1) + "event: ir.error\ndata: {}\n\n"), 100);
        assert_eq!((tally.lost, tally.announced), (0, 3));
    }

    #[test]
    fn an_event_that_comes_again_is_no_delivery() {
        let tally = followed(&[1, 2, 2, 1, 3, 4].map(sse).concat(), 100);
        assert_eq!((tally.delivered, tally.repeated, tally.lost), (4, 2, 0));
    }
}

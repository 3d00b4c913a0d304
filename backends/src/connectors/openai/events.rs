//! Reads server-sent events from bytes that come in any pieces.
//!
//! Owns lines, comments and the joining of `data` fields; other fields are left out, as this API
//! gives them no meaning. It does not own what the data says. An event that the bytes break off in
//! is never given out, as the format wants it. It fails with [`TooLarge`] when a line and the
//! event that it belongs to are together larger than the bound, in bytes.

use bytes::{Buf, Bytes};

/// An event, or one of its lines, is larger than is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Where the reading stands between two pieces.
#[derive(Debug)]
pub(super) struct EventReader {
    line: Vec<u8>,
    /// The `data` of the event so far, each line with its end.
    data: Vec<u8>,
    /// The last line ended with CR, so an LF that comes next belongs to it.
    after_cr: bool,
    first_line: bool,
    most: usize,
}

impl EventReader {
    pub(super) fn new(most: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            after_cr: false,
            first_line: true,
            most,
        }
    }

    /// Takes from `input` up to the end of an event and gives back its data; without an end, it
    /// takes all. Events without data are left out.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Vec<u8>>, TooLarge> {
        loop {
            if self.after_cr && !input.is_empty() {
                self.after_cr = false;
                if input[0] == b'\n' {
                    input.advance(1);
                }
            }
            let Some(end) = input.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                self.extend_line(input)?;
                input.clear();
                return Ok(None);
            };
            self.extend_line(&input[..end])?;
            self.after_cr = input[end] == b'\r';
            input.advance(end + 1);
            if let Some(event) = self.end_line() {
                return Ok(Some(event));
            }
        }
    }

    fn extend_line(&mut self, piece: &[u8]) -> Result<(), TooLarge> {
        if self.line.len() + self.data.len() + piece.len() > self.most {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(piece);
        Ok(())
    }

    /// Takes the line in; an empty one ends the event.
    fn end_line(&mut self) -> Option<Vec<u8>> {
        let mut line = std::mem::take(&mut self.line);
        let mut text = line.as_slice();
        if std::mem::take(&mut self.first_line) {
            text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        }
        if text.is_empty() {
            let mut event = std::mem::take(&mut self.data);
            event.pop();
            return (!event.is_empty()).then_some(event);
        }
        if let Some(value) = data_field(text) {
            self.data.extend_from_slice(value);
            self.data.push(b'\n');
        }
        line.clear();
        self.line = line;
        None
    }
}

/// The value, if the field's name is `data`. A line without a colon is a name alone.
fn data_field(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"data")? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, TooLarge> {
        let mut reader = EventReader::new(64);
        let mut events = Vec::new();
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(event) = reader.next(&mut input)? {
                events.push(String::from_utf8(event).unwrap());
            }
        }
        Ok(events)
    }

    #[test]
    fn an_event_is_the_data_before_an_empty_line() {
        assert_eq!(
            read(&[b"data: one\n\ndata:two\n\n"]).unwrap(),
            ["one", "two"]
        );
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        let text = b"data: one\r\rdata: two\r\n\r\ndata: three\n\n";
        assert_eq!(read(&[text]).unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn cr_and_lf_together_are_one_line_end_even_when_they_come_apart() {
        let pieces: [&[u8]; 3] = [b"data: one\r", b"\ndata: two\r\n\r", b"\n"];
        assert_eq!(read(&pieces).unwrap(), ["one\ntwo"]);
    }

    #[test]
    fn many_data_lines_are_one_event() {
        assert_eq!(
            read(&[b"data: {\ndata:\ndata\ndata: }\n\n"]).unwrap(),
            ["{\n\n\n}"]
        );
    }

    #[test]
    fn comments_and_other_fields_are_left_out() {
        let text = b": ping\n\nevent: x\nid: 1\ndatax: no\nretry: 3\ndata: yes\n\nid: 2\n\n";
        assert_eq!(read(&[text]).unwrap(), ["yes"]);
    }

    #[test]
    fn one_space_after_the_colon_belongs_to_the_format_and_no_more() {
        assert_eq!(read(&[b"data:  two \n\n"]).unwrap(), [" two "]);
    }

    #[test]
    fn a_byte_order_mark_is_left_out_at_the_start_alone() {
        let text = "\u{feff}data: one\n\n\u{feff}data: two\n\n";
        assert_eq!(read(&[text.as_bytes()]).unwrap(), ["one"]);
    }

    #[test]
    fn an_event_that_breaks_off_is_not_given_out() {
        assert_eq!(read(&[b"data: one\n\ndata: two\n"]).unwrap(), ["one"]);
    }

    #[test]
    fn an_endless_line_is_given_up_at_the_bound() {
        let line = [b'x'; 65];
        assert_eq!(read(&[&line]), Err(TooLarge));
        assert_eq!(read(&[&line[..64]]), Ok(vec![]));
        assert_eq!(read(&[&line[..64], b"x"]), Err(TooLarge));
    }

    #[test]
    fn an_endless_event_is_given_up_at_the_bound() {
        let line: &[u8] = b"data: 1234567890\n";
        assert_eq!(read(&[line; 20]), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn the_events_are_the_same_however_the_bytes_are_cut(
            text in "(data|:|: |\r|\n|\r\n|\n\n|x|\u{e9}|\u{feff}){0,40}",
            cuts in proptest::collection::vec(1_usize..8, 0..200),
        ) {
            let mut rest = text.as_bytes();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            pieces.push(rest);
            prop_assert_eq!(read(&pieces), read(&[text.as_bytes()]));
        }
    }
}

//! Looks over a template before the parser does, which descends on the stack: once per block that
//! is open, and once per parenthesis within a tag; and which at every backslash looks again at all
//! that follow in a row.
//!
//! Owns finding the tags, by the same rules as the grammar, and four counts. What it lets pass
//! cannot nest deeper than they say, and takes time in proportion to its length; whether it is a
//! template at all is the parser's to judge. It refuses by name what is not available anyway
//! (partials, decorators, raw blocks), and brackets and braces within a tag, so that only
//! parentheses nest there.

use super::TemplateFault;

/// Most tags of a template.
pub(super) const TAGS: usize = 256;
/// Most tags that open a block or a branch of one.
pub(super) const BLOCK_TAGS: usize = 32;
/// Most backslashes in a row, wherever they stand.
pub(super) const BACKSLASHES: usize = 16;
/// Most parentheses that are open at a time within a tag.
pub(super) const PARENTHESES: usize = 8;
// The text of the fault says so.
const _: () = assert!(PARENTHESES == 8);

/// Says whether the parser may have `source`.
pub(super) fn scan(source: &str) -> Result<(), TemplateFault> {
    let bytes = source.as_bytes();
    if let Some(start) = find(bytes, 0, &[b'\\'; BACKSLASHES + 1]) {
        let why = format!("expected at most {BACKSLASHES} backslashes in a row");
        return Err(TemplateFault::at(source, start, why));
    }
    let (mut tags, mut blocks, mut at) = (0, 0, 0);
    while let Some(start) = find_tag(bytes, at) {
        let refuse = |why: String| TemplateFault::at(source, start, why);
        tags += 1;
        if tags > TAGS {
            return Err(refuse(format!("expected at most {TAGS} tags")));
        }
        let tag = Tag::new(bytes, start).map_err(|why| refuse(why.to_owned()))?;
        blocks += usize::from(tag.opens);
        if blocks > BLOCK_TAGS {
            let why = format!("expected at most {BLOCK_TAGS} tags that open a block or a branch");
            return Err(refuse(why));
        }
        at = tag.end;
    }
    Ok(())
}

/// The next `{{` that is not escaped. One backslash before it escapes it; several escape each
/// other.
fn find_tag(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            b'\\' => {
                let run = bytes.iter().skip(at).take_while(|b| **b == b'\\').count();
                at += run;
                if run == 1 && starts(bytes, at, b"{{") {
                    at += if starts(bytes, at + 2, b"{{") { 4 } else { 2 };
                }
            }
            b'{' if starts(bytes, at, b"{{") => return Some(at),
            _ => at += 1,
        }
    }
}

fn starts(bytes: &[u8], at: usize, with: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(with))
}

fn find(bytes: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let place = rest.windows(wanted.len()).position(|one| one == wanted)?;
    Some(from + place)
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    let space = |b: &&u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    at + bytes.iter().skip(at).take_while(space).count()
}

struct Tag {
    /// It opens a block, or a branch of one (which nests within the branch before).
    opens: bool,
    /// After its last brace; the end of the text if it has none, which the parser refuses.
    end: usize,
}

impl Tag {
    fn new(bytes: &[u8], start: usize) -> Result<Self, &'static str> {
        let mut at = start + 2;
        if starts(bytes, at, b"!") {
            return Ok(Self {
                opens: false,
                end: comment_end(bytes, at + 1),
            });
        }
        if starts(bytes, at, b"{{") {
            return Err("raw blocks are not available; write \\{{ for two braces");
        }
        if starts(bytes, at, b"{") {
            at += 1;
        }
        if starts(bytes, at, b"~") {
            at += 1;
        }
        at = skip_space(bytes, at);
        let mut opens = starts(bytes, at, b"^") || starts(bytes, at, b"else");
        if starts(bytes, at, b"#") {
            opens = true;
            at = skip_space(bytes, at + 1);
        }
        if starts(bytes, at, b">") {
            return Err("partials are not available");
        }
        if starts(bytes, at, b"*") {
            return Err("decorators are not available");
        }
        let end = body_end(bytes, at)?;
        Ok(Self { opens, end })
    }
}

/// From after `{{!`. Only a comment that begins with two dashes may hold two braces.
fn comment_end(bytes: &[u8], at: usize) -> usize {
    let dashes = skip_space(bytes, at);
    let long = starts(bytes, dashes, b"--").then(|| find(bytes, dashes + 2, b"--}}"));
    if let Some(Some(end)) = long {
        return end + 4;
    }
    find(bytes, at, b"}}").map_or(bytes.len(), |end| end + 2)
}

fn body_end(bytes: &[u8], mut at: usize) -> Result<usize, &'static str> {
    let mut open = 0_usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => at = string_end(bytes, at, *byte),
            b'}' if starts(bytes, at, b"}}") => return Ok(at + 2),
            b'{' | b'[' => {
                return Err("brackets and braces are not available within a tag; use lookup");
            }
            b'(' => {
                open += 1;
                if open > PARENTHESES {
                    return Err("too many parentheses are open; expected at most 8");
                }
                at += 1;
            }
            b')' => {
                open = open.saturating_sub(1);
                at += 1;
            }
            _ => at += 1,
        }
    }
    Ok(bytes.len())
}

/// After the quote that ends the string which begins at `at`.
fn string_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut at = at + 1;
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'\\' => 2,
            _ => 1,
        };
        if *byte == quote {
            break;
        }
    }
    at
}

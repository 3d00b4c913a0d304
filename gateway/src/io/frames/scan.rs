//! Reads the heads of frames as they pass, and counts; see [`super`].

use std::time::Duration;

use tokio::time::Instant;

/// How long frames are counted before counting begins anew.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n` (RFC 9113, 3.4); h2 checks it.
pub(super) const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
/// The largest frame that a client may send (RFC 9113, 4.2): h2 announces no
/// other.
const FRAME_BYTES: u32 = 16 * 1024;

pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

/// Frames that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Ping,
    Pong,
    Settings,
    Reset,
    WindowUpdate,
    Priority,
    Oversize,
}

/// What a client may send: `base` frames in a [`WINDOW`], and one more for
/// each `bytes_per_more` bytes that were written to it.
struct Allowance {
    base: u64,
    bytes_per_more: u64,
    reason: &'static str,
}

const COUNTED: usize = 7;

/// By [`Counted`]. PONGs are bytes written too: 32 for one more PING keep
/// them from paying for themselves.
const ALLOWANCES: [Allowance; COUNTED] = [
    Allowance::new(1_000, 32, "ping_flood"),
    Allowance::new(10, u64::MAX, "ping_flood"),
    Allowance::new(100, u64::MAX, "settings_flood"),
    Allowance::new(2_000, 32, "reset_flood"),
    Allowance::new(20_000, 16, "window_flood"),
    Allowance::new(2_000, 32, "priority_flood"),
    Allowance::new(20, u64::MAX, "header_flood"),
];

impl Allowance {
    const fn new(base: u64, bytes_per_more: u64, reason: &'static str) -> Self {
        Self {
            base,
            bytes_per_more,
            reason,
        }
    }
}

/// The frame types that matter here (RFC 9113, 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// Where in the stream of frames a connection is, and what it has counted.
pub(super) struct Scan {
    /// Bytes that still belong to the preface or to the frame that has begun.
    skip: usize,
    head: [u8; HEAD_BYTES],
    /// How much of `head` is there; less than all of it.
    have: usize,
    /// The type of the last frame that has begun.
    kind: u8,
    /// Whether the header block that has begun has more frames to come.
    in_block: bool,
    block_bytes: usize,
    most_block_bytes: usize,
    continuations: u32,
    most_continuations: u32,
    /// Frames whose head is whole, wrapping: changes when something finished.
    pub(super) finished: u32,
    used: [u64; COUNTED],
    pub(super) written: u64,
    since: Instant,
}

impl Scan {
    pub(super) fn new(header_bytes: u32) -> Self {
        let frames = (header_bytes / FRAME_BYTES).max(1);
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            kind: kind::SETTINGS,
            in_block: false,
            block_bytes: 0,
            most_block_bytes: header_bytes as usize,
            continuations: 0,
            // At most what h2 allows, so that a flood has its name.
            most_continuations: (frames + frames / 4).max(4),
            finished: 0,
            used: [0; COUNTED],
            written: 0,
            since: Instant::now(),
        }
    }

    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + wanted].copy_from_slice(&bytes[..wanted]);
            self.have += wanted;
            bytes = &bytes[wanted..];
            if self.have < HEAD_BYTES {
                return Ok(());
            }
            self.have = 0;
            self.frame()?;
        }
    }

    /// Judges the frame whose head is whole.
    fn frame(&mut self) -> Result<(), &'static str> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
        self.kind = kind;
        self.finished = self.finished.wrapping_add(u32::from(!self.in_block));
        match kind {
            kind::DATA | kind::GOAWAY => Ok(()),
            kind::HEADERS => {
                self.in_block = flags & END_HEADERS == 0;
                self.continuations = 0;
                self.block_bytes = 0;
                self.block()
            }
            kind::CONTINUATION => {
                self.in_block = flags & END_HEADERS == 0;
                self.continuations += 1;
                if self.continuations > self.most_continuations {
                    return Err("continuation_flood");
                }
                self.block()
            }
            kind::PING if flags & ACK != 0 => self.count(Counted::Pong),
            kind::PING => self.count(Counted::Ping),
            kind::SETTINGS => self.count(Counted::Settings),
            kind::RST_STREAM => self.count(Counted::Reset),
            kind::WINDOW_UPDATE => self.count(Counted::WindowUpdate),
            _ => self.count(Counted::Priority),
        }
    }

    /// Counts a header block once when it grows too large. h2 refuses it, with
    /// 431, and takes the next.
    fn block(&mut self) -> Result<(), &'static str> {
        let was_small = self.block_bytes <= self.most_block_bytes;
        self.block_bytes += self.skip;
        if was_small && self.block_bytes > self.most_block_bytes {
            return self.count(Counted::Oversize);
        }
        Ok(())
    }

    fn count(&mut self, counted: Counted) -> Result<(), &'static str> {
        let index = counted as usize;
        let allowance = &ALLOWANCES[index];
        self.used[index] += 1;
        let used = self.used[index];
        if used <= allowance.base
            || used <= allowance.base + self.written / allowance.bytes_per_more
        {
            return Ok(());
        }
        // The clock is read only by those who seem to send too much.
        let now = Instant::now();
        if now.duration_since(self.since) < WINDOW {
            return Err(allowance.reason);
        }
        self.since = now;
        self.used = [0; COUNTED];
        self.written = 0;
        Ok(())
    }

    /// Whether a frame's head or a header block has begun and not ended. A
    /// slow body is not: gRPC calls may be slow.
    pub(super) fn is_unfinished(&self) -> bool {
        let in_headers = matches!(self.kind, kind::HEADERS | kind::CONTINUATION);
        self.have > 0 || self.in_block || (self.skip > 0 && in_headers)
    }
}

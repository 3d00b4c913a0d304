//! What stands between a socket and HTTP/2: nothing of it knows a protocol.

mod read_ahead;
mod stall;
mod turns;

pub(crate) use read_ahead::ReadAhead;
pub(crate) use stall::StallGuard;
pub(crate) use turns::Turns;

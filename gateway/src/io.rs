//! What stands between a socket and HTTP/2: nothing of it knows a protocol.

mod batched;
mod buffers;
mod stall;
mod turns;

pub(crate) use batched::Batched;
pub(crate) use stall::StallGuard;
pub(crate) use turns::Turns;

//! What stands between a socket and HTTP/2. Only [`FrameGuard`]
//! and [`Heard`] know the protocol.

mod batched;
mod buffers;
mod frames;
mod gathered;
mod heard;
mod stall;
mod turns;

pub(crate) use batched::Batched;
pub(crate) use frames::{FrameGuard, Verdict};
pub(crate) use gathered::{Gathered, Hold};
pub(crate) use heard::{Ear, Heard};
pub(crate) use stall::StallGuard;
pub(crate) use turns::Turns;

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

/// The methods of a wrapper that its field `io` answers alone, as they would stand in an `impl`.
macro_rules! pass_on {
    ($($method:ident)*) => { $($crate::io::pass_on!(@$method);)* };
    (@poll_read) => { $crate::io::pass_on!(@poll poll_read(buf: &mut tokio::io::ReadBuf<'_>), ()); };
    (@poll_write) => { $crate::io::pass_on!(@poll poll_write(buf: &[u8]), usize); };
    (@poll_write_vectored) => {
        $crate::io::pass_on!(@poll poll_write_vectored(bufs: &[std::io::IoSlice<'_>]), usize);
    };
    (@poll_flush) => { $crate::io::pass_on!(@poll poll_flush(), ()); };
    (@poll_shutdown) => { $crate::io::pass_on!(@poll poll_shutdown(), ()); };
    (@is_write_vectored) => {
        fn is_write_vectored(&self) -> bool {
            self.io.is_write_vectored()
        }
    };
    (@poll $method:ident($($arg:ident: $type:ty)?), $found:ty) => {
        fn $method(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            $($arg: $type)?
        ) -> std::task::Poll<std::io::Result<$found>> {
            std::pin::Pin::new(&mut self.io).$method(cx, $($arg)?)
        }
    };
}
pub(crate) use pass_on;

//! Prototype: a pass-through gateway on the h2 crate, server and client.
//!
//! One current-thread runtime, TLS outside, one mTLS connection to the upstream
//! per worker, no policy. Exists to be measured against `proto-hyper`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use intellirouter_bench::paced::Paced;
use intellirouter_bench::{CONNECTION_WINDOW, Error, MAX_STREAMS, STREAM_WINDOW, net, proxy};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    proxy: proxy::Options,
    /// Merge DATA frames that already wait, up to so many bytes; 0 is off.
    #[arg(long, default_value_t = 0)]
    merge: usize,
    /// Leave HTTP/2's windows at 64 KiB.
    #[arg(long)]
    small_windows: bool,
    /// Take what waits while the receiver is slow, and never let the upstream
    /// connection's window bind: a slow reader then holds its own stream's
    /// window of bytes and nothing that others need.
    #[arg(long)]
    drain: bool,
    /// Let other tasks run after so many bytes read from the upstream.
    #[arg(long, default_value_t = usize::MAX)]
    turn: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let acceptor = options.proxy.acceptor()?;
    let listener = net::listen(options.proxy.listen)?;
    let windows = if options.small_windows {
        (65_535, 65_535)
    } else {
        (STREAM_WINDOW, CONNECTION_WINDOW)
    };
    let connection_window = if options.drain {
        i32::MAX as u32
    } else {
        windows.1
    };
    let (upstream, connection) = h2::client::Builder::new()
        .initial_window_size(windows.0)
        .initial_connection_window_size(connection_window)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .enable_push(false)
        // The default kills this connection, and with it every call, when a few
        // slow readers leave small frames waiting in it.
        .data_frame_budget(64 << 20)
        .handshake::<_, Bytes>(Paced::new(options.proxy.upstream().await?, options.turn))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("upstream: {error}");
        }
    });
    let worker = Arc::new(Worker {
        acceptor,
        upstream,
        windows,
        merge: options.merge,
        drain: options.drain,
    });
    loop {
        let stream = net::accept(&listener).await;
        let worker = Arc::clone(&worker);
        tokio::spawn(async move {
            let _ = serve(stream, worker).await;
        });
    }
}

struct Worker {
    acceptor: TlsAcceptor,
    upstream: SendRequest<Bytes>,
    windows: (u32, u32),
    merge: usize,
    drain: bool,
}

async fn serve(stream: TcpStream, worker: Arc<Worker>) -> Result<(), Error> {
    let stream = worker.acceptor.accept(stream).await?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(worker.windows.0)
        .initial_connection_window_size(worker.windows.1)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake(stream)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        let (upstream, merge, drained) = (worker.upstream.clone(), worker.merge, worker.drain);
        tokio::spawn(async move {
            if forward(request, &mut respond, upstream, merge, drained)
                .await
                .is_err()
            {
                respond.send_reset(Reason::INTERNAL_ERROR);
            }
        });
    }
    Ok(())
}

async fn forward(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
    merge: usize,
    drained: bool,
) -> Result<(), h2::Error> {
    let (parts, body) = request.into_parts();
    let ended = body.is_end_stream();
    let mut upstream = upstream.ready().await?;
    let (response, out) = upstream.send_request(Request::from_parts(parts, ()), ended)?;
    let up = async {
        if ended {
            Ok(())
        } else {
            pump(body, out, merge).await
        }
    };
    let down = async {
        let (parts, body) = response.await?.into_parts();
        let ended = body.is_end_stream();
        let out = respond.send_response(Response::from_parts(parts, ()), ended)?;
        if ended {
            Ok(())
        } else {
            if drained {
                drain(body, out).await
            } else {
                pump(body, out, merge).await
            }
        }
    };
    tokio::try_join!(up, down).map(|_| ())
}

async fn pump(
    mut from: RecvStream,
    mut to: SendStream<Bytes>,
    merge: usize,
) -> Result<(), h2::Error> {
    while let Some(chunk) = from.data().await {
        let mut chunk = chunk?;
        if chunk.len() < merge {
            chunk = gather(chunk, &mut from, merge).await?;
        }
        let (size, last) = (chunk.len(), from.is_end_stream());
        send(&mut to, chunk, last).await?;
        from.flow_control().release_capacity(size)?;
        if last {
            return Ok(());
        }
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers),
        None => to.send_data(Bytes::new(), true),
    }
}

/// The most that one DATA frame takes; also what is asked of the receiver at once.
const PART: usize = 16 * 1024;

/// Like `pump`, but goes on taking frames while the receiver has no room. What
/// it holds is bounded by the stream's window, since credit is given back only
/// after the send.
async fn drain(mut from: RecvStream, mut to: SendStream<Bytes>) -> Result<(), h2::Error> {
    let mut held = BytesMut::new();
    let mut whole = Bytes::new();
    loop {
        let ended = poll_fn(|context| take(&mut from, &mut held, &mut whole, &mut to, context));
        let ended = ended.await?;
        while !(whole.is_empty() && held.is_empty()) {
            if whole.is_empty() {
                whole = held.split().freeze();
            }
            let room = to.capacity();
            if room == 0 {
                break;
            }
            let part = whole.split_to(room.min(whole.len()));
            let size = part.len();
            let last = whole.is_empty() && held.is_empty() && from.is_end_stream();
            to.send_data(part, last)?;
            from.flow_control().release_capacity(size)?;
            if last {
                return Ok(());
            }
            to.reserve_capacity((whole.len() + held.len()).min(PART));
        }
        if ended && whole.is_empty() && held.is_empty() {
            return match from.trailers().await? {
                Some(trailers) => to.send_trailers(trailers),
                None => to.send_data(Bytes::new(), true),
            };
        }
    }
}

/// Ready when there is something to send and room for it, or nothing more comes.
fn take(
    from: &mut RecvStream,
    held: &mut BytesMut,
    whole: &mut Bytes,
    to: &mut SendStream<Bytes>,
    context: &mut Context<'_>,
) -> Poll<Result<bool, h2::Error>> {
    let ended = loop {
        // Enough for one send; the rest may wait in the connection while there is room.
        if to.capacity() > 0 && held.len() >= PART {
            break false;
        }
        match from.poll_data(context) {
            Poll::Pending => break false,
            Poll::Ready(None) => break true,
            Poll::Ready(Some(chunk)) => {
                let chunk = chunk?;
                if whole.is_empty() && held.is_empty() {
                    *whole = chunk;
                } else {
                    if held.is_empty() && whole.len() < PART {
                        held.reserve(PART);
                        held.extend_from_slice(whole);
                        *whole = Bytes::new();
                    }
                    held.extend_from_slice(&chunk);
                }
            }
        }
    };
    let waiting = whole.len() + held.len();
    if waiting == 0 {
        return if ended {
            Poll::Ready(Ok(true))
        } else {
            Poll::Pending
        };
    }
    to.reserve_capacity(waiting.min(PART));
    if to.capacity() > 0 {
        return Poll::Ready(Ok(ended));
    }
    match to.poll_capacity(context) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(ended)),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
        Poll::Ready(None) => Poll::Ready(Err(Reason::CANCEL.into())),
    }
}

/// Appends what already waits, up to `limit` bytes; never waits for more.
async fn gather(first: Bytes, from: &mut RecvStream, limit: usize) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    let mut only = Some(first);
    loop {
        // A frame once taken cannot be put back, so the last may pass the limit.
        let next = poll_fn(|context| match from.poll_data(context) {
            Poll::Ready(next) => Poll::Ready(next),
            Poll::Pending => Poll::Ready(None),
        });
        let Some(next) = next.await else { break };
        if let Some(first) = only.take() {
            whole.reserve(limit);
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&next?);
        if whole.len() >= limit {
            break;
        }
    }
    Ok(only.unwrap_or_else(|| whole.freeze()))
}

async fn send(to: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), h2::Error> {
    to.reserve_capacity(data.len());
    while to.capacity() < data.len() {
        let Some(capacity) = poll_fn(|context| to.poll_capacity(context)).await else {
            return Err(Reason::CANCEL.into());
        };
        let part = data.split_to(capacity?.min(data.len()));
        to.send_data(part, last && data.is_empty())?;
        if data.is_empty() {
            return Ok(());
        }
        to.reserve_capacity(data.len());
    }
    to.send_data(data, last)
}

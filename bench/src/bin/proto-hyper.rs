//! Prototype: a pass-through gateway on hyper's HTTP/2 server and client.
//!
//! One current-thread runtime, TLS outside, one mTLS connection to the upstream
//! per worker, no policy. Exists to be measured against `proto-h2`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use clap::Parser;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
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
    /// Let other tasks run after so many bytes read from the upstream.
    #[arg(long, default_value_t = usize::MAX)]
    turn: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let acceptor = options.proxy.acceptor()?;
    let listener = net::listen(options.proxy.listen)?;
    let io = TokioIo::new(Paced::new(options.proxy.upstream().await?, options.turn));
    let (upstream, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .handshake::<_, Incoming>(io)
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("upstream: {error:?}");
        }
    });
    loop {
        let stream = net::accept(&listener).await;
        let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
        tokio::spawn(async move {
            let _ = serve(stream, acceptor, upstream, options.merge).await;
        });
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    upstream: SendRequest<Incoming>,
    limit: usize,
) -> Result<(), Error> {
    let stream = acceptor.accept(stream).await?;
    let service = service_fn(move |request| {
        let mut upstream = upstream.clone();
        async move {
            let response = upstream.send_request(request).await?;
            Ok::<_, hyper::Error>(response.map(|inner| Merge {
                inner,
                limit,
                next: None,
            }))
        }
    });
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// A body whose waiting data frames come out as one, up to `limit` bytes.
struct Merge {
    inner: Incoming,
    limit: usize,
    /// What came after the merged frames and is not data.
    next: Option<Result<Frame<Bytes>, hyper::Error>>,
}

impl Body for Merge {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next));
        }
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let first = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(other)) => return Poll::Ready(Some(Ok(other))),
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        Poll::Ready(Some(Ok(Frame::data(self.gather(first, context)))))
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && self.inner.is_end_stream()
    }
}

impl Merge {
    fn gather(&mut self, first: Bytes, context: &mut Context<'_>) -> Bytes {
        let mut whole = BytesMut::new();
        let mut size = first.len();
        while size < self.limit {
            let Poll::Ready(Some(frame)) = Pin::new(&mut self.inner).poll_frame(context) else {
                break;
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => {
                    if whole.is_empty() {
                        whole.reserve(self.limit);
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&data);
                    size += data.len();
                }
                Ok(Err(other)) => self.next = Some(Ok(other)),
                Err(error) => self.next = Some(Err(error)),
            }
            if self.next.is_some() {
                break;
            }
        }
        if whole.is_empty() {
            first
        } else {
            whole.freeze()
        }
    }
}

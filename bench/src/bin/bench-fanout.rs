//! The least that fans events out: TLS, a ring of frames, a task per subscriber
//! that writes what is new as one chunk. No HTTP library, no token, no channels, no
//! log, no resume: what the gateway does beyond this is its price.
//!
//! GET follows, POST publishes; one thread. A subscriber that falls behind by
//! [`KEPT`] events is closed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use clap::Parser;
use intellirouter_bench::{Error, net, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Events that the ring keeps.
const KEPT: usize = 65_536;
/// What one chunk takes, in bytes: one TLS record with its size and line ends.
const CHUNK: usize = 16 * 1024 - 16;
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n";
const PUBLISHED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[command(flatten)]
    identity: tls::Identity,
}

#[derive(Default)]
struct Ring {
    frames: VecDeque<Bytes>,
    /// The number of the first of them.
    first: u64,
}

struct Feed {
    ring: RefCell<Ring>,
    appended: watch::Sender<()>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let options = Options::parse();
    let mut config = tls::server(&options.identity, None)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // As the gateway: a ticket costs more than it saves here.
    config.send_tls13_tickets = 1;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = net::listen(options.listen)?;
    let feed = Rc::new(Feed {
        ring: RefCell::default(),
        appended: watch::Sender::new(()),
    });
    let accept = async move {
        loop {
            let (socket, acceptor, feed) =
                (net::accept(&listener).await, acceptor.clone(), feed.clone());
            tokio::task::spawn_local(async move {
                // A client that is gone concerns nobody else.
                if let Ok(stream) = Box::pin(acceptor.accept(socket)).await {
                    tokio::task::spawn_local(async move { serve(stream, &feed).await });
                }
            });
        }
    };
    LocalSet::new().run_until(accept).await
}

async fn serve(mut stream: TlsStream<TcpStream>, feed: &Feed) -> Result<(), Error> {
    let mut got = BytesMut::new();
    loop {
        let Some(end) = got.windows(4).position(|part| part == b"\r\n\r\n") else {
            if stream.read_buf(&mut got).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
        got.advance(end + 4);
        if head.starts_with("get") {
            drop((got, head));
            return Box::pin(follow(stream, feed)).await;
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.ok_or("a request without a length")?.trim().parse()?;
        while got.len() < length {
            stream.read_buf(&mut got).await?;
        }
        feed.publish(&got.split_to(length));
        stream.write_all(PUBLISHED).await?;
        stream.flush().await?;
    }
}

impl Feed {
    fn publish(&self, payload: &[u8]) {
        let mut ring = self.ring.borrow_mut();
        let id = ring.first + ring.frames.len() as u64;
        let head = format!("id: 1-{id}\nevent: tick\ndata: ");
        ring.frames
            .push_back([head.as_bytes(), payload, b"\n\n"].concat().into());
        if ring.frames.len() > KEPT {
            ring.frames.pop_front();
            ring.first += 1;
        }
        drop(ring);
        self.appended.send_replace(());
    }

    /// One chunk of what comes at `next`; `None` if that is no longer there.
    fn chunk(&self, next: &mut u64) -> Option<Vec<u8>> {
        let ring = self.ring.borrow();
        let from = usize::try_from(next.checked_sub(ring.first)?).ok()?;
        let mut size = 0;
        let frames: Vec<&Bytes> = ring
            .frames
            .iter()
            .skip(from)
            .take_while(|frame| {
                size += frame.len();
                size <= CHUNK
            })
            .collect();
        *next += frames.len() as u64;
        let size: usize = frames.iter().map(|frame| frame.len()).sum();
        let mut chunk = Vec::with_capacity(size + 16);
        if size > 0 {
            chunk.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            frames
                .iter()
                .for_each(|frame| chunk.extend_from_slice(frame));
            chunk.extend_from_slice(b"\r\n");
        }
        Some(chunk)
    }
}

async fn follow(mut stream: TlsStream<TcpStream>, feed: &Feed) -> Result<(), Error> {
    stream.write_all(HEAD.as_bytes()).await?;
    stream.flush().await?;
    let mut appended = feed.appended.subscribe();
    let mut next = {
        let ring = feed.ring.borrow();
        ring.first + ring.frames.len() as u64
    };
    let mut unexpected = [0; 16];
    loop {
        appended.mark_unchanged();
        let chunk = feed
            .chunk(&mut next)
            .ok_or("a subscriber is too far behind")?;
        if !chunk.is_empty() {
            stream.write_all(&chunk).await?;
            stream.flush().await?;
            continue;
        }
        tokio::select! {
            biased;
            changed = appended.changed() => changed?,
            _ = stream.read(&mut unexpected) => return Ok(()),
        }
    }
}

//! Subscribers of one channel and their publisher, told what to do on stdin.
//!
//! One thread waits for all connections at once; it reads, decrypts, takes
//! frames apart and counts. Each line of input is answered by one JSON object:
//!
//! - `open N`: so many subscribers, those before included. `{"subscribers"}`
//! - `window W EVENTS`: publishes so many events. Event k is sent as soon as every
//!   subscriber has got event k - W, so W events are outstanding: sent, and not
//!   yet with everybody.
//! - `rate R SECONDS`: publishes R events a second, at an even pace.
//! - `flat SECONDS`: publishes without a pause, and waits neither for subscribers
//!   nor for answers but so that at most 256 are under way.
//!
//! The last three end when every subscriber has got everything or its stream has
//! ended, or when nothing more came for two seconds; what then is missing is
//! lost. Latency is from right before an event is sent to when its bytes were
//! read. Fails on the first thing that is not as it should be.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use intellirouter_bench::Error;
use intellirouter_bench::feed::{Http1, Http2, Link, Publisher, Tally, Tls};
use rustix::event::{Timespec, epoll};

/// Answers of the publisher that `flat` lets be under way.
const UNDER_WAY: u64 = 256;
/// Nothing comes for so long: nothing more will.
const QUIET: Duration = Duration::from_secs(2);
/// How long nobody looks whether something has come, when nothing had.
const PAUSE: Duration = Duration::from_micros(50);
const READ_BYTES: usize = 256 * 1024;
const PUBLISHER: u64 = u64::MAX;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    ca: PathBuf,
    /// File with the value of the `authorization` header.
    #[arg(long)]
    authorization_file: PathBuf,
    /// Path and query that subscribe.
    #[arg(long)]
    subscribe: String,
    /// Path that publishes.
    #[arg(long)]
    publish: String,
    /// Subscribers on one HTTP/2 connection; 0: one on each of HTTP/1.1.
    #[arg(long, default_value_t = 0)]
    streams: usize,
}

fn main() -> Result<(), Error> {
    let mut load = Load::new(Options::parse())?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["open", count] => load.open(count.parse()?)?,
            ["window", size, events] => load.window(size.parse()?, events.parse()?)?,
            ["rate", rate, seconds] => load.rate(rate.parse()?, seconds.parse()?)?,
            ["flat", seconds] => load.flat(seconds.parse()?)?,
            _ => return Err(format!("no such command: {line}").into()),
        }
    }
    Ok(())
}

/// A connection with its subscribers.
enum Peer {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

impl Peer {
    fn link(&self) -> &Link {
        match self {
            Self::Http1(peer) => peer.link(),
            Self::Http2(peer) => peer.link(),
        }
    }

    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally) -> Result<bool, Error> {
        match self {
            Self::Http1(peer) => peer.read(buffer, tally),
            Self::Http2(peer) => peer.read(buffer, tally),
        }
    }

    fn expect(&mut self, next: u64) {
        match self {
            Self::Http1(peer) => peer.expect(next),
            Self::Http2(peer) => peer.expect(next),
        }
    }

    fn settle(&mut self, next: u64, tally: &mut Tally) {
        match self {
            Self::Http1(peer) => peer.settle(next, tally),
            Self::Http2(peer) => peer.settle(next, tally),
        }
    }
}

struct Load {
    options: Options,
    authorization: String,
    plain: Tls,
    multiplexed: Tls,
    epoll: OwnedFd,
    peers: Vec<Peer>,
    subscribers: usize,
    publisher: Publisher,
    tally: Tally,
    buffer: Vec<u8>,
    ready: Vec<epoll::Event>,
}

impl Load {
    fn new(options: Options) -> Result<Self, Error> {
        let file = &options.authorization_file;
        let authorization = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let plain = Tls::new(options.to, &options.ca, "http/1.1")?;
        let publisher = Publisher::open(&plain, &options.publish, &authorization)?;
        let multiplexed = Tls::new(options.to, &options.ca, "h2")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            options,
            authorization,
            plain,
            multiplexed,
            epoll,
            peers: Vec::new(),
            subscribers: 0,
            publisher,
            tally: Tally::default(),
            buffer: vec![0; READ_BYTES],
            ready: Vec::with_capacity(1024),
        })
    }

    fn open(&mut self, count: usize) -> Result<(), Error> {
        while self.subscribers < count {
            let (path, authorization) = (&self.options.subscribe, &self.authorization);
            let (buffer, tally) = (&mut self.buffer, &mut self.tally);
            let mut peer = match self.options.streams {
                0 => {
                    self.subscribers += 1;
                    let peer = Http1::open(&self.plain, path, authorization, buffer, tally)?;
                    Peer::Http1(Box::new(peer))
                }
                most => {
                    let streams = most.min(count - self.subscribers);
                    self.subscribers += streams;
                    let peer = Http2::open(
                        &self.multiplexed,
                        path,
                        authorization,
                        streams,
                        buffer,
                        tally,
                    )?;
                    Peer::Http2(Box::new(peer))
                }
            };
            peer.expect(self.publisher.next());
            watch(&self.epoll, peer.link(), self.peers.len() as u64)?;
            self.peers.push(peer);
        }
        println!(r#"{{"subscribers":{}}}"#, self.subscribers);
        Ok(())
    }

    fn window(&mut self, size: u64, events: u64) -> Result<(), Error> {
        let began = self.begin()?;
        let last = self.publisher.next() + events;
        loop {
            let free = self.tally.reached(self.subscribers) + size;
            let count = free.min(last).saturating_sub(self.publisher.next());
            if count > 0 {
                self.publisher.send(count, &self.tally)?;
            }
            if self.is_done() && self.publisher.next() == last {
                break;
            }
            if !self.wait(QUIET)? {
                break;
            }
        }
        self.report(began)
    }

    fn rate(&mut self, rate: f64, seconds: f64) -> Result<(), Error> {
        let began = self.begin()?;
        for event in 0..(rate * seconds) as u64 {
            let due = began + Duration::from_secs_f64(event as f64 / rate);
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                self.wait(left)?;
            }
            self.publisher.send(1, &self.tally)?;
        }
        self.drain()?;
        self.report(began)
    }

    fn flat(&mut self, seconds: f64) -> Result<(), Error> {
        let began = self.begin()?;
        let end = began + Duration::from_secs_f64(seconds);
        while Instant::now() < end {
            let free = UNDER_WAY.saturating_sub(self.publisher.unanswered());
            if free > 0 {
                self.publisher.send(free, &self.tally)?;
            }
            self.wait(QUIET)?;
        }
        self.drain()?;
        self.report(began)
    }

    fn begin(&mut self) -> Result<Instant, Error> {
        self.publisher.reopen(&self.plain)?;
        watch(&self.epoll, self.publisher.link(), PUBLISHER)?;
        self.tally.restart(self.publisher.next());
        Ok(Instant::now())
    }

    fn is_done(&mut self) -> bool {
        self.tally.reached(self.subscribers) == self.publisher.next()
    }

    fn drain(&mut self) -> Result<(), Error> {
        while !self.is_done() && self.wait(QUIET)? {}
        Ok(())
    }

    /// Reads what comes, for so long; whether anything has. Nothing ever wakes it: that would be the
    /// server's work, and who reads over a network needs none of that. Nor does it look without a
    /// pause: the list of what is ready is one that the server's kernel writes to.
    fn wait(&mut self, long: Duration) -> Result<bool, Error> {
        let end = Instant::now() + long;
        self.ready.clear();
        loop {
            let ready = rustix::buffer::spare_capacity(&mut self.ready);
            epoll::wait(&self.epoll, ready, Some(&Timespec::default()))?;
            let left = end.saturating_duration_since(Instant::now());
            if !self.ready.is_empty() || left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(PAUSE));
        }
        let ready = std::mem::take(&mut self.ready);
        for event in &ready {
            let number = event.data.u64();
            if number == PUBLISHER {
                self.publisher.read(&mut self.buffer)?;
                continue;
            }
            let peer = usize::try_from(number)
                .ok()
                .and_then(|n| self.peers.get_mut(n));
            let Some(peer) = peer else { continue };
            self.tally.arrived();
            if !peer.read(&mut self.buffer, &mut self.tally)? {
                epoll::delete(&self.epoll, peer.link())?;
            }
        }
        let some = !ready.is_empty();
        self.ready = ready;
        Ok(some)
    }

    fn report(&mut self, began: Instant) -> Result<(), Error> {
        let seconds = began.elapsed().as_secs_f64();
        let next = self.publisher.next();
        for peer in &mut self.peers {
            peer.settle(next, &mut self.tally);
        }
        let tally = &mut self.tally;
        let [p50, p99] = [0.5, 0.99].map(|share| tally.quantile(share));
        println!(
            "{{\"seconds\":{seconds:.6},\"delivered\":{},\"lost\":{},\"announced\":{},\
             \"repeated\":{},\"told\":{},\"cut\":{},\"p50_us\":{p50},\"p99_us\":{p99}}}",
            tally.delivered, tally.lost, tally.announced, tally.repeated, tally.told, tally.cut,
        );
        Ok(())
    }
}

fn watch(epoll: &OwnedFd, link: &Link, number: u64) -> Result<(), Error> {
    let data = epoll::EventData::new_u64(number);
    Ok(epoll::add(epoll, link, data, epoll::EventFlags::IN)?)
}

//! Under paused time, against a peer in memory that is written frame by frame.

use h2::client::ResponseFuture;
use http::{Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::test_util::settle;

const SECOND: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 5;
const END_HEADERS: u8 = 4;
/// `:status: 200` (RFC 7541, appendix A).
const OK: &[u8] = &[0x88];

/// The other end of a connection.
struct Peer(DuplexStream);

struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

impl Peer {
    /// `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            payload,
        })
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Waits for a PING.
    async fn ping(&mut self) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection lives");
            if frame.kind == PING && frame.flags & ACK == 0 {
                return frame;
            }
        }
    }

    /// Waits for a PING and answers it; tells when it came.
    async fn answer_ping(&mut self) -> Instant {
        let frame = self.ping().await;
        let at = Instant::now();
        self.send(PING, ACK, 0, &frame.payload).await;
        at
    }

    /// Reads all that has been sent.
    async fn read_on(&mut self) {
        while tokio::time::timeout(SECOND / 1000, self.next())
            .await
            .is_ok()
        {}
    }

    /// `last` is the last stream that is served.
    async fn go_away(&mut self, last: u32) {
        let no_error = 0_u32;
        let payload = [last.to_be_bytes(), no_error.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    async fn give_credit(&mut self) {
        self.send(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).await;
    }
}

/// A connection, as the gateway has it.
struct Near {
    send: SendRequest<Bytes>,
    in_flight: Arc<AtomicUsize>,
    figures: UpstreamFigures,
}

impl Near {
    fn call(&mut self) -> ResponseFuture {
        let (response, _) = self.send.send_request(Request::new(()), true).unwrap();
        self.in_flight.fetch_add(1, Relaxed);
        response
    }
}

async fn open() -> (Near, Peer) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut peer = Peer(far);
    let in_flight = Arc::<AtomicUsize>::default();
    let figures = UpstreamFigures::default();
    let terms = Terms {
        name: "http://test:1".into(),
        limits: ConnectionsConfig {
            idle_timeout: 300 * SECOND,
            max_age: 3600 * SECOND,
            keepalive: KEEPALIVE,
            keepalive_timeout: TIMEOUT,
        },
        figures: figures.clone(),
        in_flight: in_flight.clone(),
    };
    let meeting = async {
        peer.0.read_exact(&mut [0; 24]).await.unwrap();
        peer.send(SETTINGS, 0, 0, &[]).await;
        peer.answer_ping().await;
    };
    let (send, ()) = tokio::join!(terms.open(near), meeting);
    let near = Near {
        send: send.unwrap(),
        in_flight,
        figures,
    };
    (near, peer)
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_silent_under_a_call_is_given_up_and_the_call_breaks() {
    let (mut near, mut peer) = open().await;
    let began = Instant::now();
    let response = near.call();
    let asked = async {
        peer.ping().await;
        assert_eq!(began.elapsed(), KEEPALIVE);
        // It says nothing, and stays open.
        while peer.next().await.is_some() {}
    };
    let (response, ()) = tokio::join!(response, asked);
    assert!(response.unwrap_err().is_io());
    assert_eq!(began.elapsed(), KEEPALIVE + TIMEOUT);
    settle().await;
    assert_eq!(near.figures.how_many_closed(Closed::Keepalive), 1);
    assert_eq!(near.figures.connections.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_ping_is_sent_while_there_is_no_call() {
    let (near, mut peer) = open().await;
    assert_eq!(near.figures.connections.get(), 1);
    let day = 24 * 3600 * SECOND;
    assert!(tokio::time::timeout(day, peer.ping()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn no_ping_is_sent_while_anything_comes() {
    let (mut near, mut peer) = open().await;
    let _waiting = near.call();
    for _ in 0..100 {
        peer.give_credit().await;
        let quiet = tokio::time::timeout(KEEPALIVE - SECOND, peer.ping()).await;
        assert!(quiet.is_err());
    }
    let began = Instant::now();
    peer.give_credit().await;
    peer.answer_ping().await;
    assert_eq!(began.elapsed(), KEEPALIVE);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_call_on_a_live_connection_goes_on_with_no_more_pings_than_grpc_servers_take() {
    let (mut near, mut peer) = open().await;
    let mut waiting = near.call();
    let mut before = Instant::now();
    let mut distance = |at| at - std::mem::replace(&mut before, at);
    let mut distances = Vec::new();
    for _ in 0..5 {
        distances.push(distance(peer.answer_ping().await));
    }
    let far = [DISTANCE; 3];
    assert_eq!(distances[..2], [KEEPALIVE; 2]);
    assert_eq!(distances[2..], far);
    assert!(DISTANCE > 300 * SECOND);

    // Credit and PONGs are no answers.
    for _ in 0..3 {
        peer.give_credit().await;
        assert_eq!(distance(peer.answer_ping().await), DISTANCE);
    }
    // The beginning of one is.
    peer.send(HEADERS, END_HEADERS, 1, OK).await;
    assert!(crate::test_util::now(|cx| std::pin::Pin::new(&mut waiting).poll(cx)).is_pending());
    let _open = (&mut waiting).await.unwrap();
    let near_again = [peer.answer_ping().await, peer.answer_ping().await];
    assert_eq!(near_again.map(&mut distance), [KEEPALIVE; 2]);
    assert_eq!(distance(peer.answer_ping().await), DISTANCE);
    assert_eq!(near.figures.how_many_closed(Closed::Keepalive), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_is_late_behind_other_bytes_is_waited_for() {
    let (mut near, mut peer) = open().await;
    let waiting = near.call();
    let ping = peer.ping().await;
    for _ in 0..10 {
        tokio::time::sleep(TIMEOUT - SECOND).await;
        peer.give_credit().await;
    }
    peer.send(PING, ACK, 0, &ping.payload).await;
    peer.send(HEADERS, END_STREAM_AND_HEADERS, 1, OK).await;
    assert_eq!(waiting.await.unwrap().status(), 200);
}

/// What the calls on the streams 1 and 3 get of a peer that serves only the
/// first, and whether it says in two steps that it goes.
async fn going_away(in_two_steps: bool) -> (Response<h2::RecvStream>, h2::Error) {
    let (mut near, mut peer) = open().await;
    let (served, refused) = (near.call(), near.call());
    peer.read_on().await;
    if in_two_steps {
        peer.go_away(0x7fff_ffff).await;
        settle().await;
    }
    peer.go_away(1).await;
    settle().await;
    // From now on there are no new calls, and a reason that retries know.
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(gone)) = near.send.poll_ready(&mut cx) else {
        panic!("it takes calls");
    };
    assert!(gone.is_go_away() && gone.is_remote(), "{gone:?}");
    let unsent = near.send.send_request(Request::new(()), true).unwrap_err();
    assert!(unsent.is_go_away() && unsent.is_remote(), "{unsent:?}");

    let refused = refused.await.unwrap_err();
    // The other goes on for as long as it takes.
    tokio::time::sleep(8 * SECOND).await;
    peer.send(HEADERS, END_STREAM_AND_HEADERS, 1, OK).await;
    let served = served.await.unwrap();
    drop(near.send);
    while peer.next().await.is_some() {}
    settle().await;
    assert_eq!(near.figures.connections.get(), 0);
    (served, refused)
}

#[tokio::test(start_paused = true)]
async fn calls_that_a_leaving_peer_serves_end_well_and_the_others_are_told_from_broken_ones() {
    for in_two_steps in [false, true] {
        let (served, refused) = going_away(in_two_steps).await;
        assert_eq!(served.status(), 200);
        assert!(refused.is_go_away() && refused.is_remote(), "{refused:?}");
        assert_eq!(refused.reason(), Some(h2::Reason::NO_ERROR));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_closes_when_nobody_can_call_on_it_and_its_last_call_has_ended() {
    let (mut near, mut peer) = open().await;
    let waiting = near.call();
    drop(near.send);
    peer.read_on().await;
    tokio::time::sleep(8 * SECOND).await;
    peer.send(HEADERS, END_STREAM_AND_HEADERS, 1, OK).await;
    assert_eq!(waiting.await.unwrap().status(), 200);
    while peer.next().await.is_some() {}
    settle().await;
    assert_eq!(near.figures.connections.get(), 0);
}

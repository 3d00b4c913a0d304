//! Bytes as an abusive client would send them, through a guard alone.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

use super::scan::{ACK, END_HEADERS, PREFACE_BYTES, WINDOW, kind};
use super::*;

const HEADER_BYTES: u32 = 32 * 1024;
const LIMIT: Duration = Duration::from_secs(10);

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

/// A client, and what reads it as h2 does: 8 KiB at a time.
struct Guarded {
    client: DuplexStream,
    guard: FrameGuard<DuplexStream>,
}

impl Guarded {
    fn new() -> Self {
        let (client, io) = tokio::io::duplex(1 << 22);
        let guard = FrameGuard::new(io, HEADER_BYTES, LIMIT);
        Self { client, guard }
    }

    async fn after_preface() -> Self {
        let mut guarded = Self::new();
        guarded.send(&[b'x'; PREFACE_BYTES]).await;
        guarded
    }

    /// Sends this and reads what can be read; tells how much came through.
    async fn send(&mut self, bytes: &[u8]) -> usize {
        self.client.write_all(bytes).await.unwrap();
        let (mut all, mut chunk) = (0, [0; 8 * 1024]);
        // Longer than a turn takes, shorter than any limit.
        let moment = Duration::from_millis(1);
        while let Ok(read) = tokio::time::timeout(moment, self.guard.read(&mut chunk)).await {
            all += read.unwrap();
        }
        all
    }

    fn reason(&self) -> Option<&'static str> {
        self.guard.verdict.get()
    }

    /// How many frames of a kind come through before the verdict.
    async fn allowed(&mut self, kind: u8, flags: u8, payload: &[u8]) -> usize {
        let frame = frame(kind, flags, payload);
        (0..50_000)
            .position(|_| {
                let read = self.guard.scan.read(&frame);
                read.is_err()
            })
            .unwrap_or(50_000)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_and_their_bodies_pass_unharmed_however_they_are_cut_up() {
    for size in [1, 2, 7, 8, 9, 10, 100, 100_000] {
        let mut guarded = Guarded::after_preface().await;
        let mut bytes = Vec::new();
        for _ in 0..300 {
            bytes.extend(frame(kind::HEADERS, 0, &[1; 100]));
            bytes.extend(frame(kind::CONTINUATION, END_HEADERS, &[2; 50]));
            // A payload that looks like frames is not one.
            bytes.extend(frame(
                kind::DATA,
                0,
                &frame(kind::PING, 0, &[0; 8]).repeat(9),
            ));
            bytes.extend(frame(kind::DATA, 1, &[]));
        }
        let mut through = 0;
        for piece in bytes.chunks(size) {
            if size < 100 {
                guarded.guard.scan.read(piece).unwrap();
                through += piece.len();
            } else {
                through += guarded.send(piece).await;
            }
        }
        assert_eq!((through, guarded.reason()), (bytes.len(), None), "{size}");
        assert!(!guarded.guard.scan.is_unfinished());
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_control_frame_has_its_bound_and_its_name() {
    for (kind, flags, most, reason) in [
        (kind::PING, 0, 1_000, "ping_flood"),
        (kind::PING, ACK, 10, "ping_flood"),
        (kind::SETTINGS, 0, 100, "settings_flood"),
        (kind::RST_STREAM, 0, 2_000, "reset_flood"),
        (kind::WINDOW_UPDATE, 0, 20_000, "window_flood"),
        (2, 0, 2_000, "priority_flood"),
        (0xF0, 0, 2_000, "priority_flood"),
    ] {
        let mut guarded = Guarded::after_preface().await;
        let allowed = guarded.allowed(kind, flags, &[0; 4]).await;
        assert_eq!(allowed, most, "{reason}");
        let mut guarded = Guarded::after_preface().await;
        let flood = frame(kind, flags, &[0; 4]).repeat(most + 1);
        guarded.send(&flood).await;
        assert_eq!(guarded.reason(), Some(reason));
        assert_eq!(guarded.send(b"more").await, 0, "nothing is read any more");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_and_data_are_not_counted() {
    let mut guarded = Guarded::after_preface().await;
    assert_eq!(guarded.allowed(kind::DATA, 0, b"x").await, 50_000);
    assert_eq!(
        guarded.allowed(kind::HEADERS, END_HEADERS, b"x").await,
        50_000
    );
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_that_of_ten_seconds() {
    let mut guarded = Guarded::after_preface().await;
    for _ in 0..5 {
        let ping = frame(kind::PING, 0, &[0; 8]);
        for _ in 0..1_000 {
            guarded.guard.scan.read(&ping).unwrap();
        }
        tokio::time::advance(WINDOW).await;
    }
    assert_eq!(guarded.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn who_receives_much_may_send_more_and_answers_to_pings_pay_for_none() {
    let mut guarded = Guarded::after_preface().await;
    guarded.guard.write_all(&[0; 32_000]).await.unwrap();
    assert_eq!(guarded.allowed(kind::PING, 0, &[0; 8]).await, 2_000);

    let mut guarded = Guarded::after_preface().await;
    let (ping, pong) = (frame(kind::PING, 0, &[0; 8]), [0; 17]);
    let mut pings = 0;
    while guarded.guard.scan.read(&ping).is_ok() {
        guarded.guard.write_all(&pong).await.unwrap();
        pings += 1;
        assert!(pings < 3_000, "pongs pay for pings");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_block_has_a_bounded_number_of_frames() {
    for (header_bytes, most) in [(1024, 4), (32 * 1024, 4), (256 * 1024, 20), (1 << 20, 80)] {
        let (_client, io) = tokio::io::duplex(16);
        let mut guard = FrameGuard::new(io, header_bytes, LIMIT);
        guard.scan.read(&[b'x'; PREFACE_BYTES]).unwrap();
        // Each block begins anew.
        for _ in 0..3 {
            guard.scan.read(&frame(kind::HEADERS, 0, b"x")).unwrap();
            for _ in 1..most {
                guard.scan.read(&frame(kind::CONTINUATION, 0, b"")).unwrap();
            }
            guard
                .scan
                .read(&frame(kind::CONTINUATION, END_HEADERS, b""))
                .unwrap();
        }
        guard.scan.read(&frame(kind::HEADERS, 0, b"x")).unwrap();
        let one = frame(kind::CONTINUATION, 0, b"");
        let passed = (0..1000).take_while(|_| guard.scan.read(&one).is_ok());
        assert_eq!(passed.count(), most, "{header_bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_header_lists_may_be_too_large_but_not_many() {
    let mut guarded = Guarded::after_preface().await;
    let half = vec![0; 20_000];
    for number in 0.. {
        guarded
            .guard
            .scan
            .read(&frame(kind::HEADERS, 0, &half))
            .unwrap();
        let rest = frame(kind::CONTINUATION, END_HEADERS, &half);
        if let Err(reason) = guarded.guard.scan.read(&rest) {
            assert_eq!((number, reason), (20, "header_flood"));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn headers_that_do_not_come_to_their_end_are_not_waited_for() {
    let whole = frame(kind::HEADERS, END_HEADERS, &[0; 100]);
    let open = frame(kind::HEADERS, 0, &[0; 100]);
    for part in [&whole[..1], &whole[..8], &whole[..9], &whole[..50], &open] {
        let mut guarded = Guarded::after_preface().await;
        guarded.send(part).await;
        tokio::time::sleep(LIMIT).await;
        assert_eq!(guarded.reason(), None, "only a reader looks");
        guarded.send(b"").await;
        assert_eq!(guarded.reason(), Some("header_timeout"), "{}", part.len());
    }
}

#[tokio::test(start_paused = true)]
async fn headers_that_come_byte_by_byte_have_the_same_time() {
    let mut guarded = Guarded::after_preface().await;
    for byte in frame(kind::HEADERS, END_HEADERS, &[0; 100]) {
        guarded.send(&[byte]).await;
        if guarded.reason().is_some() {
            return;
        }
        tokio::time::sleep(LIMIT / 20).await;
    }
    panic!("nobody minded");
}

#[tokio::test(start_paused = true)]
async fn headers_that_come_in_time_and_slow_bodies_are_waited_for() {
    let mut guarded = Guarded::after_preface().await;
    let headers = frame(kind::HEADERS, END_HEADERS, &[0; 100]);
    for _ in 0..5 {
        guarded.send(&headers[..50]).await;
        tokio::time::sleep(LIMIT * 9 / 10).await;
        guarded.send(&headers[50..]).await;
        tokio::time::sleep(LIMIT / 10).await;
    }
    guarded.send(&frame(kind::DATA, 0, &[0; 100])[..50]).await;
    tokio::time::sleep(LIMIT * 10).await;
    guarded.send(b"").await;
    assert_eq!(guarded.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn why_h2_lost_its_patience_is_read_off_its_goaway() {
    let mut guarded = Guarded::after_preface().await;
    assert_eq!(guarded.guard.verdict.calmed(), "stream_errors");
    for (text, reason) in TOLD {
        guarded.guard.write_all(text).await.unwrap();
        assert_eq!(guarded.guard.verdict.calmed(), reason);
    }
    assert_eq!(guarded.reason(), None, "h2 closes by itself");
}

/// How many reads of 8 KiB come before others get their turn.
async fn reads_of_a_turn(payload: &[u8]) -> usize {
    let mut guarded = Guarded::after_preface().await;
    let data = frame(kind::DATA, 0, payload);
    let bytes = data.repeat((128 * 1024_usize).div_ceil(data.len()));
    guarded.client.write_all(&bytes).await.unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut chunk = [0; 8 * 1024];
    let mut read = || {
        let guard = Pin::new(&mut guarded.guard);
        guard
            .poll_read(&mut cx, &mut ReadBuf::new(&mut chunk))
            .is_ready()
    };
    (0..100).position(|_| !read()).unwrap()
}

#[tokio::test]
async fn the_smaller_the_frames_the_sooner_others_get_their_turn() {
    assert_eq!(reads_of_a_turn(&[7; 16 * 1024]).await, 4);
    assert_eq!(reads_of_a_turn(&[7; 100]).await, 3);
    assert_eq!(reads_of_a_turn(&[7]).await, 1);
}

#[tokio::test]
async fn what_a_client_sends_behind_the_last_word_does_not_cost_it_that_word() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (mut client, accepted) = tokio::join!(client, listener.accept());
    let client = client.as_mut().unwrap();
    let mut guard = FrameGuard::new(accepted.unwrap().0, HEADER_BYTES, LIMIT);
    client.write_all(&[0; LINGER_BYTES / 2]).await.unwrap();
    guard.write_all(b"the last word").await.unwrap();
    let close = async {
        guard.shutdown().await.unwrap();
        drop(guard);
    };
    let read = async {
        client.write_all(&[0; LINGER_BYTES / 4]).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        client.shutdown().await.unwrap();
        text
    };
    assert_eq!(tokio::join!(close, read).1, "the last word");
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_sending_or_never_closes_is_not_waited_for() {
    let mut silent = Guarded::new();
    let began = tokio::time::Instant::now();
    silent.guard.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), LINGER);
    let mut talker = Guarded::new();
    let bytes = vec![0; 2 * LINGER_BYTES];
    talker.client.write_all(&bytes).await.unwrap();
    let began = tokio::time::Instant::now();
    talker.guard.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

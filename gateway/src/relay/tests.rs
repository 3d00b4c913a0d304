//! Over real HTTP/2 streams in memory: one that a relay reads, one that it
//! writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use h2::Reason;
use h2::server::SendResponse;
use http::{Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use tokio::sync::Notify;

use super::*;
use crate::body::Kind;
use crate::layers::grpc_web::{self, Encoding};
use crate::test_util::{
    backend, call_record, config, flow, grpc_head, receive, send_all, settle, status,
};
use crate::upstream::{Pool, Upstream, call};

const STREAM_WINDOW: u32 = 128 * 1024;

/// As the connections do it: what failed is reset.
async fn relay(mut source: Body, sink: &mut SendStream<Bytes>) -> Result<(), RelayError> {
    let mut relay = Relay::default();
    let relayed = std::future::poll_fn(|cx| relay.poll(cx, &mut source, sink)).await;
    if relayed.is_err() {
        sink.send_reset(Reason::CANCEL);
    }
    relayed
}

/// A body that has no window: `size` bytes in one piece.
fn own_stream(size: usize, limit: Duration) -> Body {
    let body = tonic::body::Body::new(Full::new(Bytes::from(vec![7; size])));
    Body::new(Kind::Local(body)).with_stall_limit(limit)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_arrive_as_sent_whatever_the_chunks_and_windows_and_request_trailers_do_not(
        sizes in proptest::collection::vec(
            prop_oneof![4 => 0usize..300, 2 => 1500usize..2500, 1 => 0usize..40_000],
            0..40,
        ),
        source_window in 1_000u32..100_000,
        sink_window in 1u32..50_000,
        with_trailers: bool,
    ) {
        let chunks: Vec<Bytes> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| (0..*size).map(|j| (i * 31 + j) as u8).collect())
            .collect();
        let sent = chunks.concat();
        let (frames, trailers) = runtime().block_on(async {
            let (mut source, mut sink) = tokio::join!(flow(source_window), flow(sink_window));
            let body = Body::h2(source.recv);
            let sending = async {
                for chunk in chunks {
                    if chunk.is_empty() {
                        source.send.send_data(chunk, false).unwrap();
                    } else {
                        assert!(send_all(&mut source.send, chunk).await);
                    }
                }
                if with_trailers {
                    source.send.send_trailers(status("0")).unwrap();
                } else {
                    source.send.send_data(Bytes::new(), true).unwrap();
                }
            };
            let (_, relayed, received) =
                tokio::join!(sending, relay(body, &mut sink.send), receive(&mut sink.recv));
            relayed.unwrap();
            received.unwrap()
        });
        prop_assert!(frames.concat() == sent);
        prop_assert_eq!(trailers, None);
    }
}

/// The frames that come out when `total` bytes wait in chunks of `size`.
async fn merged(size: usize, total: usize) -> Vec<usize> {
    let (mut source, mut sink) = tokio::join!(flow(STREAM_WINDOW), flow(STREAM_WINDOW));
    for _ in 0..total / size {
        source
            .send
            .send_data(Bytes::from(vec![1; size]), false)
            .unwrap();
    }
    source.send.send_data(Bytes::new(), true).unwrap();
    settle().await;
    let (relayed, received) = tokio::join!(
        relay(Body::h2(source.recv), &mut sink.send),
        receive(&mut sink.recv)
    );
    relayed.unwrap();
    let (frames, _) = received.unwrap();
    assert_eq!(frames.concat().len(), total / size * size);
    frames
        .iter()
        .map(Bytes::len)
        .filter(|size| *size > 0)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn small_data_that_waits_is_merged_into_full_frames() {
    let size = 125;
    assert_eq!(MERGE_BYTES % size, 0);
    assert_eq!(merged(size, 5 * MERGE_BYTES).await, [MERGE_BYTES; 5]);
}

#[tokio::test(start_paused = true)]
async fn small_chunks_fill_frames_and_large_ones_pass_as_they_are() {
    for size in [128, 1000, 1029, 2047, 2049, 10_000, 16_384] {
        let frames = merged(size, 100_000).await;
        let most = if size <= SMALL {
            assert!(frames.iter().all(|frame| *frame <= MERGE_BYTES));
            100_000_usize.div_ceil(MERGE_BYTES - size)
        } else {
            100_000 / size
        };
        assert!(frames.len() <= most, "{size}: {frames:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn data_does_not_wait_for_more() {
    let (mut source, mut sink) = tokio::join!(flow(STREAM_WINDOW), flow(STREAM_WINDOW));
    let body = Body::h2(source.recv);
    let relayed = tokio::spawn(async move { relay(body, &mut sink.send).await });
    for byte in 0..3u8 {
        source
            .send
            .send_data(Bytes::from(vec![byte]), false)
            .unwrap();
        assert_eq!(sink.recv.data().await.unwrap().unwrap(), [byte][..]);
    }
    source.send.send_data(Bytes::new(), true).unwrap();
    relayed.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_blocks_the_sender_at_its_window() {
    const SINK_WINDOW: u32 = 64 * 1024;
    let (mut source, mut sink) = tokio::join!(flow(STREAM_WINDOW), flow(SINK_WINDOW));
    let body = Body::h2(source.recv);
    tokio::spawn(async move { relay(body, &mut sink.send).await });
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let total = 4 * (STREAM_WINDOW + SINK_WINDOW) as usize;
    tokio::spawn(async move {
        while counter.load(Ordering::SeqCst) < total {
            assert!(send_all(&mut source.send, Bytes::from(vec![1; 1024])).await);
            counter.fetch_add(1024, Ordering::SeqCst);
        }
        source.send.send_data(Bytes::new(), true).unwrap();
    });
    settle().await;
    let blocked = sent.load(Ordering::SeqCst);
    assert!(blocked >= STREAM_WINDOW as usize, "{blocked}");
    assert!(
        blocked <= (STREAM_WINDOW + SINK_WINDOW) as usize,
        "{blocked}"
    );
    let (frames, _) = receive(&mut sink.recv).await.unwrap();
    assert_eq!(frames.concat().len(), total);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_breaks_off_is_seen_though_the_receiver_takes_nothing() {
    let (mut source, mut sink) = tokio::join!(flow(STREAM_WINDOW), flow(10));
    assert!(send_all(&mut source.send, Bytes::from(vec![1; 50_000])).await);
    let body = Body::h2(source.recv);
    let relayed = tokio::spawn(async move { relay(body, &mut sink.send).await });
    settle().await;
    assert!(!relayed.is_finished());
    source.send.send_reset(Reason::CANCEL);
    let error = relayed.await.unwrap().unwrap_err();
    assert!(
        matches!(error, RelayError::Source(BodyError::Gone(_))),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_resets_ends_the_relay_whether_data_waits_or_not() {
    for waiting in [0, 50_000] {
        let (mut source, mut sink) = tokio::join!(flow(STREAM_WINDOW), flow(10));
        assert!(send_all(&mut source.send, Bytes::from(vec![1; waiting])).await);
        let body = Body::h2(source.recv);
        let relayed = tokio::spawn(async move { relay(body, &mut sink.send).await });
        settle().await;
        assert!(!relayed.is_finished());
        // Dropping both halves of the far end resets the stream.
        drop((sink.recv, sink.answer));
        let error = relayed.await.unwrap().unwrap_err();
        assert!(matches!(error, RelayError::Sink), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_window_is_given_up_at_its_stall_limit() {
    let limit = Duration::from_secs(30);
    let mut sink = flow(10).await;
    let started = tokio::time::Instant::now();
    let error = relay(own_stream(1000, limit), &mut sink.send)
        .await
        .unwrap_err();
    assert!(matches!(error, RelayError::Stalled), "{error:?}");
    assert!((limit..limit + Duration::from_secs(1)).contains(&started.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_a_little_now_and_then_is_not_stalled() {
    let mut sink = flow(10).await;
    let body = own_stream(100, Duration::from_secs(30));
    let relayed = tokio::spawn(async move { relay(body, &mut sink.send).await });
    let mut taken = 0;
    while let Some(Ok(frame)) = sink.recv.data().await {
        taken += frame.len();
        tokio::time::sleep(Duration::from_secs(20)).await;
        sink.recv
            .flow_control()
            .release_capacity(frame.len())
            .unwrap();
    }
    relayed.await.unwrap().unwrap();
    assert_eq!(taken, 100);
}

/// The answer of a backend that sends 50,000 bytes of one large message, and
/// breaks off when told.
async fn cut_answer(when: &Arc<Notify>) -> Response<Body> {
    answer_cut_after(vec![1; 50_000].into(), when).await
}

async fn answer_cut_after(sent: Bytes, when: &Arc<Notify>) -> Response<Body> {
    let when = when.clone();
    let port = backend(move |_, mut respond: SendResponse<Bytes>| {
        let (sent, when) = (sent.clone(), when.clone());
        async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            assert!(send_all(&mut send, sent).await);
            when.notified().await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let config = config(&format!(
        "[[upstreams]]\nname = 'b'\nendpoints = ['http://127.0.0.1:{port}']"
    ));
    let upstream = Upstream::open(&config.upstreams[0], None, &Default::default());
    let pool = Pool::new(upstream.unwrap());
    call(&pool, Request::new(Body::empty()), None, &mut call_record())
        .await
        .unwrap()
}

#[tokio::test]
async fn the_status_of_a_cut_passes_data_that_has_no_room_much_or_little() {
    for size in [1000, 50_000] {
        let cut = Arc::new(Notify::new());
        let answer = answer_cut_after(vec![1; size].into(), &cut).await;
        let body = answer.into_body();
        let mut sink = flow(10).await;
        let relayed = tokio::spawn(async move { relay(body, &mut sink.send).await });
        // No credit is given back, so that is all that has room.
        assert_eq!(sink.recv.data().await.unwrap().unwrap().len(), 10);
        cut.notify_one();
        let relayed = tokio::time::timeout(Duration::from_secs(20), relayed);
        relayed.await.expect("an end").unwrap().unwrap();
        assert!(sink.recv.data().await.is_none());
        let trailers = sink.recv.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "13");
    }
}

#[tokio::test]
async fn a_cut_that_cannot_be_told_in_grpc_web_is_an_error_of_the_stream() {
    let cut = Arc::new(Notify::new());
    let body = grpc_web::from_grpc(cut_answer(&cut).await, Encoding::Binary).into_body();
    let mut sink = flow(10).await;
    let relayed = tokio::spawn(async move { relay(body, &mut sink.send).await });
    assert_eq!(sink.recv.data().await.unwrap().unwrap().len(), 10);
    cut.notify_one();
    let error = relayed.await.unwrap().unwrap_err();
    assert!(
        matches!(error, RelayError::Source(BodyError::Cut)),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_status_of_a_cut_in_grpc_web_waits_for_the_end_of_a_message_and_no_longer() {
    let message = [&[0, 0, 0, 0, 95][..], &[7; 95]].concat();
    for encoding in [Encoding::Binary, Encoding::Text] {
        let cut = Arc::new(Notify::new());
        let answer = answer_cut_after(message.repeat(500).into(), &cut).await;
        let mut body = grpc_web::from_grpc(answer, encoding).into_body();
        let (mut sink, mut relay) = (flow(2000).await, Relay::default());
        cut.notify_one();
        // The client takes no more than it has given credit for until the cut
        // is seen.
        std::future::poll_fn(|cx| {
            assert!(relay.poll(cx, &mut body, &mut sink.send).is_pending());
            body.is_cut()
                .then_some(())
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let relayed = tokio::spawn(async move {
            std::future::poll_fn(|cx| relay.poll(cx, &mut body, &mut sink.send)).await
        });
        let mut got = sink.recv.data().await.unwrap().unwrap().to_vec();
        assert_eq!(got.len(), 2000);
        let mut credit = 2000;
        loop {
            let _ = sink.recv.flow_control().release_capacity(credit);
            let Some(data) = sink.recv.data().await else {
                break;
            };
            let data = data.unwrap();
            credit = data.len();
            got.extend_from_slice(&data);
        }
        relayed.await.unwrap().unwrap();
        if encoding == Encoding::Text {
            let groups = got.chunks(4).map(|group| STANDARD.decode(group).unwrap());
            got = groups.flatten().collect();
        }
        assert!(got.len() < 4000, "{} bytes were sent", got.len());
        let mut rest = &got[..];
        while let Some(after) = rest.strip_prefix(&message[..]) {
            rest = after;
        }
        assert_eq!(rest[0], 0x80);
        assert!(rest.windows(15).any(|text| text == b"grpc-status: 13"));
    }
}

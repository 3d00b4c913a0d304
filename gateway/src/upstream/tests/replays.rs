//! What is sent again is what was sent, and what is kept has its bounds.

use tokio::sync::mpsc;

use super::support::*;
use super::*;
use crate::test_util::{flow, receive, settle};

/// Refuses the first call once some of it is there, and tells the whole of the
/// second; both as `tell` is told.
async fn refuses_in_mid_request(
    tell: mpsc::UnboundedSender<(Vec<Bytes>, Option<HeaderMap>)>,
) -> u16 {
    let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    backend(
        move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let refused = first.swap(false, std::sync::atomic::Ordering::Relaxed);
            let tell = tell.clone();
            async move {
                let mut body = request.into_body();
                if refused {
                    let some = body.data().await.unwrap().unwrap();
                    refuse(&mut respond);
                    tell.send((vec![some], None)).unwrap();
                } else {
                    tell.send(receive(&mut body).await.unwrap()).unwrap();
                    ok(&mut respond);
                }
            }
        },
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn a_request_is_sent_again_while_its_caller_still_sends() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let test = Test::at(&[refuses_in_mid_request(tell).await], "");
    let (sender, body) = growing();
    let sends = async {
        sender.send(Frame::data("one".into())).unwrap();
        let (some, _) = told.recv().await.unwrap();
        assert_eq!(some, ["one"]);
        sender.send(Frame::data("two".into())).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        sender.send(Frame::data("three".into())).unwrap();
        sender.send(Frame::trailers(status("end"))).unwrap();
        drop(sender);
        told.recv().await.unwrap()
    };
    let (code, (frames, trailers)) = tokio::join!(test.call(ANY, body), sends);
    assert_eq!(code, "0");
    assert_eq!(frames.concat(), b"onetwothree");
    assert_eq!(trailers, Some(status("end")));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_request_is_sent_again() {
    for with_trailers in [false, true] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let fails = |number, mut respond: SendResponse<Bytes>| {
            match number {
                0 => unavailable(&mut respond),
                _ => ok(&mut respond),
            }
            std::future::ready(())
        };
        let number = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let port = backend(move |request: Request<RecvStream>, respond| {
            let tell = tell.clone();
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                let got = receive(&mut request.into_body()).await.unwrap();
                tell.send((got.0.concat(), got.1)).unwrap();
                fails(number, respond).await;
            }
        })
        .await;
        let test = Test::at(&[port], "");
        let (sender, body) = growing();
        sender.send(Frame::data("whole".into())).unwrap();
        let trailers = with_trailers.then(|| status("end"));
        if let Some(trailers) = trailers.clone() {
            sender.send(Frame::trailers(trailers)).unwrap();
        }
        drop(sender);
        assert_eq!(test.call(REPEATABLE, body).await, "0");
        for _ in 0..2 {
            let expected = (b"whole".to_vec(), trailers.clone());
            assert_eq!(told.recv().await.unwrap(), expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_bound_is_tried_once_and_keeps_nothing() {
    for (more, code) in [
        ("replay_bytes = 99999", "14"),
        ("replay_bytes = 100000", "0"),
        ("replay_bytes = 0", "14"),
    ] {
        let test = Test::start(after(1, refuse), more).await;
        let body = Body::full(vec![7; 100_000]);
        assert_eq!(test.call(ANY, body).await, code, "{more}");
        let retries = test.retries();
        let expected = match code {
            "0" => "refused retried 1",
            _ => "refused committed 1",
        };
        assert_eq!(retries, [expected], "{more}");
        assert_eq!(test.kept(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_forgotten_once_the_bound_is_passed_or_an_answer_begins() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let port = backend(
        move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let tell = tell.clone();
            async move {
                let mut body = request.into_body();
                let mut got = 0;
                while let Some(Ok(data)) = body.data().await {
                    got += data.len();
                    let _ = body.flow_control().release_capacity(data.len());
                    tell.send(got).unwrap();
                    if got == 5000 {
                        let _ = respond.send_response(grpc_head(), false);
                    }
                }
            }
        },
    )
    .await;
    for (len, more) in [(5000, ""), (4000, "replay_bytes = 3000")] {
        let test = Test::at(&[port], more);
        let (sender, body) = growing();
        let mut call = Box::pin(test.begin(ANY, body, None));
        sender.send(Frame::data(vec![1; 2500].into())).unwrap();
        tokio::select! {
            biased;
            _ = &mut call => panic!("it does not answer yet"),
            _ = told.recv() => {}
        }
        assert!(test.kept() >= 2500);
        sender
            .send(Frame::data(vec![1; len - 2500].into()))
            .unwrap();
        tokio::select! {
            biased;
            response = &mut call => drop(response),
            () = settle() => {}
        }
        assert_eq!(told.recv().await, Some(len));
        assert_eq!(test.kept(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn credit_is_given_once_for_each_byte_however_often_it_is_sent() {
    use crate::relay::Relay;
    let room = Arc::new(replay::Room::new(20_000, 10_000));
    let mut kept = Replay::begin(&HeaderMap::new(), 10_000, &room, None);
    // The caller has a window of 100 bytes, each backend takes 10.
    let (mut caller, mut first, mut second) = (flow(100).await, flow(10).await, flow(10).await);
    send_all(&mut caller.send, vec![1; 60].into()).await;
    send_all(&mut caller.send, vec![2; 40].into()).await;
    settle().await;
    let mut body = Body::h2(caller.recv);
    let mut relay = Relay::default();
    for sink in [&mut first.send, &mut second.send] {
        let relayed = std::future::poll_fn(|cx| relay.poll_keeping(cx, &mut body, sink, &mut kept));
        let relayed = tokio::time::timeout(Duration::from_millis(10), relayed);
        assert!(relayed.await.is_err(), "the window is full");
        caller.send.reserve_capacity(100);
        settle().await;
        assert_eq!(caller.send.capacity(), 10);
        relay.rewind(kept.as_mut().unwrap());
    }
    // The rest comes in order, and its credit with it.
    let mut third = flow(1000).await;
    let relayed =
        std::future::poll_fn(|cx| relay.poll_keeping(cx, &mut body, &mut third.send, &mut kept));
    let relayed = tokio::time::timeout(Duration::from_millis(10), relayed);
    assert!(relayed.await.is_err(), "the caller may send more");
    settle().await;
    assert_eq!(caller.send.capacity(), 100);
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend_from_slice(&third.recv.data().await.unwrap().unwrap());
    }
    assert_eq!(got, [vec![1; 60], vec![2; 40]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_succeeds_at_once_gives_back_all_that_it_kept() {
    let test = Test::start(after(0, refuse), "").await;
    for _ in 0..10 {
        assert_eq!(test.call(UNARY, message("hello")).await, "0");
    }
    assert_eq!((test.kept(), test.seen.number()), (0, 10));
}

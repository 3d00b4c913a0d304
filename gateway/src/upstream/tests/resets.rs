//! Calls that nobody wants any more, and the places that they keep.

use std::pin::Pin;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::upstream::balance::Wish;
use crate::upstream::pool::Lease;

type Calling = Pin<Box<dyn Future<Output = Result<Response<Body>, Reply>>>>;

/// So many calls to a backend that tells of each of them.
async fn called(
    pool: &Arc<Pool>,
    told: &mut UnboundedReceiver<&'static str>,
    number: usize,
) -> Vec<Calling> {
    let mut calls = Vec::new();
    for _ in 0..number {
        let pool = pool.clone();
        let calling = async move { call(&pool, Request::new(Body::empty()), None).await };
        let mut calling: Calling = Box::pin(calling);
        tokio::select! {
            biased;
            _ = &mut calling => panic!("nobody answers"),
            called = told.recv() => assert_eq!(called, Some("called")),
        }
        calls.push(calling);
    }
    calls
}

/// Looks until it finds something. Paused time stands still meanwhile: it goes on
/// by itself only while nothing runs.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nothing comes");
        tokio::task::yield_now().await;
    }
}

async fn heard<T>(told: &mut UnboundedReceiver<T>) -> T {
    until(|| told.try_recv().ok()).await
}

/// Waits until every place is free.
async fn free(pool: &Pool) {
    until(|| (pool.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_given_up_call_is_reset_in_its_turn() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let pool = pool(move |_, mut respond: SendResponse<Bytes>| {
        let tell = tell.clone();
        async move {
            tell.send("called").unwrap();
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            tell.send("reset").unwrap();
        }
    })
    .await;
    let calls = called(&pool, &mut told, 100).await;
    let given_up = Instant::now();
    drop(calls);
    for _ in 0..100 {
        assert_eq!(told.recv().await, Some("reset"));
    }
    // Ten at once, and 200 a second.
    let took = given_up.elapsed();
    assert!(took >= Duration::from_millis(440), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_given_up_call_that_its_backend_ends_itself_is_not_reset() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let answer = Arc::new(Semaphore::new(0));
    let allowed = answer.clone();
    let pool = pool(move |_, mut respond: SendResponse<Bytes>| {
        let (tell, allowed) = (tell.clone(), allowed.clone());
        async move {
            tell.send("called").unwrap();
            tokio::select! {
                biased;
                _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                    tell.send("reset").unwrap();
                }
                _ = allowed.acquire() => {
                    let mut send = respond.send_response(grpc_head(), false).unwrap();
                    let _ = send.send_data(Bytes::from_static(b"unread"), false);
                    let _ = send.send_trailers(status("0"));
                    tell.send("answered").unwrap();
                }
            }
        }
    })
    .await;
    let calls = called(&pool, &mut told, 200).await;
    tokio::time::pause();
    drop(calls);
    // A few are reset; the others wait, and are answered before it is their turn.
    for _ in 0..10 {
        assert_eq!(heard(&mut told).await, "reset");
    }
    answer.add_permits(1000);
    for _ in 10..200 {
        assert_eq!(heard(&mut told).await, "answered");
    }
    free(&pool).await;
}

#[tokio::test]
async fn answers_that_are_left_are_reset_at_once_until_there_are_too_many() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let pool = pool(move |_, mut respond: SendResponse<Bytes>| {
        let tell = tell.clone();
        async move {
            let mut send = respond.send_response(grpc_head(), false).unwrap();
            let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
            tell.send(()).unwrap();
        }
    })
    .await;
    let mut answers = Vec::new();
    for _ in 0..530 {
        let answer = call(&pool, Request::new(Body::empty()), None).await;
        answers.push(answer.unwrap());
    }
    tokio::time::pause();
    let left = Instant::now();
    drop(answers);
    for _ in 0..500 {
        heard(&mut told).await;
    }
    assert_eq!(left.elapsed(), Duration::ZERO);
    assert_eq!(pool.in_flight(), 30);
    for _ in 0..30 {
        told.recv().await.unwrap();
    }
    // 30 times 34 ms. Time runs ahead of bytes that are on their way.
    let took = left.elapsed();
    assert!(took >= Duration::from_millis(1020), "{took:?}");
    free(&pool).await;
}

#[tokio::test]
async fn a_backend_that_refuses_a_call_is_told_from_one_that_went_away() {
    let pool = pool(|_, mut respond: SendResponse<Bytes>| async move {
        respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let reply = refused(&pool).await;
    assert_eq!(
        (reply.code, reply.label),
        (Code::Unavailable, "upstream_refused")
    );
    assert!(reply.retry_after.is_some());
}

#[tokio::test]
async fn a_request_that_http2_does_not_know_is_no_fault_of_the_backend() {
    let pool = pool(|_, _| async {}).await;
    let request = Request::builder().header("connection", "close");
    let request = request.body(Body::empty()).unwrap();
    let reply = call(&pool, request, None).await.err().unwrap();
    assert_eq!((reply.code, reply.label), (Code::Internal, "internal"));
    assert!(reply.retry_after.is_none());
}

#[tokio::test]
async fn one_caller_can_not_take_every_place_at_a_backend() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(3);
                let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
                while connection.accept().await.is_some() {}
            });
        }
    });
    let pool = pool_at(&format!("'http://127.0.0.1:{port}'"));
    let mut leases = Vec::new();
    let refusal = loop {
        match lease(&pool, leases.len()).await {
            Ok(lease) => leases.push(lease),
            Err(reply) => break reply,
        }
    };
    // Half of 8 connections with 3 places each.
    assert_eq!(leases.len(), 12);
    assert_eq!(
        (refusal.code, refusal.label),
        (Code::ResourceExhausted, "too_many_of_caller")
    );
    // Others have the rest, though the first comes again.
    for _ in 0..12 {
        leases.push(lease(&pool, 0).await.unwrap());
        assert!(lease(&pool, 12).await.is_err());
    }
    let refusal = lease(&pool, 0).await.err().unwrap();
    assert_eq!(
        (refusal.code, refusal.label),
        (Code::Unavailable, "upstream_full")
    );
}

async fn lease(pool: &Arc<Pool>, calls: usize) -> Result<Lease, Reply> {
    let wish = Wish {
        calls,
        repeatable: false,
        failed_at: &[],
    };
    match pool.place(&wish).await {
        Ok(place) => Ok(place.lease),
        Err(NoPlace::Unreachable(reply) | NoPlace::Refused(reply)) => Err(reply),
    }
}

//! Connections that break, and what their endpoints are blamed for.

use intellirouter::resilience::BreakerState;
use tokio::net::TcpListener;

use super::support::*;
use super::*;

const CALLS: usize = 8;

/// Breaks each of so many connections once it has brought [`CALLS`] calls, which
/// it may have begun to answer; then nobody is there any more.
async fn breaking(listener: TcpListener, connections: usize, answers: bool) {
    for _ in 0..connections {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let mut open = Vec::new();
        for _ in 0..CALLS {
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let head = answers.then(|| respond.send_response(grpc_head(), false).unwrap());
            open.push((respond, head));
        }
        // The headers go out.
        let _ = tokio::time::timeout(Duration::from_millis(200), connection.accept()).await;
        // Before its calls, which would be reset otherwise.
        drop(connection);
    }
}

async fn calls(test: &Test, number: usize) {
    let calls = (0..number).map(|_| test.call(ANY, Body::empty()));
    let codes = futures_util::future::join_all(calls).await;
    assert!(codes.iter().all(|code| code == "14"), "{codes:?}");
}

fn state(test: &Test) -> BreakerState {
    let endpoint = &test.pool.upstream().endpoints()[0];
    endpoint.standing.breaker.describe().state
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_is_one_failure_however_many_calls_it_takes_along() {
    for answers in [false, true] {
        let (listener, port) = listener().await;
        tokio::spawn(breaking(listener, 1, answers));
        let test = Test::at(&[port], "max_tries = 1");
        calls(&test, CALLS).await;
        assert_eq!(test.counted(), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_loses_one_connection_after_the_other_fails() {
    for answers in [false, true] {
        let (listener, port) = listener().await;
        tokio::spawn(breaking(listener, 5, answers));
        let test = Test::at(&[port], "max_tries = 1");
        for _ in 0..5 {
            assert_eq!(state(&test), BreakerState::Closed);
            calls(&test, CALLS).await;
        }
        assert_eq!(state(&test), BreakerState::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_killed_is_known_to_be_away_within_a_second() {
    let (listener, port) = listener().await;
    tokio::spawn(breaking(listener, 1, true));
    let test = Test::at(&[port], "max_tries = 1");
    calls(&test, CALLS).await;
    let began = Instant::now();
    while state(&test) == BreakerState::Closed {
        calls(&test, 1).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1));
}

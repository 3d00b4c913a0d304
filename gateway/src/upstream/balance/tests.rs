//! With real connections to backends on the loopback.

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use intellirouter::resilience::{BreakerReport, BreakerState, Outcome};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, advance};
use tonic::Code;

use super::*;
use crate::test_util::allocations;
use crate::upstream::shared::Upstream;
use crate::upstream::tests::{upstream_at, upstream_of};

/// Of a call that may not be repeated.
const ONCE: Wish<'static> = Wish {
    calls: 0,
    repeatable: false,
    failed_at: &[],
};
const AGAIN: Wish<'static> = Wish {
    repeatable: true,
    ..ONCE
};

/// A backend that answers no call, and takes so many on each connection.
async fn taking(calls: u32) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("'http://{}'", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let mut http2 = h2::server::Builder::new();
            http2.max_concurrent_streams(calls);
            tokio::spawn(async move {
                let mut connection = http2.handshake::<_, bytes::Bytes>(socket).await.unwrap();
                while connection.accept().await.is_some() {}
            });
        }
    });
    url
}

/// The endpoint of a host that refuses connections, and what keeps its port.
fn nobody() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let url = format!("'http://{}'", socket.local_addr().unwrap());
    (socket, url)
}

/// The endpoint of a host that takes connections and says nothing.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("'http://{}'", listener.local_addr().unwrap());
    (listener, url)
}

fn report(upstream: &Upstream, index: usize) -> BreakerReport {
    upstream.endpoints()[index].standing.breaker.describe()
}

fn breaks(upstream: &Upstream, index: usize) {
    let endpoint = upstream.endpoints()[index].clone();
    while let Ok(permit) = endpoint.standing.breaker.try_acquire() {
        permit.record(Outcome::Failure);
    }
}

fn is_connected(pool: &Arc<Pool>, index: usize) -> bool {
    pool.slots().list()[index].is_connected()
}

/// Makes calls until the pool is connected to every endpoint.
async fn warm(pool: &Arc<Pool>) {
    let number = pool.slots().list().len();
    while !(0..number).all(|index| is_connected(pool, index)) {
        drop(pool.place(&ONCE).await);
        tokio::task::yield_now().await;
    }
}

impl NoPlace {
    fn reply(&self) -> &Reply {
        let (Self::Unreachable(reply) | Self::Refused(reply)) = self;
        reply
    }
}

async fn refused(pool: &Arc<Pool>, wish: &Wish<'_>) -> Reply {
    match pool.place(wish).await {
        Ok(place) => panic!("{}", place.lease.endpoint_name()),
        Err(NoPlace::Unreachable(reply)) => panic!("{reply:?}"),
        Err(NoPlace::Refused(reply)) => reply,
    }
}

#[tokio::test]
async fn a_full_endpoint_passes_calls_on_and_what_the_gateway_refuses_is_no_hosts_failure() {
    let urls = [taking(1).await, taking(1).await].join(", ");
    let upstream = upstream_at(&urls, "");
    let pool = Pool::new(upstream.clone());
    let mut places = Vec::new();
    // Eight connections to each.
    for _ in 0..16 {
        places.push(pool.place(&ONCE).await.ok().unwrap());
    }
    for index in 0..2 {
        let load = &upstream.endpoints()[index].standing.load;
        assert_eq!(load.in_flight(), 8);
    }
    for _ in 0..50 {
        let reply = refused(&pool, &ONCE).await;
        assert_eq!(
            (reply.code, reply.label),
            (Code::Unavailable, "upstream_full")
        );
    }
    for index in 0..2 {
        let report = report(&upstream, index);
        assert_eq!((report.state, report.calls), (BreakerState::Closed, 0));
    }
    places.pop();
    assert!(pool.place(&ONCE).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_has_its_share_of_each_endpoint_is_refused() {
    let urls = [taking(1).await, taking(1).await].join(", ");
    let pool = Pool::new(upstream_at(&urls, ""));
    let mut places = Vec::new();
    for calls in 0..8 {
        let wish = Wish {
            calls: calls.min(3),
            ..ONCE
        };
        places.push(pool.place(&wish).await.ok().unwrap());
    }
    let reply = refused(&pool, &Wish { calls: 4, ..ONCE }).await;
    assert_eq!(
        (reply.code, reply.label),
        (Code::ResourceExhausted, "too_many_of_caller")
    );
}

#[tokio::test]
async fn a_place_counts_as_a_call_in_flight_until_it_is_dropped() {
    let upstream = upstream_at(&taking(100).await, "");
    let pools = [Pool::new(upstream.clone()), Pool::new(upstream.clone())];
    let load = &upstream.endpoints()[0].standing.load;
    let mut places = Vec::new();
    for step in 0..6 {
        places.push(pools[step % 2].place(&ONCE).await.ok().unwrap());
        assert_eq!(load.in_flight(), step + 1, "for the whole process");
    }
    for left in (0..6).rev() {
        places.pop();
        assert_eq!(load.in_flight(), left);
    }
}

#[tokio::test]
async fn of_two_endpoints_the_one_with_fewer_calls_gets_the_next() {
    let urls = [taking(100).await, taking(100).await].join(", ");
    let upstream = upstream_at(&urls, "");
    let pool = Pool::new(upstream.clone());
    warm(&pool).await;
    let mut places = Vec::new();
    for _ in 0..40 {
        places.push(pool.place(&ONCE).await.ok().unwrap());
    }
    let in_flight = |index: usize| upstream.endpoints()[index].standing.load.in_flight();
    assert_eq!([in_flight(0), in_flight(1)], [20, 20]);
}

#[tokio::test]
async fn a_place_on_a_connection_that_is_there_allocates_nothing() {
    for number in [1, 3, 8] {
        let mut urls = Vec::new();
        for _ in 0..number {
            urls.push(taking(100).await);
        }
        let pool = Pool::new(upstream_at(&urls.join(", "), ""));
        warm(&pool).await;
        let used = allocations(|| {
            for _ in 0..20 {
                let placed = pool.place(&ONCE).now_or_never();
                assert!(placed.unwrap().is_ok());
            }
        });
        assert_eq!(used, 0, "{number}");
    }
}

#[tokio::test]
async fn an_attempt_that_fails_counts_once_however_many_calls_wait_for_it() {
    let (_port, url) = nobody();
    let upstream = upstream_at(&url, "");
    let pool = Pool::new(upstream.clone());
    let places = join_all((0..20).map(|_| pool.place(&ONCE))).await;
    for place in places {
        let Err(NoPlace::Unreachable(reply)) = place else {
            panic!("nothing was sent");
        };
        assert_eq!(
            (reply.code, reply.label),
            (Code::Unavailable, "no_endpoint")
        );
        assert!(reply.retry_after.is_some());
    }
    assert_eq!(report(&upstream, 0).consecutive_failures, 1);
}

#[tokio::test]
async fn an_endpoint_that_can_not_be_connected_to_opens_its_breaker_and_costs_no_call_anything() {
    let (_port, url) = nobody();
    let urls = [url, taking(100).await].join(", ");
    let upstream = upstream_at(&urls, "[upstreams.breaker]\nconsecutive_failures = 2\n");
    // Each as a worker that has just begun.
    while report(&upstream, 0).opened == 0 {
        let pool = Pool::new(upstream.clone());
        for _ in 0..3 {
            let place = pool.place(&ONCE).await.ok().unwrap();
            let endpoint = place.lease.endpoint();
            assert!(Arc::ptr_eq(endpoint, &upstream.endpoints()[1]));
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(report(&upstream, 1).consecutive_failures, 0);
}

#[tokio::test]
async fn a_silent_host_holds_up_no_call_while_another_can_be_connected_to() {
    let (_silent, url) = silent().await;
    let urls = [url, taking(100).await].join(", ");
    let upstream = upstream_at(&urls, "connect_timeout = '60s'\n");
    for _ in 0..6 {
        let began = Instant::now();
        let pool = Pool::new(upstream.clone());
        let place = pool.place(&ONCE).await.ok().unwrap();
        assert!(Arc::ptr_eq(
            place.lease.endpoint(),
            &upstream.endpoints()[1]
        ));
        assert!(began.elapsed() < 20 * STAGGER, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_given_up_after_the_connect_timeout() {
    let (_silent, url) = silent().await;
    let upstream = upstream_at(&url, "connect_timeout = '3s'\n");
    let pool = Pool::unattended(upstream.clone());
    let began = Instant::now();
    let reply = pool.place(&ONCE).await.err().unwrap();
    assert_eq!(reply.reply().code, Code::Unavailable);
    let took = began.elapsed();
    let (sooner, later) = (Duration::from_secs(3), Duration::from_secs(4));
    assert!((sooner..later).contains(&took), "{took:?}");
    assert_eq!(report(&upstream, 0).failures, 1);
}

#[tokio::test]
async fn open_breakers_refuse_at_once_and_say_when_the_first_probe_goes() {
    let upstream = upstream_of(3, "[upstreams.breaker]\nopen_min = '10s'\n");
    let pool = Pool::new(upstream.clone());
    (0..3).for_each(|index| breaks(&upstream, index));
    let soonest = (0..3).filter_map(|index| report(&upstream, index).next_probe_in);
    let soonest = soonest.min().unwrap();
    for count in 1..=10 {
        let placed = pool.place(&ONCE).now_or_never().expect("at once");
        let Err(NoPlace::Refused(reply)) = placed else {
            panic!("another try would not help");
        };
        assert_eq!(
            (reply.code, reply.label),
            (Code::Unavailable, "breaker_open")
        );
        let wait = reply.retry_after.unwrap();
        assert!(wait <= soonest && wait > Duration::from_secs(4), "{wait:?}");
        assert!(!reply.message.contains("127.0.0.1"));
        let refused = (0..3).map(|index| report(&upstream, index).refused);
        // Each of them once refused a call in `breaks`.
        assert_eq!(refused.sum::<u64>(), 3 + count);
    }
}

#[tokio::test]
async fn without_an_endpoint_that_is_up_calls_are_refused_at_once() {
    let upstream = upstream_of(2, "");
    let pool = Pool::new(upstream.clone());
    for endpoint in upstream.endpoints().iter() {
        endpoint.standing.health.fail_for_good();
    }
    let refused = |pool: &Arc<Pool>| {
        let Err(NoPlace::Refused(reply)) = pool.place(&AGAIN).now_or_never().unwrap() else {
            panic!("another try would not help");
        };
        assert_eq!(
            (reply.code, reply.label),
            (Code::Unavailable, "no_endpoint")
        );
        assert!(reply.retry_after.is_some());
    };
    refused(&pool);
    upstream.replace(&[], None).unwrap();
    refused(&pool);
}

#[tokio::test]
async fn a_breaker_names_its_upstream_and_its_endpoint_in_the_log() {
    let upstream = upstream_of(1, "");
    breaks(&upstream, 0);
    let breaker = &upstream.endpoints()[0].standing.breaker;
    assert_eq!(&*breaker.try_acquire().unwrap_err().name, "b 127.0.0.1:1");
}

#[tokio::test]
async fn an_open_breaker_tells_of_its_time_though_others_fail_their_checks() {
    let upstream = upstream_of(2, "");
    breaks(&upstream, 0);
    upstream.endpoints()[1].standing.health.fail_for_good();
    let reply = refused(&Pool::new(upstream), &AGAIN).await;
    assert_eq!(reply.label, "breaker_open");
}

#[tokio::test]
async fn no_more_probes_are_under_way_than_the_settings_say_for_all_workers_together() {
    for number in [1, 2] {
        let settings = format!("[upstreams.breaker]\nprobes = {number}\n");
        let upstream = upstream_at(&taking(100).await, &settings);
        let pools = [Pool::new(upstream.clone()), Pool::new(upstream.clone())];
        for pool in &pools {
            warm(pool).await;
        }
        // Nothing waits for the network from here on.
        tokio::time::pause();
        breaks(&upstream, 0);
        advance(Duration::from_secs(1)).await;
        let mut probes = Vec::new();
        for step in 0..40 {
            match pools[step % 2].place(&AGAIN).now_or_never().unwrap() {
                Ok(place) => probes.push(place),
                Err(no) => assert_eq!(no.reply().label, "breaker_open"),
            }
        }
        assert_eq!(probes.len(), number);
        assert!(probes.iter().all(|place| place.permit.is_probe()));
        for place in probes {
            assert_eq!(report(&upstream, 0).state, BreakerState::HalfOpen);
            place.permit.record(Outcome::Success);
        }
        assert_eq!(report(&upstream, 0).state, BreakerState::Closed);
        assert!(pools[0].place(&ONCE).now_or_never().unwrap().is_ok());
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_probe_begins_without_the_latency_from_before() {
    let upstream = upstream_at(&taking(100).await, "");
    let pool = Pool::new(upstream.clone());
    warm(&pool).await;
    tokio::time::pause();
    let load = &upstream.endpoints()[0].standing.load;
    load.observe(Duration::from_secs(9), Instant::now());
    breaks(&upstream, 0);
    advance(Duration::from_secs(1)).await;
    assert!(load.expected(Instant::now()).is_some());
    let _probe = pool.place(&AGAIN).now_or_never().unwrap().ok().unwrap();
    assert!(load.expected(Instant::now()).is_none());
}

#[tokio::test]
async fn an_endpoint_whose_probe_is_due_is_connected_to_without_a_call_that_waits() {
    let urls = [taking(100).await, taking(100).await].join(", ");
    let upstream = upstream_at(&urls, "[upstreams.breaker]\nopen_min = '1ms'\n");
    let pool = Pool::new(upstream.clone());
    // Its breaker opened before this worker had a connection to it.
    breaks(&upstream, 0);
    let other = upstream.endpoints()[1].clone();
    let place = pool.place(&ONCE).await.ok().unwrap();
    assert!(Arc::ptr_eq(place.lease.endpoint(), &other));
    while !is_connected(&pool, 0) {
        let placed = pool.place(&ONCE).now_or_never().expect("at once");
        assert!(Arc::ptr_eq(placed.ok().unwrap().lease.endpoint(), &other));
        tokio::task::yield_now().await;
    }
    // That it could be connected to does not mean that it answers.
    assert_ne!(report(&upstream, 0).state, BreakerState::Closed);
    let place = pool.place(&AGAIN).await.ok().unwrap();
    assert!(place.permit.is_probe());
}

#[tokio::test]
async fn an_endpoint_that_can_be_connected_to_again_begins_without_its_old_latency() {
    let (socket, url) = nobody();
    let upstream = upstream_at(&url, "");
    let load = &upstream.endpoints()[0].standing.load;
    load.observe(Duration::from_secs(9), Instant::now());
    let pool = Pool::new(upstream.clone());
    assert!(pool.place(&ONCE).await.is_err());
    assert!(load.expected(Instant::now()).is_some());
    let listener = socket.listen(8).unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while connection.accept().await.is_some() {}
    });
    while pool.place(&ONCE).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(load.expected(Instant::now()).is_none());
}

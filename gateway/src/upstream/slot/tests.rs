//! Against backends on the loopback; time is what the test says it is.

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;

use super::*;
use crate::body::Body;
use crate::config::EndpointConfig;
use crate::test_util::{call_record, config, drain, grpc_head, status};
use crate::upstream::{Pool, Upstream};

const SECOND: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);
const AGE: Duration = Duration::from_secs(600);

/// A backend that says when connections come and go, and ends its calls when
/// it is told.
struct Backend {
    port: u16,
    told: UnboundedReceiver<Told>,
    finish: watch::Sender<bool>,
}

#[derive(Debug, PartialEq)]
enum Told {
    Opened(usize),
    Called(usize),
    Closed(usize),
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = mpsc::unbounded_channel();
        let (finish, finished) = watch::channel(false);
        tokio::spawn(async move {
            for number in 1.. {
                let (socket, _) = listener.accept().await.unwrap();
                let (tell, finished) = (tell.clone(), finished.clone());
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    let _ = tell.send(Told::Opened(number));
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let _ = tell.send(Told::Called(number));
                        let mut finished = finished.clone();
                        tokio::spawn(async move {
                            let mut send = respond.send_response(grpc_head(), false).unwrap();
                            finished.wait_for(|finished| *finished).await.unwrap();
                            let _ = send.send_data(Bytes::from_static(b"all"), false);
                            let _ = send.send_trailers(status("0"));
                        });
                    }
                    let _ = tell.send(Told::Closed(number));
                });
            }
        });
        Self { port, told, finish }
    }

    async fn says(&mut self, what: Told) {
        let said = tokio::time::timeout(10 * SECOND, self.told.recv()).await;
        assert_eq!(said.expect("it says something"), Some(what));
    }

    fn finish(&self) {
        self.finish.send_replace(true);
    }
}

fn upstream(ports: &[u16]) -> Arc<Upstream> {
    let endpoints: Vec<_> = ports
        .iter()
        .map(|port| format!("'http://127.0.0.1:{port}'"))
        .collect();
    let config = config(&format!(
        "[[upstreams]]\nname = 'b'\nendpoints = [{}]\nidle_timeout = '{}s'\n\
         max_connection_age = '{}s'\nconnect_timeout = '200ms'\n\
         [upstreams.breaker]\nconsecutive_failures = 1000\nmin_calls = 1000\n\
         [upstreams.retries]\nmax_tries = 1\n",
        endpoints.join(", "),
        IDLE.as_secs(),
        AGE.as_secs()
    ));
    Upstream::open(&config.upstreams[0], None, &Default::default()).unwrap()
}

fn closed(upstream: &Upstream, why: Closed) -> u64 {
    upstream.dialer.figures.how_many_closed(why)
}

async fn call(pool: &Arc<Pool>) -> Result<Response<Body>, Reply> {
    let request = Request::new(Body::empty());
    crate::upstream::call(pool, request, None, &mut call_record()).await
}

async fn ends_well(response: Response<Body>) {
    let (bytes, trailers, error) = drain(&mut response.into_body()).await;
    assert!(error.is_none());
    assert_eq!(
        (&bytes[..], &trailers.unwrap()["grpc-status"]),
        (&b"all"[..], &"0".parse().unwrap())
    );
}

#[tokio::test]
async fn a_connection_without_a_call_for_the_idle_timeout_closes() {
    let mut backend = Backend::start().await;
    let upstream = upstream(&[backend.port]);
    let pool = Pool::unattended(upstream.clone());
    let response = call(&pool).await.unwrap();
    let now = Instant::now();
    for after in 0..10 {
        // In use, however long.
        pool.look_after(now + after * IDLE / 5);
    }
    backend.finish();
    ends_well(response).await;
    let now = now + 2 * IDLE;
    pool.look_after(now);
    pool.look_after(now + IDLE - SECOND);
    ends_well(call(&pool).await.unwrap()).await;
    // That call has begun it anew.
    pool.look_after(now + IDLE);
    pool.look_after(now + IDLE + SECOND);
    assert_eq!(closed(&upstream, Closed::Idle), 0);
    pool.look_after(now + 2 * IDLE + SECOND);
    assert_eq!(closed(&upstream, Closed::Idle), 1);
    backend.says(Told::Opened(1)).await;
    backend.says(Told::Called(1)).await;
    backend.says(Told::Called(1)).await;
    backend.says(Told::Closed(1)).await;
    ends_well(call(&pool).await.unwrap()).await;
    backend.says(Told::Opened(2)).await;
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_replaced_and_closes_when_its_last_call_ends() {
    let mut backend = Backend::start().await;
    let upstream = upstream(&[backend.port]);
    let pool = Pool::unattended(upstream.clone());
    let first = call(&pool).await.unwrap();
    backend.says(Told::Opened(1)).await;
    backend.says(Told::Called(1)).await;
    let old = grow_old(&pool);
    pool.look_after(old - SECOND);
    assert!(!pool.slot(0).is_connecting());
    pool.look_after(old);
    assert!(pool.slot(0).is_connecting());
    // There is no gap: calls go to it until the other is there.
    let second = call(&pool).await.unwrap();
    let both = [backend.told.recv().await, backend.told.recv().await];
    assert!(both.contains(&Some(Told::Called(1))) && both.contains(&Some(Told::Opened(2))));
    replaced(&pool, &upstream, old).await;
    let third = call(&pool).await.unwrap();
    backend.says(Told::Called(2)).await;
    backend.finish();
    for response in [first, second, third] {
        ends_well(response).await;
    }
    backend.says(Told::Closed(1)).await;
    assert_eq!(closed(&upstream, Closed::Age), 1);
}

/// The only connection is too old from that time on.
fn grow_old(pool: &Pool) -> Instant {
    let slot = pool.slot(0);
    let mut connections = slot.lock();
    assert_eq!(connections.len(), 1);
    assert!(connections[0].expires > Instant::now() + AGE * 8 / 10);
    connections[0].expires = Instant::now() + 10 * SECOND;
    connections[0].expires
}

impl Slot {
    fn is_connecting(&self) -> bool {
        self.connecting.try_lock().is_err()
    }
}

/// Looks at that time until a connection is closed because of its age.
async fn replaced(pool: &Pool, upstream: &Upstream, now: Instant) {
    let closing = async {
        while closed(upstream, Closed::Age) == 0 {
            pool.look_after(now);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(10 * SECOND, closing).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_too_old_and_has_no_call_closes_at_once() {
    let mut backend = Backend::start().await;
    let upstream = upstream(&[backend.port]);
    let pool = Pool::unattended(upstream.clone());
    backend.finish();
    ends_well(call(&pool).await.unwrap()).await;
    backend.says(Told::Opened(1)).await;
    backend.says(Told::Called(1)).await;
    let old = grow_old(&pool);
    pool.look_after(old - 2 * SECOND);
    pool.look_after(old - SECOND);
    assert_eq!(closed(&upstream, Closed::Age), 0);
    pool.look_after(old);
    assert_eq!(closed(&upstream, Closed::Age), 1);
    assert!(!pool.slot(0).is_connecting());
    backend.says(Told::Closed(1)).await;
}

#[tokio::test]
async fn a_connection_that_can_not_be_replaced_is_used_a_little_longer() {
    // It takes one connection, and no other.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let mut open = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            open.push(respond.send_response(grpc_head(), false).unwrap());
        }
    });
    let upstream = upstream(&[port]);
    let pool = Pool::unattended(upstream.clone());
    let mut open = vec![call(&pool).await.unwrap()];
    let old = grow_old(&pool);
    pool.look_after(old);
    let slot = pool.slot(0);
    // The attempt at another has ended.
    drop(slot.connecting.lock().await);
    for after in [0, 3, 6] {
        pool.look_after(old + after * SECOND);
        open.push(call(&pool).await.unwrap());
    }
    assert_eq!(closed(&upstream, Closed::Age), 0);
    pool.look_after(old + OVERTIME);
    assert_eq!(closed(&upstream, Closed::Age), 1);
    assert!(!slot.is_connected());
    assert_eq!(call(&pool).await.err().unwrap().label, "no_endpoint");
}

#[test]
fn chance_shortens_an_age_by_up_to_a_tenth() {
    assert_eq!(age(AGE, 0.0), AGE);
    assert_eq!(age(AGE, 0.5), AGE * 95 / 100);
    assert_eq!(age(AGE, 1.0), AGE * 9 / 10);
    assert_eq!(age(AGE, 7.0), AGE * 9 / 10);
}

#[tokio::test]
async fn calls_to_an_endpoint_that_is_gone_end_well_and_its_connection_closes() {
    let (mut gone, mut stays) = (Backend::start().await, Backend::start().await);
    let upstream = upstream(&[gone.port]);
    let pool = Pool::unattended(upstream.clone());
    let response = call(&pool).await.unwrap();
    gone.says(Told::Opened(1)).await;
    gone.says(Told::Called(1)).await;
    let other = EndpointConfig {
        host: "127.0.0.1".into(),
        port: stays.port,
        tls: false,
    };
    upstream.replace(&[other], None).unwrap();
    let next = call(&pool).await.unwrap();
    stays.says(Told::Opened(1)).await;
    stays.says(Told::Called(1)).await;
    gone.finish();
    stays.finish();
    ends_well(response).await;
    ends_well(next).await;
    gone.says(Told::Closed(1)).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_loses_its_connection_though_nobody_calls() {
    let mut gone = Backend::start().await;
    gone.finish();
    let upstream = upstream(&[gone.port]);
    let pool = Pool::unattended(upstream.clone());
    ends_well(call(&pool).await.unwrap()).await;
    gone.says(Told::Opened(1)).await;
    gone.says(Told::Called(1)).await;
    upstream.replace(&[], None).unwrap();
    pool.look_after(Instant::now());
    gone.says(Told::Closed(1)).await;
    assert_eq!(call(&pool).await.err().unwrap().label, "no_endpoint");
}

#[tokio::test]
async fn a_peer_that_is_leaving_gets_no_new_calls_and_ends_those_in_progress() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (leave, leaving) = watch::channel(false);
    tokio::spawn(async move {
        for number in 1.. {
            let (socket, _) = listener.accept().await.unwrap();
            let (tell, mut leaving) = (tell.clone(), leaving.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                let mut is_leaving = false;
                let of_calls = leaving.clone();
                loop {
                    tokio::select! {
                        call = connection.accept() => match call {
                            Some(Ok((_, mut respond))) => {
                                tell.send(number).unwrap();
                                let mut send = respond.send_response(grpc_head(), false).unwrap();
                                let mut leaving = of_calls.clone();
                                tokio::spawn(async move {
                                    leaving.wait_for(|leaving| *leaving).await.unwrap();
                                    let _ = send.send_data(Bytes::from_static(b"all"), false);
                                    let _ = send.send_trailers(status("0"));
                                });
                            }
                            _ => return,
                        },
                        _ = leaving.wait_for(|leaving| *leaving), if !is_leaving => {
                            is_leaving = true;
                            if number == 1 {
                                connection.graceful_shutdown();
                            }
                        }
                    }
                }
            });
        }
    });
    let pool = Pool::unattended(upstream(&[port]));
    let responses = [call(&pool).await.unwrap(), call(&pool).await.unwrap()];
    assert_eq!((told.recv().await, told.recv().await), (Some(1), Some(1)));
    let slot = pool.slot(0);
    leave.send_replace(true);
    for response in responses {
        ends_well(response).await;
    }
    // The word that it leaves came before the end of the calls.
    assert!(slot.take(0).is_none());
    ends_well(call(&pool).await.unwrap()).await;
    assert_eq!(told.recv().await, Some(2));
}

#[tokio::test]
async fn an_attempt_goes_on_when_its_caller_has_left() {
    // Takes connections and says nothing.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let upstream = upstream(&[port]);
    let pool = Pool::unattended(upstream.clone());
    let left = tokio::time::timeout(SECOND / 100, call(&pool)).await;
    assert!(left.is_err());
    let endpoint = upstream.endpoints()[0].clone();
    let backs_off = async {
        while !endpoint.standing.dial.backs_off(Instant::now()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(10 * SECOND, backs_off).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_tried_once_in_100_ms_however_many_call() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Relaxed);
            drop(socket);
        }
    });
    // Two workers.
    let upstream = upstream(&[port]);
    let pools = [
        Pool::unattended(upstream.clone()),
        Pool::unattended(upstream),
    ];
    assert!(call(&pools[0]).await.is_err());
    let began = Instant::now();
    while began.elapsed() < SECOND / 2 {
        for pool in &pools {
            let reply = call(pool).await.err().unwrap();
            assert_eq!(reply.label, "no_endpoint");
        }
    }
    let most = 1 + began.elapsed().as_millis().div_ceil(100) as usize;
    let attempts = attempts.load(Relaxed);
    assert!((2..=most).contains(&attempts), "{attempts} of {most}");
}

/// Takes connections and says nothing; backs off for 5 to 10 s.
async fn long_down() -> (TcpListener, Arc<Upstream>, Arc<Pool>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let upstream = upstream(&[listener.local_addr().unwrap().port()]);
    let now = Instant::now();
    for _ in 0..20 {
        upstream.endpoints()[0].standing.dial.failed(now, now);
    }
    let pool = Pool::unattended(upstream.clone());
    (listener, upstream, pool)
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_due_does_not_wait_until_its_endpoint_backs_off_no_more() {
    let (_listener, upstream, pool) = long_down().await;
    let (slot, endpoint) = (pool.slot(0), upstream.endpoints()[0].clone());
    let breaker = &endpoint.standing.breaker;
    tokio::time::advance(SECOND).await;
    slot.connect_behind();
    assert!(!slot.is_connecting());
    while let Ok(permit) = breaker.try_acquire() {
        permit.record(Outcome::Failure);
    }
    slot.connect_behind();
    assert!(!slot.is_connecting(), "no probe is due");
    tokio::time::advance(breaker.describe().next_probe_in.unwrap()).await;
    slot.connect_behind();
    assert!(slot.is_connecting());
}

#[tokio::test(start_paused = true)]
async fn it_is_told_how_long_an_endpoint_backs_off() {
    let (_listener, upstream, _pool) = long_down().await;
    let endpoint = &upstream.endpoints()[0];
    let left = || endpoint.describe()["next_connect_in_ms"].clone();
    assert!((5000..=10_000).contains(&left().as_u64().unwrap()));
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(left(), serde_json::Value::Null);
}

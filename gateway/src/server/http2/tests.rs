use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use intellirouter::events::LogUse;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;

use super::*;
use crate::events::open_log;
use crate::gateway::Gateway;
use crate::test_util::{client, config};

fn size_of_future<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

/// Each call allocates this and moves it once or twice; connecting to a
/// backend and the gateway's own services must stay boxed.
#[test]
fn a_call_is_a_small_future() {
    let size = size_of_future(stream);
    assert!(size <= 3200, "{size} bytes");
}

/// What a client sends that makes so many calls in one breath.
fn calls(count: u32) -> Vec<u8> {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // POST, https and / of the static table; END_STREAM and END_HEADERS.
    const HEAD: &[u8] = &[0, 0, 3, 1, 5];
    const BLOCK: &[u8] = &[0x83, 0x87, 0x84];
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS].concat();
    for call in 0..count {
        bytes.extend([HEAD, &(2 * call + 1).to_be_bytes(), BLOCK].concat());
    }
    bytes
}

/// Whether a task has woken itself.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn calls_that_come_at_once_let_other_connections_in_between() {
    let config = config("");
    let log = open_log(&config.events, LogUse::Gateway).await.unwrap();
    let limits = config.limits.clone();
    let worker = Worker::new(Gateway::new(config, log, None).unwrap(), 0);
    let (mut sent, io) = tokio::io::duplex(64 * 1024);
    sent.write_all(&calls(150)).await.unwrap();

    let before = Handle::current().metrics().num_alive_tasks();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut serving = pin!(serve(&worker, &limits, io, client()));
    // Nothing but this connection runs, so a call that has begun stays a task.
    let mut turn = || {
        woken.0.store(false, Ordering::Relaxed);
        assert!(serving.as_mut().poll(&mut cx).is_pending());
        let begun = Handle::current().metrics().num_alive_tasks() - before;
        (begun, woken.0.load(Ordering::Relaxed))
    };
    assert_eq!(turn(), (64, true));
    assert_eq!(turn(), (128, true));
    assert_eq!(turn().0, 150);
}

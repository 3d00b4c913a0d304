//! A TCP relay before a gateway, whose connections a test can cut, and which
//! can lead to another port afterwards: what a client knows stays the same.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// A running relay. Its threads end with the test's process.
pub struct Relay {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    state: Arc<State>,
}

struct State {
    target: AtomicU16,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// One that leads to this port of 127.0.0.1.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            target: AtomicU16::new(target),
            open: Mutex::default(),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = accepting.target.load(Ordering::Relaxed);
                // Dropped, and so refused, while nobody is there.
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                let mut open = accepting.open.lock().unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.push(from.try_clone().unwrap());
                    std::thread::spawn(move || pass(from, to));
                }
            }
        });
        Self { port, state }
    }

    /// Cuts every connection that is open.
    pub fn cut(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Leads to another port from now on.
    pub fn lead_to(&self, target: u16) {
        self.state.target.store(target, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

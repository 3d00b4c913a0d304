//! What tests of limits share: rates as text, a backend that answers at once,
//! and calls that count.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::client::Connection;
use crate::foreign::{PATH, answer};
use crate::{Config, DEADLINE, Gateway, Process, Site, Token};

/// The code of a call that a limit refuses.
pub const EXHAUSTED: i32 = 8;

/// A `[[limits.rates]]` of this name.
pub fn rate(name: &str, per: &str, more: &str) -> String {
    format!("[[limits.rates]]\nname = \"{name}\"\nper = [{per}]\n{more}\n")
}

/// A backend that answers everything at once.
pub async fn backend(site: &Site) -> Backend {
    Backend::start(site, |_, respond| {
        answer(respond);
        std::future::ready(())
    })
    .await
}

/// It behind a gateway: `/foreign.Service/*` and `/foreign.Free/*`.
pub fn config(backend: &Backend, limits: &str) -> Config {
    Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .route("/foreign.Free/*", "foreign")
        .with_text(limits)
}

/// The `authorization` of a `tester` of this name.
pub fn bearer_of(site: &Site, subject: &str) -> String {
    let token = Token::new(subject, &["tester"]).hs256(site.secret().as_bytes());
    format!("Bearer {token}")
}

/// How many of `calls` pass, one after the other; the rest must be refused.
pub async fn passed(gateway: &Gateway, bearer: &str, calls: usize) -> usize {
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut passed = 0;
    for _ in 0..calls {
        let status = client.unary(PATH, &[("authorization", bearer)], b"").await;
        match status.status().code {
            0 => passed += 1,
            code => assert_eq!(code, EXHAUSTED, "{:?}", status.status()),
        }
    }
    client.close().await;
    passed
}

/// A page of the admin address.
pub fn page(gateway: &Gateway, path: &str) -> String {
    let mut command = Command::new("curl");
    let url = format!("http://127.0.0.1:{}{path}", gateway.admin);
    command.args(["-sS", "--max-time", "20", &url]);
    Process::run("curl", &command).1
}

/// Waits until a page holds this.
pub fn shows(gateway: &Gateway, path: &str, text: &str) {
    let end = Instant::now() + DEADLINE;
    loop {
        let found = page(gateway, path);
        if found.contains(text) {
            return;
        }
        assert!(Instant::now() < end, "{text} is not in\n{found}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

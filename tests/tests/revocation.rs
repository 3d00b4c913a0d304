//! What is revoked is refused within a second: new calls, remembered tokens
//! and streams that are open, at every gateway, whatever happens to the places
//! that revocations come from.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::{Duration, Instant};

use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::curl::{request, stream};
use intellirouter_tests::events::PATTERN;
use intellirouter_tests::grpc::{Status, frame};
use intellirouter_tests::messages::OutputRequest;
use intellirouter_tests::redis::{Redis, free_port};
use intellirouter_tests::service::Interop;
use intellirouter_tests::token::now;
use intellirouter_tests::web::{web_frames, web_status};
use intellirouter_tests::{Config, DEADLINE, Gateway, Process, Site, Token, binary};
use prost::Message;
use serde_json::Value;

const EMPTY: &str = "/interop.testing.Interop/EmptyCall";
const DUPLEX: &str = "/interop.testing.Interop/HeadersFirst";
const OUTPUT: &str = "/interop.testing.Interop/StreamingOutputCall";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SUBSCRIBE: &str = "/intellirouter.events.v1.EventService/Subscribe";
const SECOND: Duration = Duration::from_secs(1);

/// A gateway before the foreign service, with revocations.
struct Gate {
    site: Site,
    service: Interop,
    gateway: Gateway,
}

/// A configuration with keys of `[revocation]`.
fn config(service: &Interop, revocation: &str) -> Config {
    Config::interop(service.port)
        .events("")
        .with_text(&format!("[revocation]\n{revocation}\n"))
        .with_text(
            "[[routes]]\nmatch = \"/grpc.health.v1.Health/Watch\"\nupstream = \"gateway\"\n\
             roles = [\"tester\"]\n",
        )
}

impl Gate {
    /// With keys of `[revocation]`; the file `revoked.txt` is there and empty.
    fn new(revocation: &str) -> Self {
        let site = Site::new();
        site.write("revoked.txt", "");
        let service = site.interop();
        let gateway = site.gateway(&config(&service, revocation));
        Self {
            site,
            service,
            gateway,
        }
    }

    fn with_file() -> Self {
        Self::new("file = \"revoked.txt\"")
    }

    fn on(redis: &Redis) -> Self {
        Self::new(&format!("store = \"{}\"", redis.url()))
    }

    /// A token of `subject` with the id `{subject}-1`, issued a minute ago.
    fn token(&self, subject: &str) -> String {
        self.sign(
            Token::new(subject, &["tester"])
                .with("jti", format!("{subject}-1"))
                .with("iat", now() - 60),
        )
    }

    fn sign(&self, token: Token) -> String {
        token.hs256(self.site.secret().as_bytes())
    }

    async fn status(&self, token: &str) -> Status {
        status(&self.gateway, token).await
    }

    /// Runs `intellirouter revoke` on the configuration.
    fn revoke(&self, args: &[&str]) -> String {
        let config = self.site.dir().join("gateway.toml");
        let (code, out, err) = revoke(&[&["--config", config.to_str().unwrap()], args].concat());
        assert_eq!(code, Some(0), "{out}{err}");
        out
    }
}

async fn status(gateway: &Gateway, token: &str) -> Status {
    let bearer = format!("Bearer {token}");
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let headers = [("authorization", bearer.as_str())];
    let answer = client.unary(EMPTY, &headers, b"").await;
    client.close().await;
    answer.status()
}

/// Calls until the gateway answers with `code`. A refusal must come within a
/// second; who is let in again may have to wait.
async fn becomes(gateway: &Gateway, token: &str, code: i32) -> Status {
    let start = Instant::now();
    let limit = if code == 0 { DEADLINE } else { SECOND };
    loop {
        let status = status(gateway, token).await;
        if status.code == code {
            return status;
        }
        assert!(start.elapsed() < limit, "still {status:?}");
    }
}

fn reason(status: &Status) -> &str {
    &status.details.error_info.as_ref().expect("details").reason
}

/// Runs `intellirouter revoke`; gives exit code, stdout and stderr.
fn revoke(args: &[&str]) -> (Option<i32>, String, String) {
    let (status, out, err) =
        Process::run("revoke", &binary::command(&[&["revoke"], args].concat()));
    (status.code(), out, err)
}

/// A time as a revocation has it.
fn utc(seconds: i64) -> String {
    let mut date = std::process::Command::new("date");
    date.args(["-u", "-d", &format!("@{seconds}"), "+%FT%TZ"]);
    Process::run("date", &date).1.trim().to_owned()
}

/// Asks again and again.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
    }
}

/// The status of `/readyz`.
fn ready(gateway: &Gateway) -> u16 {
    let mut curl = std::process::Command::new("curl");
    let url = format!("http://127.0.0.1:{}/readyz", gateway.admin);
    let status = ["-sS", "-o", "/dev/null", "-w", "%{http_code}"];
    curl.args(status).args(["--max-time", "20", &url]);
    Process::run("curl", &curl).1.parse().unwrap()
}

/// Waits until a page of the admin address has a text.
fn page_with(gateway: &Gateway, path: &str, text: &str) -> String {
    let end = Instant::now() + DEADLINE;
    loop {
        let page = gateway.page(path);
        if page.contains(text) {
            return page;
        }
        assert!(Instant::now() < end, "no {text:?} in\n{page}");
    }
}

#[tokio::test]
async fn a_remembered_token_is_refused_within_a_second_in_each_dialect_and_no_other_is() {
    let gate = Gate::with_file();
    let (alice, bob) = (gate.token("alice"), gate.token("bob"));
    let other = gate.sign(Token::new("alice", &["tester"]).with("jti", "alice-2"));
    for token in [&alice, &bob, &other] {
        assert_eq!(gate.status(token).await.code, 0);
    }
    gate.site.write("revoked.txt", "jti alice-1\n");
    let status = becomes(&gate.gateway, &alice, 16).await;
    assert_eq!(
        (reason(&status), status.message.as_str()),
        ("REVOKED", "the token was revoked")
    );
    let header = format!("authorization: Bearer {alice}");
    let path = format!("/events?channel={PATTERN}");
    let answer = request(&gate.gateway, &path, &["-H", &header], None);
    assert_eq!(answer.status, 401);
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["reason"], "revoked");
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer error=\"invalid_token\""));
    for token in [&bob, &other] {
        assert_eq!(gate.status(token).await.code, 0);
    }
}

#[tokio::test]
async fn a_revoked_subject_can_log_in_again() {
    let gate = Gate::with_file();
    let old = gate.token("alice");
    assert_eq!(gate.status(&old).await.code, 0);
    let said = gate.revoke(&["--subject", "alice", "--ttl", "1h"]);
    assert!(said.contains("revoked: sub alice issued_before "), "{said}");
    becomes(&gate.gateway, &old, 16).await;
    // The clock of its issuer is ahead; it is an old one all the same.
    let new = gate.sign(Token::new("alice", &["tester"]).with("iat", now() + 5));
    assert_eq!(gate.status(&new).await.code, 16);
    gate.revoke(&["--subject", "alice", "--undo"]);
    becomes(&gate.gateway, &old, 0).await;
    let time = utc(now());
    gate.revoke(&["--subject", "alice", "--issued-before", &time]);
    becomes(&gate.gateway, &old, 16).await;
    assert_eq!(gate.status(&new).await.code, 0);
    // A token that does not say when it was issued may be an old one.
    let silent = gate.sign(Token::new("alice", &["tester"]).with("iat", Value::Null));
    assert_eq!(gate.status(&silent).await.code, 16);
}

#[tokio::test]
async fn a_subject_may_be_revoked_at_one_issuer() {
    let gate = Gate::with_file();
    let alice = gate.token("alice");
    let elsewhere = "sub alice issuer elsewhere\n";
    gate.site.write("revoked.txt", elsewhere);
    gate.revoke(&["--subject", "bob", "--issuer", "intellirouter"]);
    becomes(&gate.gateway, &gate.token("bob"), 16).await;
    assert_eq!(gate.status(&alice).await.code, 0);
}

#[test]
fn an_issuer_that_nobody_comes_from_is_refused_but_what_was_revoked_there_can_be_undone() {
    let gate = Gate::with_file();
    let config = gate.site.dir().join("gateway.toml");
    let refused = |issuer: &str, expected: &str| {
        let at = ["--subject", "alice", "--issuer", issuer];
        let args = [&["--config", config.to_str().unwrap()], &at[..]].concat();
        let (code, _, err) = revoke(&args);
        assert_eq!(code, Some(64), "{err}");
        assert!(err.contains(expected), "{err}");
    };
    refused("elsewhere", "--issuer: expected one of [\"intellirouter\"]");
    refused("certificate", "no client is asked for a certificate");
    gate.site
        .write("revoked.txt", "sub alice issuer elsewhere\n");
    gate.revoke(&["--subject", "alice", "--issuer", "elsewhere", "--undo"]);
    assert_eq!(gate.revoke(&["--list"]), "");
}

#[test]
fn a_subject_is_revoked_until_that_is_undone_and_a_token_for_a_day() {
    let gate = Gate::with_file();
    let said = gate.revoke(&["--subject", "alice"]);
    assert!(!said.contains(" until "), "{said}");
    let said = gate.revoke(&["--subject", "bob", "--ttl", "1h"]);
    assert!(said.contains(" until "), "{said}");
    let said = gate.revoke(&["--jti", "a"]);
    let until = said.trim().rsplit(' ').next().unwrap();
    let day = now() + 86_400;
    assert!(
        (utc(day - 60)..=utc(day)).contains(&until.to_owned()),
        "{said}"
    );
}

#[tokio::test]
async fn a_revocation_ends_by_itself_and_can_be_taken_back() {
    let gate = Gate::with_file();
    let (alice, bob) = (gate.token("alice"), gate.token("bob smith"));
    gate.revoke(&["--jti", "alice-1", "--ttl", "3s"]);
    becomes(&gate.gateway, &alice, 16).await;
    gate.revoke(&["--subject", "bob smith"]);
    becomes(&gate.gateway, &bob, 16).await;
    in_time("the end of the revocation", async {
        while gate.status(&alice).await.code != 0 {}
    })
    .await;
    assert!(
        gate.revoke(&["--list"])
            .starts_with("sub \"bob smith\" issued_before")
    );
    gate.revoke(&["--subject", "bob smith", "--undo"]);
    becomes(&gate.gateway, &bob, 0).await;
    assert_eq!(gate.revoke(&["--list"]), "");
}

#[tokio::test]
async fn a_bad_or_lost_file_keeps_what_was_revoked_and_operators_are_told_where_it_is_bad() {
    let gate = Gate::with_file();
    let (alice, bob) = (gate.token("alice"), gate.token("bob"));
    gate.site.write("revoked.txt", "sub alice\n");
    becomes(&gate.gateway, &alice, 16).await;
    assert_eq!(gate.gateway.figure("revocation_file_good"), 1);
    gate.site.write("revoked.txt", "sub bob\nhunter2\n");
    let page = page_with(&gate.gateway, "/readyz", "revoked.txt:2: expected");
    assert!(
        page.starts_with("ready\n") && !page.contains("hunter2"),
        "{page}"
    );
    assert_eq!(gate.gateway.figure("revocation_file_good"), 0);
    std::fs::remove_file(gate.site.dir().join("revoked.txt")).unwrap();
    page_with(&gate.gateway, "/readyz", "revoked.txt: No such file");
    assert_eq!(gate.status(&alice).await.code, 16);
    assert_eq!(gate.status(&bob).await.code, 0);
    let logged = gate.gateway.process.error_lines();
    let logged = logged.iter().filter(|line| line.contains("revoked.txt:2"));
    assert_eq!(logged.count(), 1, "it is logged once");
    gate.site.write("revoked.txt", "sub bob\n");
    becomes(&gate.gateway, &bob, 16).await;
    becomes(&gate.gateway, &alice, 0).await;
    assert_eq!(gate.gateway.figure("revocations"), 1);
}

#[test]
fn a_start_with_a_bad_file_is_a_fault_of_the_config() {
    let site = Site::new();
    site.write("revoked.txt", "sub alice until tomorrow\n");
    let config = Config::default().with_text("[revocation]\nfile = \"revoked.txt\"\n");
    let file = site.write("bad.toml", &config.render());
    for command in ["check", "gateway"] {
        let args = [command, "--config", file.to_str().unwrap()];
        let (status, _, err) = Process::run(command, &binary::command(&args));
        assert_eq!(status.code(), Some(64), "{err}");
        assert!(err.contains("revocation.file: "), "{err}");
        assert!(
            err.contains("revoked.txt:1: expected a time such as"),
            "{err}"
        );
    }
}

#[tokio::test]
async fn a_revocation_in_the_store_holds_at_every_gateway_within_a_second() {
    let redis = Redis::start();
    let (one, other) = (Gate::on(&redis), Gate::on(&redis));
    let gates = [(&one, one.token("alice")), (&other, other.token("alice"))];
    for (gate, token) in &gates {
        assert_eq!(gate.status(token).await.code, 0);
    }
    let said = one.revoke(&["--jti", "alice-1"]);
    assert!(said.contains(": revoked: jti alice-1 until "), "{said}");
    for (gate, token) in &gates {
        becomes(&gate.gateway, token, 16).await;
        assert_eq!(gate.gateway.figure("revocations"), 1);
        assert_eq!(gate.gateway.figure("revocation_store_connected"), 1);
    }
    let list = revoke(&["--store", &redis.url(), "--list"]).1;
    assert!(list.starts_with("jti alice-1 until "), "{list}");
    other.revoke(&["--jti", "alice-1", "--undo"]);
    for (gate, token) in &gates {
        becomes(&gate.gateway, token, 0).await;
    }
}

#[tokio::test]
async fn a_gateway_that_starts_later_refuses_from_its_first_call_on() {
    let redis = Redis::start();
    for n in 0..700 {
        // More than one page.
        let target = format!("sub user{n}");
        redis.cli(&[
            "HSET",
            "{intellirouter-revocation}:entries",
            &target,
            "9999999999 9999999999",
        ]);
    }
    revoke(&[
        "--store",
        &redis.url(),
        "--subject",
        "alice",
        "--issuer",
        "intellirouter",
    ]);
    let gate = Gate::on(&redis);
    assert_eq!(gate.status(&gate.token("alice")).await.code, 16);
    assert_eq!(gate.status(&gate.token("user699")).await.code, 16);
    assert_eq!(gate.status(&gate.token("bob")).await.code, 0);
    assert_eq!(gate.gateway.figure("revocations"), 701);
}

/// A revocation holds, nobody else is refused or waits, and operators are told.
async fn holds_without_the_store(gate: &Gate) {
    page_with(
        &gate.gateway,
        "/metrics",
        "\nintellirouter_revocation_store_connected 0\n",
    );
    let page = gate.gateway.page("/readyz");
    assert!(page.starts_with("ready\n"), "{page}");
    assert!(
        page.contains("store not followed, the last known entries hold: 127.0.0.1:"),
        "{page}"
    );
    assert_eq!(gate.status(&gate.token("alice")).await.code, 16);
    let start = Instant::now();
    assert_eq!(gate.status(&gate.token("bob")).await.code, 0);
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn while_the_store_does_not_answer_what_is_revoked_stays_so_and_nobody_waits() {
    let redis = Redis::start();
    let gate = Gate::on(&redis);
    gate.revoke(&["--subject", "alice"]);
    becomes(&gate.gateway, &gate.token("alice"), 16).await;
    redis.freeze();
    holds_without_the_store(&gate).await;
    redis.thaw();
    page_with(&gate.gateway, "/readyz", "store followed");
    gate.revoke(&["--subject", "alice", "--undo"]);
    becomes(&gate.gateway, &gate.token("alice"), 0).await;
}

#[tokio::test]
async fn a_store_that_lost_everything_gets_back_what_the_gateway_knows() {
    let mut redis = Redis::start();
    let gate = Gate::on(&redis);
    gate.revoke(&["--subject", "alice", "--ttl", "1h"]);
    gate.revoke(&["--jti", "carol-1"]);
    becomes(&gate.gateway, &gate.token("alice"), 16).await;
    becomes(&gate.gateway, &gate.token("carol"), 16).await;
    let before = gate.revoke(&["--list"]);
    redis.kill();
    holds_without_the_store(&gate).await;
    redis.restart();
    page_with(&gate.gateway, "/readyz", "store followed");
    until("the entries are in the store", || {
        gate.revoke(&["--list"]) == before
    });
    assert_eq!(gate.status(&gate.token("alice")).await.code, 16);
    assert_eq!(gate.gateway.figure("revocations"), 2);
    gate.revoke(&["--subject", "alice", "--undo"]);
    becomes(&gate.gateway, &gate.token("alice"), 0).await;
}

#[tokio::test]
async fn a_store_that_was_emptied_and_filled_between_two_looks_is_noticed() {
    let redis = Redis::start();
    let gate = Gate::on(&redis);
    gate.revoke(&["--subject", "alice"]);
    becomes(&gate.gateway, &gate.token("alice"), 16).await;
    // As a restart without its data and a new revocation would do, at once.
    let script = "local keys = '{intellirouter-revocation}:'\n\
        local version = redis.call('GET', keys .. 'version')\n\
        redis.call('FLUSHALL')\n\
        redis.call('HSET', keys .. 'entries', 'sub bob', '9999999999 9999999999')\n\
        redis.call('SET', keys .. 'version', '9' .. version)";
    redis.cli(&["EVAL", script, "0"]);
    becomes(&gate.gateway, &gate.token("bob"), 16).await;
    assert_eq!(gate.status(&gate.token("alice")).await.code, 16);
    until("the entry is in the store", || {
        gate.revoke(&["--list"]).contains("sub alice")
    });
}

#[tokio::test]
async fn a_gateway_starts_while_the_store_is_away_and_is_not_ready_before_it_has_read_it() {
    let gate = Gate::new(&format!(
        "store = \"redis://u:hunter2@127.0.0.1:{}\"",
        free_port()
    ));
    assert_eq!(gate.status(&gate.token("alice")).await.code, 0);
    assert_eq!(ready(&gate.gateway), 503);
    let page = gate.gateway.page("/readyz");
    let first = "revocation store never read: revoked tokens pass\n";
    assert!(page.starts_with(first), "{page}");
    assert_eq!(gate.gateway.figure("revocation_store_connected"), 0);
    for page in ["/readyz", "/config", "/metrics"] {
        let page = gate.gateway.page(page);
        assert!(!page.contains("hunter2"), "{page}");
    }
    assert!(!gate.gateway.process.output().contains("hunter2"));
}

#[test]
fn a_gateway_is_ready_once_it_has_read_the_store_and_stays_so_without_it() {
    let mut redis = Redis::start();
    redis.freeze();
    let gate = Gate::on(&redis);
    assert_eq!(ready(&gate.gateway), 503);
    redis.thaw();
    page_with(&gate.gateway, "/readyz", "store followed");
    assert_eq!(ready(&gate.gateway), 200);
    redis.kill();
    page_with(&gate.gateway, "/readyz", "store not followed");
    assert_eq!(ready(&gate.gateway), 200);
}

const ENTRIES: &str = "{intellirouter-revocation}:entries";

#[test]
fn entries_that_a_full_server_evicted_are_missed_by_a_gateway_that_never_saw_them() {
    let redis = Redis::start();
    for id in ["a", "b"] {
        revoke(&["--store", &redis.url(), "--jti", id]);
    }
    redis.cli(&["DEL", ENTRIES]);
    let gate = Gate::on(&redis);
    let page = gate.gateway.page("/readyz");
    assert!(page.contains("it has lost 2 of 2 entries"), "{page}");
}

#[tokio::test]
async fn entries_that_a_full_server_evicted_are_given_back_by_a_gateway_that_knows_them() {
    let redis = Redis::start();
    let gate = Gate::on(&redis);
    gate.revoke(&["--subject", "alice"]);
    becomes(&gate.gateway, &gate.token("alice"), 16).await;
    // Alone, and with a new revocation at once.
    redis.cli(&["DEL", ENTRIES]);
    until("the entry is in the store", || {
        gate.revoke(&["--list"]).contains("sub alice")
    });
    redis.freeze();
    page_with(&gate.gateway, "/readyz", "store not followed");
    redis.thaw();
    redis.cli(&["DEL", ENTRIES]);
    gate.revoke(&["--jti", "bob-1"]);
    becomes(&gate.gateway, &gate.token("bob"), 16).await;
    until("the entries are in the store", || {
        gate.revoke(&["--list"]).contains("sub alice")
    });
    assert_eq!(gate.status(&gate.token("alice")).await.code, 16);
    page_with(&gate.gateway, "/readyz", "2 entries; store followed\n");
}

#[test]
fn a_store_takes_no_more_than_its_bound_and_a_gateway_takes_no_more_and_says_so() {
    let redis = Redis::start();
    let gate = Gate::new(&format!("store = \"{}\"\nmax_entries = 2", redis.url()));
    let config = gate.site.dir().join("gateway.toml");
    let config = config.to_str().unwrap();
    gate.revoke(&["--jti", "a"]);
    gate.revoke(&["--jti", "b"]);
    let (code, _, err) = revoke(&["--config", config, "--jti", "c"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("it has 2 entries, which is the most"), "{err}");
    // One that is there may be made longer, and one that has ended makes room.
    gate.revoke(&["--jti", "b", "--ttl", "48h"]);
    redis.cli(&["ZADD", "{intellirouter-revocation}:ends", "1", "jti a"]);
    gate.revoke(&["--jti", "c"]);
    // Somebody with a larger bound.
    revoke(&["--store", &redis.url(), "--jti", "d"]);
    let page = page_with(&gate.gateway, "/readyz", "store followed in part");
    assert!(
        page.contains("more than 2 entries (revocation.max_entries)"),
        "{page}"
    );
    assert_eq!(gate.gateway.figure("revocations"), 2);
    assert_eq!(gate.gateway.figure("revocation_store_connected"), 1);
}

#[test]
fn bad_usage_exits_64_a_failure_1_and_neither_tells_a_secret() {
    let site = Site::new();
    let plain = site.write("plain.toml", &Config::default().render());
    let plain = plain.to_str().unwrap();
    let token = Token::new("alice", &["hunter2"]).hs256(b"x");
    let gone = format!("redis://u:hunter2@127.0.0.1:{}", free_port());
    let gone = gone.as_str();
    for (args, code, expected) in [
        (&["--jti", "a"][..], 64, "--config"),
        (&["--store", gone], 64, "--jti"),
        (
            &["--store", gone, "--config", plain, "--jti", "a"],
            64,
            "cannot be used with",
        ),
        (
            &["--store", gone, "--jti", "a", "--subject", "b"],
            64,
            "cannot be used with",
        ),
        (
            &["--store", gone, "--jti", "a", "--issuer", "i"],
            64,
            "cannot be used with",
        ),
        (
            &["--store", gone, "--list", "--undo"],
            64,
            "cannot be used with",
        ),
        (
            &["--store", gone, "--jti", "a", "--ttl", "soon"],
            64,
            "expected 1s to 87600h",
        ),
        (
            &["--store", gone, "--jti", ""],
            64,
            "expected texts of 1 to 1024 bytes",
        ),
        (&["--store", gone, "--jti", &token], 64, "not the token"),
        (
            &["--store", "http://u:hunter2@h", "--list"],
            64,
            "expected \"redis://",
        ),
        (
            &["--store", "redis://u:hunter2@", "--list"],
            64,
            "expected \"redis://",
        ),
        (
            &["--config", plain, "--list"],
            64,
            "revocation: expected file or store",
        ),
        (&["--config", "gone.toml", "--list"], 64, "gone.toml"),
        (
            &["--store", gone, "--jti", "a"],
            1,
            "revocation store 127.0.0.1:",
        ),
        (
            &["--store", gone, "--list"],
            1,
            "revocation store 127.0.0.1:",
        ),
    ] {
        let (exit, out, err) = revoke(args);
        assert_eq!(exit, Some(code), "{expected}: {out}{err}");
        assert!(err.contains(expected), "{expected}: {err}");
        assert!(!err.contains("hunter2") && !err.contains(&token), "{err}");
    }
}

#[test]
fn taking_back_what_is_not_revoked_fails_and_says_so() {
    let gate = Gate::with_file();
    let config = gate.site.dir().join("gateway.toml");
    let args = ["--config", config.to_str().unwrap(), "--jti", "a", "--undo"];
    let (code, _, err) = revoke(&args);
    assert_eq!(code, Some(1));
    assert!(err.contains("not revoked: jti a"), "{err}");
}

/// What a stream's method is asked.
fn question(path: &str) -> Vec<u8> {
    if path != SUBSCRIBE {
        return Vec::new();
    }
    let length = u8::try_from(PATTERN.len()).unwrap();
    [&[0x0a, length], PATTERN.as_bytes()].concat()
}

#[tokio::test]
async fn an_open_grpc_stream_of_a_revoked_caller_ends_within_a_second_and_others_go_on() {
    let gate = Gate::with_file();
    let mut client = Connection::open(gate.gateway.port, &gate.gateway.ca).await;
    let mut open = Vec::new();
    for subject in ["alice", "bob"] {
        let bearer = format!("Bearer {}", gate.token(subject));
        for path in [DUPLEX, WATCH, SUBSCRIBE] {
            let mut call = client.call(path, &[("authorization", &bearer)]).await;
            if path != DUPLEX {
                call.send
                    .send_data(frame(false, &question(path)), true)
                    .unwrap();
            }
            let body = call.head().await.into_body();
            open.push((subject, path, call, body));
        }
    }
    let start = Instant::now();
    gate.site.write("revoked.txt", "sub alice\n");
    let bobs = open.split_off(3);
    for (subject, path, _call, body) in open {
        let (_, trailers) = in_time("the end", read(body))
            .await
            .expect("a whole answer");
        assert!(start.elapsed() < SECOND, "{path}: {:?}", start.elapsed());
        let status = Status::read(&trailers.expect("trailers"));
        assert_eq!(
            (status.code, reason(&status)),
            (16, "REVOKED"),
            "{subject}, {path}"
        );
    }
    for (_, path, mut call, mut body) in bobs {
        if path == DUPLEX {
            let message = OutputRequest {
                sizes: vec![1],
                interval_ms: 0,
            };
            call.send
                .send_data(frame(false, &message.encode_to_vec()), true)
                .unwrap();
            let data = in_time("an answer", body.data()).await.unwrap();
            assert!(!data.unwrap().is_empty());
        }
        assert!(!body.is_end_stream(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_grpc_web_stream_of_a_revoked_caller_ends_within_a_second() {
    let gate = Gate::with_file();
    for (version, id) in [("--http2", "h2"), ("--http1.1", "h1")] {
        gate.site.write("revoked.txt", "");
        becomes(&gate.gateway, &gate.token("alice"), 0).await;
        let message = OutputRequest {
            sizes: vec![1, 1],
            interval_ms: 60_000,
        };
        let body = frame(false, &message.encode_to_vec());
        let token = format!("authorization: Bearer {}", gate.token("alice"));
        let id_header = format!("x-call-id: {id}");
        let answer = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let kind = "content-type: application/grpc-web+proto";
                let args = [version, "-H", kind, "-H", &token, "-H", &id_header];
                let answer = request(&gate.gateway, OUTPUT, &args, Some(&body));
                (answer, Instant::now())
            });
            gate.service.begun(id);
            let start = Instant::now();
            gate.site.write("revoked.txt", "sub alice\n");
            let (answer, end) = asked.join().unwrap();
            assert!(end - start < SECOND, "{version}: {:?}", end - start);
            answer
        });
        let status = web_status(&web_frames(&answer.body));
        assert_eq!((status.code, reason(&status)), (16, "REVOKED"), "{version}");
    }
}

#[test]
fn an_open_event_stream_of_a_revoked_caller_ends_within_a_second_with_a_word() {
    let gate = Gate::with_file();
    let token = format!("authorization: Bearer {}", gate.token("alice"));
    let path = format!("/events?channel={PATTERN}");
    let open = |accept: &str| {
        let accept = format!("accept: {accept}");
        let curl = stream(&gate.gateway, &path, &["-H", &token, "-H", &accept]);
        curl.line("ir.open", |line| line.contains("ir.open").then_some(()));
        curl
    };
    let streams = [open("text/event-stream"), open("application/x-ndjson")];
    let start = Instant::now();
    gate.site.write("revoked.txt", "sub alice\n");
    for mut curl in streams {
        curl.line("the last word", |line| {
            let text = line.strip_prefix("data: ").unwrap_or(line);
            let value: Value = serde_json::from_str(text).ok()?;
            let data = value.get("data").unwrap_or(&value);
            (data["reason"] == "revoked").then_some(())
        });
        curl.line("ir.error", |line| line.contains("ir.error").then_some(()));
        assert!(curl.wait().success(), "{}", curl.output());
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    }
}

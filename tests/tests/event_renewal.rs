//! A stream outlives its token where a new one is presented: told in time, at
//! whichever gateway, to nobody but its own caller.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::curl::{Answer, request};
use intellirouter_tests::events::{Events, PATTERN, field, json, sse_frame};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::token::now;
use intellirouter_tests::{Config, Gateway, Process, Token};
use serde_json::Value;

/// A token of alice with seconds to live.
fn token(seconds: i64) -> Token {
    Token::new("alice", &["tester"]).with("exp", now() + seconds)
}

/// A stream with such a token, and its name.
fn stream(events: &Events, seconds: i64) -> (Process, String) {
    let header = events.bearer(&token(seconds));
    let sse = events.curl_with("text/event-stream", &header, &Events::path(PATTERN));
    let name = name_of(&sse);
    (sse, name)
}

fn name_of(sse: &Process) -> String {
    let opened = sse_frame(sse, "event: ir.open");
    let data = json(field(&opened, "data"));
    data["stream"].as_str().unwrap().to_owned()
}

fn renew(gateway: &Gateway, header: &str, stream: &str) -> Answer {
    let body = serde_json::json!({ "stream": stream }).to_string();
    let kind = "content-type: application/json";
    let args = ["-H", header, "-H", kind];
    request(gateway, "/events/renew", &args, Some(body.as_bytes()))
}

fn reason(answer: &Answer) -> (u16, String) {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    (
        answer.status,
        problem["reason"].as_str().unwrap().to_owned(),
    )
}

fn ends(sse: &Process) -> String {
    let frame = sse_frame(sse, "event: ir.error");
    let data = json(field(&frame, "data"));
    data["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_stream_is_told_before_its_token_ends_in_each_dialect() {
    let events = Events::new("");
    let header = events.bearer(&token(4));
    let path = Events::path(PATTERN);
    let sse = events.curl_with("text/event-stream", &header, &path);
    let ndjson = events.curl_with("application/x-ndjson", &header, &path);
    let grpc = events.python_as(&header, &["subscribe", PATTERN]);
    let frame = sse_frame(&sse, "event: ir.expiring");
    let data = json(field(&frame, "data"));
    assert_eq!(data["stream"], name_of(&sse));
    assert!(data["at"].as_str().unwrap().ends_with('Z'), "{data}");
    // The last event id of a browser stays what it was.
    assert!(
        !frame.iter().any(|line| line.starts_with("id:")),
        "{frame:?}"
    );
    ndjson.line("the warning", |line| {
        (json(line)["event"] == "ir.expiring").then_some(())
    });
    let expiring = grpc.line("the warning", |line| {
        let line = json(line);
        (line["kind"] == "expiring").then_some(line)
    });
    assert!(expiring["stream_id"].is_string(), "{expiring}");
    assert_eq!(ends(&sse), "token_expired");
}

/// Both streams had the same token; one was renewed.
fn goes_on(events: &Events, renewed: &Process, ending: &Process) {
    assert_eq!(ends(ending), "token_expired");
    events.publish(r#"{"n":1}"#);
    sse_frame(renewed, r#"data: {"n":1}"#);
}

#[test]
fn a_renewed_stream_goes_on_beyond_its_first_token_and_until_the_second_ends() {
    let events = Events::new("");
    let (sse, name) = stream(&events, 3);
    let (other, _) = stream(&events, 3);
    let answer = renew(&events.gateway, &events.bearer(&token(7)), &name);
    assert_eq!(answer.status, 204, "{}", answer.text());
    goes_on(&events, &sse, &other);
    // To say it again is harmless.
    let long = events.bearer(&token(8));
    assert_eq!(renew(&events.gateway, &long, &name).status, 204);
    assert_eq!(renew(&events.gateway, &long, &name).status, 204);
    assert_eq!(ends(&sse), "token_expired");
    let gone = renew(&events.gateway, &events.header, &name);
    assert_eq!(reason(&gone), (404, "unknown_stream".into()));
}

#[test]
fn a_grpc_stream_is_renewed_by_grpc() {
    let events = Events::new("");
    let header = events.bearer(&token(3));
    let grpc = events.python_as(&header, &["subscribe", PATTERN]);
    let opened = grpc.line("the opening", |line| {
        let line = json(line);
        (line["kind"] == "opened").then_some(line)
    });
    let (other, _) = stream(&events, 3);
    let renewal = events.python(&["renew", opened["stream_id"].as_str().unwrap()]);
    renewal.line("the answer", |line| {
        (json(line)["kind"] == "renewed").then_some(())
    });
    assert_eq!(ends(&other), "token_expired");
    events.publish(r#"{"n":1}"#);
    grpc.line("the event", |line| {
        (json(line)["kind"] == "event").then_some(())
    });
    let code = |stream: &str, header: &str| {
        let call = events.python_as(header, &["renew", stream]);
        call.line("the status", |line| {
            json(line)["code"].as_str().map(str::to_owned)
        })
    };
    let (_sse, name) = stream(&events, 3600);
    let bob = events.bearer(&Token::new("bob", &["tester"]));
    assert_eq!(code(&name, &bob), "PERMISSION_DENIED");
    assert_eq!(
        code(&name, &events.bearer(&token(60))),
        "FAILED_PRECONDITION"
    );
    assert_eq!(
        code("0b0c9bd5-7a1e-4b9e-8f3c-2d7f00a1c3e4", &events.header),
        "NOT_FOUND"
    );
    assert_eq!(code("x", &events.header), "INVALID_ARGUMENT");
}

#[test]
fn a_renewal_at_another_gateway_reaches_the_stream() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let events = Events::with(&config);
    let (second, _third) = (events.sibling(&config), events.sibling(&config));
    let (sse, name) = stream(&events, 4);
    let (other, _) = stream(&events, 4);
    let answer = renew(&second, &events.header, &name);
    assert_eq!(answer.status, 204, "{}", answer.text());
    goes_on(&events, &sse, &other);
    // The answers of a gateway that has it not are as true.
    let bob = events.bearer(&Token::new("bob", &["tester"]));
    assert_eq!(
        reason(&renew(&second, &bob, &name)),
        (403, "not_your_stream".into())
    );
    let short = events.bearer(&token(60));
    assert_eq!(
        reason(&renew(&second, &short, &name)),
        (409, "not_longer".into())
    );
    let unknown = "0b0c9bd5-7a1e-4b9e-8f3c-2d7f00a1c3e4";
    let gone = renew(&second, &events.header, unknown);
    assert_eq!(reason(&gone), (404, "unknown_stream".into()));
}

#[test]
fn a_renewal_passes_through_redis_without_its_token() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let events = Events::with(&config);
    let second = events.sibling(&config);
    let mut command = std::process::Command::new("redis-cli");
    command.args(["-p", &redis.port.to_string(), "MONITOR"]);
    let monitor = Process::spawn("monitor", &command);
    monitor.line("OK", |line| (line == "OK").then_some(()));
    let (_sse, name) = stream(&events, 60);
    let header = events.bearer(&token(3600));
    assert_eq!(renew(&second, &header, &name).status, 204);
    monitor.line("the question", |line| line.contains(&name).then_some(()));
    let token = header.rsplit(' ').next().unwrap();
    let signature = token.rsplit('.').next().unwrap();
    for line in monitor.lines() {
        assert!(!line.contains(signature), "{line}");
    }
}

#[test]
fn only_the_caller_of_a_stream_renews_it_and_only_for_longer() {
    let events = Events::new("");
    let (sse, name) = stream(&events, 3600);
    let renew = |token: &Token| reason(&renew(&events.gateway, &events.bearer(token), &name));
    assert_eq!(renew(&Token::new("bob", &["tester", "admin"])).0, 403);
    assert_eq!(renew(&token(60)), (409, "not_longer".into()));
    let answer = request(
        &events.gateway,
        "/events/renew",
        &["-H", "content-type: application/json"],
        Some(format!("{{\"stream\":\"{name}\"}}").as_bytes()),
    );
    assert_eq!(answer.status, 401);
    for body in ["", "{}", "{\"stream\":1}", "{\"stream\":\"x\"}", "[]"] {
        let header = &events.header;
        let args = ["-H", header.as_str()];
        let answer = request(
            &events.gateway,
            "/events/renew",
            &args,
            Some(body.as_bytes()),
        );
        assert_eq!(answer.status, 400, "{body}");
    }
    events.publish(r#"{"n":1}"#);
    sse_frame(&sse, r#"data: {"n":1}"#);
}

#[test]
fn a_new_token_that_may_not_read_the_channels_ends_the_stream() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let events = Events::with(&config);
    let second = events.sibling(&config);
    for gateway in [&events.gateway, &second] {
        let (sse, name) = stream(&events, 60);
        let less = events.bearer(&Token::new("alice", &["guest"]));
        let answer = renew(gateway, &less, &name);
        assert_eq!(reason(&answer), (403, "role_withdrawn".into()));
        assert_eq!(ends(&sse), "role_withdrawn");
    }
}

#[test]
fn a_renewed_stream_ends_when_its_new_token_is_revoked_and_not_with_the_old() {
    let site_file = "revoked.txt";
    let config = Config::default()
        .events("")
        .with_text(&format!("[revocation]\nfile = \"{site_file}\"\n"));
    let site = intellirouter_tests::Site::new();
    site.write(site_file, "");
    let gateway = site.gateway(&config);
    let header = format!("authorization: Bearer {}", site.token(&["tester"]));
    let events = Events {
        site,
        gateway,
        header,
    };
    let with_id = |id: &str, seconds| events.bearer(&token(seconds).with("jti", id));
    let path = Events::path(PATTERN);
    let sse = events.curl_with("text/event-stream", &with_id("old", 60), &path);
    let other = events.curl_with("text/event-stream", &with_id("old", 60), &path);
    let answer = renew(&events.gateway, &with_id("new", 3600), &name_of(&sse));
    assert_eq!(answer.status, 204, "{}", answer.text());
    events.site.write(site_file, "jti old\n");
    assert_eq!(ends(&other), "revoked");
    events.publish(r#"{"n":1}"#);
    sse_frame(&sse, r#"data: {"n":1}"#);
    events.site.write(site_file, "jti old\njti new\n");
    assert_eq!(ends(&sse), "revoked");
}

#[test]
fn without_the_store_a_stream_here_is_renewed_and_one_elsewhere_is_unavailable() {
    let mut redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let events = Events::with(&config);
    let second = events.sibling(&config);
    let (_sse, name) = stream(&events, 60);
    redis.kill();
    assert_eq!(renew(&events.gateway, &events.header, &name).status, 204);
    let answer = renew(&second, &events.header, &name);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn a_gateway_that_does_not_answer_makes_the_answer_unsure_and_not_wrong() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let events = Events::with(&config);
    let second = events.sibling(&config);
    let (_sse, name) = stream(&events, 60);
    events.gateway.process.signal(rustix::process::Signal::STOP);
    let answer = renew(&second, &events.header, &name);
    assert_eq!(reason(&answer), (503, "renewal_unsure".into()));
    events.gateway.process.signal(rustix::process::Signal::CONT);
    assert_eq!(renew(&second, &events.header, &name).status, 204);
}

#[test]
fn whoever_merely_watches_the_channels_of_redis_is_not_waited_for() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let events = Events::with(&config);
    let second = events.sibling(&config);
    let mut watch = std::process::Command::new("redis-cli");
    watch.args(["-p", &redis.port.to_string(), "PSUBSCRIBE", "*"]);
    let watching = Process::spawn("watching", &watch);
    watching.line("the subscription", |line| {
        line.contains("psubscribe").then_some(())
    });
    let (_sse, name) = stream(&events, 60);
    let header = events.bearer(&token(3600));
    let nobody = "11111111-2222-4333-8444-555555555555";
    let gone = renew(&second, &header, nobody);
    assert_eq!(reason(&gone), (404, "unknown_stream".into()));
    let renewed = renew(&second, &header, &name);
    assert_eq!(renewed.status, 204, "{}", renewed.text());
    watching.line("what they ask each other", |line| {
        line.contains(nobody).then_some(())
    });
}

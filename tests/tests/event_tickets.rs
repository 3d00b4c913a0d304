//! Event streams for browsers: a ticket opens one, a cookie brings the browser
//! back, and neither is worth anything elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::process::Command;

use intellirouter_tests::curl::{Answer, request, stream};
use intellirouter_tests::events::{CHANNEL, Events, PATTERN, field, json, sse_frame};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::relay::Relay;
use intellirouter_tests::token::now;
use intellirouter_tests::{Config, Gateway, Process, Site, Token, here};
use serde_json::Value;

const PAGE: &str = "https://app.example";
const CORS: &str = "[cors]\norigins = [\"https://app.example\"]\n";

fn over(redis: &Redis) -> Config {
    let store = format!("store = \"{}\"", redis.url());
    Config::default().events(&store).with_text(CORS)
}

fn embedded() -> Events {
    Events::with(&Config::default().events("").with_text(CORS))
}

fn ask(gateway: &Gateway, header: &str, wish: &Value) -> Answer {
    let kind = "content-type: application/json";
    let args = ["-H", header, "-H", kind];
    let wish = wish.to_string();
    request(gateway, "/events/ticket", &args, Some(wish.as_bytes()))
}

/// A ticket for all that `tester` may read.
fn ticket(gateway: &Gateway, header: &str) -> String {
    ticket_for(
        gateway,
        header,
        &serde_json::json!({ "channels": [PATTERN] }),
    )
}

fn ticket_for(gateway: &Gateway, header: &str, wish: &Value) -> String {
    let answer = ask(gateway, header, wish);
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer["expires_in"], 30);
    let ticket = answer["ticket"].as_str().unwrap();
    assert_eq!(answer["url"], format!("/events?ticket={ticket}"));
    ticket.to_owned()
}

fn path(ticket: &str) -> String {
    format!("/events?ticket={ticket}")
}

/// A stream by a ticket, open when this returns, and its `set-cookie`.
fn open(gateway: &Gateway, ticket: &str, headers: &[&str]) -> (Process, String) {
    let (curl, head) = begin(gateway, ticket, headers);
    sse_frame(&curl, "event: ir.open");
    let cookie = head.expect("a cookie");
    (curl, cookie)
}

fn begin(gateway: &Gateway, ticket: &str, headers: &[&str]) -> (Process, Option<String>) {
    let mut args = vec!["--dump-header", "-"];
    headers
        .iter()
        .for_each(|header| args.extend(["-H", header]));
    let curl = stream(gateway, &path(ticket), &args);
    curl.line("the opening", |line| line.contains("ir.open").then_some(()));
    let cookie = curl.lines().into_iter().find_map(|line| {
        let cookie = line.strip_prefix("set-cookie: ")?;
        Some(cookie.trim_end().to_owned())
    });
    (curl, cookie)
}

/// What a browser sends back.
fn back(set_cookie: &str) -> String {
    format!("cookie: {}", set_cookie.split(';').next().unwrap())
}

/// Tries to open a stream; gives status and reason of the refusal.
fn refused(gateway: &Gateway, ticket: &str, headers: &[&str]) -> (u16, String) {
    let mut args = Vec::new();
    headers
        .iter()
        .for_each(|header| args.extend(["-H", header]));
    let answer = request(gateway, &path(ticket), &args, None);
    let problem: Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| panic!("no refusal: {}", answer.text()));
    (
        answer.status,
        problem["reason"].as_str().unwrap().to_owned(),
    )
}

fn bad_ticket() -> (u16, String) {
    (401, "bad_ticket".into())
}

fn opens_once_and_comes_back(events: &Events, elsewhere: &Gateway) {
    let gateway = &events.gateway;
    let ticket = ticket(gateway, &events.header);
    let (first, cookie) = open(gateway, &ticket, &[]);
    assert!(cookie.starts_with("__Secure-ir_events_"), "{cookie}");
    for part in ["Path=/events", "Secure", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.split("; ").any(|one| one == part), "{cookie}");
    }
    events.publish(r#"{"n":1}"#);
    let frame = sse_frame(&first, r#"data: {"n":1}"#);
    let last = format!("last-event-id: {}", field(&frame, "id"));
    drop(first);
    assert_eq!(refused(elsewhere, &ticket, &[]), bad_ticket());
    let forged = back(&cookie).replace('=', "=x");
    assert_eq!(refused(gateway, &ticket, &[&forged]), bad_ticket());

    events.publish(r#"{"n":2}"#);
    for gateway in [gateway, elsewhere] {
        let (again, _) = open(gateway, &ticket, &[&back(&cookie), &last]);
        if std::ptr::eq(gateway, &raw const events.gateway) {
            sse_frame(&again, r#"data: {"n":2}"#);
            assert!(!again.lines().iter().any(|line| line.contains(r#"{"n":1}"#)));
        }
    }
}

#[test]
fn a_ticket_opens_a_stream_once_and_its_cookie_resumes_it() {
    let events = embedded();
    opens_once_and_comes_back(&events, &events.gateway);
}

#[test]
fn tickets_and_cookies_are_good_at_every_gateway_of_a_redis() {
    let redis = Redis::start();
    let config = over(&redis);
    let events = Events::with(&config);
    let second = events.sibling(&config);
    opens_once_and_comes_back(&events, &second);
    let ticket = ticket(&second, &events.header);
    drop(open(&events.gateway, &ticket, &[]));
}

#[test]
fn of_many_who_show_one_ticket_one_gets_in() {
    let redis = Redis::start();
    let config = over(&redis);
    let events = Events::with(&config);
    let second = events.sibling(&config);
    let path = path(&ticket(&events.gateway, &events.header));
    let args = ["--dump-header", "-", "--max-time", "20"];
    let tries: Vec<Process> = [&events.gateway, &second]
        .iter()
        .cycle()
        .take(8)
        .map(|gateway| stream(gateway, &path, &args))
        .collect();
    let statuses = tries.iter().map(|curl| {
        curl.line("a status", |line| {
            line.strip_prefix("HTTP/2 ")
                .map(|status| status.trim().to_owned())
        })
    });
    let mut statuses: Vec<String> = statuses.collect();
    statuses.sort();
    let expected = [&["200"][..], &["401"; 7]].concat();
    assert_eq!(statuses, expected);
}

#[test]
fn a_ticket_reads_what_it_was_asked_for_and_no_more() {
    let events = embedded();
    let wish = serde_json::json!({
        "channels": [PATTERN],
        "type": ["chain_execution_completed"],
        "where": ["n:2"],
    });
    let ticket = ticket_for(&events.gateway, &events.header, &wish);
    for more in [
        "&channel=intellirouter:chain_engine:*",
        "&type=a",
        "&where=a:b",
    ] {
        let path = format!(
            "{}{more}",
            path(&ticket_for(&events.gateway, &events.header, &wish))
        );
        assert_eq!(
            request(&events.gateway, &path, &[], None).status,
            400,
            "{more}"
        );
    }
    let (sse, _) = open(&events.gateway, &ticket, &[]);
    for n in 1..=2 {
        events.publish(&format!(r#"{{"n":{n}}}"#));
    }
    sse_frame(&sse, r#"data: {"n":2}"#);
    assert!(!sse.lines().iter().any(|line| line.contains(r#"{"n":1}"#)));
}

#[test]
fn a_bad_wish_is_refused_with_the_place_and_a_forbidden_channel_by_name() {
    let events = embedded();
    let refused = |wish: Value| {
        let answer = ask(&events.gateway, &events.header, &wish);
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        (
            answer.status,
            problem["place"].as_str().unwrap_or_default().to_owned(),
            answer.text(),
        )
    };
    for (wish, place) in [
        (serde_json::json!({}), "body"),
        (serde_json::json!([PATTERN]), "body"),
        (
            serde_json::json!({"channels": [PATTERN], "role": "admin"}),
            "body",
        ),
        (serde_json::json!({"channels": []}), "channels"),
        (serde_json::json!({"channels": ["x"]}), "channel"),
        (
            serde_json::json!({"channels": [PATTERN], "type": ["X"]}),
            "type",
        ),
        (
            serde_json::json!({"channels": [PATTERN], "where": ["x"]}),
            "where",
        ),
    ] {
        let (status, found, text) = refused(wish.clone());
        assert_eq!((status, found.as_str()), (400, place), "{wish}: {text}");
    }
    let forbidden = "intellirouter:rag_manager:*";
    let (status, _, text) = refused(serde_json::json!({"channels": [PATTERN, forbidden]}));
    assert_eq!(status, 403);
    assert!(text.contains(forbidden), "{text}");
    let answer = ask(
        &events.gateway,
        "x-none: 1",
        &serde_json::json!({"channels": [PATTERN]}),
    );
    assert_eq!(answer.status, 401);
}

#[test]
fn a_cookie_counts_beside_its_own_ticket_for_reading_and_for_its_own_page_alone() {
    let events = embedded();
    let gateway = &events.gateway;
    let page = format!("origin: {PAGE}");
    let ticket = || ticket(gateway, &events.header);
    let first = ticket();
    let (_sse, cookie) = open(gateway, &first, &[&page]);
    for part in ["SameSite=None", "Partitioned", "Secure", "HttpOnly"] {
        assert!(cookie.split("; ").any(|one| one == part), "{cookie}");
    }
    let cookie = back(&cookie);
    drop(open(gateway, &first, &[&page, &cookie]));
    // Another page, none, and one that the browser says is of another site.
    for header in [
        "origin: https://evil.example",
        "origin: null",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
        "x-none: 1",
    ] {
        let reason = refused(gateway, &first, &[header, &cookie]);
        assert_eq!(reason, (403, "wrong_origin".into()), "{header}");
    }
    // Another ticket's, once that is used.
    let second = ticket();
    drop(open(gateway, &second, &[&page]));
    assert_eq!(refused(gateway, &second, &[&page, &cookie]), bad_ticket());
    // Nothing but a stream, and none without a ticket in its URL.
    let get = |path: &str, args: &[&str], body: Option<&[u8]>| {
        let args = [&["-H", &cookie, "-H", &page], args].concat();
        request(gateway, path, &args, body).status
    };
    assert_eq!(get(&Events::path(PATTERN), &[], None), 401);
    assert_eq!(get(&format!("/events/{CHANNEL}"), &[], Some(b"{}")), 401);
    let query = path(&first).replace("/events", "");
    assert_eq!(
        get(&format!("/events/{CHANNEL}{query}"), &[], Some(b"{}")),
        401
    );
    assert_eq!(get("/events/ticket", &[], Some(b"{}")), 401);
    assert_eq!(get("/events/renew", &[], Some(b"{}")), 401);
    // With a token beside it nobody knows who is meant.
    let both = refused(gateway, &ticket(), &[&events.header]);
    assert_eq!(both.0, 400);
}

#[test]
fn pages_may_read_streams_with_credentials_only_where_a_ticket_opens_them() {
    let events = embedded();
    let page = format!("origin: {PAGE}");
    let credentials = "access-control-allow-credentials";
    let ticket = ticket(&events.gateway, &events.header);
    let (sse, _) = open(&events.gateway, &ticket, &[&page]);
    let head = sse.lines();
    let has = |wanted: &str| head.iter().any(|line| line.trim_end() == wanted);
    assert!(has(&format!("{credentials}: true")), "{head:?}");
    assert!(
        has(&format!("access-control-allow-origin: {PAGE}")),
        "{head:?}"
    );
    let answer = request(&events.gateway, &path(&ticket), &["-H", &page], None);
    assert_eq!(
        (answer.status, answer.header(credentials)),
        (401, Some("true"))
    );
    let wish = serde_json::json!({"channels": [PATTERN]}).to_string();
    let args = ["-H", &page, "-H", &events.header];
    let answer = request(
        &events.gateway,
        "/events/ticket",
        &args,
        Some(wish.as_bytes()),
    );
    assert_eq!((answer.status, answer.header(credentials)), (201, None));
    let evil = ["-H", "origin: https://evil.example"];
    let answer = request(&events.gateway, &path(&ticket), &evil, None);
    assert_eq!((answer.status, answer.header(credentials)), (403, None));
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[test]
fn a_token_in_a_url_is_refused_and_stands_in_no_log() {
    let events = Events::with(
        &Config::default()
            .events("")
            .with_text("[log]\nlevel = \"debug\"\n"),
    );
    let token = events.header.rsplit(' ').next().unwrap().to_owned();
    for query in [
        format!("access_token={token}"),
        format!("token={token}"),
        format!("ticket={token}"),
        format!("channel={PATTERN}&ticket={token}"),
        format!("channel={PATTERN}&access_token={token}"),
        format!("channel={PATTERN}&authorization={token}"),
    ] {
        let path = format!("/events?{query}");
        let stranger = request(&events.gateway, &path, &[], None);
        let key = query.split('=').next().unwrap();
        assert!(
            [400, 401].contains(&stranger.status),
            "{key}: {}",
            stranger.status
        );
        assert!(!stranger.text().contains(&token));
        let caller = events.get(&path, &[]);
        assert_eq!(caller.status, 400, "{key}");
        assert!(!caller.text().contains(&token));
    }
    let ticket = ticket(&events.gateway, &events.header);
    let (sse, cookie) = open(&events.gateway, &ticket, &[]);
    let cookie = cookie.split(['=', ';']).nth(1).unwrap().to_owned();
    drop(sse);
    events
        .gateway
        .process
        .error_line("the stream's line", |line| {
            (line.contains("path=\"/events\"") && line.contains("client_gone")).then_some(())
        });
    let page = events.gateway.page("/config") + &events.gateway.metrics();
    for secret in [&token, &ticket, &cookie] {
        let logged = events.gateway.process.error_lines();
        assert!(!logged.iter().any(|line| line.contains(secret.as_str())));
        assert!(!page.contains(secret.as_str()));
    }
}

#[test]
fn a_revocation_ends_streams_by_ticket_and_voids_tickets_and_cookies() {
    let config = Config::default()
        .events("")
        .with_text("[revocation]\nfile = \"revoked.txt\"\n");
    for line in ["jti a-1\n", "sub alice\n"] {
        let site = Site::new();
        site.write("revoked.txt", "");
        let gateway = site.gateway(&config);
        let token = Token::new("alice", &["tester"]).with("jti", "a-1");
        let token = token.hs256(site.secret().as_bytes());
        let header = format!("authorization: Bearer {token}");
        let (used, unused) = (ticket(&gateway, &header), ticket(&gateway, &header));
        let (sse, cookie) = open(&gateway, &used, &[]);
        let (again, _) = open(&gateway, &used, &[&back(&cookie)]);
        site.write("revoked.txt", line);
        for stream in [&sse, &again] {
            let frame = sse_frame(stream, "event: ir.error");
            assert_eq!(json(field(&frame, "data"))["reason"], "revoked");
        }
        let revoked = (401, "revoked".to_owned());
        assert_eq!(refused(&gateway, &unused, &[]), revoked);
        assert_eq!(refused(&gateway, &used, &[&back(&cookie)]), revoked);
    }
}

#[test]
fn a_stream_by_ticket_ends_with_the_token_and_so_does_its_cookie() {
    for redis in [None, Some(Redis::start())] {
        let events = match &redis {
            Some(redis) => Events::with(&over(redis)),
            None => embedded(),
        };
        let short = events.bearer(&Token::new("alice", &["tester"]).with("exp", now() + 3));
        let ticket = ticket(&events.gateway, &short);
        let (sse, cookie) = open(&events.gateway, &ticket, &[]);
        sse_frame(&sse, "event: ir.expiring");
        let frame = sse_frame(&sse, "event: ir.error");
        assert_eq!(json(field(&frame, "data"))["reason"], "token_expired");
        let (status, _) = refused(&events.gateway, &ticket, &[&back(&cookie)]);
        assert_eq!(status, 401);
    }
}

#[test]
fn a_renewed_stream_by_ticket_has_a_cookie_for_as_long() {
    let redis = Redis::start();
    let events = Events::with(&over(&redis));
    let second = events.sibling(&over(&redis));
    let short = events.bearer(&Token::new("alice", &["tester"]).with("exp", now() + 4));
    let first = ticket(&events.gateway, &short);
    let (sse, cookie) = open(&events.gateway, &first, &[]);
    let other = ticket(&events.gateway, &short);
    let (other, _) = open(&events.gateway, &other, &[]);
    let opened = sse_frame(&sse, "event: ir.open");
    let name = json(field(&opened, "data"))["stream"].to_string();
    let body = format!("{{\"stream\":{name}}}");
    let args = ["-H", &events.header];
    let answer = request(&second, "/events/renew", &args, Some(body.as_bytes()));
    assert_eq!(answer.status, 204, "{}", answer.text());
    sse_frame(&other, "event: ir.error");
    drop(open(&second, &first, &[&back(&cookie)]));
    assert!(!sse.lines().iter().any(|line| line.contains("ir.error")));
}

#[test]
fn rights_are_judged_anew_when_a_ticket_or_cookie_is_shown() {
    let config = Config::default().events("").with_text(CORS);
    let events = Events::with(&config);
    let (used, unused) = (
        ticket(&events.gateway, &events.header),
        ticket(&events.gateway, &events.header),
    );
    let (sse, cookie) = open(&events.gateway, &used, &[]);
    let text = config.render().replace("[\"tester\"]", "[\"keeper\"]");
    events.site.write("gateway.toml", &text);
    events.gateway.process.signal(rustix::process::Signal::HUP);
    let frame = sse_frame(&sse, "event: ir.error");
    assert_eq!(json(field(&frame, "data"))["reason"], "role_withdrawn");
    let denied = (403, "channel_denied".to_owned());
    assert_eq!(refused(&events.gateway, &unused, &[]), denied);
    assert_eq!(refused(&events.gateway, &used, &[&back(&cookie)]), denied);
}

#[test]
fn whoever_comes_by_ticket_counts_as_the_subject_that_asked_for_it() {
    let limits = "[limits]\nopen_calls_per_subject = 2\n";
    let events = Events::with(&Config::default().events("").with_text(limits));
    let tickets: Vec<_> = (0..3)
        .map(|_| ticket(&events.gateway, &events.header))
        .collect();
    let _open = (open(&events.gateway, &tickets[0], &[]), events.sse());
    assert_eq!(refused(&events.gateway, &tickets[2], &[]).0, 429);

    let rate = "[[limits.rates]]\nname = \"few\"\nper = [\"subject\"]\nrate = 3\nperiod = \"1h\"\n";
    let events = Events::with(&Config::default().events("").with_text(rate));
    let tickets: Vec<_> = (0..2)
        .map(|_| ticket(&events.gateway, &events.header))
        .collect();
    drop(open(&events.gateway, &tickets[0], &[]));
    let limited = refused(&events.gateway, &tickets[1], &[]);
    assert_eq!(limited, (429, "rate_limited".into()));
    let bob = events.bearer(&Token::new("bob", &["tester"]));
    drop(open(&events.gateway, &ticket(&events.gateway, &bob), &[]));
}

#[test]
fn a_request_that_is_refused_does_not_use_up_its_ticket() {
    let limits = "[limits]\nopen_calls_per_subject = 1\n";
    let events = Events::with(&Config::default().events("").with_text(limits));
    let ticket = ticket(&events.gateway, &events.header);
    let get = |more: &str, accept: &str| {
        let path = path(&ticket) + more;
        request(&events.gateway, &path, &["-H", accept], None).status
    };
    let sse = "accept: text/event-stream";
    assert_eq!(get("", "accept: text/html"), 406);
    assert_eq!(get("&envelope=other", sse), 400);
    assert_eq!(get("&type=a", sse), 400);
    let other = events.sse();
    assert_eq!(get("", sse), 429);
    drop(other);
    events
        .gateway
        .process
        .error_line("its end", |line| line.contains("client_gone").then_some(()));
    drop(open(&events.gateway, &ticket, &[]));
    assert_eq!(refused(&events.gateway, &ticket, &[]), bad_ticket());
}

/// The header with which EventSource says what it is.
const EVENT_SOURCE: &str = "accept: text/event-stream";

fn until_readyz_says(events: &Events, words: &str) {
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while !events.gateway.page("/readyz").contains(words) {
        let output = events.gateway.process.output();
        assert!(std::time::Instant::now() < end, "{output}");
    }
}

#[test]
fn a_browser_that_comes_back_while_the_store_is_away_is_told_to_come_again() {
    let mut redis = Redis::on_disk();
    let events = Events::with(&over(&redis));
    let unused = ticket(&events.gateway, &events.header);
    let used = ticket(&events.gateway, &events.header);
    let (first, cookie) = open(&events.gateway, &used, &[]);
    let cookie = back(&cookie);
    drop(first);
    redis.kill();
    until_readyz_says(&events, "event store away");
    let get = |ticket: &str, headers: &[&str]| {
        let args: Vec<&str> = headers.iter().flat_map(|one| ["-H", one]).collect();
        request(&events.gateway, &path(ticket), &args, None)
    };
    let again = get(&used, &[EVENT_SOURCE, &cookie]);
    assert_eq!(again.status, 200, "{}", again.text());
    assert_eq!(again.header("content-type"), Some("text/event-stream"));
    assert_eq!(again.header("cache-control"), Some("no-store"));
    assert_eq!(again.header("set-cookie"), None);
    let text = again.text();
    let wait = text.strip_prefix("retry: ");
    let wait = wait.and_then(|text| text.strip_suffix('\n'));
    let wait: u64 = wait.and_then(|wait| wait.parse().ok()).expect(&text);
    assert!((2000..4000).contains(&wait), "{wait}");
    assert!(events.gateway.metrics().contains("store_away"));
    // Who is no EventSource on its way back, and who may not come at all, is told so.
    assert_eq!(get(&used, &[&cookie]).status, 503);
    assert_eq!(
        get(&used, &["accept: application/x-ndjson", &cookie]).status,
        503
    );
    assert_eq!(get(&unused, &[EVENT_SOURCE]).status, 503);
    let other = cookie.replace("ir_events_", "ir_events_0");
    assert_eq!(get(&used, &[EVENT_SOURCE, &other]).status, 503);
    let evil = "origin: https://evil.example";
    assert_eq!(get(&used, &[EVENT_SOURCE, &cookie, evil]).status, 403);

    redis.restart();
    until_readyz_says(&events, "event store connected");
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    // The connection that looks after cookies comes back by itself.
    while get(&used, &["accept: text/html", &cookie]).status != 406 {
        assert!(
            std::time::Instant::now() < end,
            "{}",
            events.gateway.process.output()
        );
    }
    drop(open(&events.gateway, &used, &[EVENT_SOURCE, &cookie]));
    let forged = format!("{}x", &cookie[..cookie.len() - 1]);
    assert_eq!(
        refused(&events.gateway, &used, &[EVENT_SOURCE, &forged]),
        bad_ticket()
    );
}

#[test]
fn a_browser_over_its_limits_is_told_to_come_again_too_and_the_limits_count_it() {
    let rate = "[[limits.rates]]\nname = \"few\"\nper = [\"address\"]\nrate = 3\nperiod = \"1h\"\n";
    let events = Events::with(&Config::default().events("").with_text(rate));
    let ticket = ticket(&events.gateway, &events.header);
    let (first, cookie) = open(&events.gateway, &ticket, &[]);
    drop(first);
    let cookie = back(&cookie);
    drop(open(&events.gateway, &ticket, &[EVENT_SOURCE, &cookie]));
    let args = ["-H", EVENT_SOURCE, "-H", &cookie];
    let again = request(&events.gateway, &path(&ticket), &args, None);
    assert_eq!(
        (again.status, again.text().starts_with("retry: ")),
        (200, true)
    );
    // As long as the limit asks for, which is 20 min.
    let wait: u64 = again.text()["retry: ".len()..].trim().parse().unwrap();
    assert!(wait > 1_000_000, "{wait}");
    assert_eq!(refused(&events.gateway, &ticket, &[&cookie]).0, 429);
}

#[test]
fn without_the_store_tickets_are_unavailable_and_come_back_with_it() {
    let mut redis = Redis::start();
    let events = Events::with(&over(&redis));
    let unused = ticket(&events.gateway, &events.header);
    redis.kill();
    let wish = serde_json::json!({"channels": [PATTERN]});
    let answers = [
        ask(&events.gateway, &events.header, &wish),
        request(&events.gateway, &path(&unused), &[], None),
    ];
    for answer in answers {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
    }
    redis.restart();
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while ask(&events.gateway, &events.header, &wish).status != 201 {
        assert!(
            std::time::Instant::now() < end,
            "{}",
            events.gateway.process.output()
        );
    }
}

/// How many keys of the Redis begin so.
fn keys(redis: &Redis, kind: &str) -> usize {
    let pattern = format!("{{intellirouter}}:{kind}:*");
    redis
        .cli(&["--scan", "--pattern", &pattern])
        .lines()
        .count()
}

#[test]
fn a_redis_keeps_the_newest_256_of_one_subject_and_its_open_streams_go_on() {
    const MOST: usize = 256;
    let redis = Redis::start();
    let config = over(&redis);
    let events = Events::with(&config);
    let gateways = [&events.gateway, &events.sibling(&config)];
    let bob = events.bearer(&Token::new("bob", &["tester"]));
    let bobs = ticket(gateways[0], &bob);
    let (_bob, bobs_cookie) = open(gateways[0], &bobs, &[]);

    let oldest = ticket(gateways[0], &events.header);
    let (sse, oldest_cookie) = open(gateways[0], &oldest, &[]);
    let second = ticket(gateways[1], &events.header);
    let (_second, second_cookie) = open(gateways[1], &second, &[]);
    let tickets: Vec<String> = (2..MOST)
        .map(|n| ticket(gateways[n % 2], &events.header))
        .collect();
    // Used tickets take no place, so the first is still there.
    let (again, _) = open(gateways[1], &oldest, &[&back(&oldest_cookie)]);
    drop(again);
    assert_eq!(keys(&redis, "ticket") + keys(&redis, "session"), MOST + 1);

    let newest = ticket(gateways[1], &events.header);
    assert_eq!(keys(&redis, "ticket") + keys(&redis, "session"), MOST + 1);
    assert_eq!(keys(&redis, "sessions"), 2);
    let refusal = refused(gateways[0], &oldest, &[&back(&oldest_cookie)]);
    assert_eq!(refusal, bad_ticket());
    events.publish(r#"{"n":1}"#);
    sse_frame(&sse, r#"data: {"n":1}"#);
    // Nothing else is gone, least of all another's.
    for (ticket, cookie) in [(&second, &second_cookie), (&bobs, &bobs_cookie)] {
        drop(open(gateways[0], ticket, &[&back(cookie)]));
    }
    for ticket in [&tickets[0], &newest] {
        drop(open(gateways[0], ticket, &[]));
    }
}

#[test]
fn what_a_redis_keeps_of_a_subject_ends_with_the_last_of_its_tickets_and_cookies() {
    let redis = Redis::start();
    let events = Events::with(&over(&redis));
    let life = || {
        let pattern = "{intellirouter}:sessions:*";
        let all = redis.cli(&["--scan", "--pattern", pattern]);
        let life = redis.cli(&["PTTL", all.trim()]);
        life.trim().parse::<i64>().unwrap()
    };
    let first = ticket(&events.gateway, &events.header);
    assert!((1..=30_000).contains(&life()), "{}", life());
    let (_sse, _) = open(&events.gateway, &first, &[]);
    assert!((30_001..=3_600_000).contains(&life()), "{}", life());
    ticket(&events.gateway, &events.header);
    assert!(life() > 30_000, "{}", life());
}

#[test]
fn a_wish_of_more_than_4_kib_is_refused_by_that_limit() {
    let events = embedded();
    let channels = |count: usize| -> Vec<String> {
        (0..count)
            .map(|n| format!("intellirouter:chain_engine:{}{n:02}:*", "x".repeat(60)))
            .collect()
    };
    let answer = ask(
        &events.gateway,
        &events.header,
        &serde_json::json!({"channels": channels(64)}),
    );
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("4 KiB"), "{}", answer.text());
    ticket_for(
        &events.gateway,
        &events.header,
        &serde_json::json!({"channels": channels(32)}),
    );
}

/// Chromium with a page that follows [`PATTERN`] by a ticket, connected when
/// this returns, through a relay.
struct Page {
    script: Process,
    relay: Relay,
    events: Events,
}

impl Page {
    fn open(config: impl FnOnce(&str) -> Config) -> (Self, Config) {
        let mut command = Command::new("node");
        command.arg(here("clients/event_source.mjs"));
        let mut script = Process::spawn("browser", &command);
        let question = json(&script.next_line().expect("a question"));
        let config = config(question["origin"].as_str().unwrap());
        let events = Events::with(&config);
        let relay = Relay::to(events.gateway.port);
        let url = format!("https://localhost:{}", relay.port);
        let token = events.header.rsplit(' ').next().unwrap();
        let answer = serde_json::json!({"url": url, "token": token, "channel": PATTERN});
        script.send(&answer.to_string());
        let page = Self {
            script,
            relay,
            events,
        };
        page.opens(1);
        (page, config)
    }

    /// Waits until its streams have opened so often.
    fn opens(&self, times: usize) {
        let mut opened = 0;
        self.script.line("an opening", |line| {
            opened += usize::from(json(line)["event"] == "ir.open");
            (opened == times).then_some(())
        });
    }

    fn sees(&self, n: u64) {
        self.script.line("the event", |line| {
            (json(line)["data"]["n"] == n).then_some(())
        });
    }

    /// The numbers that it has seen, and whether a gap was said.
    fn seen(&self) -> (Vec<u64>, bool) {
        let lines: Vec<Value> = self.script.lines().iter().map(|line| json(line)).collect();
        let numbers = lines.iter().filter_map(|line| line["data"]["n"].as_u64());
        let gap = lines.iter().any(|line| line["event"] == "ir.gap");
        assert!(
            !lines.iter().any(|line| line["fault"] == "closed"),
            "{}",
            self.script.output()
        );
        (numbers.collect(), gap)
    }
}

fn lets_in(config: Config) -> impl FnOnce(&str) -> Config {
    move |origin| config.with_text(&format!("[cors]\norigins = [\"{origin}\"]\n"))
}

#[test]
fn a_browser_whose_connection_is_cut_goes_on_by_itself_and_misses_nothing() {
    let (page, _) = Page::open(lets_in(Config::default().events("")));
    let publish = |n: u64| page.events.publish(&format!(r#"{{"n":{n}}}"#));
    publish(1);
    page.sees(1);
    page.relay.cut();
    publish(2);
    publish(3);
    page.opens(2);
    publish(4);
    page.sees(4);
    assert_eq!(page.seen(), (vec![1, 2, 3, 4], false));
}

#[test]
fn a_browser_whose_connection_is_cut_while_the_store_is_silent_goes_on_by_itself() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let (page, _) = Page::open(lets_in(config));
    page.events.publish(r#"{"n":1}"#);
    page.sees(1);
    redis.freeze();
    until_readyz_says(&page.events, "tail of");
    page.relay.cut();
    // Once for the cut, and then for each answer to come again.
    let mut faults = 0;
    page.script.line("two answers", |line| {
        faults += usize::from(json(line)["fault"] == "connecting");
        (faults == 3).then_some(())
    });
    redis.thaw();
    page.opens(2);
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    while page.events.post(CHANNEL, r#"{"n":2}"#).status != 202 {
        assert!(
            std::time::Instant::now() < end,
            "{}",
            page.events.gateway.process.output()
        );
    }
    page.sees(2);
    let (mut seen, gap) = page.seen();
    // A publish whose answer came too late may have been one.
    seen.dedup();
    assert_eq!((seen, gap), (vec![1, 2], false));
}

#[test]
fn a_browser_goes_on_by_itself_after_a_restart_and_misses_nothing() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let (mut page, config) = Page::open(lets_in(config));
    // Another gateway, so that somebody hears what is published plainly.
    let _other = page.events.sibling(&config);
    page.events.publish(r#"{"n":1}"#);
    page.sees(1);
    page.events.gateway.process.kill();
    page.relay.cut();
    redis.cli(&["PUBLISH", CHANNEL, r#"{"n":2}"#]);
    page.events.gateway = page.events.sibling(&config);
    page.relay.lead_to(page.events.gateway.port);
    page.opens(2);
    page.sees(2);
    page.events.publish(r#"{"n":3}"#);
    page.sees(3);
    assert_eq!(page.seen(), (vec![1, 2, 3], false));
}

#[test]
fn a_browser_is_told_of_what_nobody_recorded_while_its_only_gateway_was_away() {
    let redis = Redis::start();
    let config = Config::default().events(&format!("store = \"{}\"", redis.url()));
    let (mut page, config) = Page::open(lets_in(config));
    page.events.publish(r#"{"n":1}"#);
    page.sees(1);
    page.events.gateway.process.kill();
    page.relay.cut();
    redis.cli(&["PUBLISH", CHANNEL, r#"{"n":2}"#]);
    page.events.gateway = page.events.sibling(&config);
    page.relay.lead_to(page.events.gateway.port);
    page.script.line("the gap", |line| {
        (json(line)["event"] == "ir.gap").then_some(())
    });
    page.events.publish(r#"{"n":3}"#);
    page.sees(3);
    assert_eq!(page.seen(), (vec![1, 3], true));
}

//! What operators see of a call: spans, log lines and figures tell what the
//! caller got, name what served it, and hold no secret; who looks, and whether
//! anybody does, costs callers nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request};
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, call, in_time};
use intellirouter_tests::collector::{Collector, Received};
use intellirouter_tests::curl::{request, stream};
use intellirouter_tests::foreign::{PATH, answer, bearer, ok_head, tells_headers};
use intellirouter_tests::issuer::ForeignIssuer;
use intellirouter_tests::redis::{Redis, free_port};
use intellirouter_tests::{Config, Gateway, Process, Site, grpc, here};
use serde_json::Value;
use tokio::sync::mpsc;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const EVENTS: &str = "/events?channel=intellirouter:chain_engine:*";

/// A gateway in front of a backend on frames, with this text in its config.
fn config(backend: &Backend, text: &str) -> Config {
    Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .events("")
        .with_text(text)
}

/// `[trace]` for every call.
fn traced(port: u16) -> String {
    format!("[trace]\notlp_endpoint = \"http://127.0.0.1:{port}\"\nsample = 1.0\n")
}

/// A backend that does what its method's name says.
fn does(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> std::future::Ready<()> {
    match request.uri().path() {
        "/foreign.Service/Missing" => {
            let mut send = respond.send_response(ok_head(), false).unwrap();
            send.send_data(grpc::frame(false, b""), false).unwrap();
            let status = [("grpc-status".parse().unwrap(), "5".parse().unwrap())];
            send.send_trailers(HeaderMap::from_iter(status)).unwrap();
        }
        "/foreign.Service/Cut" => {
            let mut send = respond.send_response(ok_head(), false).unwrap();
            send.send_data(grpc::frame(false, b""), false).unwrap();
            send.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        _ => answer(respond),
    }
    std::future::ready(())
}

/// The outcome that a span tells.
fn outcome(received: &Received) -> (String, String, String) {
    let told = |key: &str| received.attribute(key).unwrap_or_default();
    let code = told("rpc.grpc.status_code");
    (
        received.span.name.clone(),
        code,
        told("intellirouter.reason"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_one_span_below_its_callers_and_above_its_backends() {
    let (site, collector) = (Site::new(), Collector::start().await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let backend = Backend::start(&site, tells_headers(tell)).await;
    let gateway = site.gateway(&config(&backend, &traced(collector.port)));
    let bearer = bearer(&site);
    let headers = [
        ("authorization", bearer.as_str()),
        ("traceparent", TRACEPARENT),
        ("tracestate", "vendor=opaque"),
    ];
    assert_eq!(call(&gateway, PATH, &headers).await.status().code, 0);
    let spans = collector.spans(1).await;
    let [span] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(span.service, "intellirouter-gateway");
    assert_eq!(span.trace_id(), TRACE);
    assert_eq!(span.parent_id(), PARENT);
    assert_eq!(span.span.trace_state, "vendor=opaque");
    let endpoint = format!("https://127.0.0.1:{}", backend.port);
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "foreign.Service"),
        ("rpc.method", "Method"),
        ("rpc.grpc.status_code", "0"),
        ("network.protocol.name", "grpc"),
        ("client.address", "127.0.0.1"),
        ("intellirouter.route", "/foreign.Service/*"),
        ("intellirouter.endpoint", &endpoint),
    ] {
        assert_eq!(span.attribute(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(span.attribute("enduser.id"), None);
    let events = ["authenticated", &format!("connected {endpoint}"), "headers"];
    assert_eq!(span.events(), events);
    assert!(span.span.start_time_unix_nano < span.span.end_time_unix_nano);
    let backend = told.recv().await.unwrap();
    let expected = format!("00-{TRACE}-{}-01", span.span_id());
    assert_eq!(backend["traceparent"], expected);
    assert_eq!(backend["tracestate"], "vendor=opaque");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_tells_how_a_call_truly_ended_in_every_dialect() {
    let (site, collector) = (Site::new(), Collector::start().await);
    let backend = Backend::start(&site, does).await;
    let gateway = site.gateway(&config(&backend, &traced(collector.port)));
    let bearer = bearer(&site);
    let token = [("authorization", bearer.as_str())];
    let mut expected = Vec::new();
    let mut ends = |name: &str, code: i32, reason: &str| {
        expected.push((name.to_owned(), code.to_string(), reason.to_owned()));
    };
    for (path, headers, code, name, reason) in [
        (PATH, &token[..], 0, "foreign.Service/Method", ""),
        (
            "/foreign.Service/Missing",
            &token,
            5,
            "foreign.Service/Missing",
            "",
        ),
        (
            "/foreign.Service/Cut",
            &token,
            13,
            "foreign.Service/Cut",
            "upstream_reset",
        ),
        (PATH, &[], 16, "foreign.Service/Method", "no_token"),
        ("/made.Up/Name", &token, 12, "unknown", "unknown_method"),
    ] {
        let status = call(&gateway, path, headers).await.status();
        assert_eq!(status.code, code, "{path}: {status:?}");
        ends(name, code, reason);
    }
    let authorization = format!("authorization: {bearer}");
    let web = |path: &str, headers: &[&str]| {
        let kind = "content-type: application/grpc-web+proto";
        let args = headers.iter().flat_map(|header| ["-H", header]);
        let args: Vec<_> = ["-H", kind].into_iter().chain(args).collect();
        let answer = request(&gateway, path, &args, Some(&grpc::frame(false, b"")));
        assert_eq!(answer.status, 200, "gRPC-Web says it in the body");
    };
    web("/foreign.Service/Missing", &[&authorization]);
    ends("foreign.Service/Missing", 5, "");
    web(PATH, &[]);
    ends("foreign.Service/Method", 16, "no_token");
    assert_eq!(request(&gateway, EVENTS, &[], None).status, 401);
    ends("/events", 16, "no_token");
    let mut told: Vec<_> = collector
        .spans(expected.len())
        .await
        .iter()
        .map(outcome)
        .collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_reach_the_collector_before_the_process_ends() {
    let (site, collector) = (Site::new(), Collector::start().await);
    let backend = Backend::start(&site, does).await;
    let mut gateway = site.gateway(&config(&backend, &traced(collector.port)));
    for _ in 0..20 {
        call(&gateway, PATH, &[]).await;
    }
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
    assert_eq!(collector.spans(0).await.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_a_collector_over_tls() {
    let site = Site::new();
    let collector = Collector::start_tls(&site).await;
    let backend = Backend::start(&site, does).await;
    let text = format!(
        "[trace]\notlp_endpoint = \"https://localhost:{}\"\nca_file = \"certs/ca.crt\"\n\
         sample = 1\nservice_name = \"edge\"\ninclude_subject = true\n",
        collector.port
    );
    let gateway = site.gateway(&config(&backend, &text));
    let bearer = bearer(&site);
    call(&gateway, PATH, &[("authorization", &bearer)]).await;
    let spans = collector.spans(1).await;
    assert_eq!(spans[0].service, "edge");
    assert_eq!(spans[0].attribute("enduser.id").as_deref(), Some("alice"));
}

/// Calls go as ever, and the process ends in time.
async fn costs_calls_nothing(site: &Site, backend: &Backend, port: u16) {
    let mut gateway = site.gateway(&config(backend, &traced(port)));
    let bearer = bearer(site);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    for _ in 0..200 {
        let answer = client.unary(PATH, &[("authorization", &bearer)], b"").await;
        assert_eq!(answer.status().code, 0);
    }
    client.close().await;
    let begun = Instant::now();
    gateway.interrupt();
    let code = gateway.process.wait().code();
    assert_eq!(code, Some(0), "{}", gateway.process.output());
    let took = begun.elapsed().as_secs_f64();
    assert!(took < 5.0, "2 s for the last spans, not {took} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_or_silent_costs_calls_nothing() {
    let site = Site::new();
    let backend = Backend::start(&site, does).await;
    costs_calls_nothing(&site, &backend, free_port()).await;
    let (tell, _told) = mpsc::unbounded_channel();
    costs_calls_nothing(&site, &backend, Backend::dead(tell).await.port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_are_lost_are_counted_and_said_once() {
    let site = Site::new();
    let backend = Backend::start(&site, does).await;
    let gateway = site.gateway(&config(&backend, &traced(free_port())));
    let lost = "trace_spans_dropped_total{reason=\"export_failed\"}";
    in_time("lost spans", async {
        while gateway.figure(lost) < 2 {
            call(&gateway, PATH, &[]).await;
        }
    })
    .await;
    let lines = gateway.process.error_lines();
    let said = lines.iter().filter(|line| line.contains("spans are lost"));
    assert_eq!(said.count(), 1, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tracing_off_a_callers_context_passes_untouched() {
    let site = Site::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let backend = Backend::start(&site, tells_headers(tell)).await;
    let gateway = site.gateway(&config(&backend, ""));
    let bearer = bearer(&site);
    for context in [TRACEPARENT, "not what the standard says"] {
        let headers = [
            ("authorization", bearer.as_str()),
            ("traceparent", context),
            ("tracestate", "a=1"),
        ];
        assert_eq!(call(&gateway, PATH, &headers).await.status().code, 0);
        let seen = told.recv().await.unwrap();
        assert_eq!(seen["traceparent"], context);
        assert_eq!(seen["tracestate"], "a=1");
    }
    assert_eq!(
        call(&gateway, PATH, &[("authorization", &bearer)])
            .await
            .status()
            .code,
        0
    );
    assert!(!told.recv().await.unwrap().contains_key("traceparent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_not_sampled_has_no_span_and_its_backend_is_told_so() {
    let (site, collector) = (Site::new(), Collector::start().await);
    let (tell, mut told) = mpsc::unbounded_channel();
    let backend = Backend::start(&site, tells_headers(tell)).await;
    let none = traced(collector.port).replace("1.0", "0.0");
    let mut gateway = site.gateway(&config(&backend, &none));
    let bearer = bearer(&site);
    let headers = [
        ("authorization", bearer.as_str()),
        ("traceparent", TRACEPARENT),
    ];
    assert_eq!(call(&gateway, PATH, &headers).await.status().code, 0);
    let expected = format!("00-{TRACE}-{PARENT}-00");
    assert_eq!(told.recv().await.unwrap()["traceparent"], expected);
    gateway.interrupt();
    gateway.process.wait();
    assert!(collector.spans(0).await.is_empty());
}

/// The access lines of a gateway that logs JSON, once there are so many.
fn access_lines(gateway: &Gateway, least: usize) -> Vec<Value> {
    let mut lines = Vec::new();
    gateway.process.error_line("access lines", |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        if line["target"] == "access" {
            lines.push(line);
        }
        (lines.len() >= least).then_some(())
    });
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_of_a_call_names_its_backend_its_trace_and_its_true_end() {
    let (site, collector) = (Site::new(), Collector::start().await);
    let backend = Backend::start(&site, does).await;
    let text = traced(collector.port) + "[log]\nformat = \"json\"\n";
    let gateway = site.gateway(&config(&backend, &text));
    let bearer = bearer(&site);
    let headers = [
        ("authorization", bearer.as_str()),
        ("traceparent", TRACEPARENT),
    ];
    call(&gateway, "/foreign.Service/Missing", &headers).await;
    call(&gateway, PATH, &[]).await;
    let lines = access_lines(&gateway, 2);
    let endpoint = format!("https://127.0.0.1:{}", backend.port);
    assert_eq!(lines[0]["endpoint"], endpoint);
    assert_eq!(lines[0]["trace_id"], TRACE);
    assert_eq!(lines[0]["code"], "NOT_FOUND");
    assert_eq!(lines[0]["subject"], "alice");
    assert_eq!(lines[1]["endpoint"], Value::Null, "it went nowhere");
    assert_eq!(lines[1]["reason"], "no_token");
    assert_eq!(lines[1]["trace_id"].as_str().map(str::len), Some(32));
}

/// What must stand nowhere.
const COOKIE: &str = "session=cookie-that-is-secret";
const QUERY: &str = "query-that-is-secret";
const BODY: &str = "body-that-is-secret";

/// Every way in which a secret comes in, in calls that go well and that fail.
async fn sends_secrets(site: &Site, gateway: &Gateway) -> Vec<String> {
    let good = site.token(&["tester"]);
    let bad = format!("{}x", site.token(&["keeper"]));
    for token in [&good, &bad] {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("cookie", COOKIE)];
        for path in [
            PATH,
            "/foreign.Trusted/Method",
            "/foreign.Service/Cut",
            "/made.Up/Name",
        ] {
            let mut client = Connection::open(gateway.port, &gateway.ca).await;
            client.unary(path, &headers, BODY.as_bytes()).await;
            client.close().await;
        }
        let authorization = format!("authorization: {bearer}");
        let cookie = format!("cookie: {COOKIE}");
        for version in ["--http1.1", "--http2"] {
            let args = [version, "-H", &authorization, "-H", &cookie];
            let web = [
                &args[..],
                &["-H", "content-type: application/grpc-web+proto"],
            ]
            .concat();
            request(
                gateway,
                PATH,
                &web,
                Some(&grpc::frame(false, BODY.as_bytes())),
            );
            request(gateway, &format!("{PATH}?token={QUERY}"), &web, Some(b""));
            request(gateway, &format!("/nothing?token={QUERY}"), &args, None);
            let events = format!("{EVENTS}&token={QUERY}");
            let events = stream(gateway, &events, &args);
            events.line("an answer", |line| (!line.is_empty()).then_some(()));
        }
    }
    // The signature is what makes a token one; subject and roles are no secret.
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let identity = gateway_identities(site);
    let mut secrets = vec![signature(&good), signature(&bad), site.secret(), identity];
    secrets.extend([COOKIE, QUERY, BODY].map(ToOwned::to_owned));
    secrets
}

/// The line of the key that identity tokens are signed with.
fn gateway_identities(site: &Site) -> String {
    let key = site.certs.read("identity.key");
    key.lines().nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_line_at_any_level_holds_a_token_a_cookie_a_query_or_a_payload() {
    for format in ["text", "json"] {
        let (site, collector) = (Site::new(), Collector::start().await);
        let (tell, mut told) = mpsc::unbounded_channel();
        let backend = Backend::start(&site, move |request, respond| {
            tell.send(request.headers().clone()).unwrap();
            does(request, respond)
        })
        .await;
        let text = format!(
            "[[routes]]\nmatch = \"/foreign.Trusted/*\"\nupstream = \"foreign\"\nroles = [\"*\"]\n\
             forward_authorization = true\n{}[log]\nlevel = \"trace\"\nformat = \"{format}\"\n\
             [workers]\ncount = 1\n",
            traced(collector.port)
        );
        let mut gateway = site.gateway(&config(&backend, &text));
        let mut secrets = sends_secrets(&site, &gateway).await;
        // What the gateway itself signed for its backend.
        while let Ok(seen) = told.try_recv() {
            let identity = seen["x-intellirouter-identity"].to_str().unwrap();
            secrets.push(identity.rsplit('.').next().unwrap().to_owned());
        }
        assert_eq!(
            gateway.figure("log_lines_dropped"),
            0,
            "every line was written"
        );
        gateway.interrupt();
        gateway.process.wait();
        let (out, err) = (gateway.process.lines(), gateway.process.error_lines());
        for said in ["TRACE", "Headers"] {
            let found = err.iter().any(|line| line.contains(said));
            assert!(found, "no {said}: not all was logged");
        }
        for line in out.iter().chain(&err) {
            for secret in &secrets {
                assert!(!line.contains(secret.as_str()), "{secret} in {line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_counted_by_route_protocol_and_reason_and_nothing_of_the_caller() {
    let site = Site::new();
    let backend = Backend::start(&site, does).await;
    let gateway = site.gateway(&config(&backend, ""));
    call(&gateway, PATH, &[]).await;
    call(&gateway, "/made.Up/Name", &[]).await;
    request(&gateway, EVENTS, &[], None);
    for labels in [
        "route=\"/foreign.Service/*\",protocol=\"grpc\",reason=\"no_token\"",
        "route=\"unknown\",protocol=\"grpc\",reason=\"no_token\"",
        "route=\"/events\",protocol=\"http\",reason=\"no_token\"",
    ] {
        assert_eq!(gateway.figure(&format!("refusals_total{{{labels}}}")), 1);
    }
    assert!(!gateway.metrics().contains("made.Up"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_handshakes_and_certificates_are_shown() {
    let site = Site::new();
    let backend = Backend::start(&site, does).await;
    let gateway = site.gateway(&config(&backend, "[workers]\ncount = 1\n"));
    call(&gateway, PATH, &[("authorization", &bearer(&site))]).await;
    assert_eq!(
        gateway.figure("upstream_connections{upstream=\"foreign\"}"),
        1
    );
    backend.kill().await;
    in_time("the end of the connection", async {
        while gateway.figure("upstream_connections{upstream=\"foreign\"}") > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    refused_handshake(&gateway).await;
    let metrics = gateway.metrics();
    for file in ["gateway.crt", "gateway-client.crt"] {
        let file = site.certs.path(file);
        let name = format!("certificate_expiry_seconds{{file=\"{}\"}}", file.display());
        let now = intellirouter_tests::token::now().unsigned_abs();
        assert!(gateway.figure(&name) > now, "{metrics}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("intellirouter_build_info{{version=\"{version}\"}} 1");
    assert!(metrics.contains(&build), "{metrics}");
    assert!(
        metrics.contains("\nprocess_start_time_seconds "),
        "{metrics}"
    );
}

/// A client that does not know the gateway's authority; waits until it counts.
async fn refused_handshake(gateway: &Gateway) {
    let mut command = std::process::Command::new("curl");
    command.args(["--silent", &gateway.url("/")]);
    let (status, ..) = Process::run("curl", &command);
    assert!(!status.success());
    let refused = "tls_handshake_failures_total{reason=\"certificate_refused\"}";
    in_time("the refusal", async {
        while gateway.figure(refused) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The names of figures in the queries of the dashboard.
fn dashboard_names() -> BTreeSet<String> {
    let text = std::fs::read_to_string(here("../config/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let words = targets.flat_map(|target| {
        let expr = target["expr"].as_str().unwrap();
        expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
    });
    let names =
        words.filter(|word| word.starts_with("intellirouter_") || word.starts_with("process_"));
    names.map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_on_the_dashboard_is_one_that_the_gateway_has() {
    let (site, collector) = (Site::new(), Collector::start().await);
    let backend = Backend::start(&site, does).await;
    let (redis, issuer) = (Redis::start(), ForeignIssuer::start(0));
    issuer.add("one", "ES256");
    site.write("revoked.txt", "");
    let everything = format!(
        "[revocation]\nfile = \"revoked.txt\"\nstore = \"{url}\"\n\
         [limits.store]\nurl = \"{url}\"\n\
         [[limits.rates]]\nname = \"all\"\nper = [\"subject\"]\nrate = 1000\nscope = \"global\"\n\
         [[auth.issuers]]\nissuer = \"https://issuer.example\"\naudience = \"us\"\n\
         jwks_url = \"{keys}\"\n",
        url = redis.url(),
        keys = issuer.url,
    );
    let gateway = site.gateway(&config(&backend, &traced(collector.port)).with_text(&everything));
    let bearer = bearer(&site);
    call(&gateway, PATH, &[("authorization", &bearer)]).await;
    call(&gateway, PATH, &[]).await;
    let header = format!("authorization: {bearer}");
    let events = stream(&gateway, EVENTS, &["-H", &header]);
    events.line("ir.open", |line| line.contains("ir.open").then_some(()));
    drop(events);
    refused_handshake(&gateway).await;
    in_time("the end of the event stream, and keys", async {
        let there = |name| gateway.metrics().contains(name);
        while !there("event_streams_closed_total{") || !there("jwks_age_seconds{") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let metrics = gateway.metrics();
    let shown: BTreeSet<_> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let asked = dashboard_names();
    assert!(asked.len() > 20, "{asked:?}");
    for name in &asked {
        assert!(shown.contains(name.as_str()), "no {name} in\n{metrics}");
    }
}

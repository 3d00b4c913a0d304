//! Calls that were let in end when their callers may no longer go on: at the
//! end of the token and when a role is withdrawn, in every protocol.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::curl::stream;
use intellirouter_tests::events::{Events, PATTERN};
use intellirouter_tests::foreign::{PATH, endless, ok_head};
use intellirouter_tests::grpc::{Status, frame};
use intellirouter_tests::token::now;
use intellirouter_tests::web::web_frames;
use intellirouter_tests::{Config, Gateway, Process, Site, Token};
use rustix::process::Signal;

async fn before_endless_streams(site: &Site, more: &str) -> (Backend, Gateway, Config) {
    let backend = Backend::start(site, endless).await;
    let config = Config::default()
        .events("")
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign")
        .with_text(more);
    let gateway = site.gateway(&config);
    (backend, gateway, config)
}

fn token(site: &Site, seconds: i64) -> String {
    Token::new("alice", &["tester"])
        .with("exp", now() + seconds)
        .hs256(site.secret().as_bytes())
}

/// The status that ends an endless stream.
async fn ends(gateway: &Gateway, token: &str, meanwhile: impl AsyncFnOnce()) -> Status {
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = format!("Bearer {token}");
    let mut call = client.call(PATH, &[("authorization", &bearer)]).await;
    call.send.send_data(frame(false, b""), true).unwrap();
    let body = call.head().await.into_body();
    meanwhile().await;
    let (_, trailers) = in_time("the end", read(body))
        .await
        .expect("a whole answer");
    Status::read(&trailers.expect("trailers"))
}

/// An endless call by a page, which prints what it gets.
fn page(site: &Site, gateway: &Gateway, token: &str) -> Process {
    let token = format!("authorization: Bearer {token}");
    let kind = "content-type: application/grpc-web+proto";
    let body = format!("@{}", site.write("body", "\0\0\0\0\0").display());
    let args = ["-H", kind, "-H", &token, "--data-binary", &body, "-o", "-"];
    stream(gateway, PATH, &args)
}

/// Takes the role `tester` from everything, and waits until that holds.
fn withdraw(site: &Site, gateway: &Gateway, config: &Config) {
    let text = config.render().replace("\"tester\"", "\"keeper\"");
    site.write("gateway.toml", &text);
    gateway.process.signal(Signal::HUP);
    gateway.process.error_line("the reload", |line| {
        line.contains("the changed configuration is in use")
            .then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_backend_ends_with_its_token() {
    let site = Site::new();
    let (_backend, gateway, _) = before_endless_streams(&site, "").await;
    let status = ends(&gateway, &token(&site, 2), async || {}).await;
    assert_eq!(status.code, 16, "{status:?}");
    let page = page(&site, &gateway, &token(&site, 2));
    page.line("the status", |line| {
        line.contains("grpc-status: 16").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_role_is_withdrawn_ends_and_one_whose_role_stays_goes_on() {
    let site = Site::new();
    let (_backend, gateway, config) = before_endless_streams(&site, "").await;
    let keeper = Token::new("bob", &["tester", "keeper"]).hs256(site.secret().as_bytes());
    let page = page(&site, &gateway, &token(&site, 3600));
    let _stays = self::page(&site, &gateway, &keeper);
    in_time("both calls", async {
        while gateway.figure("open_calls") < 2 {}
    })
    .await;
    let status = ends(&gateway, &token(&site, 3600), async || {
        withdraw(&site, &gateway, &config);
    })
    .await;
    assert_eq!(status.code, 7, "{status:?}");
    page.line("the status", |line| {
        line.contains("grpc-status: 7").then_some(())
    });
    in_time("the end of two", async {
        while gateway.figure("open_calls") > 1 {}
    })
    .await;
    assert_eq!(gateway.figure("open_calls"), 1);
}

#[test]
fn an_event_stream_whose_channel_is_withdrawn_ends_with_a_reason() {
    let config = Config::default().events("");
    let events = Events::with(&config);
    let (sse, grpc) = (events.sse(), events.grpc());
    let cut = "calls_cut_total{reason=\"role_withdrawn\"}";
    assert_eq!(events.gateway.figure(cut), 0);
    withdraw(&events.site, &events.gateway, &config);
    sse.line("the reason", |line| {
        line.contains("\"reason\":\"role_withdrawn\"").then_some(())
    });
    grpc.line("the end", |line| {
        line.contains("PERMISSION_DENIED").then_some(())
    });
    let counted = |name: &str| events.gateway.figure_or_0(name);
    while counted(cut) < 2 {}
    let code = "calls_total{route=\"/events\",protocol=\"http\",code=\"PERMISSION_DENIED\"}";
    assert_eq!(counted(code), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_has_a_bounded_number_of_calls_open_and_other_subjects_have_theirs() {
    let site = Site::new();
    let limits = "[limits]\nopen_calls_per_subject = 3\n";
    let (_backend, gateway, _) = before_endless_streams(&site, limits).await;
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let mut open = Vec::new();
    let mut begin = async |bearer: &str| {
        let mut call = client.call(PATH, &[("authorization", bearer)]).await;
        call.send.send_data(frame(false, b""), true).unwrap();
        let head = call.head().await;
        let status = head.headers().contains_key("grpc-status");
        let refused = status.then(|| Status::read(head.headers()));
        open.push((call, head));
        refused
    };
    let alice = format!("Bearer {}", token(&site, 3600));
    for _ in 0..3 {
        assert!(begin(&alice).await.is_none());
    }
    // Another token of the same subject, with another role more.
    let again = Token::new("alice", &["tester", "more"]).hs256(site.secret().as_bytes());
    let refused = begin(&format!("Bearer {again}")).await.expect("a refusal");
    assert_eq!(refused.code, 8, "{refused:?}");
    assert!(refused.details.retry_info.is_some(), "{refused:?}");
    let bob = Token::new("bob", &["tester"]).hs256(site.secret().as_bytes());
    assert!(begin(&format!("Bearer {bob}")).await.is_none());
}

/// A backend that sends messages of 1,000 bytes as fast as they are taken.
fn floods(
    _request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
) -> impl Future<Output = ()> + Send {
    let mut send = respond.send_response(ok_head(), false).unwrap();
    async move {
        let message = frame(false, &[7; 995]);
        loop {
            send.reserve_capacity(message.len());
            while send.capacity() < message.len() {
                match std::future::poll_fn(|cx| send.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
            if send.send_data(message.clone(), false).is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_takes_nothing_finds_its_status_behind_the_message_that_it_began() {
    let site = Site::new();
    let backend = Backend::start(&site, floods).await;
    let config = Config::default()
        .upstream("foreign", backend.port)
        .route("/foreign.Service/*", "foreign");
    let gateway = site.gateway(&config);
    let mut client = Connection::open(gateway.port, &gateway.ca).await;
    let bearer = format!("Bearer {}", token(&site, 3600));
    let kind = ("content-type", "application/grpc-web+proto");
    let mut call = client.call(PATH, &[("authorization", &bearer), kind]).await;
    call.send.send_data(frame(false, b""), true).unwrap();
    let mut body = call.head().await.into_body();
    // As much as a stream may have without being read.
    let mut unread = Vec::new();
    while unread.len() < 65_535 {
        unread.extend_from_slice(&in_time("data", body.data()).await.unwrap().unwrap());
    }
    withdraw(&site, &gateway, &config);
    in_time("the end of the call upstream", async {
        while !gateway
            .process
            .error_lines()
            .iter()
            .any(|line| line.contains("code=\"PERMISSION_DENIED\""))
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    body.flow_control().release_capacity(unread.len()).unwrap();
    let (rest, _) = in_time("the end", read(body))
        .await
        .expect("a whole answer");
    assert!(rest.len() < 3000, "{} bytes came after it", rest.len());
    unread.extend_from_slice(&rest);
    let frames = web_frames(&unread);
    let (status, messages) = frames.split_last().unwrap();
    assert!(
        messages
            .iter()
            .all(|(flag, message)| *flag == 0 && message.len() == 995)
    );
    let status = String::from_utf8_lossy(&status.1);
    assert!(status.contains("grpc-status: 7"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_takes_nothing_finds_its_status_in_the_trailers() {
    let config = Config::default().events("");
    let events = Events::with(&config);
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let (_, bearer) = events.header.split_once(": ").unwrap();
    let path = "/intellirouter.events.v1.EventService/Subscribe";
    let mut call = client.call(path, &[("authorization", bearer)]).await;
    let question = [&[0x0a, PATTERN.len() as u8], PATTERN.as_bytes()].concat();
    call.send.send_data(frame(false, &question), true).unwrap();
    let mut body = call.head().await.into_body();
    in_time("the opening", body.data()).await.unwrap().unwrap();
    // More than a stream may have without being read.
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(30_000));
    for _ in 0..4 {
        events.publish(&payload);
    }
    withdraw(&events.site, &events.gateway, &config);
    // No credit is given: what comes is what had room.
    while let Some(data) = in_time("data", body.data()).await {
        assert!(data.is_ok(), "{data:?}");
    }
    let trailers = in_time("trailers", body.trailers()).await.unwrap();
    assert_eq!(Status::read(&trailers.expect("trailers")).code, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_behind_when_its_role_is_withdrawn_is_told_of_that_and_not_to_come_again()
{
    let config = Config::default().events("lag_bytes = 65536");
    let events = Events::with(&config);
    let mut client = Connection::open(events.gateway.port, &events.gateway.ca).await;
    let (_, bearer) = events.header.split_once(": ").unwrap();
    let request = http::Request::get(format!("https://localhost{}", Events::path(PATTERN)))
        .header("authorization", bearer)
        .body(())
        .unwrap();
    let mut call = client.begin(request, true).await;
    let mut body = call.head().await.into_body();
    in_time("ir.open", body.data()).await.unwrap().unwrap();
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(30_000));
    for _ in 0..10 {
        events.publish(&payload);
    }
    withdraw(&events.site, &events.gateway, &config);
    let end = std::time::Instant::now() + intellirouter_tests::DEADLINE;
    let cut = "calls_cut_total{reason=\"role_withdrawn\"}";
    while events.gateway.figure(cut) == 0 {
        assert!(std::time::Instant::now() < end, "the stream is not cut");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let text = async {
        let mut text = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            text.extend_from_slice(&data);
        }
        String::from_utf8(text).unwrap()
    };
    let text = in_time("the end", text).await;
    let end = text.split("\n\n").find(|frame| frame.contains("ir.error"));
    let end = end.expect("a reason");
    assert!(end.contains("\"role_withdrawn\""), "{end}");
}

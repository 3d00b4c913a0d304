//! Endpoints that come and go while the gateway runs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use h2::RecvStream;
use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Call, Connection, in_time, read};
use intellirouter_tests::foreign::{PATH, answer, bearer, ok_head, ok_trailers};
use intellirouter_tests::reload::{REFUSED, TAKEN, reload, said, says_again};
use intellirouter_tests::{Config, Gateway, Process, Site, binary, grpc};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;

/// A method that is answered at once and ends when the test says so.
const HELD: &str = "/foreign.Service/Held";
const FILE: &str = "endpoints.txt";

/// A backend that tells each call that it gets.
struct Told {
    backend: Backend,
    called: UnboundedReceiver<()>,
    release: watch::Sender<bool>,
}

impl Told {
    async fn start(site: &Site) -> Self {
        let (tell, called) = mpsc::unbounded_channel();
        let (release, released) = watch::channel(false);
        let backend = Backend::start(site, move |request, mut respond| {
            let (tell, mut released) = (tell.clone(), released.clone());
            async move {
                tell.send(()).unwrap();
                if request.uri().path() == HELD {
                    let mut send = respond.send_response(ok_head(), false).unwrap();
                    released.wait_for(|released| *released).await.unwrap();
                    send.send_data(grpc::frame(false, b""), false).unwrap();
                    send.send_trailers(ok_trailers()).unwrap();
                } else {
                    answer(respond);
                }
            }
        })
        .await;
        Self {
            backend,
            called,
            release,
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.backend.port)
    }

    /// How many calls it has got since this was last asked.
    fn calls(&mut self) -> usize {
        std::iter::from_fn(|| self.called.try_recv().ok()).count()
    }
}

/// One worker, and an upstream whose endpoints are where `source` says.
fn config(source: &str) -> Config {
    let mut config = Config::default()
        .upstream("foreign", 1)
        .with_text("connect_timeout = \"1s\"\n")
        .route("/foreign.Service/*", "foreign")
        .with_text("[workers]\ncount = 1\n");
    let listed = "endpoints = [\"https://127.0.0.1:1\"]";
    assert!(config.rest.contains(listed));
    config.rest = config.rest.replace(listed, source);
    config
}

fn followed() -> Config {
    config(&format!("endpoints_file = \"{FILE}\""))
}

/// Puts another file in the place of the one that is followed.
fn rename(site: &Site, endpoints: &[&str]) {
    let new = site.write("new.txt", &endpoints.join("\n"));
    std::fs::rename(new, site.dir().join(FILE)).unwrap();
}

struct Client {
    connection: Connection,
    bearer: String,
}

impl Client {
    async fn open(site: &Site, gateway: &Gateway) -> Self {
        Self {
            connection: Connection::open(gateway.port, &gateway.ca).await,
            bearer: bearer(site),
        }
    }

    async fn code(&mut self) -> i32 {
        let headers = [("authorization", &*self.bearer)];
        let answer = self.connection.unary(PATH, &headers, b"").await;
        answer.status().code
    }

    /// A call whose answer has begun.
    async fn begin(&mut self, path: &str) -> (Call, RecvStream) {
        let headers = [("authorization", &*self.bearer)];
        let mut call = self.connection.call(path, &headers).await;
        call.send.send_data(grpc::frame(false, b""), true).unwrap();
        let answer = call.head().await.into_body();
        (call, answer)
    }
}

fn discovery(gateway: &Gateway) -> serde_json::Value {
    let shown: serde_json::Value = serde_json::from_str(&gateway.page("/upstreams")).unwrap();
    shown[0]["discovery"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_added_gets_calls_and_one_that_is_removed_ends_those_that_it_has() {
    let site = Site::new();
    let (mut first, mut second) = (Told::start(&site).await, Told::start(&site).await);
    site.write(FILE, &format!("# the first\n{}\n", first.url()));
    let gateway = site.gateway(&followed());
    let mut client = Client::open(&site, &gateway).await;
    let (_call, held) = client.begin(HELD).await;
    assert_eq!(first.calls(), 1);

    rename(&site, &[&first.url(), &second.url()]);
    in_time("a call to the new backend", async {
        while second.calls() == 0 {
            assert_eq!(client.code().await, 0);
        }
    })
    .await;
    assert_eq!(
        gateway.figure("upstream_connections{upstream=\"foreign\"}"),
        2
    );
    assert_eq!(
        gateway.figure("upstream_endpoints{upstream=\"foreign\"}"),
        2
    );

    rename(&site, &[&second.url()]);
    in_time("the end of the old backend", async {
        while gateway.figure("upstream_endpoints{upstream=\"foreign\"}") > 1 {
            assert_eq!(client.code().await, 0);
        }
    })
    .await;
    first.calls();
    second.calls();
    for _ in 0..20 {
        assert_eq!(client.code().await, 0);
    }
    assert_eq!((first.calls(), second.calls()), (0, 20));
    // What it has goes on, and its connection with it.
    assert_eq!(
        gateway.figure("upstream_connections{upstream=\"foreign\"}"),
        2
    );
    first.release.send_replace(true);
    let (message, trailers) = in_time("its end", read(held)).await.unwrap();
    assert_eq!(
        (message, trailers.unwrap()),
        (grpc::frame(false, b"").to_vec(), ok_trailers())
    );
    in_time("the end of its connection", async {
        while gateway.figure("upstream_connections{upstream=\"foreign\"}") > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The configuration itself has not changed.
    assert_eq!(said(&gateway, TAKEN), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_faulty_change_of_the_file_keeps_the_endpoints_and_holds_up_no_reload() {
    let site = Site::new();
    let told = Told::start(&site).await;
    site.write(FILE, &told.url());
    let gateway = site.gateway(&followed());
    let mut client = Client::open(&site, &gateway).await;
    rename(&site, &[&told.url(), "nonsense"]);
    says_again(&gateway, "endpoints.txt:2: expected", 0).await;
    assert_eq!(client.code().await, 0);
    let faults = "upstream_discovery_faults_total{upstream=\"foreign\"}";
    assert_eq!(gateway.figure(faults), 1);
    let shown = discovery(&gateway);
    assert_eq!(
        (&shown["source"], &shown["is_stale"]),
        (&"file".into(), &true.into())
    );

    let more = followed().route("/added.Service/*", "foreign");
    reload(&site, &gateway, &more, TAKEN).await;
    assert_eq!(client.code().await, 0);
    let changed = more.render().replace("\"1s\"", "\"2s\"");
    site.write("gateway.toml", &changed);
    says_again(&gateway, TAKEN, 1).await;
    assert_eq!(client.code().await, 0);
    // Told once, though each generation has seen it.
    assert_eq!(said(&gateway, "the endpoints can't be found"), 1);

    rename(&site, &[&told.url()]);
    says_again(&gateway, "the endpoints are found again", 0).await;
    assert_eq!(discovery(&gateway)["is_stale"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_new_is_judged_with_the_configuration_that_names_it() {
    let site = Site::new();
    let told = Told::start(&site).await;
    let listed = config(&format!("endpoints = [\"{}\"]", told.url()));
    let gateway = site.gateway(&listed);
    let mut client = Client::open(&site, &gateway).await;
    site.write(FILE, "nonsense");
    reload(&site, &gateway, &followed(), REFUSED).await;
    assert_eq!(client.code().await, 0);
    // Mended, it is taken without a signal.
    let before = said(&gateway, TAKEN);
    rename(&site, &[&told.url()]);
    says_again(&gateway, TAKEN, before).await;
    assert_eq!(client.code().await, 0);
    assert_eq!(discovery(&gateway)["source"], "file");
}

#[test]
fn a_faulty_file_of_endpoints_is_a_fault_of_the_configuration() {
    let site = Site::new();
    site.write(FILE, "https://127.0.0.1:1\n\nftp://127.0.0.1:2\n");
    let file = site.write("gateway.toml", &followed().render());
    let file = file.to_str().unwrap();
    for command in ["check", "gateway"] {
        let command = binary::command(&[command, "--config", file]);
        let (status, _, err) = Process::run("intellirouter", &command);
        assert_eq!(status.code(), Some(64));
        assert!(err.contains("upstreams[0]"), "{err}");
        assert!(
            err.contains("endpoints.txt:3: expected \"https://HOST:PORT\""),
            "{err}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_looked_up_and_a_change_of_its_source_costs_no_call() {
    let site = Site::new();
    let told = Told::start(&site).await;
    // ::1 may be among its addresses, where nobody listens.
    let dns = format!("dns = \"https://localhost:{}\"", told.backend.port);
    let gateway = site.gateway(&config(&dns));
    let mut client = Client::open(&site, &gateway).await;
    in_time("an answer", async { while client.code().await != 0 {} }).await;
    let shown = discovery(&gateway);
    assert_eq!(
        (&shown["source"], &shown["place"]),
        (&"dns".into(), &"localhost".into())
    );
    assert!(shown["found_at"].is_string());

    let listed = config(&format!("endpoints = [\"{}\"]", told.url()));
    reload(&site, &gateway, &listed, TAKEN).await;
    assert_eq!(client.code().await, 0);
    reload(&site, &gateway, &config(&dns), TAKEN).await;
    assert_eq!(client.code().await, 0);
    let changed = config(&dns).render().replace("\"1s\"", "\"2s\"");
    site.write("gateway.toml", &changed);
    says_again(&gateway, TAKEN, 2).await;
    assert_eq!(client.code().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_unknown_is_unavailable_and_the_gateway_is_ready() {
    let site = Site::new();
    let gateway = site.gateway(&config("dns = \"https://nowhere.invalid:1\""));
    let mut client = Client::open(&site, &gateway).await;
    assert_eq!(client.code().await, 14);
    assert!(gateway.page("/readyz").starts_with("ready"));
    says_again(&gateway, "nowhere.invalid", 0).await;
    assert_eq!(discovery(&gateway)["is_stale"], true);
}

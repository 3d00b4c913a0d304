//! What a reload of an issuer's settings, and an issuer that errs, mean for calls that are open.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::time::{Duration, Instant};

use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::{Connection, in_time, read};
use intellirouter_tests::foreign::{PATH, endless};
use intellirouter_tests::grpc::{Status, frame};
use intellirouter_tests::issuer::ForeignIssuer;
use intellirouter_tests::{Config, DEADLINE, Gateway, Site};
use rustix::process::Signal;

const ISSUER: &str = "https://issuer.example";

struct Scene {
    site: Site,
    issuer: ForeignIssuer,
    gateway: Gateway,
    config: Config,
    _backend: Backend,
}

impl Scene {
    /// A gateway that fetches the one key `k1`, in front of streams without an end.
    async fn new(settings: &str) -> Self {
        let site = Site::new();
        let issuer = ForeignIssuer::start(0);
        issuer.add("k1", "ES256");
        let backend = Backend::start(&site, endless).await;
        let mut config = Config::default()
            .upstream("foreign", backend.port)
            .route("/foreign.Service/*", "foreign");
        config.auth = fetched(&issuer, settings);
        let gateway = site.gateway(&config);
        Self {
            site,
            issuer,
            gateway,
            config,
            _backend: backend,
        }
    }

    /// Opens a stream with a new token of `k1`, does something, and waits for the stream's status.
    async fn ends(&mut self, meanwhile: impl AsyncFnOnce(&mut Self)) -> Status {
        let mut client = Connection::open(self.gateway.port, &self.gateway.ca).await;
        let bearer = format!("Bearer {}", self.issuer.token(ISSUER, "k1"));
        let mut call = client.call(PATH, &[("authorization", &bearer)]).await;
        call.send.send_data(frame(false, b""), true).unwrap();
        let body = call.head().await.into_body();
        meanwhile(self).await;
        let (_, trailers) = in_time("the end", read(body))
            .await
            .expect("a whole answer");
        Status::read(&trailers.expect("trailers"))
    }

    /// Whether a call with a token of `k1` that nobody has seen yet is let in.
    async fn lets_in(&self) -> bool {
        let mut client = Connection::open(self.gateway.port, &self.gateway.ca).await;
        let bearer = format!("Bearer {}", self.issuer.token(ISSUER, "k1"));
        let mut call = client.call(PATH, &[("authorization", &bearer)]).await;
        call.send.send_data(frame(false, b""), true).unwrap();
        !call.head().await.headers().contains_key("grpc-status")
    }

    fn reload(&mut self, settings: &str) {
        self.config.auth = fetched(&self.issuer, settings);
        self.site.write("gateway.toml", &self.config.render());
        self.gateway.process.signal(Signal::HUP);
        self.gateway.process.error_line("the reload", |line| {
            line.contains("the changed configuration is in use")
                .then_some(())
        });
    }

    /// Waits until the issuer was asked twice more: once may be under way already.
    fn wait_for_fetches(&self) {
        let (began, wanted) = (Instant::now(), self.issuer.fetches() + 2);
        // What is waited for is another process's; each look asks it.
        while self.issuer.fetches() < wanted {
            assert!(began.elapsed() < DEADLINE, "never {wanted} fetches");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn fetched(issuer: &ForeignIssuer, settings: &str) -> String {
    format!(
        "[[auth.issuers]]\nissuer = \"{ISSUER}\"\naudience = \"intellirouter-services\"\n\
         jwks_url = \"{}\"\n{settings}\n",
        issuer.url
    )
}

fn reason(status: Status) -> (i32, String) {
    let info = status.details.error_info.expect("details say why");
    (status.code, info.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_jwks_settings_end_no_stream_and_refuse_nobody_though_the_issuer_is_away() {
    let mut scene = Scene::new("jwks_refresh = \"2s\"").await;
    let status = scene
        .ends(async |scene| {
            scene.issuer.mode("fails");
            scene.reload("jwks_refresh = \"1s\"\njwks_timeout = \"1s\"\njwks_cooldown = \"2s\"");
            scene.wait_for_fetches();
            assert!(scene.lets_in().await, "the keys are known still");
            assert_eq!(
                scene.gateway.figure("calls_cut_total{reason=\"key_gone\"}"),
                0
            );
            // Back, and with another key: only this ends the stream.
            scene.issuer.add("k2", "ES256");
            scene.issuer.withdraw("k1");
            scene.issuer.mode("ok");
        })
        .await;
    assert_eq!(reason(status), (16, "KEY_GONE".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_any_key_ends_no_stream_and_refuses_nobody() {
    let mut scene = Scene::new("jwks_refresh = \"1s\"").await;
    let status = scene
        .ends(async |scene| {
            scene.issuer.withdraw("k1");
            scene.wait_for_fetches();
            assert!(scene.lets_in().await, "the keys are known still");
            scene.issuer.add("k2", "ES256");
        })
        .await;
    assert_eq!(reason(status), (16, "KEY_GONE".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_an_issuer_may_not_give_any_more_ends_the_streams_it_opened() {
    let mut scene = Scene::new("").await;
    let status = scene
        .ends(async |scene| {
            assert!(scene.lets_in().await);
            scene.reload("allowed_roles = [\"partner\"]");
            assert!(!scene.lets_in().await);
        })
        .await;
    assert_eq!(reason(status), (16, "RULES_CHANGED".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_moves_from_a_file_to_the_fetched_set_ends_no_stream() {
    let mut scene = Scene::new("").await;
    let set = scene.issuer.jwks().to_string();
    scene.site.write("issuer.jwks.json", &set);
    scene.config.auth = format!(
        "[[auth.issuers]]\nissuer = \"{ISSUER}\"\naudience = \"intellirouter-services\"\n\
         jwks_file = \"issuer.jwks.json\"\n"
    );
    scene.gateway = scene.site.gateway(&scene.config);
    let status = scene
        .ends(async |scene| {
            scene.reload("jwks_refresh = \"1s\"");
            scene.wait_for_fetches();
            assert!(scene.lets_in().await);
            scene.issuer.add("k2", "ES256");
            scene.issuer.withdraw("k1");
        })
        .await;
    assert_eq!(reason(status), (16, "KEY_GONE".to_owned()));
}

//! Under paused time, with a resolver that a test tells what to say.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::test_util::{config, settle};
use crate::upstream::Upstream;

const SECOND: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(30);

type Answer = Result<Vec<IpAddr>, &'static str>;

/// What the resolver says, and how often it was asked.
#[derive(Clone, Default)]
struct Resolver {
    /// `None`: it hangs.
    answer: Arc<Mutex<Option<Answer>>>,
    asked: Arc<AtomicUsize>,
}

impl Resolver {
    fn says(&self, answer: impl Into<Option<Answer>>) {
        *self.answer.lock().unwrap() = answer.into();
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    async fn answer(self, host: String) -> io::Result<Vec<IpAddr>> {
        assert_eq!(host, "backend.test");
        self.asked.fetch_add(1, Relaxed);
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Some(answer) => answer.map_err(io::Error::other),
            None => std::future::pending().await,
        }
    }
}

/// An upstream that is looked up so, and its resolver.
async fn follow(first: impl Into<Option<Answer>>) -> (Arc<Upstream>, Resolver) {
    let (upstream, resolver) = (upstream(), Resolver::default());
    resolver.says(first);
    begin(&upstream, &resolver);
    settle().await;
    (upstream, resolver)
}

fn begin(upstream: &Arc<Upstream>, resolver: &Resolver) {
    let shared = upstream.discovery.shared.clone();
    shared.serve(upstream);
    let host: EndpointConfig = "https://backend.test:50051".parse().unwrap();
    let resolver = resolver.clone();
    let resolve = move |host| resolver.clone().answer(host);
    tokio::spawn(super::follow(shared, host, REFRESH, resolve));
}

fn upstream() -> Arc<Upstream> {
    let config = config(&format!(
        "[[upstreams]]\nname = 'b'\ndns = 'https://backend.test:50051'\nca_file = 'ca.crt'\n\
         dns_refresh = '{}s'\n",
        REFRESH.as_secs()
    ));
    Upstream::open(&config.upstreams[0], None, &Default::default()).unwrap()
}

fn ips(list: &[&str]) -> Answer {
    Ok(list.iter().map(|text| text.parse().unwrap()).collect())
}

fn names(upstream: &Upstream) -> Vec<String> {
    let endpoints = upstream.endpoints();
    endpoints.iter().map(|one| one.name.to_string()).collect()
}

fn faults(upstream: &Upstream) -> u64 {
    upstream.dialer.figures.discovery_faults.get()
}

#[tokio::test(start_paused = true)]
async fn each_address_is_an_endpoint_that_is_called_as_the_host() {
    let (upstream, _) = follow(ips(&["10.0.0.2", "fd00::1", "10.0.0.1", "10.0.0.2"])).await;
    let expected = [
        "https://10.0.0.1:50051",
        "https://10.0.0.2:50051",
        "https://[fd00::1]:50051",
    ];
    assert_eq!(names(&upstream), expected);
    for endpoint in &*upstream.endpoints() {
        assert_eq!(endpoint.authority, "backend.test:50051");
        let name = endpoint.server_name.as_ref().unwrap();
        assert_eq!(name.to_str(), "backend.test");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_is_taken_at_each_refresh_and_what_stays_is_kept() {
    let (upstream, resolver) = follow(ips(&["10.0.0.1", "10.0.0.2"])).await;
    let before = upstream.endpoints();
    resolver.says(ips(&["10.0.0.3", "10.0.0.2"]));
    tokio::time::sleep(REFRESH - SECOND).await;
    assert_eq!(resolver.asked(), 1);
    tokio::time::sleep(SECOND).await;
    assert_eq!(resolver.asked(), 2);
    let expected = ["https://10.0.0.2:50051", "https://10.0.0.3:50051"];
    assert_eq!(names(&upstream), expected);
    assert!(Arc::ptr_eq(&upstream.endpoints()[0], &before[1]));
}

#[tokio::test(start_paused = true)]
async fn the_same_addresses_in_another_order_change_nothing() {
    let (upstream, resolver) = follow(ips(&["10.0.0.1", "10.0.0.2"])).await;
    let before = upstream.endpoints();
    resolver.says(ips(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]));
    tokio::time::sleep(3 * REFRESH).await;
    assert!(resolver.asked() >= 3);
    assert!(Arc::ptr_eq(&upstream.endpoints(), &before));
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_empty_answer_keeps_the_last_known_and_is_told() {
    let (upstream, resolver) = follow(ips(&["10.0.0.1"])).await;
    let before = upstream.endpoints();
    for (answer, fault) in [
        (Err("no such name"), "backend.test: no such name"),
        (Ok(Vec::new()), "backend.test: has no address"),
    ] {
        let counted = faults(&upstream);
        resolver.says(answer);
        tokio::time::sleep(REFRESH + SECOND).await;
        assert!(Arc::ptr_eq(&upstream.endpoints(), &before));
        assert!(faults(&upstream) > counted);
        let told = &upstream.describe()["discovery"];
        assert_eq!(
            (&told["is_stale"], &told["source"]),
            (&true.into(), &"dns".into())
        );
        assert_eq!(told["last_fault"]["error"], fault);
        assert!(told["found_at"].is_string());
    }
    resolver.says(ips(&["10.0.0.2"]));
    tokio::time::sleep(REFRESH).await;
    assert_eq!(names(&upstream), ["https://10.0.0.2:50051"]);
    let told = &upstream.describe()["discovery"];
    assert_eq!(told["is_stale"], false);
    assert!(told["last_fault"]["at"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_look_that_failed_is_made_again_sooner_than_the_refresh() {
    let (upstream, resolver) = follow(Err("no such name")).await;
    assert!(upstream.endpoints().is_empty());
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(resolver.asked(), 2);
    resolver.says(ips(&["10.0.0.1"]));
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(names(&upstream).len(), 1);
    // And never oftener than once in the refresh, however long it fails.
    resolver.says(Err("no such name"));
    tokio::time::sleep(10 * REFRESH).await;
    let asked = resolver.asked();
    tokio::time::sleep(10 * REFRESH).await;
    assert!((10..=21).contains(&(resolver.asked() - asked)));
}

#[tokio::test(start_paused = true)]
async fn a_connect_failure_has_the_host_looked_up_again_within_a_second() {
    let (upstream, resolver) = follow(ips(&["10.0.0.1"])).await;
    resolver.says(ips(&["10.0.0.2"]));
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(resolver.asked(), 1);
    upstream.dialer.failed.notify_one();
    settle().await;
    assert_eq!(names(&upstream), ["https://10.0.0.2:50051"]);
    // But once a second at most, however many fail.
    for _ in 0..100 {
        upstream.dialer.failed.notify_one();
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(
        (11..=13).contains(&resolver.asked()),
        "{}",
        resolver.asked()
    );
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_hangs_has_failed_and_none_begins_beside_it() {
    let (upstream, resolver) = follow(None).await;
    tokio::time::sleep(LIMIT).await;
    let fault = |upstream: &Upstream| upstream.describe()["discovery"]["last_fault"].clone();
    let error = "backend.test: not looked up within 5s";
    assert_eq!(fault(&upstream)["error"], error);
    tokio::time::sleep(10 * REFRESH).await;
    let error = "backend.test: an earlier look-up hangs";
    assert_eq!(fault(&upstream)["error"], error);
    assert_eq!(resolver.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_256_addresses_are_endpoints_and_always_the_same_ones() {
    let all: Vec<IpAddr> = (0..300_u32)
        .map(|i| IpAddr::from((0x0a00_0000 + i).to_be_bytes()))
        .collect();
    let (upstream, resolver) = follow(Ok(all.clone())).await;
    let before = upstream.endpoints();
    assert_eq!(before.len(), 256);
    assert_eq!(upstream.describe()["discovery"]["left_out"], 44);
    resolver.says(Ok(all.into_iter().rev().collect()));
    tokio::time::sleep(2 * REFRESH).await;
    assert!(Arc::ptr_eq(&upstream.endpoints(), &before));
}

#[tokio::test(start_paused = true)]
async fn it_is_known_when_the_first_look_has_ended_whatever_it_found() {
    for answer in [ips(&["10.0.0.1"]), Err("no such name")] {
        let (upstream, resolver) = (upstream(), Resolver::default());
        resolver.says(answer);
        let looked = upstream.first_look();
        assert!(tokio::time::timeout(REFRESH, looked).await.is_err());
        begin(&upstream, &resolver);
        upstream.first_look().await;
        assert_eq!(resolver.asked(), 1);
    }
}

#[tokio::test]
async fn the_system_knows_the_addresses_of_this_machine() {
    let found = system("localhost".into()).await.unwrap();
    assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback));
    assert_eq!(system("::1".into()).await.unwrap(), ips(&["::1"]).unwrap());
}

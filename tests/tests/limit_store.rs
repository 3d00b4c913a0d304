//! Limits that gateways hold together: the sum is right, and a store that is
//! slow, away, broken or forgetful costs callers nothing and the limit little.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use intellirouter_tests::backend::Backend;
use intellirouter_tests::client::Connection;
use intellirouter_tests::foreign::PATH;
use intellirouter_tests::limits::{
    EXHAUSTED, backend, bearer_of, config, page, passed, rate, shows,
};
use intellirouter_tests::load::{Done, Load, quantile};
use intellirouter_tests::redis::Redis;
use intellirouter_tests::{DEADLINE, Gateway, Process, Site};

/// Two gateways with one store.
struct Pair {
    site: Site,
    redis: Redis,
    one: Gateway,
    other: Gateway,
    _backend: Backend,
}

/// 200 per second and 100 at once, for each subject, on both together.
const RATE: f64 = 200.0;
const BURST: f64 = 100.0;

impl Pair {
    async fn new() -> Self {
        Self::with("rate = 200\nperiod = \"1s\"\nburst = 100", "3ms").await
    }

    /// With time enough that a busy machine does not pass for a slow store.
    async fn patient(numbers: &str) -> Self {
        Self::with(numbers, "100ms").await
    }

    async fn with(numbers: &str, timeout: &str) -> Self {
        let (site, redis) = (Site::new(), Redis::start());
        let backend = backend(&site).await;
        let limits = [
            rate(
                "shared",
                "\"subject\"",
                &format!("{numbers}\nscope = \"global\"\nroutes = [\"/foreign.Service/*\"]"),
            ),
            format!(
                "[limits.store]\nurl = \"{}\"\ntimeout = \"{timeout}\"\n",
                redis.url()
            ),
        ];
        let config = config(&backend, &limits.concat());
        let (one, other) = (site.gateway(&config), site.gateway(&config));
        let pair = Self {
            site,
            redis,
            one,
            other,
            _backend: backend,
        };
        pair.connected();
        pair
    }

    fn both(&self) -> [&Gateway; 2] {
        [&self.one, &self.other]
    }

    /// Waits until both have the store, and each knows of the other.
    fn connected(&self) {
        for gateway in self.both() {
            shows(gateway, "/readyz", "limit store connected");
        }
        let end = Instant::now() + DEADLINE;
        while self.redis.cli(&["ZCARD", "{intellirouter}:limit:gateways"]) != "2" {
            assert!(Instant::now() < end, "both say that they live");
        }
        // Each hears of the other with its next word, within 250 ms.
        std::thread::sleep(Duration::from_millis(300));
    }

    fn away(&self) {
        for gateway in self.both() {
            let text = "limit store away: using 1/2 of each global limit";
            shows(gateway, "/readyz", text);
        }
    }

    async fn load(&self) -> Load {
        let bearer = bearer_of(&self.site, "alice");
        Load::start(&self.both(), 3, PATH, &bearer).await
    }

    /// Calls that no limit covers, to hold the time of others against.
    async fn free(&self) -> Load {
        let bearer = bearer_of(&self.site, "alice");
        Load::start(&self.both(), 1, "/foreign.Free/Method", &bearer).await
    }
}

/// Holds the calls against the limit: no more than it allows within 2 %, and no
/// fewer than `least` of it; on the way no more ahead than one lease, which is
/// what one gateway may not have heard of when the store falls silent.
fn within(calls: &[Done], least: f64) {
    let lease = RATE / 10.0;
    let (mut passed, mut limit) = (0.0, BURST);
    for done in calls {
        limit = BURST + RATE * done.at.as_secs_f64();
        if done.code == 0 {
            passed += 1.0;
            let at = done.at;
            assert!(
                passed <= limit * 1.02 + lease,
                "{passed} of {limit} after {at:?}"
            );
        } else {
            assert_eq!(done.code, EXHAUSTED, "after {:?}", done.at);
        }
    }
    println!("{passed} of {limit:.0}, {} calls", calls.len());
    assert!(passed <= limit * 1.02, "{passed} of {limit}");
    assert!(passed >= limit * least, "only {passed} of {limit}");
}

/// Calls must not take 5 ms longer than those that no limit covers did at the
/// same time.
fn as_quick(calls: &[Done], free: &[Done], from: Duration, to: Duration) {
    let in_time = |calls: &[Done]| -> Vec<Done> {
        let at = |done: &&Done| (from..to).contains(&done.at);
        calls.iter().filter(at).copied().collect()
    };
    let (calls, free) = (in_time(calls), in_time(free));
    for part in [0.5, 0.95] {
        let (took, free) = (quantile(&calls, part), quantile(&free, part));
        println!("{part}: {took:?}, without a limit {free:?}");
        assert!(
            took < free + Duration::from_millis(5),
            "{part}: {took:?} {free:?}"
        );
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_hold_one_limit_within_two_percent() {
    let pair = Pair::new().await;
    let load = pair.load().await;
    load.until(10 * SECOND).await;
    within(&load.stop().await, 0.98);
}

#[tokio::test]
async fn calls_at_one_gateway_leave_that_much_less_at_the_other() {
    let pair = Pair::patient("rate = 6\nperiod = \"1h\"").await;
    let alice = bearer_of(&pair.site, "alice");
    assert_eq!(passed(&pair.one, &alice, 4).await, 4);
    assert_eq!(passed(&pair.other, &alice, 10).await, 2);
    assert_eq!(passed(&pair.one, &alice, 10).await, 0);
    let bob = bearer_of(&pair.site, "bob");
    assert_eq!(passed(&pair.one, &bob, 10).await, 6);
}

#[tokio::test]
async fn refusals_do_not_ask_the_store() {
    let pair = Pair::patient("rate = 2\nperiod = \"1h\"").await;
    let alice = bearer_of(&pair.site, "alice");
    assert_eq!(passed(&pair.one, &alice, 5).await, 2);
    let scripts = || {
        let stats = pair.redis.cli(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let calls = line.unwrap().split("calls=").nth(1).unwrap();
        calls.split(',').next().unwrap().parse::<f64>().unwrap()
    };
    let (before, start) = (scripts(), Instant::now());
    assert_eq!(passed(&pair.one, &alice, 500).await, 0);
    // Each gateway says every 250 ms that it lives.
    let words = 2.0 * (start.elapsed().as_secs_f64() / 0.25 + 2.0);
    assert!(scripts() - before <= words, "more than {words} questions");
}

#[tokio::test]
async fn the_store_learns_no_name_and_keeps_nothing_for_long() {
    let pair = Pair::patient("rate = 100\nperiod = \"1s\"").await;
    let alice = bearer_of(&pair.site, "alice-in-chains");
    assert_eq!(passed(&pair.one, &alice, 20).await, 20);
    let keys = pair.redis.cli(&["KEYS", "*"]);
    assert!(
        keys.contains("{intellirouter}:limit:shared:100/1000/100:"),
        "{keys}"
    );
    assert!(!keys.contains("alice"), "{keys}");
    // The name of the store's memory is random, and its loss tells of others.
    let memory = "{intellirouter}:limit:memory";
    assert!(keys.lines().any(|key| key == memory), "{keys}");
    for key in keys.lines().filter(|key| *key != memory) {
        let life: i64 = pair.redis.cli(&["PTTL", key]).parse().unwrap();
        assert!(
            life == -2 || (0..=30_000).contains(&life),
            "{key}: {life} ms"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_store_killed_calls_are_as_quick_and_the_limit_holds() {
    let mut pair = Pair::new().await;
    let (load, free) = (pair.load().await, pair.free().await);
    load.until(3 * SECOND).await;
    let killed = load.age();
    pair.redis.kill();
    load.until(6 * SECOND).await;
    let (calls, free) = (load.stop().await, free.stop().await);
    within(&calls, 0.85);
    as_quick(&calls, &free, killed, 6 * SECOND);
    pair.away();
    let metrics = page(&pair.one, "/metrics");
    assert!(
        metrics.contains("intellirouter_limit_store_connected 0"),
        "{metrics}"
    );
    let label = "{limit=\"shared\",outcome=\"fallback_allowed\"} 0";
    assert!(!metrics.contains(label), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_store_paused_calls_are_as_quick_and_the_limit_holds_beyond_its_return() {
    let pair = Pair::new().await;
    let (load, free) = (pair.load().await, pair.free().await);
    load.until(3 * SECOND).await;
    let paused = load.age();
    pair.redis.freeze();
    load.until(6 * SECOND).await;
    pair.away();
    let thawed = load.age();
    pair.redis.thaw();
    pair.connected();
    let back = load.age();
    load.until(back + 3 * SECOND).await;
    let (calls, free) = (load.stop().await, free.stop().await);
    within(&calls, 0.85);
    as_quick(&calls, &free, paused, thawed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_comes_back_empty_refills_nothing() {
    let mut pair = Pair::new().await;
    let load = pair.load().await;
    load.until(2 * SECOND).await;
    for _ in 0..2 {
        pair.redis.restart();
        pair.connected();
        let back = load.age();
        load.until(back + SECOND).await;
    }
    within(&load.stop().await, 0.85);
}

#[tokio::test]
async fn a_gateway_that_starts_without_its_store_serves_and_finds_it_later() {
    let mut redis = Redis::start();
    redis.kill();
    let site = Site::new();
    let backend = backend(&site).await;
    let limits = [
        rate(
            "shared",
            "\"subject\"",
            "rate = 10\nperiod = \"1h\"\nscope = \"global\"",
        ),
        format!(
            "[limits.store]\nurl = \"{}\"\nexpected_gateways = 2\ntimeout = \"100ms\"\n",
            redis.url()
        ),
    ];
    let gateway = site.gateway(&config(&backend, &limits.concat()));
    let alice = bearer_of(&site, "alice");
    assert_eq!(passed(&gateway, &alice, 20).await, 5, "half of it");
    gateway.process.error_line("a word of it", |line| {
        line.contains("limit store away: using 1/2 of each global limit")
            .then_some(())
    });
    redis.restart();
    shows(&gateway, "/readyz", "limit store connected");
    gateway.process.error_line("a word of it", |line| {
        line.contains("limit store connected").then_some(())
    });
    assert_eq!(gateway.figure("limit_store_connected"), 1);
    assert_eq!(passed(&gateway, &alice, 20).await, 5, "what is left");
}

#[tokio::test]
async fn errors_of_the_store_are_no_errors_for_callers_and_are_told_once() {
    let pair = Pair::patient("rate = 20\nperiod = \"1h\"").await;
    // Its scripts forgotten, it learns them again.
    pair.redis.cli(&["SCRIPT", "FLUSH"]);
    let alice = bearer_of(&pair.site, "alice");
    assert_eq!(passed(&pair.one, &alice, 5).await, 5);

    // Somebody's list in the place of a bucket.
    let bucket = pair.redis.cli(&["KEYS", "{intellirouter}:limit:shared:*"]);
    pair.redis.cli(&["DEL", &bucket]);
    pair.redis.cli(&["LPUSH", &bucket, "mine"]);
    assert_eq!(
        passed(&pair.one, &alice, 20).await,
        7,
        "a share of the 15 left"
    );
    assert_eq!(pair.redis.cli(&["LRANGE", &bucket, "0", "-1"]), "mine");
    let told = || {
        let lines = pair.one.process.error_lines();
        let about = |line: &&String| line.contains("holds something else");
        lines.iter().filter(about).count()
    };
    assert_eq!(told(), 1);
    assert_eq!(
        page(&pair.one, "/readyz").lines().last(),
        Some("limit store connected")
    );

    // No memory left.
    pair.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let bob = bearer_of(&pair.site, "bob");
    assert_eq!(passed(&pair.one, &bob, 30).await, 10);
    pair.away();
    pair.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    pair.connected();
    assert_eq!(
        passed(&pair.other, &bob, 30).await,
        10,
        "charged for those 10"
    );
}

#[tokio::test]
async fn a_burst_at_a_slow_rate_passes_as_far_as_there_is_room() {
    let pair = Pair::with("rate = 10\nperiod = \"1h\"\nburst = 170", "50ms").await;
    let alice = bearer_of(&pair.site, "alice");
    let burst = async |calls: usize| {
        let mut client = Connection::open(pair.one.port, &pair.one.ca).await;
        let headers = [("authorization", alice.as_str())];
        let mut open = Vec::with_capacity(calls);
        for _ in 0..calls {
            let mut call = client.call(PATH, &headers).await;
            call.send.send_data(vec![0; 5].into(), true).unwrap();
            open.push(call);
        }
        let mut passed = 0;
        for call in open {
            passed += usize::from(call.answer().await.status().code == 0);
        }
        client.close().await;
        passed
    };
    assert_eq!(burst(150).await, 150);
    assert_eq!(burst(150).await, 20);
    let metrics = page(&pair.one, "/metrics");
    for outcome in ["fallback_allowed", "fallback_refused"] {
        let label = format!("{{limit=\"shared\",outcome=\"{outcome}\"}} 0");
        assert!(metrics.contains(&label), "{label} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_store_that_forgets_while_connected_refills_nothing() {
    let pair = Pair::patient("rate = 20\nperiod = \"1h\"").await;
    let alice = bearer_of(&pair.site, "alice");
    assert_eq!(passed(&pair.one, &alice, 15).await, 15);
    pair.redis.cli(&["FLUSHALL"]);
    assert_eq!(passed(&pair.one, &alice, 20).await, 5);
    assert_eq!(passed(&pair.other, &alice, 20).await, 0);
    pair.one.process.error_line("a word of it", |line| {
        line.contains("the limit store has lost its memory")
            .then_some(())
    });
}

#[tokio::test]
async fn a_store_that_forgets_while_questions_wait_for_it_refills_nothing() {
    let pair = Pair::patient("rate = 20\nperiod = \"1h\"").await;
    let names = ["alice", "bob", "carol", "dave"];
    let bearers = names.map(|name| bearer_of(&pair.site, name));
    for bearer in &bearers {
        assert_eq!(passed(&pair.one, bearer, 15).await, 15);
    }
    // Busy for some 50 ms after it: one question is on its way then, the others wait for its answer.
    let script = "redis.call('FLUSHALL') for i = 1, 4000000 do end return 1";
    let mut store = TcpStream::connect(("127.0.0.1", pair.redis.port)).unwrap();
    let mut client = Connection::open(pair.one.port, &pair.one.ca).await;
    let command = format!(
        "*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n",
        script.len()
    );
    store.write_all(command.as_bytes()).unwrap();
    let mut open = Vec::new();
    for bearer in &bearers {
        let mut call = client.call(PATH, &[("authorization", bearer)]).await;
        call.send.send_data(vec![0; 5].into(), true).unwrap();
        open.push(call);
    }
    let mut first = Vec::new();
    for call in open {
        first.push(usize::from(call.answer().await.status().code == 0));
    }
    let mut answer = [0; 4];
    store.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b":1\r\n");
    for ((name, bearer), first) in names.iter().zip(&bearers).zip(first) {
        let all = first + passed(&pair.one, bearer, 20).await;
        assert!(all <= 5, "{name}: {all}");
    }
    client.close().await;
}

#[tokio::test]
async fn a_clock_of_the_store_that_is_set_back_changes_no_bucket() {
    let pair = Pair::patient("rate = 20\nperiod = \"1h\"").await;
    let alice = bearer_of(&pair.site, "alice");
    assert_eq!(passed(&pair.one, &alice, 15).await, 15);
    let bucket = pair.redis.cli(&["KEYS", "{intellirouter}:limit:shared:*"]);
    let value = pair.redis.cli(&["GET", &bucket]);
    let hour_on = |time: &str| time.parse::<f64>().unwrap() + 3600e6;
    let (full_at, written) = value.split_once(' ').unwrap();
    let value = format!("{:.3} {:.0}", hour_on(full_at), hour_on(written));
    pair.redis.cli(&["SET", &bucket, &value]);
    let since = "{intellirouter}:limit:since";
    let value = hour_on(&pair.redis.cli(&["GET", since]));
    pair.redis.cli(&["SET", since, &format!("{value:.0}")]);
    assert_eq!(passed(&pair.other, &alice, 20).await, 5);
}

#[tokio::test]
async fn what_takes_the_place_of_a_key_of_all_limits_is_removed_and_told() {
    let pair = Pair::patient("rate = 20\nperiod = \"1h\"").await;
    let alice = bearer_of(&pair.site, "alice");
    assert_eq!(passed(&pair.one, &alice, 5).await, 5);
    for key in ["gateways", "since", "memory"] {
        let key = format!("{{intellirouter}}:limit:{key}");
        // In one step: each is written again within a moment.
        let script = "redis.call('DEL', KEYS[1]) redis.call('HSET', KEYS[1], 'not', 'ours')";
        pair.redis.cli(&["EVAL", script, "1", &key]);
        let told = |gateway: &Gateway| {
            let lines = gateway.process.error_lines();
            let about = |line: &String| line.contains("was made anew") && line.contains(&key);
            lines.iter().any(about)
        };
        let end = Instant::now() + DEADLINE;
        while !pair.both().into_iter().any(told) {
            assert!(Instant::now() < end, "nobody tells of {key}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    pair.connected();
    assert_eq!(passed(&pair.one, &alice, 20).await, 15);
    for gateway in pair.both() {
        assert_eq!(gateway.figure("limit_store_connected"), 1);
        let output = gateway.process.output();
        assert!(!output.contains("limit store away"), "{output}");
    }
}

#[tokio::test]
async fn credentials_that_the_store_refuses_are_told_once_as_an_error() {
    let (site, redis) = (Site::new(), Redis::start());
    redis.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let backend = backend(&site).await;
    let url = redis.url().replace("redis://", "redis://default:wrong@");
    let limits = [
        rate("shared", "\"subject\"", "rate = 10\nscope = \"global\""),
        format!("[limits.store]\nurl = \"{url}\"\n"),
    ];
    let gateway = site.gateway(&config(&backend, &limits.concat()));
    gateway.process.error_line("an error", |line| {
        (line.contains("ERROR") && line.contains("limit store refuses the credentials"))
            .then_some(())
    });
    // Some more attempts.
    tokio::time::sleep(2 * SECOND).await;
    let lines = gateway.process.error_lines();
    let told = |line: &&String| line.contains("limit store");
    assert_eq!(lines.iter().filter(told).count(), 1, "{lines:?}");
    assert_eq!(gateway.figure("limit_store_connected"), 0);
    assert_eq!(gateway.figure("revocation_store_connected"), 1);
}

#[tokio::test]
async fn a_cluster_that_is_down_is_a_store_that_is_away() {
    let port = intellirouter_tests::redis::free_port();
    let site = Site::new();
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]);
    command.args(["--cluster-enabled", "yes", "--dir"]);
    command.arg(site.dir());
    let redis = Process::spawn("redis", &command);
    redis.line("ready line", |line| {
        line.contains("Ready to accept").then_some(())
    });
    let backend = backend(&site).await;
    let limits = [
        rate(
            "shared",
            "\"subject\"",
            "rate = 10\nperiod = \"1h\"\nscope = \"global\"",
        ),
        format!("[limits.store]\nurl = \"redis://127.0.0.1:{port}\"\nexpected_gateways = 2\n"),
    ];
    let gateway = site.gateway(&config(&backend, &limits.concat()));
    assert_eq!(passed(&gateway, &bearer_of(&site, "alice"), 20).await, 5);
    gateway.process.error_line("why", |line| {
        (line.contains("limit store away") && line.to_lowercase().contains("clusterdown"))
            .then_some(())
    });
}

#[tokio::test]
async fn the_configuration_that_is_shown_holds_no_credential_of_the_store() {
    let site = Site::new();
    let backend = backend(&site).await;
    let limits = [
        rate("shared", "", "rate = 1\nscope = \"global\""),
        "[limits.store]\nurl = \"redis://user:hunter2@127.0.0.1:1\"\n".to_owned(),
    ];
    let gateway = site.gateway(&config(&backend, &limits.concat()));
    let shown = page(&gateway, "/config");
    assert!(shown.contains("redis://***@127.0.0.1:1"), "{shown}");
    for text in [shown, page(&gateway, "/readyz"), gateway.process.output()] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

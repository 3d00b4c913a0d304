//! Rates as configured, asked as the pipeline does.

use std::time::Duration;

use prost_reflect::DescriptorPool;
use tokio::time::advance;
use tonic::Code;

use super::*;
use crate::routes::{Access, RouteTable};
use crate::telemetry::Telemetry;
use crate::test_util::{config, identity};

fn rate(name: &str, per: &str, more: &str) -> String {
    format!("[[limits.rates]]\nname = '{name}'\nper = [{per}]\n{more}\n")
}

fn build(text: &str, previous: Option<&RateLimits>) -> RateLimits {
    let telemetry = Telemetry::new(false, crate::trace::Tracing::off());
    RateLimits::build(&config(text).limits, previous, &telemetry.limits).unwrap()
}

fn of(limits: &RateLimits) -> RouteRates {
    limits.of_route("/a.S/M").unwrap()
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a caller gets: the calls left, or the refusal.
async fn ask(rates: &RouteRates, subject: &str, roles: &[&str]) -> Result<Option<Quota>, Reply> {
    let early = rates.early(HERE).await?;
    let late = rates.admit(HERE, &identity(subject, roles)).await?;
    Ok(Quota::tightest(early, late))
}

async fn passed(rates: &RouteRates, subject: &str, roles: &[&str]) -> u32 {
    let mut passed = 0;
    while ask(rates, subject, roles).await.is_ok() {
        passed += 1;
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_caller_has_a_bucket_of_its_own() {
    let limits = build(&rate("r", "'subject'", "rate = 3\nperiod = '1h'"), None);
    let rates = of(&limits);
    assert_eq!(passed(&rates, "alice", &[]).await, 3);
    assert_eq!(passed(&rates, "bob", &[]).await, 3);

    let limits = build(&rate("r", "'route'", "rate = 3\nperiod = '1h'"), None);
    assert_eq!(passed(&of(&limits), "alice", &[]).await, 3);
    let other = limits.of_route("/a.S/Other").unwrap();
    assert_eq!(passed(&other, "alice", &[]).await, 3);

    let limits = build(&rate("r", "", "rate = 3\nperiod = '1h'"), None);
    assert_eq!(passed(&of(&limits), "alice", &[]).await, 3);
    let other = limits.of_route("unknown").unwrap();
    assert_eq!(passed(&other, "bob", &[]).await, 0, "one bucket for all");
}

#[tokio::test(start_paused = true)]
async fn an_address_counts_before_anybody_is_known_and_ipv6_by_its_64() {
    let limits = build(&rate("r", "'address'", "rate = 2\nperiod = '1h'"), None);
    let rates = of(&limits);
    for (text, passes) in [
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("192.0.2.1", false),
        ("2001:db8::1", true),
        ("2001:db8::2", true),
        ("2001:db8::3", false),
        ("2001:db8:0:1::3", true),
    ] {
        assert_eq!(rates.early(address(text)).await.is_ok(), passes, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_for_roles_covers_only_their_holders() {
    let more = "rate = 2\nperiod = '1h'\nroles = ['free', 'trial']";
    let limits = build(&rate("r", "'subject'", more), None);
    let rates = of(&limits);
    assert_eq!(passed(&rates, "alice", &["free"]).await, 2);
    for _ in 0..10 {
        assert!(ask(&rates, "bob", &["paid"]).await.is_ok());
        assert!(ask(&rates, "carol", &[]).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_needs_room_in_the_bucket_of_each_role_that_it_holds() {
    let limits = build(&rate("r", "'role'", "rate = 2\nperiod = '1h'"), None);
    let rates = of(&limits);
    assert!(ask(&rates, "alice", &["a"]).await.is_ok());
    assert!(ask(&rates, "bob", &["a", "b"]).await.is_ok());
    assert!(ask(&rates, "bob", &["b", "a"]).await.is_err(), "a is empty");
    assert_eq!(passed(&rates, "carol", &["b"]).await, 1, "b was given back");
    assert_eq!(passed(&rates, "dave", &[]).await, 2, "those without a role");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_one_rate_refuses_takes_nothing_from_the_others() {
    let text = [
        rate("all", "", "rate = 3\nperiod = '1h'"),
        rate("address", "'address'", "rate = 4\nperiod = '1h'"),
        rate("subject", "'subject'", "rate = 1\nperiod = '1h'"),
    ];
    let limits = build(&text.concat(), None);
    let rates = of(&limits);
    assert!(ask(&rates, "alice", &[]).await.is_ok());
    for _ in 0..50 {
        assert!(ask(&rates, "alice", &[]).await.is_err());
    }
    assert!(ask(&rates, "bob", &[]).await.is_ok());
    assert!(ask(&rates, "carol", &[]).await.is_ok());
    let reply = ask(&rates, "dave", &[]).await.unwrap_err();
    assert!(reply.message.contains("\"all\""), "{}", reply.message);
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_until_every_rate_has_room_and_the_slowest_is_named() {
    let text = [
        rate("quick", "'subject'", "rate = 1\nperiod = '1s'"),
        rate("slow", "'subject'", "rate = 1\nperiod = '1m'"),
    ];
    let limits = build(&text.concat(), None);
    let rates = of(&limits);
    assert!(ask(&rates, "alice", &[]).await.is_ok());
    advance(Duration::from_millis(500)).await;
    let reply = ask(&rates, "alice", &[]).await.unwrap_err();
    assert_eq!(
        (reply.code, reply.label),
        (Code::ResourceExhausted, "rate_limited")
    );
    assert_eq!(reply.retry_after, Some(Duration::from_millis(59_500)));
    assert!(reply.message.contains("\"slow\""), "{}", reply.message);
    advance(Duration::from_millis(59_500)).await;
    assert!(ask(&rates, "alice", &[]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_kind_of_caller_and_no_caller() {
    let limits = build(
        &rate("r", "'subject', 'role'", "rate = 1\nperiod = '1h'"),
        None,
    );
    let rates = of(&limits);
    ask(&rates, "alice", &["secret"]).await.unwrap();
    let reply = ask(&rates, "alice", &["secret"]).await.unwrap_err();
    let limit = reply.limit.unwrap();
    assert_eq!(&*limit.subject, "subject,role");
    let description = "limit \"r\": 1 calls per 3600s for each subject and role";
    assert_eq!(&*limit.description, description);
    assert!(!reply.message.contains("alice") && !reply.message.contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn rates_cover_the_routes_that_they_name() {
    let more = "rate = 1\nroutes = ['/a.S/*', '/b.T/Call', '/events']";
    let limits = build(&rate("r", "", more), None);
    for (name, covered) in [
        ("/a.S/*", true),
        ("/a.S/M", true),
        ("/a.*", false),
        ("/b.T/Call", true),
        ("/b.T/*", false),
        ("/events", true),
        ("unknown", false),
    ] {
        assert_eq!(limits.of_route(name).is_some(), covered, "{name}");
    }
    let limits = build(&rate("r", "", "rate = 1"), None);
    assert!(limits.of_route("unknown").is_some(), "all are all");
    assert!(build("", None).of_route("/a.S/M").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reload_refills_no_bucket_whose_rate_is_unchanged() {
    let one = rate("one", "'subject'", "rate = 3\nperiod = '1h'");
    let before = build(&one, None);
    assert_eq!(passed(&of(&before), "alice", &[]).await, 3);
    let other = rate("other", "'subject'", "rate = 50\nperiod = '1h'");
    for text in [
        one.clone(),
        [other, one.clone()].concat(),
        format!("{one}roles = ['user']\n"),
    ] {
        let after = build(&text, Some(&before));
        let reply = ask(&of(&after), "alice", &["user"]).await.unwrap_err();
        assert!(reply.message.contains("\"one\""), "{}", reply.message);
    }
    advance(Duration::from_secs(1200)).await;
    let after = build(&one, Some(&before));
    assert_eq!(passed(&of(&after), "alice", &[]).await, 1);
    let gone = build("", Some(&after));
    let again = build(&one, Some(&gone));
    assert_eq!(passed(&of(&again), "alice", &[]).await, 3, "another rate");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_the_numbers_gives_nobody_more_than_was_left() {
    let before = build(&rate("r", "'subject'", "rate = 10\nperiod = '1h'"), None);
    for _ in 0..8 {
        ask(&of(&before), "alice", &[]).await.unwrap();
    }
    let more = rate("r", "'subject'", "rate = 1000\nperiod = '1h'");
    let after = build(&more, Some(&before));
    assert_eq!(passed(&of(&after), "alice", &[]).await, 2);
    let less = rate("r", "'subject'", "rate = 1\nperiod = '1h'");
    let after = build(&less, Some(&before));
    assert_eq!(passed(&of(&after), "alice", &[]).await, 1);
    let other = rate("r", "'address'", "rate = 10\nperiod = '1h'");
    let after = build(&other, Some(&before));
    assert_eq!(
        passed(&of(&after), "alice", &[]).await,
        10,
        "others are counted"
    );
}

#[tokio::test]
async fn a_reload_leaves_a_global_rate_its_store_and_what_was_taken() {
    let store = "[limits.store]\nurl = 'redis://127.0.0.1:1'\n";
    let global = |rate_of: u32| {
        let more = format!("rate = {rate_of}\nperiod = '1h'\nscope = 'global'");
        format!("{}{store}", rate("r", "'subject'", &more))
    };
    let before = build(&global(5), None);
    assert_eq!(passed(&of(&before), "alice", &[]).await, 5);
    let same = build(&global(5), Some(&before));
    assert!(Arc::ptr_eq(
        same.store.as_ref().unwrap(),
        before.store.as_ref().unwrap()
    ));
    assert_eq!(passed(&of(&same), "alice", &[]).await, 0);
    let more = build(&global(50), Some(&same));
    assert_eq!(passed(&of(&more), "alice", &[]).await, 0, "no fuller");
    assert_eq!(passed(&of(&more), "bob", &[]).await, 50);
    let elsewhere = global(5).replace(":1'", ":2'");
    let elsewhere = build(&elsewhere, Some(&same));
    assert_eq!(passed(&of(&elsewhere), "alice", &[]).await, 0, "no fuller");
}

#[tokio::test(start_paused = true)]
async fn what_a_rate_names_inside_a_wider_route_is_a_route_that_keeps_its_rule() {
    let routes = "[[upstreams]]\nname = 'a'\nendpoints = ['http://a:1']\n\
                  [[routes]]\nmatch = '/p.*'\nupstream = 'a'\nroles = ['user']\ntimeout = '7s'\n";
    let more = "rate = 1\nroutes = ['/p.q.S/*', '/p.T/M', '/other.S/*']";
    let config = config(&format!("{routes}{}", rate("r", "", more)));
    let telemetry = Telemetry::new(false, crate::trace::Tracing::off());
    let limits = RateLimits::build(&config.limits, None, &telemetry.limits).unwrap();
    let table = RouteTable::new(&config, &DescriptorPool::new()).limited(&limits);
    for (path, limited) in [
        ("/p.q.S/Any", true),
        ("/p.T/M", true),
        ("/p.T/Other", false),
        ("/p.q.Else/Any", false),
    ] {
        let route = table.find(path).unwrap();
        assert_eq!(route.rates.get().is_some(), limited, "{path}");
        assert_eq!(route.access, Access::any_of(vec!["user".to_owned()]));
        assert_eq!(route.timeout, Some(Duration::from_secs(7)));
    }
    assert!(table.find("/other.S/M").is_none(), "a rate opens no route");
}

#[tokio::test(start_paused = true)]
async fn decisions_and_keys_are_counted_by_the_name_of_the_rate() {
    let telemetry = Telemetry::new(false, crate::trace::Tracing::off());
    let text = rate("per-user", "'subject'", "rate = 2\nperiod = '1h'");
    let limits = RateLimits::build(&config(&text).limits, None, &telemetry.limits).unwrap();
    let rates = of(&limits);
    for subject in ["alice", "alice", "alice", "bob"] {
        let _ = ask(&rates, subject, &[]).await;
    }
    limits.observe(&telemetry.limits);
    let text = telemetry.encode(0, None).unwrap();
    for line in [
        "intellirouter_rate_limit_decisions_total{limit=\"per-user\",outcome=\"allowed\"} 3",
        "intellirouter_rate_limit_decisions_total{limit=\"per-user\",outcome=\"refused\"} 1",
        "intellirouter_rate_limit_keys{limit=\"per-user\"} 2",
        "intellirouter_rate_limit_overflow_total{limit=\"per-user\"} 0",
        "intellirouter_limit_store_connected 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_rate_refuses_is_counted_as_given_back() {
    let telemetry = Telemetry::new(false, crate::trace::Tracing::off());
    let text = [
        rate("wide", "'address'", "rate = 9\nperiod = '1h'"),
        rate("narrow", "'subject'", "rate = 1\nperiod = '1h'"),
    ];
    let limits = RateLimits::build(&config(&text.concat()).limits, None, &telemetry.limits);
    let limits = limits.unwrap();
    for _ in 0..3 {
        let _ = ask(&of(&limits), "alice", &[]).await;
    }
    let text = telemetry.encode(0, None).unwrap();
    for (outcome, calls) in [("allowed", 3), ("given_back", 2), ("refused", 0)] {
        let labels = format!("{{limit=\"wide\",outcome=\"{outcome}\"}} {calls}");
        assert!(text.contains(&labels), "{labels} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_tells_in_its_headers_the_wait_and_not_the_time_to_fill() {
    let limits = build(&rate("r", "'subject'", "rate = 4\nperiod = '8s'"), None);
    let rates = of(&limits);
    assert_eq!(passed(&rates, "alice", &[]).await, 4);
    let refused = ask(&rates, "alice", &[]).await.unwrap_err();
    let mut headers = http::HeaderMap::new();
    refused.limit.unwrap().quota.mark(&mut headers);
    assert_eq!(headers["ratelimit-reset"], "2");
    assert_eq!(refused.retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn a_reload_that_is_given_up_changes_nothing_that_is_told_of_the_store() {
    let telemetry = Telemetry::new(false, crate::trace::Tracing::off());
    let text = rate("r", "'subject'", "rate = 5");
    let running = RateLimits::build(&config(&text).limits, None, &telemetry.limits).unwrap();
    let store = "scope = 'global'\n[limits.store]\nurl = 'redis://127.0.0.1:1'\n";
    let other = config(&format!("{text}{store}")).limits;
    let shown = |limits: &RateLimits| {
        limits.observe(&telemetry.limits);
        let text = telemetry.encode(0, None).unwrap();
        text.contains("intellirouter_limit_store_connected 1")
    };
    let given_up = RateLimits::build(&other, Some(&running), &telemetry.limits).unwrap();
    assert!(!shown(&given_up), "it would be away");
    drop(given_up);
    assert!(shown(&running));
}

#[test]
fn what_a_reload_can_not_keep_names_what_changed() {
    let meter = |per: &str, more: &str| {
        let store = "[limits.store]\nurl = 'redis://127.0.0.1:1'\n";
        let text = format!("{}{store}", rate("r", per, &format!("rate = 5\n{more}")));
        config(&text).limits.rates[0].meter.clone()
    };
    let before = meter("'subject'", "");
    for (after, changed) in [
        (meter("'subject'", "burst = 9\nkeys = 2048"), None),
        (meter("'subject', 'route'", ""), Some("per")),
        (meter("'subject'", "scope = 'global'"), Some("scope")),
    ] {
        assert_eq!(before.starts_full_as(&after), changed);
    }
}

#[tokio::test]
async fn without_its_store_a_global_rate_is_a_share_and_no_call_waits() {
    let text = [
        rate(
            "r",
            "'subject'",
            "rate = 10\nperiod = '1h'\nscope = 'global'",
        ),
        // Nobody listens there.
        "[limits.store]\nurl = 'redis://127.0.0.1:1'\nexpected_gateways = 2\n".to_owned(),
    ];
    let limits = build(&text.concat(), None);
    assert_eq!(passed(&of(&limits), "alice", &[]).await, 5);
    let status = limits.status().unwrap();
    assert_eq!(status, "limit store away: using 1/2 of each global limit");
}

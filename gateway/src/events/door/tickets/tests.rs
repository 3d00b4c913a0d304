use std::time::UNIX_EPOCH;

use http::HeaderName;

use super::*;
use crate::config::CorsConfig;

const PAGE: &str = "https://app.example";

fn cors() -> Cors {
    Cors::new(&CorsConfig {
        origins: vec![PAGE.into()],
        expose_headers: Vec::new(),
        max_age: Duration::ZERO,
    })
}

fn from(headers: &[(&'static str, &str)]) -> Result<Option<String>, &'static str> {
    let headers = headers.iter().map(|(name, value)| {
        let value = HeaderValue::try_from(*value).unwrap();
        (HeaderName::from_static(name), value)
    });
    origin(&cors(), &headers.collect()).map_err(|reply| reply.label)
}

#[test]
fn only_pages_of_the_gateway_itself_and_of_named_origins_open_streams_with_tickets() {
    let page = || Ok(Some(PAGE.to_owned()));
    for (headers, expected) in [
        (&[][..], Ok(None)),
        (&[("sec-fetch-site", "same-origin")], Ok(None)),
        (&[("origin", PAGE)], page()),
        (
            &[("origin", PAGE), ("sec-fetch-site", "cross-site")],
            page(),
        ),
        (&[("origin", PAGE), ("sec-fetch-site", "same-site")], page()),
        (&[("origin", "https://evil.example")], Err("wrong_origin")),
        (&[("origin", "null")], Err("wrong_origin")),
        (
            &[("origin", "https://app.example.evil")],
            Err("wrong_origin"),
        ),
        // Images and scripts of other pages have no origin, but a site.
        (&[("sec-fetch-site", "cross-site")], Err("wrong_origin")),
        (&[("sec-fetch-site", "same-site")], Err("wrong_origin")),
        (&[("sec-fetch-site", "none")], Err("wrong_origin")),
    ] {
        assert_eq!(from(headers), expected, "{headers:?}");
    }
}

#[test]
fn what_is_no_ticket_is_refused_and_not_repeated() {
    let good = secret().unwrap();
    let of = |query: &str| ticket(&format!("/events?{query}").parse().unwrap());
    assert_eq!(of(&format!("ticket={good}")).unwrap(), good);
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
    let long = "x".repeat(44);
    for bad in [jwt, &long, "x", "", &format!("{}=", &good[1..])] {
        let reply = of(&format!("ticket={bad}")).unwrap_err();
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(bad.is_empty() || !format!("{reply:?}").contains(bad) || bad == "x");
    }
    assert!(of(&format!("ticket={good}&ticket={good}")).is_err());
}

#[test]
fn tickets_are_256_bits_that_differ() {
    let all: std::collections::HashSet<_> = (0..100).map(|_| secret().unwrap()).collect();
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|text| is_secret(text)));
}

#[test]
fn a_ticket_counts_for_streams_alone() {
    for (method, uri, counts) in [
        (Method::GET, "/events?ticket=x", true),
        (Method::GET, "/events/?a=b&ticket=", true),
        (Method::GET, "/events?channel=x", false),
        (Method::POST, "/events?ticket=x", false),
        (Method::GET, "/events/ticket?ticket=x", false),
        (Method::GET, "/eventsx?ticket=x", false),
    ] {
        assert_eq!(
            is_by_ticket(&method, &uri.parse().unwrap()),
            counts,
            "{uri}"
        );
    }
}

#[test]
fn a_ticket_keeps_4_kib_of_channels_and_filter_and_the_refusal_names_the_limit() {
    let channels = |bytes: usize| vec!["x".repeat(bytes)];
    // Beside the channel: `[["` and `"],{}]`.
    let most = MAX_WISH_BYTES - 9;
    bounded(&channels(most), &Wanted::default()).unwrap();
    let reply = bounded(&channels(most + 1), &Wanted::default()).unwrap_err();
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.message.contains("4 KiB"), "{reply:?}");
    let mut wanted = Wanted::default();
    wanted.add_type("a").unwrap();
    assert!(bounded(&channels(most), &wanted).is_err());
}

fn door() -> Arc<Door> {
    let config = crate::test_util::config("");
    let revocations = crate::revocation::Revocations::new(&config.revocation).unwrap();
    Door::open(&config.events, &revocations).unwrap()
}

async fn issued(door: &Door, expires: u64) -> String {
    let ticket = secret().unwrap();
    let key = Key::of(Kind::Ticket, &[&ticket]);
    let mut word = crate::test_util::identity("alice", &["user"])
        .word()
        .unwrap();
    word.expires = expires;
    let pass = Pass {
        word,
        channels: vec!["intellirouter:a:*".into()],
        wanted: Wanted::default(),
        origin: None,
    };
    let put = door.vault.put((Kind::Ticket, &key), &pass, TICKET_LIFE);
    put.await.unwrap();
    ticket
}

/// As a stream does.
async fn open(
    door: &Door,
    headers: &HeaderMap,
    ticket: &str,
    origin: Option<String>,
    now: SystemTime,
) -> Result<Entry, Reply> {
    let entry = door.admit(headers, ticket, origin).await?;
    door.redeem(&entry, now).await?;
    Ok(entry)
}

fn back(entry: &Entry) -> HeaderMap {
    let set = entry.cookies.last().unwrap().to_str().unwrap();
    let pair = set.split(';').next().unwrap();
    HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::try_from(pair).unwrap())])
}

fn page() -> Option<String> {
    Some(PAGE.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_used_ticket_is_good_beside_its_cookie_and_for_its_page_alone() {
    let door = door();
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    let ticket = issued(&door, 2000).await;
    let none = HeaderMap::new();
    let entry = door.admit(&none, &ticket, page()).await.ok().unwrap();
    assert_eq!(entry.channels(), ["intellirouter:a:*"]);
    let label = async |headers: &HeaderMap, ticket: &str, origin| {
        let opened = open(&door, headers, ticket, origin, now).await;
        opened.err().map(|reply| reply.label)
    };
    // Until a stream opens with it, it can be shown again.
    let entry_again = door.admit(&none, &ticket, page()).await.ok().unwrap();
    door.redeem(&entry, now).await.unwrap();
    let late = door.redeem(&entry_again, now).await.unwrap_err();
    assert_eq!(late.label, "bad_ticket");
    assert_eq!(label(&none, &ticket, page()).await, Some("bad_ticket"));
    let cookie = back(&entry);
    for _ in 0..2 {
        assert_eq!(label(&cookie, &ticket, page()).await, None);
    }
    let elsewhere = Some("https://other.example".to_owned());
    for origin in [elsewhere, None] {
        assert_eq!(label(&cookie, &ticket, origin).await, Some("wrong_origin"));
    }
    // The cookie of one ticket is nothing to another that is used.
    let second = issued(&door, 2000).await;
    assert_eq!(label(&cookie, &second, page()).await, None);
    assert_eq!(label(&cookie, &second, page()).await, Some("bad_ticket"));
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_good_for_30_s_and_its_cookie_until_the_token_ends() {
    let door = door();
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    let late = issued(&door, 2000).await;
    let ticket = issued(&door, 1100).await;
    let none = HeaderMap::new();
    let shown_in_time = door.admit(&none, &late, None).await.ok().unwrap();
    let entry = open(&door, &none, &ticket, None, now).await.ok().unwrap();
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(door.admit(&none, &late, None).await.is_err());
    assert!(door.redeem(&shown_in_time, now).await.is_err());
    let cookie = back(&entry);
    assert!(open(&door, &cookie, &ticket, None, now).await.is_ok());
    tokio::time::advance(Duration::from_secs(70)).await;
    assert!(open(&door, &cookie, &ticket, None, now).await.is_err());
    // Of a token that has ended no cookie is given.
    let over = issued(&door, 1000).await;
    assert!(open(&door, &none, &over, None, now).await.is_err());
}

#[test]
fn an_event_source_on_its_way_back_says_so_and_brings_its_tickets_cookie() {
    let (ticket, value) = (secret().unwrap(), secret().unwrap());
    let uri: Uri = format!("/events?ticket={ticket}").parse().unwrap();
    let name = cookie::name(&Key::of(Kind::Ticket, &[&ticket]));
    let returns = |headers: &[(&'static str, &str)]| {
        let headers = headers.iter().map(|(name, value)| {
            let value = HeaderValue::try_from(*value).unwrap();
            (HeaderName::from_static(name), value)
        });
        is_return(&cors(), &uri, &headers.collect())
    };
    let accept = ("accept", "text/event-stream");
    let cookie = &*format!("a=b; {name}={value}");
    assert!(returns(&[accept, ("cookie", cookie)]));
    assert!(returns(&[accept, ("cookie", cookie), ("origin", PAGE)]));
    let evil = ("origin", "https://evil.example");
    assert!(!returns(&[accept, ("cookie", cookie), evil]));
    assert!(!returns(&[("accept", "*/*"), ("cookie", cookie)]));
    assert!(!returns(&[("cookie", cookie)]));
    assert!(!returns(&[accept]));
    assert!(!returns(&[accept, ("cookie", &format!("{name}=x"))]));
    assert!(!returns(&[accept, ("cookie", &format!("{name}0={value}"))]));
}

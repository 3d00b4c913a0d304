use super::*;

fn refusal(query: &str) -> Reply {
    Query::parse(query, false).err().unwrap()
}

fn accept(value: &'static str) -> Option<bool> {
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]);
    wants_ndjson(&headers).ok()
}

#[test]
fn a_query_names_channels_a_place_to_resume_from_and_an_envelope() {
    let query = "channel=intellirouter:a:*&channel=intellirouter%3Ab%3Ac%3Ad&last_event_id=1-2&envelope=cloudevents";
    let query = Query::parse(query, false).unwrap();
    assert_eq!(query.channels, ["intellirouter:a:*", "intellirouter:b:c:d"]);
    assert_eq!(query.last_event_id.as_deref(), Some("1-2"));
    assert!(query.cloudevents);
    assert!(!Query::parse("channel=x", false).unwrap().cloudevents);
}

#[test]
fn a_token_in_the_query_is_refused_and_not_repeated() {
    for key in ["token", "access_token", "authorization", "jwt"] {
        let reply = refusal(&format!("channel=x&{key}=s3cret"));
        assert_eq!(reply.code, Code::InvalidArgument, "{key}");
        assert!(
            reply.message.contains("authorization header"),
            "{}",
            reply.message
        );
        assert!(!format!("{reply:?}").contains("s3cret"));
    }
}

#[test]
fn an_unknown_key_or_value_is_refused_and_not_repeated() {
    for query in [
        "channel=x&chanel=hunter2",
        "channel=x&hunter2",
        "channel=x&envelope=hunter2",
    ] {
        let reply = refusal(query);
        assert_eq!(reply.code, Code::InvalidArgument, "{query}");
        assert!(!format!("{reply:?}").contains("hunter2"), "{query}");
    }
}

#[test]
fn one_to_64_channels_must_be_named() {
    let of = |count: usize| vec!["channel=x"; count].join("&");
    assert!(refusal("").message.contains("at least one"));
    assert!(
        refusal("last_event_id=1-2")
            .message
            .contains("at least one")
    );
    let most = Query::parse(&of(MAX_PATTERNS), false).unwrap();
    assert_eq!(most.channels.len(), 64);
    assert!(
        refusal(&of(MAX_PATTERNS + 1))
            .message
            .contains("at most 64")
    );
}

#[test]
fn the_first_format_that_both_speak_is_taken() {
    assert_eq!(accept("application/x-ndjson"), Some(true));
    assert_eq!(
        accept("text/html, application/x-ndjson;q=0.9, */*"),
        Some(true)
    );
    assert_eq!(
        accept("text/event-stream, application/x-ndjson"),
        Some(false)
    );
    assert_eq!(accept("*/*"), Some(false));
    assert_eq!(accept("application/json"), None);
    assert!(!wants_ndjson(&HeaderMap::new()).unwrap());
}

#[test]
fn a_payload_is_one_json_object_or_refused_with_line_and_column() {
    assert!(check_payload(b" {\"a\": [1]} ").is_ok());
    for bad in [
        &b"[1]"[..],
        b"1",
        b"",
        b"{}{}",
        b"{\"a\":}",
        b"\xff",
        &[b'['; 100_000],
    ] {
        let reply = check_payload(bad).unwrap_err();
        assert!(reply.message.contains("line ") && reply.message.contains("column "));
    }
}

#[tokio::test]
async fn a_payload_may_be_as_large_as_the_limit_and_no_byte_more() {
    let read = |size: usize| read_payload(Body::full(vec![b'x'; size]), 100);
    assert_eq!(read(100).await.unwrap().len(), 100);
    let reply = read(101).await.unwrap_err();
    assert_eq!(
        (reply.code, reply.status.as_u16()),
        (Code::ResourceExhausted, 413)
    );
    assert!(reply.message.contains("100 bytes"));
}

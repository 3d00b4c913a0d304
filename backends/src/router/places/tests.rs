#![allow(clippy::unwrap_used)]

use intellirouter_proto::intellirouter::common::v1::{Message as ChatMessage, Metadata};
use intellirouter_proto::intellirouter::model_registry::v1::{FunctionDefinition, Tool};

use super::*;

fn claims(sub: &str, role: &str) -> Claims {
    Claims {
        sub: sub.to_owned(),
        iss: String::new(),
        aud: String::new(),
        exp: 0,
        iat: 0,
        roles: vec![role.to_owned()],
    }
}

#[test]
fn one_caller_has_a_quarter_of_the_calls_and_of_the_bytes_and_others_have_theirs() {
    let places = Arc::new(Places::new(8, 400));
    let (ann, bob) = (claims("ann", "user"), claims("bob", "admin"));
    let mut first = places.take(Some(&ann)).unwrap();
    let mut second = places.take(Some(&ann)).unwrap();
    let third = places.take(Some(&ann));
    let own = matches!(third, Err(RouteError::TooManyCalls { max: 2, own: true }));
    assert!(own, "{third:?}");

    first.hold(60).unwrap();
    let more = second.hold(41);
    let own = matches!(
        more,
        Err(RouteError::TooManyBytes {
            max: 100,
            own: true
        })
    );
    assert!(own, "{more:?}");
    second.hold(40).unwrap();
    places.take(Some(&bob)).unwrap().hold(100).unwrap();

    // What is given back can be had again.
    first.let_go();
    second.hold(60).unwrap();
    drop(first);
    places.take(Some(&ann)).unwrap();
    drop(second);
    let taken = places.lock();
    assert!(taken.1.is_empty());
    assert_eq!((taken.0.calls, taken.0.bytes), (0, 0));
}

#[test]
fn who_speaks_for_many_and_who_is_not_checked_may_have_everything_and_no_more() {
    for caller in [Some(claims("chain_engine", "service")), None] {
        let places = Arc::new(Places::new(4, 400));
        let mut held: Vec<_> = (0..4)
            .map(|_| places.take(caller.as_ref()).unwrap())
            .collect();
        let refused = places.take(caller.as_ref());
        let all = matches!(
            refused,
            Err(RouteError::TooManyCalls { max: 4, own: false })
        );
        assert!(all, "{refused:?}");
        held[0].hold(400).unwrap();
        let refused = held[1].hold(1);
        let all = matches!(
            refused,
            Err(RouteError::TooManyBytes {
                max: 400,
                own: false
            })
        );
        assert!(all, "{refused:?}");
    }
}

/// What it takes in the JSON that is sent, and what was estimated for that.
#[track_caller]
fn assert_covered(chat: &ChatCompletionRequest) {
    let body = crate::connectors::request_body_for_tests(chat);
    let estimate = weight(chat, &RoutingRequest::default());
    assert!(
        estimate >= body.len() + chat.encoded_len(),
        "{} bytes are sent, {estimate} were estimated",
        body.len()
    );
}

#[test]
fn the_estimate_covers_what_is_sent_however_it_is_written() {
    let texts = ["plain ", "\u{1}", "\"\\\n\t", "\u{7f}\u{e9}"];
    for text in texts.map(|text| text.repeat(1000)) {
        let values = [("name".to_owned(), text.clone())].into();
        let message = ChatMessage {
            role: text.clone(),
            content: text.clone(),
            timestamp: None,
            metadata: Some(Metadata { values }),
        };
        let function = FunctionDefinition {
            name: text.clone(),
            description: text.clone(),
            parameters: format!("{{\"a\": [{}1]}}", "1e15,".repeat(1000)),
        };
        assert_covered(&ChatCompletionRequest {
            messages: vec![message; 3],
            tools: vec![Tool {
                r#type: String::new(),
                function: Some(function),
            }],
            additional_parameters: [("x".to_owned(), text)].into(),
            logit_bias: (0..1000).map(|n| (n.to_string(), -12.345_678)).collect(),
            ..Default::default()
        });
    }
}

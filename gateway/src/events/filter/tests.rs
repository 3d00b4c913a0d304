use std::cell::Cell;

use super::*;

fn wanted(clauses: &[&str]) -> Wanted {
    let mut wanted = Wanted::default();
    for clause in clauses {
        wanted.add_where(clause).unwrap();
    }
    wanted
}

fn passes(payload: &str, clauses: &[&str]) -> bool {
    meets(&wanted(clauses).conditions, payload.as_bytes())
}

#[test]
fn a_string_is_compared_as_it_is_and_other_scalars_by_their_text() {
    let payload = r#"{"s":"a:b ☺","e":"a\u0062\n","n":1.0,"i":-7,"t":true,"f":false,"z":null,
        "o":{"s":"in"},"l":[1],"":"empty"}"#;
    for (clause, met) in [
        ("s:a:b ☺", true),
        ("s:a:b", false),
        ("e:ab\n", true),
        ("n:1.0", true),
        ("n:1", false),
        ("i:-7", true),
        ("t:true", true),
        ("t:True", false),
        ("f:false", true),
        ("z:null", true),
        ("z:", false),
        ("o:in", false),
        ("o:{\"s\":\"in\"}", false),
        ("l:[1]", false),
        ("gone:null", false),
        ("s:\"a:b ☺\"", false),
    ] {
        assert_eq!(passes(payload, &[clause]), met, "{clause}");
    }
    // The text of a number in a string is a string that is equal.
    assert!(passes(r#"{"n":"5"}"#, &["n:5"]) && passes(r#"{"n":5}"#, &["n:5"]));
}

#[test]
fn every_condition_must_hold_and_of_a_field_that_stands_twice_the_last_counts() {
    let payload = r#"{"a":"1","b":"2","a":"3"}"#;
    assert!(passes(payload, &["a:3", "b:2"]));
    assert!(!passes(payload, &["a:3", "b:3"]));
    assert!(!passes(payload, &["a:1"]));
    assert!(!passes(payload, &["a:3", "a:1"]));
}

#[test]
fn a_payload_that_is_no_json_object_meets_no_condition() {
    let deep = format!("{{\"d\":{}1{},\"a\":1}}", "[".repeat(500), "]".repeat(500));
    for payload in [
        "",
        "a",
        "[{\"a\":1}]",
        "\"a\"",
        "{\"a\":1",
        "{\"a\":1}{}",
        "{\"a\":1,}",
        "{a:1}",
    ] {
        assert!(!passes(payload, &["a:1"]), "{payload}");
    }
    assert!(!meets(
        &wanted(&["a:1"]).conditions,
        b"{\"a\":1,\"b\":\"\xff\"}"
    ));
    // Deep is no fault of JSON, and takes no stack.
    assert!(passes(&deep, &["a:1"]));
}

#[test]
fn a_bad_filter_is_refused_with_the_place() {
    let long = |field: usize, value: usize| format!("{}:{}", "f".repeat(field), "v".repeat(value));
    for bad in ["", "a", ":a", &long(129, 1), &long(1, 257)] {
        let reply = Wanted::default().add_where(bad).unwrap_err();
        assert!(reply.message.starts_with("where: "), "{bad}");
    }
    assert!(Wanted::default().add_where(&long(128, 256)).is_ok());
    for bad in ["", "A", "a:b", "*", "ir.open"] {
        let reply = Wanted::default().add_type(bad).unwrap_err();
        assert!(reply.message.starts_with("type: "), "{bad}");
    }
    let mut many = wanted(&["a:1"; 8]);
    assert!(
        many.add_where("a:1")
            .unwrap_err()
            .message
            .contains("at most 8")
    );
    for _ in 0..16 {
        many.add_type("x").unwrap();
    }
    assert!(
        many.add_type("x")
            .unwrap_err()
            .message
            .contains("at most 16")
    );
}

#[test]
fn an_event_is_judged_once_for_all_streams_with_equal_conditions() {
    let groups = Arc::<Groups>::default();
    let filter = |owner, clauses: &[&str]| groups.filter(wanted(clauses), owner, 9).unwrap();
    let (one, other) = (
        filter(1, &["a:1", "b:2"]),
        // Whoever asks.
        filter(2, &["b:2", "a:1", "a:1"]),
    );
    let different = filter(1, &["a:1"]);
    let of = |filter: &Filter| filter.member.as_ref().unwrap().group.clone();
    assert!(Arc::ptr_eq(&of(&one), &of(&other)));
    assert!(!Arc::ptr_eq(&of(&one), &of(&different)));

    let judged = Cell::new(0);
    let mut verdicts = Verdicts::default();
    for _ in 0..3 {
        for offset in 0..1024 {
            let at = Position { epoch: 7, offset };
            let odd = verdicts.of(at, || {
                judged.set(judged.get() + 1);
                offset % 2 == 1
            });
            assert_eq!(odd, offset % 2 == 1);
        }
    }
    assert_eq!(judged.get(), 1024);
    // Another life of the log has other events at the same offsets.
    let other = Position {
        epoch: 8,
        offset: 1,
    };
    assert!(!verdicts.of(other, || false));
}

#[test]
fn a_group_that_no_stream_is_in_is_forgotten() {
    let groups = Arc::<Groups>::default();
    let filter = |clause: &str| groups.filter(wanted(&[clause]), 1, 2).unwrap();
    let len = || {
        let known = groups.known();
        (known.groups.len(), known.of_one.len())
    };
    let first = filter("a:1");
    for n in 0..100 {
        drop(filter(&format!("b:{n}")));
    }
    assert_eq!(len(), (1, 1));
    drop(first);
    assert_eq!(len(), (0, 0));
}

#[test]
fn the_streams_of_one_subject_have_a_bounded_number_of_different_conditions() {
    let groups = Arc::<Groups>::default();
    let filter = |owner, clauses: &[&str]| groups.filter(wanted(clauses), owner, 2);
    let one = filter(1, &["a:1"]).ok().unwrap();
    let same = filter(1, &["a:1", "a:1"]).ok().unwrap();
    let _two = filter(1, &["a:2"]).ok().unwrap();
    let reply = filter(1, &["a:3"]).err().unwrap();
    let found = (reply.code, reply.status.as_u16(), reply.label);
    assert_eq!(found, (Code::ResourceExhausted, 429, "too_many_filters"));
    assert!(reply.message.contains("have 2 different filters"));
    assert_eq!(reply.retry_after, Some(Duration::from_secs(1)));
    // None is no filter, and others have their own.
    assert!(filter(1, &[]).is_ok() && filter(2, &["a:3"]).is_ok());
    drop(one);
    assert!(filter(1, &["a:3"]).is_err(), "a stream still has a:1");
    drop(same);
    assert!(filter(1, &["a:3"]).is_ok());
}

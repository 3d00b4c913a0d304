use proptest::prelude::*;

use super::*;

fn subject(subject: &str, issuer: Option<&str>) -> Target {
    Target::Subject {
        subject: subject.to_owned(),
        issuer: issuer.map(str::to_owned),
    }
}

fn entry(line: &str) -> Entry {
    Entry::parse(line).unwrap().unwrap()
}

#[test]
fn a_line_says_what_is_revoked_of_what_age_and_how_long() {
    let token = entry("jti 8f1c-22 until 1970-01-01T00:01:00Z");
    assert_eq!(token.target, Target::Token("8f1c-22".into()));
    assert_eq!(token.until, 60);
    let line = "  sub alice issuer \"https://id.example/a b\" \
                issued_before 1970-01-01T01:00:10+01:00 until 1970-01-01T00:01:00Z # left";
    let all = entry(line);
    assert_eq!(all.target, subject("alice", Some("https://id.example/a b")));
    assert_eq!((all.issued_before, all.until), (10, 60));
    let bare = entry("sub alice");
    assert_eq!((bare.issued_before, bare.until), (ALWAYS, ALWAYS));
}

#[test]
fn the_issuer_certificate_stands_for_client_certificates() {
    let entry = entry("sub alice issuer certificate");
    let target = subject("alice", Some(CERTIFICATE_ISSUER));
    assert_eq!(entry.target, target);
    assert_eq!(subject("alice", Some("certificate")).checked(), Ok(target));
}

#[test]
fn comments_and_blank_lines_say_nothing() {
    for line in ["", "   ", "# jti a", "\t# x", "\r"] {
        assert_eq!(Entry::parse(line), Ok(None), "{line:?}");
    }
}

#[test]
fn a_subject_may_have_spaces_quotes_and_a_hash_when_it_is_quoted() {
    for text in ["alice smith", "a\"b", "#1", "a\\b", "tab\there", "jti", "ü"] {
        let line = format!("sub {}", serde_json::to_string(text).unwrap());
        assert_eq!(entry(&line).target, subject(text, None));
    }
    assert_eq!(entry("sub a#b").target, subject("a#b", None));
}

#[test]
fn a_part_of_a_second_makes_a_revocation_longer_and_never_shorter() {
    let line = "sub a issued_before 1970-01-01T00:00:10.9Z until 1970-01-01T00:00:20.1Z";
    assert_eq!((entry(line).issued_before, entry(line).until), (10, 21));
}

#[test]
fn a_bad_line_is_told_what_was_expected_and_is_not_repeated() {
    let long = format!("jti {}", "x".repeat(1025));
    for (line, expected) in [
        ("token hunter2", "\"jti\" or \"sub\""),
        ("eyJhbGciOi.hunter2.x", "\"jti\" or \"sub\""),
        ("jti eyJhbGciOi.hunter2.x", "not the token"),
        ("jti", "what is revoked"),
        ("sub", "what is revoked"),
        ("jti \"\"", "1 to 1024 bytes"),
        (&long, "1 to 1024 bytes"),
        ("jti a hunter2", "\"until\" or the end"),
        ("jti a issuer hunter2", "\"until\" or the end"),
        ("sub hunter2 smith", "\"issuer\", \"issued_before\""),
        ("sub a until", "a value at the end"),
        ("sub a until hunter2", "a time such as"),
        ("sub a until 2026-01-31", "a time such as"),
        ("sub a until 1969-12-31T23:59:59Z", "a time such as"),
        (
            "sub a until 1971-01-01T00:00:00Z until 1972-01-01T00:00:00Z",
            "each key once",
        ),
        (
            "sub a issuer b until c issued_before d hunter2",
            "the end of the line",
        ),
        ("sub \"hunter2", "to be closed"),
        ("sub \"hunter2\"x", "to be closed"),
        ("sub hunter\"2", "to stand in quotes"),
    ] {
        let fault = Entry::parse(line).unwrap_err();
        assert!(fault.contains(expected), "{line}: {fault}");
        assert!(!fault.contains("hunter"), "{fault}");
    }
}

#[test]
fn two_revocations_of_one_target_hold_as_long_and_for_as_much_as_both() {
    let mut one = entry("sub a issued_before 1970-01-01T00:00:10Z until 1970-01-01T00:01:00Z");
    one.merge(&entry(
        "sub a issued_before 1970-01-01T00:00:05Z until 1970-01-01T00:02:00Z",
    ));
    assert_eq!((one.issued_before, one.until), (10, 120));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        text in ".{1,80}", issuer in proptest::option::of(".{1,80}"),
        before in 0..=ALWAYS, until in 0..=ALWAYS, token: bool,
    ) {
        let (target, issued_before) = match token {
            true => (Target::Token(text), ALWAYS),
            false => (Target::Subject { subject: text, issuer }, before),
        };
        prop_assume!(target.clone().checked().is_ok());
        let entry = Entry { target, issued_before, until };
        let line = entry.to_string();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(Entry::parse(&line), Ok(Some(entry.clone())));
        prop_assert_eq!(Target::parse(&entry.target.to_string()), Ok(entry.target));
    }

    #[test]
    fn no_line_is_too_strange_to_be_refused(line in "(jti|sub|until|issuer|\"|\\\\|#| |.){0,40}") {
        let _ = Entry::parse(&line);
    }
}

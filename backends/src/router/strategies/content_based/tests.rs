use std::collections::HashMap;

use super::super::test_util::{asked, tagged};
use super::*;
use crate::faults::Faults;

fn read(parameters: &[(&str, &str)]) -> (ContentBased, Result<(), tonic::Status>) {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let map: HashMap<_, _> = parameters.iter().map(owned).collect();
    let mut faults = Faults::default();
    let mut parameters = Parameters::new(&mut faults);
    parameters.add("parameters", &map);
    let strategy = ContentBased::read(&mut parameters);
    (strategy, faults.into_result())
}

fn rules(parameters: &[(&str, &str)]) -> ContentBased {
    let (strategy, faults) = read(parameters);
    faults.unwrap();
    strategy
}

#[track_caller]
fn assert_refused(name: &str, value: &str, told: &str) {
    let (_, faults) = read(&[(name, value)]);
    let message = faults.unwrap_err().message().to_owned();
    assert!(message.starts_with(&format!("parameters[{name:?}]: ")));
    assert!(message.contains(told), "{message}");
}

fn tag(strategy: &ContentBased, text: &str) -> Option<String> {
    strategy.look(text).map(|wanted| wanted.tag)
}

#[test]
fn the_first_rule_that_matches_decides_in_the_order_of_their_numbers() {
    let strategy = rules(&[
        ("rule.10", "code => ten"),
        ("rule.2", "code => two"),
        ("rule.1", "(?i)\\bpoem\\b => one"),
    ]);
    assert_eq!(tag(&strategy, "a Poem on code").as_deref(), Some("one"));
    assert_eq!(tag(&strategy, "some code").as_deref(), Some("two"));
    assert_eq!(tag(&strategy, "neither"), None);
}

#[test]
fn where_no_rule_matches_the_default_tag_decides() {
    let strategy = rules(&[("rule.1", "code => coding"), ("default_tag", "general")]);
    let wanted = strategy.look("weather").unwrap();
    assert_eq!(wanted.tag, "general");
    assert_eq!(wanted.because, "default_tag");
}

#[test]
fn an_expression_may_hold_an_arrow_itself() {
    let strategy = rules(&[("rule.1", "a => b => rust")]);
    assert_eq!(tag(&strategy, "match a => b").as_deref(), Some("rust"));
}

#[test]
fn only_the_beginning_of_a_long_text_is_looked_at() {
    let strategy = rules(&[("rule.1", "needle => found")]);
    // A character of two bytes stands across the bound.
    let padding = format!("x{}", "ä".repeat(RULE_TEXT_BYTES / 2));
    assert_eq!(tag(&strategy, &format!("{padding}needle")), None);
    let found = tag(&strategy, &format!("needle{padding}"));
    assert_eq!(found.as_deref(), Some("found"));
}

#[test]
fn what_is_no_rule_is_refused_with_the_parameter_and_the_reason() {
    assert_refused("rule.1", "code", "expected `<regular expression> => <tag>`");
    assert_refused("rule.1", "( => open", "unclosed group");
    assert_refused("rule.1", "x => ", "a tag of 1 to 128 bytes");
    assert_refused("rule.1", "(?:\\w{100}){100} => big", "compiled");
    let long = format!("{} => long", "x".repeat(RULE_BYTES + 1));
    assert_refused("rule.1", &long, "at most 256 bytes");
    assert_refused("rule.0", "x => y", "rule.1 to rule.32");
    assert_refused("rule.33", "x => y", "rule.1 to rule.32");
    assert_refused("rule.01", "x => y", "rule.1 to rule.32");
    assert_refused("default_tag", "", "a tag of 1 to 128 bytes");
}

#[test]
fn unicode_in_an_expression_is_refused_as_its_tables_make_compiling_slow() {
    for unicode in [
        "(?u)x",
        "(?iu)[b-\u{10ffff}]",
        "a(?:b(?u:\\w))",
        "(?-i)(?u-i)x",
    ] {
        let rule = format!("{unicode} => x");
        assert_refused("rule.1", &rule, "the flag u");
    }
    for unicode in ["\\p{Greek}", "\\pL", "[b-\u{10ffff}]", "[\\p{L}]"] {
        let rule = format!("{unicode} => x");
        assert_refused(
            "rule.1",
            &rule,
            "not a regular expression: Unicode not allowed here",
        );
    }
}

#[test]
fn other_characters_than_ascii_match_themselves() {
    let strategy = rules(&[("rule.1", "(?i)\\bGr\u{fc}\u{df}e\\b => hello")]);
    assert_eq!(tag(&strategy, "gR\u{fc}\u{df}E!").as_deref(), Some("hello"));
    assert_eq!(tag(&strategy, "GR\u{dc}\u{df}E!"), None);
}

#[test]
fn all_expressions_together_are_bounded_as_they_are_and_as_they_are_compiled() {
    let numbered = |rule: &str| -> Vec<_> {
        (1..=32)
            .map(|n| (format!("rule.{n}"), rule.to_owned()))
            .collect()
    };
    for (rule, told) in [
        (
            "x".repeat(65) + " => t",
            "at most 2048 bytes in the regular",
        ),
        (
            "[ab]{300}c => t".to_owned(),
            "of all rules take more than 131072 bytes",
        ),
    ] {
        let all = numbered(&rule);
        let all: Vec<_> = all.iter().map(|(n, r)| (n.as_str(), r.as_str())).collect();
        let message = read(&all).1.unwrap_err().message().to_owned();
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn what_rules_can_cost_is_bounded() {
    let rule = "[ab]*a[ab]{40}c => t";
    let all: Vec<_> = (1..=32).map(|n| format!("rule.{n}")).collect();
    let all: Vec<_> = all.iter().map(|name| (name.as_str(), rule)).collect();
    let text = "ab".repeat(RULE_TEXT_BYTES) + "abba";
    let began = std::time::Instant::now();
    assert_eq!(tag(&rules(&all), &text), None);
    // Some 30 ms where the code is optimised; without the bounds it is minutes where it is not.
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn only_models_with_the_wanted_tag_are_picked() {
    let strategy = rules(&[("rule.1", "code => coding")]);
    let pool = [tagged("a", &[]), tagged("b", &["fast", "coding"])];
    let wanting = |text| Asked {
        wanted: strategy.look(text),
        ..asked()
    };
    let pick = strategy.pick(&pool, &wanting("code")).unwrap();
    assert_eq!(pick.index, 1);
    assert_eq!(pick.why, "content based: rule.1 asks for the tag coding");
    assert_eq!(strategy.pick(&pool[..1], &wanting("code")), None);
    assert_eq!(strategy.pick(&pool, &wanting("poem")).unwrap().index, 0);
}

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
    assert_refused("rule.0", "x => y", "rule.1 to rule.32");
    assert_refused("rule.33", "x => y", "rule.1 to rule.32");
    assert_refused("rule.01", "x => y", "rule.1 to rule.32");
    assert_refused("default_tag", "", "a tag of 1 to 128 bytes");
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

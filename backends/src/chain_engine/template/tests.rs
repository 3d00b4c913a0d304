#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::chain_engine::limits::{STEPS, TEMPLATE_BYTES};

fn step(id: &str, template: &str) -> ChainStep {
    ChainStep {
        id: id.to_owned(),
        input_template: template.to_owned(),
        ..Default::default()
    }
}

fn compile_one(template: &str) -> Result<Templates, TemplateFault> {
    compile_second(template, &["first"]).map_err(|mut faults| faults.remove(0).1)
}

fn compile_second(
    template: &str,
    before: &[&str],
) -> Result<Templates, Vec<(usize, TemplateFault)>> {
    let mut steps: Vec<_> = before.iter().map(|id| step(id, "")).collect();
    steps.push(step("it", template));
    Templates::compile(&steps)
}

fn scope() -> Scope {
    let variables = [("tone", "kind"), ("a name", "odd"), ("input", "shadow")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut scope = Scope::new("<the input>".to_owned(), variables.into());
    scope.add("first", "asked", "told", "model-a");
    scope
}

/// What the template gives in the second step.
fn render(template: &str) -> Result<String, TemplateFault> {
    compile_one(template)?.render(1, &scope())
}

#[test]
fn a_template_can_name_all_that_is_there() {
    for (template, expected) in [
        ("{{input}}", "<the input>"),
        ("{{{input}}} {{&input}}", "<the input> <the input>"),
        ("{{previous}}", "told"),
        ("{{variables.tone}} {{tone}}", "kind kind"),
        ("{{lookup variables \"a name\"}}", "odd"),
        (
            "{{steps.first.input}}/{{steps.first.output}}/{{steps.first.model}}",
            "asked/told/model-a",
        ),
        ("{{lookup (lookup steps \"first\") \"output\"}}", "told"),
        ("{{variables.input}} {{input}}", "shadow <the input>"),
        (
            "{{#with steps.first}}{{model}} {{../tone}}{{/with}}",
            "model-a kind",
        ),
        ("{{#if tone}}y{{else}}n{{/if}}", "y"),
        ("{{#if variables.none}}y{{else if tone}}z{{/if}}", "z"),
        ("{{#unless variables.none}}y{{/unless}}", "y"),
        ("{{#if (eq tone \"kind\")}}y{{/if}}", "y"),
        ("{{#if (and tone (not (eq tone \"odd\")))}}y{{/if}}", "y"),
        (
            "{{#each variables}}{{@key}}={{this}};{{/each}}",
            "a name=odd;input=shadow;tone=kind;",
        ),
        ("{{#each steps as |s|}}{{s.output}}{{/each}}", "told"),
        (
            "{\"a\": [1, {\"b\": \"(\"}]} {{tone}}",
            "{\"a\": [1, {\"b\": \"(\"}]} kind",
        ),
        (
            "\\{{tone}} {{! a note }}{{!-- with }} in it --}}ü",
            "{{tone}} ü",
        ),
        (" ", " "),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn without_a_template_the_first_step_gets_the_input_and_others_what_came_before() {
    let templates = Templates::compile(&[step("first", ""), step("it", "")]).unwrap();
    assert_eq!(templates.render(0, &scope()).unwrap(), "<the input>");
    assert_eq!(templates.render(1, &scope()).unwrap(), "told");
}

#[test]
fn before_the_first_step_there_is_no_output_yet() {
    let templates = Templates::compile(&[step("first", "[{{previous}}]{{input}}")]).unwrap();
    let scope = Scope::new("in".to_owned(), HashMap::new());
    assert_eq!(templates.render(0, &scope).unwrap(), "[]in");
}

#[test]
fn a_name_that_there_is_not_is_an_error_that_says_which_and_where() {
    for (template, name, place) in [
        ("a\n b {{nowhere}}", "nowhere", (2, 4)),
        ("{{variables.none}}", "variables.none", (1, 1)),
        ("{{lookup variables \"none\"}}", "none", (1, 1)),
        ("{{#if (eq none 1)}}{{/if}}", "eq", (1, 1)),
        (
            "{{#with steps.first}}{{nothing}}{{/with}}",
            "nothing",
            (1, 22),
        ),
        ("{{#with nothing}}{{/with}}", "nothing", (1, 1)),
        ("{{#each nothing}}{{/each}}", "nothing", (1, 1)),
        ("{{lookup steps \"it\"}}", "it", (1, 1)),
    ] {
        let fault = render(template).unwrap_err();
        assert!(fault.why.contains(name), "{template}: {fault}");
        assert_eq!((fault.line, fault.column), place, "{template}: {fault}");
    }
}

#[test]
fn a_step_that_does_not_come_before_is_refused_at_once() {
    for template in [
        "ok\n{{steps.later.output}}",
        "ok\n{{#if (eq steps.it.output 1)}}{{/if}}",
        "ok\n{{#if tone}}{{else}}{{#with steps.it}}{{/with}}{{/if}}",
    ] {
        let faults = compile_second(template, &["first"]).err().unwrap();
        let (index, fault) = &faults[0];
        assert_eq!(*index, 1);
        assert_eq!(fault.line, 2, "{fault}");
        assert!(fault.why.contains("not a step before"), "{fault}");
    }
}

#[test]
fn what_is_not_available_is_refused_by_name_and_place() {
    for (template, why) in [
        ("{{> other}}", "partials"),
        ("{{#> other}}{{/other}}", "partials"),
        ("{{#*inline \"x\"}}{{/inline}}", "decorators"),
        ("{{* inline}}", "decorators"),
        ("{{{{raw}}}} {{{{/raw}}}}", "raw blocks"),
        ("{{log \"x\"}}", "no helper log"),
        ("{{raw \"x\"}}", "no helper raw"),
        ("{{if tone \"x\"}}", "no helper if"),
        ("{{lookup (if tone) \"x\"}}", "no helper if"),
        ("{{#tone}}{{/tone}}", "no block tone"),
        ("{{#lookup variables \"x\"}}{{/lookup}}", "no block lookup"),
        ("{{#if tone includeZero=true}}{{/if}}", "named arguments"),
        ("{{#if tone tone}}{{/if}}", "one argument"),
        ("{{#if}}{{/if}}", "one argument"),
        ("{{(lookup variables \"tone\")}}", "expected a name"),
        ("{{variables.[a name]}}", "brackets"),
        (
            "{{#each variables}}{{#each ../steps}}{{/each}}{{/each}}",
            "within an each",
        ),
        (
            "{{#each variables}}{{#if this}}{{else}}{{#each ../steps}}{{/each}}{{/if}}{{/each}}",
            "within an each",
        ),
    ] {
        let fault = compile_one(template).err().unwrap();
        assert!(fault.why.contains(why), "{template}: {fault}");
    }
}

#[test]
fn what_is_no_template_is_refused_with_its_place() {
    for (template, place) in [
        ("a {{", (1, 5)),
        ("a\n{{tone", (2, 7)),
        ("{{#if tone}}", (1, 13)),
        ("{{/if}}", (1, 3)),
        ("ü{{else}}", (1, 4)),
        ("{{#if tone}}{{/with}}", (1, 13)),
        ("{{tone \"}}", (1, 8)),
        ("{{tone)}}", (1, 7)),
        ("{{}}", (1, 3)),
    ] {
        let fault = compile_one(template).err().unwrap();
        assert_eq!((fault.line, fault.column), place, "{template}: {fault}");
    }
}

#[test]
fn nesting_and_numbers_are_bounded_before_anything_is_parsed() {
    let blocks = |n: usize| "{{#if tone}}".repeat(n) + &"{{/if}}".repeat(n);
    let chained = |n: usize| {
        let more = "{{else if tone}}".repeat(n - 1);
        format!("{{{{#if tone}}}}{more}{{{{/if}}}}")
    };
    let calls = |n: usize| {
        let (open, close) = ("(lookup ".repeat(n), " \"x\")".repeat(n));
        format!("{{{{lookup {open}steps{close} \"x\"}}}}")
    };
    let tags = |n: usize| "{{tone}}".repeat(n);
    for (name, allowed, refused) in [
        ("blocks", blocks(32), blocks(33)),
        ("else", chained(32), chained(33)),
        ("parentheses", calls(8), calls(9)),
        ("tags", tags(256), tags(257)),
    ] {
        assert!(compile_one(&allowed).is_ok(), "{name}");
        assert!(compile_one(&refused).is_err(), "{name}");
    }
    // As deep as 16 KiB allow.
    for hostile in [
        "{{#if tone}}".repeat(1300),
        "{{#if a}}{{else if b}}".repeat(700),
        "{{^}}".repeat(3000),
        format!("{{{{lookup {}", "(".repeat(16_000)),
        format!("{{{{lookup \"{{{{\" {}", "(a ".repeat(5000)),
        format!("{{{{lookup '\\'{{{{' {}", "(a ".repeat(5000)),
        format!("\\\\{{{{lookup {}", "(a ".repeat(5000)),
        format!("{{{{! }}}}{{{{lookup {}", "(a ".repeat(5000)),
        format!("{{{{!-- }}}}{{{{a --}}}}{{{{lookup {}", "(a ".repeat(5000)),
        format!("{{{{lookup {}", "[".repeat(16_000)),
        format!("{{{{lookup {}", "{\"a\":".repeat(3000)),
        format!("{{{{#if tone}}}}{}", "{{{{raw}}}}".repeat(1000)),
        "{{>".repeat(5000),
        "{".repeat(16_000),
    ] {
        assert!(compile_one(&hostile).is_err(), "{}", &hostile[..40]);
    }
}

#[test]
fn a_long_row_of_backslashes_is_refused_with_its_place_before_anything_is_parsed() {
    let row = |n: usize| "\\".repeat(n);
    for (before, after) in [
        ("", ""),
        ("a\n", "b"),
        ("\\{{", ""),
        ("{{!", "}}"),
        ("{{#if tone}}", ""),
    ] {
        let fault = compile_one(&format!("{before}{}{after}", row(scan::BACKSLASHES + 1)));
        let fault = fault.err().unwrap();
        assert!(fault.why.contains("backslashes"), "{before}: {fault}");
        let line = before.matches('\n').count() + 1;
        assert_eq!(fault.line, line, "{before}: {fault}");
    }
    // As many as 16 KiB take of rows that are allowed.
    let rows =
        format!("{}n", row(scan::BACKSLASHES)).repeat(TEMPLATE_BYTES / (scan::BACKSLASHES + 1));
    assert_eq!(render(&rows).unwrap(), rows);
}

#[test]
fn a_rendering_takes_a_bounded_number_of_operations() {
    let each = |n: usize| {
        format!(
            "{{{{#each variables}}}}{}{{{{/each}}}}",
            "{{this}}".repeat(n)
        )
    };
    assert!(compile_one(&each(100)).is_ok());
    let fault = compile_one(&each(130)).err().unwrap();
    assert!(fault.why.contains("operations"), "{fault}");
}

#[test]
fn the_dearest_rendering_ends_soon() {
    let big = "x".repeat(1 << 20);
    let variables = (0..64).map(|n| (format!("v{n}"), big[..8000].to_owned()));
    let mut scope = Scope::new(big[..256 << 10].to_owned(), variables.collect());
    scope.add("first", "", &big, "m");
    // Equal texts are compared to their end.
    let dear = "{{#if (eq ../previous ../steps.first.output)}}{{/if}}".repeat(20);
    let template = format!("{{{{#each variables}}}}{dear}{{{{/each}}}}");
    let templates = compile_one(&template).ok().unwrap();
    let started = Instant::now();
    assert_eq!(templates.render(1, &scope).unwrap(), "");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_dearest_chain_is_compiled_soon() {
    let tags = "{{tone}}".repeat(scan::TAGS);
    let template = tags.clone() + &"ü\n".repeat((TEMPLATE_BYTES - tags.len()) / 3);
    let ids: Vec<_> = (0..STEPS).map(|index| index.to_string()).collect();
    let steps: Vec<_> = ids.iter().map(|id| step(id, &template)).collect();
    let started = Instant::now();
    assert!(Templates::compile(&steps).is_ok());
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_output_stops_at_its_limit() {
    let half = "x".repeat(STEP_INPUT_BYTES / 2);
    let scope = Scope::new(half, HashMap::new());
    let templates = |template: &str| Templates::compile(&[step("it", template)]).unwrap();
    let whole = templates("{{input}}{{input}}").render(0, &scope).unwrap();
    assert_eq!(whole.len(), STEP_INPUT_BYTES);
    let fault = templates("{{input}}{{input}}.")
        .render(0, &scope)
        .unwrap_err();
    assert!(fault.why.contains("more than"), "{fault}");

    let mut scope = Scope::new(String::new(), HashMap::new());
    scope.add("first", "", &"x".repeat(STEP_INPUT_BYTES + 1), "");
    let templates = Templates::compile(&[step("first", ""), step("it", "")]).unwrap();
    assert!(templates.render(1, &scope).is_err());
}

#[test]
fn the_faults_of_all_steps_are_found() {
    let steps = [step("a", "{{"), step("b", "{{input}}"), step("c", "{{>x}}")];
    let faults = Templates::compile(&steps).err().unwrap();
    let indices: Vec<_> = faults.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [0, 2]);
}

#[test]
fn a_fault_is_short_however_long_the_name_in_it() {
    let fault = compile_one(&format!("{{{{{} 1}}}}", "ü".repeat(4000)))
        .err()
        .unwrap();
    assert!(fault.to_string().len() < 400, "{fault}");
}

/// Pieces that make templates of all kinds, most of them broken.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{{",
        "}}",
        "{{{",
        "}}}",
        "{{{{",
        "}}}}",
        "{{#if ",
        "{{#each ",
        "{{#with ",
        "{{else",
        "{{else if ",
        "{{^",
        "{{/if}}",
        "{{/each}}",
        "{{/with}}",
        "{{~",
        "~}}",
        "{{!",
        "{{!--",
        "--}}",
        "{{>",
        "{{*",
        "{{#*inline ",
        "(",
        ")",
        "[",
        "]",
        "\"",
        "'",
        "\\",
        "\\{{",
        "|",
        " as |x|",
        "=",
        "this",
        "..",
        "../",
        ".",
        "/",
        "@root",
        "@key",
        "@index",
        "input",
        "variables",
        "steps",
        "steps.first.output",
        "lookup ",
        "eq ",
        "log ",
        "raw",
        " ",
        "\n",
        "\r\n",
        "\t",
        "1",
        "-1e9",
        "null",
        "true",
        "ü",
        "\u{0}",
        "a",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Templates that can be read, more often than not.
fn plausible() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "text",
        "{{input}}",
        "{{this}}",
        "{{../input}}",
        "{{@root.input}}",
        "{{@key}}",
        "{{x.output}}",
        "{{lookup this @key}}",
        "{{lookup steps \"first\"}}",
        "{{eq input previous}}",
        "{{len steps}}",
        "{{~input~}}",
        "\n  ",
        "{{!-- (((( --}}",
        "{{steps}}",
        "{{.}}",
        "{{variables.tone}}",
        "{{#if x}}{{else}}{{/if}}",
        "\\{{",
        "{{{this}}}",
    ]);
    let leaf = leaf.prop_map(str::to_owned);
    leaf.prop_recursive(5, 64, 6, |inner| {
        let open = prop::sample::select(vec![
            ("{{#if input}}", "{{/if}}"),
            ("{{#if x}}", "{{else if tone}}y{{/if}}"),
            ("{{#unless (eq tone \"kind\")}}", "{{else}}z{{/unless}}"),
            ("{{#each variables}}", "{{/each}}"),
            ("{{#each this as |x y|}}", "{{else}}{{input}}{{/each}}"),
            ("{{#with steps.first}}", "{{/with}}"),
            ("{{#with (lookup steps \"first\") as |x|}}", "{{/with}}"),
            ("{{#each @root}}", "{{/each}}"),
        ]);
        let inner = prop::collection::vec(inner, 0..6);
        (open, inner).prop_map(|((open, close), inner)| format!("{open}{}{close}", inner.concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_template_panics_or_gives_too_much(template in prop_oneof![hostile(), plausible()]) {
        if let Ok(templates) = compile_one(&template) {
            match templates.render(1, &scope()) {
                Ok(text) => prop_assert!(text.len() <= STEP_INPUT_BYTES),
                Err(fault) => prop_assert!(!fault.why.is_empty()),
            }
        }
    }
}

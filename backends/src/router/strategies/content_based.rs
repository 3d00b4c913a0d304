//! A model with the tag that the text of the request asks for; of several, each in turn.
//!
//! The parameters `rule.1` to `rule.32` hold one rule each: `<regular expression> => <tag>`, such
//! as `(?i)\bcode\b => coding`; what stands after the last ` => ` is the tag. They are tried in the
//! order of their numbers, on the last message of the role `user`; the first that matches decides.
//! Where none does, `default_tag` decides, and without it any model will do.
//!
//! Every caller may bring rules, so what they can cost is bounded. An expression sees bytes: `.` is a
//! byte, `\w`, `\d`, `\b` and `(?i)` know ASCII alone, and Unicode (`(?u)`, `\p`, classes with other
//! characters than ASCII) is refused: its tables make compiling slow. Other characters may stand
//! outside of classes, and match themselves.
//!
//! Limits: [`RULES`] rules; [`RULE_BYTES`] bytes for an expression and [`RULES_BYTES`] for all;
//! compiled, [`RULE_COMPILED_BYTES`] and [`RULES_COMPILED_BYTES`]; the first [`RULE_TEXT_BYTES`]
//! bytes of the message. All are matched together, in time that is linear in the text. Still, reading
//! and looking may take some tens of milliseconds: they are for a thread that may block.

use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder};
use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{Ast, Flag, Flags, GroupKind, Visitor, visit};

use super::{Asked, Parameters, Pick, Strategy, Wanted, least};
use crate::model_registry::limits::LIST_ENTRY_BYTES;
use crate::router::candidate::Candidate;
use crate::router::limits::{
    RULE_BYTES, RULE_COMPILED_BYTES, RULE_TEXT_BYTES, RULES, RULES_BYTES, RULES_COMPILED_BYTES,
};

const RULE: &str = "rule.";
const DEFAULT_TAG: &str = "default_tag";
const ARROW: &str = " => ";

#[derive(Debug)]
pub(super) struct ContentBased {
    /// In the order of their numbers.
    rules: Vec<Rule>,
    /// Their expressions, in the same order.
    expressions: RegexSet,
    default_tag: Option<String>,
}

#[derive(Debug)]
struct Rule {
    number: usize,
    tag: String,
}

impl ContentBased {
    pub(super) fn read(parameters: &mut Parameters<'_>) -> Self {
        let mut rules = Vec::new();
        let mut bytes = 0;
        for name in parameters.names_from(RULE) {
            let text = parameters.take(name).unwrap_or_default();
            match number(name).and_then(|number| rule(number, text, &mut bytes)) {
                Ok(rule) => rules.push(rule),
                Err(expected) => parameters.fault(name, expected),
            }
        }
        rules.sort_by_key(|(rule, _)| rule.number);
        let (rules, texts): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        let expressions = together(&texts).unwrap_or_else(|expected| {
            // Each has its place, so it is all of them.
            let last = rules.last().map_or(0, |rule| rule.number);
            parameters.fault(&format!("{RULE}{last}"), expected);
            RegexSet::empty()
        });
        let default_tag = parameters.take(DEFAULT_TAG).map(str::to_owned);
        if default_tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            parameters.fault(DEFAULT_TAG, tag_expected());
        }
        Self {
            rules,
            expressions,
            default_tag,
        }
    }
}

fn number(name: &str) -> Result<usize, String> {
    let number = (1..=RULES).find(|number| name[RULE.len()..] == number.to_string());
    number.ok_or_else(|| format!("expected a name from {RULE}1 to {RULE}{RULES}"))
}

/// A rule and its expression, which counts into the `bytes` of all.
fn rule<'a>(number: usize, text: &'a str, bytes: &mut usize) -> Result<(Rule, &'a str), String> {
    let (expression, tag) = text
        .rsplit_once(ARROW)
        .ok_or_else(|| format!("expected `<regular expression>{ARROW}<tag>`"))?;
    if !is_tag(tag) {
        return Err(tag_expected());
    }
    *bytes += expression.len();
    if expression.len() > RULE_BYTES {
        return Err(format!(
            "expected a regular expression of at most {RULE_BYTES} bytes"
        ));
    }
    if *bytes > RULES_BYTES {
        return Err(format!(
            "expected at most {RULES_BYTES} bytes in the regular expressions of all rules"
        ));
    }
    check(expression)?;
    let tag = tag.to_owned();
    Ok((Rule { number, tag }, expression))
}

/// Whether an expression can be used at all, on its own.
fn check(expression: &str) -> Result<(), String> {
    let tree = Parser::new().parse(expression);
    // What can't be read, the builder refuses.
    if tree.is_ok_and(|tree| visit(&tree, Plain).is_err()) {
        return Err("the flag u, for Unicode, may not be set in the regular expression".to_owned());
    }
    let built = RegexBuilder::new(expression)
        .unicode(false)
        .size_limit(RULE_COMPILED_BYTES)
        .dfa_size_limit(RULE_COMPILED_BYTES)
        .build();
    built.map(drop).map_err(|error| refused(&error))
}

fn together(expressions: &[&str]) -> Result<RegexSet, String> {
    let built = RegexSetBuilder::new(expressions)
        .unicode(false)
        .size_limit(RULES_COMPILED_BYTES)
        .dfa_size_limit(RULES_COMPILED_BYTES)
        .build();
    built.map_err(|_| {
        format!(
            "the regular expressions of all rules take more than {RULES_COMPILED_BYTES} bytes when \
             they are compiled"
        )
    })
}

/// Passes an expression that does not switch Unicode on.
struct Plain;

impl Visitor for Plain {
    type Output = ();
    type Err = ();

    fn finish(self) -> Result<(), ()> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), ()> {
        let sets = |flags: &Flags| flags.flag_state(Flag::Unicode) == Some(true);
        let unicode = match ast {
            Ast::Flags(set) => sets(&set.flags),
            Ast::Group(group) => {
                matches!(&group.kind, GroupKind::NonCapturing(flags) if sets(flags))
            }
            _ => false,
        };
        if unicode { Err(()) } else { Ok(()) }
    }
}

fn refused(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the regular expression takes more than {limit} bytes when it is compiled")
        }
        // The last line says what is wrong; those above repeat the expression.
        error => {
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            let why = why.strip_prefix("error: ").unwrap_or(why);
            format!("not a regular expression: {why}")
        }
    }
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.len() <= LIST_ENTRY_BYTES
}

fn tag_expected() -> String {
    format!("expected a tag of 1 to {LIST_ENTRY_BYTES} bytes")
}

impl Strategy for ContentBased {
    fn pick(&self, pool: &[Candidate], asked: &Asked) -> Option<Pick> {
        let Some(Wanted { tag, because }) = &asked.wanted else {
            let index = least(pool, |_| Some(()))?;
            let why = "content based: no rule matches, so any; each in turn".to_owned();
            return Some(Pick { index, why });
        };
        let index = least(pool, |candidate| {
            candidate.model.tags.contains(tag).then_some(())
        })?;
        let why = format!("content based: {because} asks for the tag {tag}");
        Some(Pick { index, why })
    }

    fn look(&self, text: &str) -> Option<Wanted> {
        let text = &text[..text.floor_char_boundary(RULE_TEXT_BYTES)];
        let first = self.expressions.matches(text.as_bytes()).iter().next();
        let wanted = match first.and_then(|index| self.rules.get(index)) {
            Some(rule) => Wanted {
                tag: rule.tag.clone(),
                because: format!("{RULE}{}", rule.number),
            },
            None => Wanted {
                tag: self.default_tag.clone()?,
                because: DEFAULT_TAG.to_owned(),
            },
        };
        Some(wanted)
    }
}

#[cfg(test)]
mod tests;

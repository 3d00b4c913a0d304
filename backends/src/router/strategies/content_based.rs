//! A model with the tag that the text of the request asks for; of several, each in turn.
//!
//! The parameters `rule.1` to `rule.32` hold one rule each: `<regular expression> => <tag>`, such
//! as `(?i)\bcode\b => coding`; what stands after the last ` => ` is the tag. They are tried in the
//! order of their numbers, on the last message of the role `user`; the first that matches decides.
//! Where none does, `default_tag` decides, and without it any model will do.
//!
//! Limits: [`RULES`] rules; [`RULE_COMPILED_BYTES`] bytes for a compiled expression; the first
//! [`RULE_TEXT_BYTES`] bytes of the message. Expressions are matched in time that is linear in the
//! text, whatever they are.

use regex::{Regex, RegexBuilder};

use super::{Asked, Parameters, Pick, Strategy, Wanted, least};
use crate::model_registry::limits::LIST_ENTRY_BYTES;
use crate::router::candidate::Candidate;
use crate::router::limits::{RULE_COMPILED_BYTES, RULE_TEXT_BYTES, RULES};

const RULE: &str = "rule.";
const DEFAULT_TAG: &str = "default_tag";
const ARROW: &str = " => ";

#[derive(Debug)]
pub(super) struct ContentBased {
    /// In the order of their numbers.
    rules: Vec<Rule>,
    default_tag: Option<String>,
}

#[derive(Debug)]
struct Rule {
    number: usize,
    expression: Regex,
    tag: String,
}

impl ContentBased {
    pub(super) fn read(parameters: &mut Parameters<'_>) -> Self {
        let mut rules = Vec::new();
        for name in parameters.names_from(RULE) {
            let text = parameters.take(name).unwrap_or_default();
            match number(name).and_then(|number| rule(number, text)) {
                Ok(rule) => rules.push(rule),
                Err(expected) => parameters.fault(name, expected),
            }
        }
        rules.sort_by_key(|rule| rule.number);
        let default_tag = parameters.take(DEFAULT_TAG).map(str::to_owned);
        if default_tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            parameters.fault(DEFAULT_TAG, tag_expected());
        }
        Self { rules, default_tag }
    }
}

fn number(name: &str) -> Result<usize, String> {
    let number = (1..=RULES).find(|number| name[RULE.len()..] == number.to_string());
    number.ok_or_else(|| format!("expected a name from {RULE}1 to {RULE}{RULES}"))
}

fn rule(number: usize, text: &str) -> Result<Rule, String> {
    let (expression, tag) = text
        .rsplit_once(ARROW)
        .ok_or_else(|| format!("expected `<regular expression>{ARROW}<tag>`"))?;
    if !is_tag(tag) {
        return Err(tag_expected());
    }
    let expression = RegexBuilder::new(expression)
        .size_limit(RULE_COMPILED_BYTES)
        .dfa_size_limit(RULE_COMPILED_BYTES)
        .build()
        .map_err(|error| refused(&error))?;
    let tag = tag.to_owned();
    Ok(Rule {
        number,
        expression,
        tag,
    })
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
        let mut rules = self.rules.iter();
        let wanted = match rules.find(|rule| rule.expression.is_match(text)) {
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

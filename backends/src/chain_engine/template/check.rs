//! Goes through a parsed template: what it says is available, and what it costs is bounded.
//!
//! Owns the list of blocks and helpers, the count of operations, and the check that a step names
//! only steps before it, as far as that can be seen (a name in a `with`, an `each` or a `lookup` is
//! known when the template is rendered). The depth of the template is `scan`'s to bound, so that
//! going through it by recursion is safe.

use handlebars::template::{HelperTemplate, Parameter, TemplateElement};
use handlebars::{Path, PathSeg, Template};
use intellirouter_proto::intellirouter::chain_engine::v1::ChainStep;

use super::TemplateFault;
use super::helpers::HELPERS;
use crate::chain_engine::limits::{STEPS, VARIABLES};

/// Most operations of one rendering, where a tag, an argument and a text are one each.
pub(super) const OPERATIONS: usize = 8192;
/// Most rounds of an `each`: the names of the outermost level are the largest collection.
const ROUNDS: usize = VARIABLES + super::NAMES.len();
const _: () = assert!(ROUNDS >= STEPS);

const BLOCKS: [&str; 4] = ["if", "unless", "with", "each"];

/// Says whether `template` may be rendered in a step that comes after the steps `earlier`.
pub(super) fn check(template: &Template, earlier: &[ChainStep]) -> Result<(), TemplateFault> {
    let mut check = Check {
        earlier,
        operations: 0,
        place: (1, 1),
    };
    let outermost = Within {
        rounds: 1,
        moved: false,
    };
    check
        .template(template, outermost)
        .map_err(|why| TemplateFault::new(check.place, why))
}

struct Check<'a> {
    earlier: &'a [ChainStep],
    operations: usize,
    /// Of the element that is looked at: line and column.
    place: (usize, usize),
}

/// The blocks around an element.
#[derive(Clone, Copy)]
struct Within {
    /// How often it is rendered at most.
    rounds: usize,
    /// In a `with` or an `each` names mean something else.
    moved: bool,
}

impl Check<'_> {
    fn template(&mut self, template: &Template, within: Within) -> Result<(), String> {
        for (index, element) in template.elements.iter().enumerate() {
            if let Some(place) = template.mapping.get(index) {
                self.place = (place.0, place.1);
            }
            self.count(within)?;
            match element {
                TemplateElement::RawString(_) | TemplateElement::Comment(_) => {}
                TemplateElement::Expression(tag) | TemplateElement::HtmlExpression(tag) => {
                    self.tag(tag, within)?;
                }
                TemplateElement::HelperBlock(tag) => self.block(tag, within)?,
                _ => return Err("partials and decorators are not available".to_owned()),
            }
        }
        Ok(())
    }

    fn block(&mut self, tag: &HelperTemplate, within: Within) -> Result<(), String> {
        let name = name_of(tag)?;
        if !BLOCKS.contains(&name) {
            let known = BLOCKS.join(", ");
            return Err(format!("there is no block {name}; available: {known}"));
        }
        if tag.params.len() != 1 {
            return Err(format!("{name} takes one argument"));
        }
        self.arguments(tag, within)?;
        let mut inner = within;
        if name == "each" {
            if within.rounds > 1 {
                return Err("an each within an each is not available".to_owned());
            }
            inner.rounds = ROUNDS;
        }
        inner.moved |= matches!(name, "each" | "with");
        if let Some(template) = &tag.template {
            self.template(template, inner)?;
        }
        // What stands after `else` means what it means outside.
        if let Some(template) = &tag.inverse {
            self.template(template, within)?;
        }
        Ok(())
    }

    fn tag(&mut self, tag: &HelperTemplate, within: Within) -> Result<(), String> {
        let name = name_of(tag)?;
        if tag.params.is_empty() && tag.hash.is_empty() && !HELPERS.contains(&name) {
            // No argument and no helper: it is a value.
            return self.parameter(&tag.name, within);
        }
        self.call(tag, within)
    }

    fn call(&mut self, tag: &HelperTemplate, within: Within) -> Result<(), String> {
        let name = name_of(tag)?;
        if !HELPERS.contains(&name) {
            let known = HELPERS.join(", ");
            return Err(format!("there is no helper {name}; available: {known}"));
        }
        self.arguments(tag, within)
    }

    fn arguments(&mut self, tag: &HelperTemplate, within: Within) -> Result<(), String> {
        if !tag.hash.is_empty() {
            return Err("named arguments are not available".to_owned());
        }
        tag.params.iter().try_for_each(|parameter| {
            self.count(within)?;
            self.parameter(parameter, within)
        })
    }

    fn parameter(&mut self, parameter: &Parameter, within: Within) -> Result<(), String> {
        match parameter {
            Parameter::Path(path) => self.path(path, within),
            Parameter::Subexpression(inner) => match inner.as_element() {
                TemplateElement::Expression(call) => self.call(call, within),
                _ => Err("expected a helper in parentheses".to_owned()),
            },
            Parameter::Name(_) | Parameter::Literal(_) => Ok(()),
            _ => Err("expected a name, a value or a helper".to_owned()),
        }
    }

    fn path(&self, path: &Path, within: Within) -> Result<(), String> {
        let Path::Relative((segments, _)) = path else {
            return Ok(());
        };
        let [PathSeg::Named(first), PathSeg::Named(id), ..] = segments.as_slice() else {
            return Ok(());
        };
        if within.moved || first != "steps" || self.earlier.iter().any(|step| step.id == *id) {
            return Ok(());
        }
        Err(format!("steps.{id} is not a step before this one"))
    }

    fn count(&mut self, within: Within) -> Result<(), String> {
        self.operations += within.rounds;
        if self.operations > OPERATIONS {
            return Err(format!(
                "expected at most {OPERATIONS} operations, where all within an each count {ROUNDS} times"
            ));
        }
        Ok(())
    }
}

fn name_of(tag: &HelperTemplate) -> Result<&str, String> {
    let name = tag.name.as_name();
    name.ok_or_else(|| "expected a name".to_owned())
}

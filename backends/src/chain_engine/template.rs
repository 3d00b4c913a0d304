//! The templates of a chain: text with `{{names}}`, from which each step gets its input.
//!
//! Owns what a template may say and what it may cost; the language is Handlebars. It knows
//! `input`, `previous` (the output of the step before; empty for the first), `variables.<name>`,
//! `steps.<id>.input`, `.output` and `.model` of the steps before, and each variable as `<name>`
//! unless that is one of the names above or of a helper. A name that there is not is an error that
//! says which; only `if` and `unless` take it for false. Nothing is escaped. There are the blocks
//! `if`, `unless`, `with` and `each`, and the helpers `lookup`, `eq`, `ne`, `gt`, `gte`, `lt`,
//! `lte`, `and`, `or`, `not` and `len`. An empty template stands for `{{input}}` in the first step
//! and `{{previous}}` in all others.
//!
//! Templates come from callers, so that neither parsing nor rendering may go out of hand. Before
//! the parser sees a text, [`scan`] bounds how deep it can nest; [`check`] then refuses what is not
//! in the list above and bounds how many operations a rendering can take; the output stops at
//! [`STEP_INPUT_BYTES`]. Compiling and rendering are work for a thread where it may block.
//!
//! It fails with [`TemplateFault`], which has line and column, and never repeats a value.

mod check;
mod helpers;
mod scan;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;

use handlebars::{Context, Handlebars, RenderError, RenderErrorReason, Template, no_escape};
use intellirouter_proto::intellirouter::chain_engine::v1::ChainStep;
use serde_json::{Map, Value, json};

use super::limits::STEP_INPUT_BYTES;

/// Longest text of a fault, in bytes: it may repeat names, and ten faults travel in a header.
const FAULT_BYTES: usize = 256;

/// What is wrong with a template, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {why}")]
pub(super) struct TemplateFault {
    /// From 1.
    pub(super) line: usize,
    /// From 1, in characters.
    pub(super) column: usize,
    pub(super) why: String,
}

impl TemplateFault {
    fn new((line, column): (usize, usize), why: impl Into<String>) -> Self {
        let mut why = why.into();
        why.truncate(why.floor_char_boundary(FAULT_BYTES));
        Self { line, column, why }
    }

    /// At a byte of `source`, which must be the start of a character.
    fn at(source: &str, byte: usize, why: impl Into<String>) -> Self {
        let before = source.get(..byte).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self::new((line, column), why)
    }
}

/// The templates of all steps of a chain, ready to render.
pub(super) struct Templates {
    /// Each step's template under the number of the step.
    compiled: Handlebars<'static>,
}

impl Templates {
    /// Compiles the templates. Fails with what is wrong, per number of a step.
    pub(super) fn compile(steps: &[ChainStep]) -> Result<Self, Vec<(usize, TemplateFault)>> {
        let mut compiled = Handlebars::new();
        compiled.set_strict_mode(true);
        compiled.register_escape_fn(no_escape);
        helpers::install(&mut compiled);
        let mut faults = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            if step.input_template.is_empty() {
                continue;
            }
            match compile(&step.input_template, steps, index) {
                Ok(template) => compiled.register_template(&index.to_string(), template),
                Err(fault) => faults.push((index, fault)),
            }
        }
        if faults.is_empty() {
            Ok(Self { compiled })
        } else {
            Err(faults)
        }
    }

    /// The input of the step with this number.
    pub(super) fn render(&self, index: usize, scope: &Scope) -> Result<String, TemplateFault> {
        let name = index.to_string();
        if !self.compiled.has_template(&name) {
            let name = if index == 0 { "input" } else { "previous" };
            return bounded(scope.text(name));
        }
        let mut text = Bounded::default();
        let rendered = self
            .compiled
            .render_with_context_to_write(&name, &scope.0, &mut text);
        match rendered {
            _ if text.full => Err(TemplateFault::new((1, 1), too_long())),
            Ok(()) => Ok(String::from_utf8_lossy(&text.bytes).into_owned()),
            Err(error) => Err(explain(&error)),
        }
    }
}

fn compile(source: &str, steps: &[ChainStep], index: usize) -> Result<Template, TemplateFault> {
    scan::scan(source)?;
    let template = Template::compile(source).map_err(|error| {
        let why = error.reason().to_string();
        TemplateFault::new(error.pos().unwrap_or((1, 1)), why)
    })?;
    let earlier = steps.get(..index).unwrap_or_default();
    check::check(&template, earlier)?;
    Ok(template)
}

fn bounded(text: &str) -> Result<String, TemplateFault> {
    if text.len() > STEP_INPUT_BYTES {
        return Err(TemplateFault::new((1, 1), too_long()));
    }
    Ok(text.to_owned())
}

fn too_long() -> String {
    format!("it gives more than {STEP_INPUT_BYTES} bytes")
}

fn explain(error: &RenderError) -> TemplateFault {
    use RenderErrorReason as R;
    let why = match error.reason() {
        R::MissingVariable(Some(name)) => format!("{name} is not known"),
        R::MissingVariable(None) => "a name is not known".to_owned(),
        R::ParamNotFoundForIndex(helper, index) => {
            format!("argument {} of {helper} is missing or not known", index + 1)
        }
        other => other.to_string(),
    };
    let place = (error.line_no.unwrap_or(1), error.column_no.unwrap_or(1));
    TemplateFault::new(place, why)
}

/// What a template can name.
pub(super) struct Scope(Context);

/// The names that no variable takes.
const NAMES: [&str; 4] = ["input", "previous", "variables", "steps"];

impl Scope {
    /// Before the first step.
    pub(super) fn new(input: String, variables: HashMap<String, String>) -> Self {
        let mut names: Map<_, _> = variables
            .iter()
            .filter(|(name, _)| !NAMES.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
            .collect();
        names.insert("input".to_owned(), input.into());
        names.insert("previous".to_owned(), "".into());
        names.insert("variables".to_owned(), variables.into_iter().collect());
        names.insert("steps".to_owned(), Map::new().into());
        Self(Context::from(Value::Object(names)))
    }

    /// After a step.
    pub(super) fn add(&mut self, id: &str, input: &str, output: &str, model: &str) {
        let names = self.0.data_mut();
        // Both were put there at the start, and stay.
        if let Some(previous) = names.get_mut("previous") {
            *previous = output.into();
        }
        if let Some(Value::Object(steps)) = names.get_mut("steps") {
            let step = json!({ "input": input, "output": output, "model": model });
            steps.insert(id.to_owned(), step);
        }
    }

    fn text(&self, name: &str) -> &str {
        let value = self.0.data().get(name);
        value.and_then(Value::as_str).unwrap_or_default()
    }
}

/// Takes text up to the limit, then refuses.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > STEP_INPUT_BYTES {
            self.full = true;
            return Err(io::Error::other("the text is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

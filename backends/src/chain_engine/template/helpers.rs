//! The helpers that a template may call.
//!
//! Owns their list, and `lookup`: the library's own copies the value, which may be large, at each
//! call, and does not say which entry is missing. All others are the library's.

use handlebars::{
    Context, Handlebars, Helper, HelperDef, RenderContext, RenderError, RenderErrorReason,
    ScopedJson,
};
use serde_json::Value;

/// All of them.
pub(super) const HELPERS: [&str; 11] = [
    "lookup", "eq", "ne", "gt", "gte", "lt", "lte", "and", "or", "not", "len",
];

/// Puts them in place.
pub(super) fn install(handlebars: &mut Handlebars<'static>) {
    // It writes values to the log of this process.
    handlebars.unregister_helper("log");
    handlebars.unregister_helper("raw");
    handlebars.register_helper("lookup", Box::new(Lookup));
}

/// `lookup variables "a name"`.
struct Lookup;

impl HelperDef for Lookup {
    fn call_inner<'reg: 'rc, 'rc>(
        &self,
        helper: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        context: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
    ) -> Result<ScopedJson<'rc>, RenderError> {
        let argument = |index| {
            let missing = RenderErrorReason::ParamNotFoundForIndex("lookup", index);
            let given = helper.param(index).filter(|it| !it.is_value_missing());
            given.ok_or(missing)
        };
        let (collection, key) = (argument(0)?, argument(1)?);
        let key = key.value().as_str().unwrap_or_default();
        let missing =
            || RenderError::from(RenderErrorReason::MissingVariable(Some(key.to_owned())));
        let Some(path) = collection.context_path() else {
            // Not a part of what the template may name, but made on the way, such as a literal.
            return Err(missing());
        };
        let step = |value: Option<&'rc Value>, name: &String| value?.get(name.as_str());
        let collection = path.iter().fold(Some(context.data()), step);
        let value = collection.and_then(|it| it.get(key)).ok_or_else(missing)?;
        let mut path = path.clone();
        path.push(key.to_owned());
        Ok(ScopedJson::Context(value, path))
    }
}

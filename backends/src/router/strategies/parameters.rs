//! Reads the parameters of a strategy, and finds those that it does not know.
//!
//! Owns where each value came from, so that a fault names the field that the caller can change. It
//! fails by adding to the request's faults.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use intellirouter_proto::intellirouter::model_registry::v1::RoutingStrategy;

use super::name;
use crate::faults::{Faults, entry};

/// See the module.
pub(crate) struct Parameters<'a> {
    given: BTreeMap<&'a str, Given<'a>>,
    faults: &'a mut Faults,
}

struct Given<'a> {
    value: &'a str,
    /// The map that it stands in.
    at: &'static str,
    taken: bool,
}

impl<'a> Parameters<'a> {
    /// No parameters yet.
    pub(crate) fn new(faults: &'a mut Faults) -> Self {
        let given = BTreeMap::new();
        Self { given, faults }
    }

    /// Adds the map in the field `at`. What was added before under the same name gives way.
    pub(crate) fn add(&mut self, at: &'static str, map: &'a HashMap<String, String>) {
        for (name, value) in map {
            let taken = false;
            self.given.insert(name, Given { value, at, taken });
        }
    }

    /// The value of a parameter, if it is given.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        let given = self.given.get_mut(name)?;
        given.taken = true;
        Some(given.value)
    }

    /// The names that begin with this.
    pub(super) fn names_from(&self, prefix: &str) -> Vec<&'a str> {
        let names = self.given.keys().copied();
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Records that a parameter does not hold what was expected.
    pub(super) fn fault(&mut self, name: &str, expected: impl Into<String>) {
        let at = self.given.get(name).map_or("parameters", |given| given.at);
        self.faults.add(entry(at, name), expected);
    }

    /// A whole number.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.take(name)?.parse().ok();
        let number = value.filter(|number| range.contains(number));
        if number.is_none() {
            let expected = format!(
                "expected a whole number, {} to {}",
                range.start(),
                range.end()
            );
            self.fault(name, expected);
        }
        number
    }

    /// Refuses what nobody has taken: it would be a setting without effect.
    pub(crate) fn finish(self, kind: RoutingStrategy) {
        let unknown = self.given.iter().filter(|(_, given)| !given.taken);
        for (key, given) in unknown {
            let expected = format!("the strategy {} has no such parameter", name(kind));
            self.faults.add(entry(given.at, key), expected);
        }
    }
}

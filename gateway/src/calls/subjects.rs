//! How each subject behaves, whatever its tokens and roles, and across reloads
//! of the configuration.
//!
//! It is found once per verified caller and then held by it and by its calls,
//! so a call costs no look-up. Bounds: one entry for each
//! subject that somebody holds; those that nobody holds any more are dropped
//! whenever the table has doubled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::layers::conduct::Conduct;

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Subjects(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// By issuer and subject.
    counters: HashMap<(Box<str>, Box<str>), Weak<Conduct>>,
    /// When to look for entries that nobody holds.
    tidy_at: usize,
}

const FIRST_TIDY: usize = 1024;

impl Subjects {
    /// The counter of a subject; the same for as long as anybody holds it.
    pub(crate) fn of(&self, issuer: &str, subject: &str) -> Arc<Conduct> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (issuer.into(), subject.into());
        if let Some(counter) = table.counters.get(&key).and_then(Weak::upgrade) {
            return counter;
        }
        if table.counters.len() >= table.tidy_at {
            table.counters.retain(|_, held| held.strong_count() > 0);
            table.tidy_at = (table.counters.len() * 2).max(FIRST_TIDY);
        }
        let counter = Arc::<Conduct>::default();
        table.counters.insert(key, Arc::downgrade(&counter));
        counter
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap().counters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_one_counter_while_anybody_holds_it() {
        let subjects = Subjects::default();
        let held = subjects.of("idp", "alice");
        assert!(Arc::ptr_eq(&held, &subjects.of("idp", "alice")));
        assert!(!Arc::ptr_eq(&held, &subjects.of("other", "alice")));
        assert!(!Arc::ptr_eq(&held, &subjects.of("idp", "bob")));
    }

    #[test]
    fn subjects_that_nobody_holds_are_forgotten() {
        let subjects = Subjects::default();
        let held = subjects.of("idp", "alice");
        for number in 0..50_000 {
            subjects.of("idp", &number.to_string());
        }
        assert!(subjects.len() <= FIRST_TIDY + 1, "{}", subjects.len());
        assert!(Arc::ptr_eq(&held, &subjects.of("idp", "alice")));
    }
}

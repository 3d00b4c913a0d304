//! How many tickets are out: a bound for what one caller, and all together, can have kept.
//!
//! Limits: of the tickets of the last 30 s at most 10,000 of this process, and 1,000 of one subject.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::tickets::TICKET_LIFE;
use crate::reply::Reply;

const MOST: usize = 10_000;
const MOST_OF_ONE: usize = 1_000;

/// See the module's comment.
#[derive(Default)]
pub(super) struct Issued {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    recent: VecDeque<(Instant, u64)>,
    of_one: HashMap<u64, usize>,
}

impl Issued {
    /// A subject of an issuer, as a number that tells nobody who it is.
    pub(super) fn owner(&self, issuer: &str, subject: &str) -> u64 {
        self.hasher.hash_one((issuer, subject))
    }

    /// Counts one more, or refuses it.
    pub(super) fn count(&self, owner: u64) -> Result<(), Reply> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { recent, of_one } = &mut *state;
        while let Some((_, gone)) = recent.pop_front_if(|(at, _)| now - *at >= TICKET_LIFE) {
            if let Some(count) = of_one.get_mut(&gone) {
                *count -= 1;
                if *count == 0 {
                    of_one.remove(&gone);
                }
            }
        }
        let own = of_one.get(&owner).copied().unwrap_or_default();
        if recent.len() >= MOST || own >= MOST_OF_ONE {
            let message = "too many tickets were given out";
            return Err(
                Reply::new(tonic::Code::ResourceExhausted, "too_many_tickets", message)
                    .retry_after(TICKET_LIFE),
            );
        }
        recent.push_back((now, owner));
        *of_one.entry(owner).or_default() += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_subject_takes_a_part_of_all_tickets_and_gets_it_back_with_time() {
        let issued = Issued::default();
        for _ in 0..MOST_OF_ONE {
            issued.count(1).unwrap();
        }
        let refused = issued.count(1).unwrap_err();
        assert_eq!(refused.retry_after, Some(TICKET_LIFE));
        issued.count(2).unwrap();
        tokio::time::advance(TICKET_LIFE).await;
        issued.count(1).unwrap();
        assert_eq!(issued.state.lock().unwrap().recent.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn all_subjects_together_have_a_bound_too() {
        let issued = Issued::default();
        for n in 0..MOST {
            issued.count(n as u64).unwrap();
        }
        assert!(issued.count(u64::MAX).is_err());
    }
}

//! The model with the fewest calls in progress; of equals, each in turn.

use super::{Asked, Pick, Strategy, least};
use crate::router::candidate::Candidate;

#[derive(Debug)]
pub(super) struct LoadBalanced;

impl Strategy for LoadBalanced {
    fn pick(&self, pool: &[Candidate], _asked: &Asked) -> Option<Pick> {
        let index = least(pool, |candidate| Some(candidate.load.in_flight()))?;
        let calls = pool[index].load.in_flight();
        let why = format!(
            "load balanced: {calls} calls in progress, the fewest of {}",
            pool.len()
        );
        Some(Pick { index, why })
    }
}

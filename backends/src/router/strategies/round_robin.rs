//! Each in turn: the model that was picked longest ago, by whichever strategy.
//!
//! The turn belongs to the model, not to the list: requests with different filters, each with a
//! list of its own, together still give every model its turn.

use super::{Asked, Pick, Strategy, least};
use crate::router::candidate::Candidate;

#[derive(Debug)]
pub(super) struct RoundRobin;

impl Strategy for RoundRobin {
    fn pick(&self, pool: &[Candidate], _asked: &Asked) -> Option<Pick> {
        let index = least(pool, |_| Some(()))?;
        let why = format!("round robin: its turn among {}", pool.len());
        Some(Pick { index, why })
    }
}

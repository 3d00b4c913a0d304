//! A model drawn at random, by the weights that the operator or the caller gives.
//!
//! The parameter `weights` names models and their weights: `model-a=3, model-b=1`. A model that it
//! does not name, or names with 0, is not drawn. Without the parameter all weigh the same.

use std::collections::BTreeMap;

use super::{Asked, Parameters, Pick, Strategy};
use crate::router::candidate::Candidate;
use crate::router::limits::WEIGHT;

const WEIGHTS: &str = "weights";

#[derive(Debug)]
pub(super) struct Custom {
    /// `None`: all the same.
    weights: Option<BTreeMap<String, u32>>,
}

impl Custom {
    pub(super) fn read(parameters: &mut Parameters<'_>) -> Self {
        let text = parameters.take(WEIGHTS);
        let weights = text.and_then(|text| match parse(text) {
            Ok(weights) => Some(weights),
            Err(expected) => {
                parameters.fault(WEIGHTS, expected);
                None
            }
        });
        Self { weights }
    }

    fn weight(&self, candidate: &Candidate) -> u64 {
        match &self.weights {
            None => 1,
            Some(weights) => u64::from(weights.get(&candidate.model.id).copied().unwrap_or(0)),
        }
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, u32>, String> {
    let mut weights = BTreeMap::new();
    for (place, entry) in (1..).zip(text.split(',')) {
        let parts = entry.split_once('=');
        let parts = parts.map(|(id, weight)| (id.trim(), weight.trim().parse().ok()));
        let Some((id, Some(weight @ 0..=WEIGHT))) = parts else {
            return Err(format!(
                "entry {place}: expected <model id>=<weight>, with a whole number up to {WEIGHT}"
            ));
        };
        if weights.insert(id.to_owned(), weight).is_some() {
            return Err(format!("entry {place}: this model is named before"));
        }
    }
    if weights.values().all(|weight| *weight == 0) {
        return Err("expected at least one weight above 0".to_owned());
    }
    Ok(weights)
}

impl Strategy for Custom {
    fn pick(&self, pool: &[Candidate], asked: &Asked) -> Option<Pick> {
        let total: u64 = pool.iter().map(|candidate| self.weight(candidate)).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = (asked.dice)(total);
        let index = pool.iter().position(|candidate| {
            let weight = self.weight(candidate);
            let hit = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            hit
        })?;
        let weight = self.weight(&pool[index]);
        let why = format!("custom: drawn with weight {weight} of {total}");
        Some(Pick { index, why })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{asked, pool};
    use super::*;

    fn drawn(custom: &Custom, dice: fn(u64) -> u64) -> Option<usize> {
        let asked = Asked { dice, ..asked() };
        let pick = custom.pick(&pool(["a", "b", "c"]), &asked);
        pick.map(|pick| pick.index)
    }

    fn weighted(text: &str) -> Custom {
        Custom {
            weights: Some(parse(text).unwrap()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_model_has_as_many_numbers_as_its_weight() {
        let custom = weighted("c=1, a = 3");
        let dice: [fn(u64) -> u64; 4] = [|_| 0, |_| 1, |_| 2, |_| 3];
        let drawn = dice.map(|dice| drawn(&custom, dice));
        assert_eq!(drawn, [Some(0), Some(0), Some(0), Some(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_dice_are_thrown_for_the_sum_of_the_weights_that_are_there() {
        let custom = weighted("c=1,a=3,elsewhere=1000");
        let last = |total| {
            assert_eq!(total, 4);
            total - 1
        };
        assert_eq!(drawn(&custom, last), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_weighs_nothing_is_never_drawn() {
        assert_eq!(drawn(&weighted("elsewhere=1, a=0"), |_| 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_weights_all_weigh_the_same() {
        let all = Custom { weights: None };
        assert_eq!(drawn(&all, |_| 0), Some(0));
        assert_eq!(drawn(&all, |total| total - 1), Some(2));
    }

    #[test]
    fn a_list_of_weights_that_says_nothing_clear_is_refused_with_the_place() {
        for (text, told) in [
            ("", "entry 1"),
            ("a=1,", "entry 2"),
            ("a", "entry 1"),
            ("a=1,b=-1", "entry 2"),
            ("a=1000001", "entry 1"),
            ("a=1,b=2,a=3", "entry 3"),
            ("a=0", "above 0"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}

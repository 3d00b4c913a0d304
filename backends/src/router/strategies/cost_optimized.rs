//! The model with the lowest estimated cost; of equals, each in turn.
//!
//! The estimate: prompt tokens by the price of input, plus `max_tokens` (else the parameter
//! `expected_output_tokens`) for each answer by the price of output. A model without prices counts
//! as free.

use intellirouter_proto::intellirouter::model_registry::v1::ModelMetadata;

use super::{Asked, Parameters, Pick, Strategy, least};
use crate::router::candidate::Candidate;

const EXPECTED_OUTPUT_TOKENS: &str = "expected_output_tokens";
const DEFAULT_OUTPUT_TOKENS: u32 = 256;

#[derive(Debug)]
pub(super) struct CostOptimized {
    expected_output_tokens: u32,
}

impl CostOptimized {
    pub(super) fn read(parameters: &mut Parameters<'_>) -> Self {
        let expected = parameters.number(EXPECTED_OUTPUT_TOKENS, 1..=1_000_000);
        Self {
            expected_output_tokens: expected.unwrap_or(DEFAULT_OUTPUT_TOKENS),
        }
    }

    /// In US dollars.
    fn estimate(&self, model: &ModelMetadata, asked: &Asked) -> f64 {
        let output = match asked.max_tokens {
            0 => self.expected_output_tokens,
            said => said,
        };
        let output = f64::from(output) * f64::from(asked.answers);
        let input = f64::from(asked.prompt_tokens);
        let per_1k = |tokens: f64, price: f32| tokens / 1000.0 * f64::from(price);
        let cost =
            per_1k(input, model.cost_per_1k_input) + per_1k(output, model.cost_per_1k_output);
        // A price of -0.0 is 0; added to 0.0, it loses its sign.
        cost + 0.0
    }
}

impl Strategy for CostOptimized {
    fn pick(&self, pool: &[Candidate], asked: &Asked) -> Option<Pick> {
        let cost = |candidate: &Candidate| self.estimate(&candidate.model, asked);
        // Prices are finite and not negative, and the bits of such numbers are in their order.
        let index = least(pool, |candidate| Some(cost(candidate).to_bits()))?;
        let why = format!(
            "cost optimized: an estimated {:.6} USD, the lowest of {}",
            cost(&pool[index]),
            pool.len()
        );
        Some(Pick { index, why })
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{asked, priced};
    use super::*;

    const STRATEGY: CostOptimized = CostOptimized {
        expected_output_tokens: DEFAULT_OUTPUT_TOKENS,
    };

    #[tokio::test(start_paused = true)]
    async fn the_estimate_is_input_and_output_at_their_prices() {
        let asked = Asked {
            prompt_tokens: 500,
            max_tokens: 2000,
            answers: 3,
            ..asked()
        };
        let model = priced("m", 0.5, 0.25).model;
        assert_eq!(STRATEGY.estimate(&model, &asked), 0.25 + 3.0 * 0.5);
    }

    #[tokio::test(start_paused = true)]
    async fn which_is_cheapest_depends_on_how_much_goes_in_and_comes_out() {
        let pool = [priced("in", 0.1, 4.0), priced("out", 2.0, 0.1)];
        let long_prompt = Asked {
            prompt_tokens: 10_000,
            max_tokens: 10,
            ..asked()
        };
        let long_answer = Asked {
            prompt_tokens: 10,
            max_tokens: 10_000,
            ..asked()
        };
        assert_eq!(STRATEGY.pick(&pool, &long_prompt).unwrap().index, 0);
        assert_eq!(STRATEGY.pick(&pool, &long_answer).unwrap().index, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_price_of_minus_zero_is_no_price() {
        let pool = [priced("a", 5.0, 5.0), priced("b", -0.0, -0.0)];
        assert_eq!(STRATEGY.pick(&pool, &asked()).unwrap().index, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_max_tokens_the_expected_output_counts() {
        let pool = [priced("in", 0.1, 1.0), priced("out", 1.0, 0.1)];
        let asked = Asked {
            prompt_tokens: 100,
            ..asked()
        };
        assert_eq!(STRATEGY.pick(&pool, &asked).unwrap().index, 1);
        let few = CostOptimized {
            expected_output_tokens: 10,
        };
        assert_eq!(few.pick(&pool, &asked).unwrap().index, 0);
    }
}

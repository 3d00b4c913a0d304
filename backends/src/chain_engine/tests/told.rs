//! What other services and operators hear.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::double::TOKENS;
use super::*;
use crate::chain_engine::limits::EVENT_OUTPUT_BYTES;

#[tokio::test]
async fn every_step_and_the_end_go_out_as_events_in_order() {
    let mut bench = Bench::new().await;
    let steps = [step("a", "echoes", ""), step("b", "echoes", "")];
    let response = bench.execute(to_run(chain(steps), "in")).await.unwrap();
    let events = bench.all_heard(3).await;
    let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "chain_step_completed",
            "chain_step_completed",
            "chain_execution_completed"
        ]
    );
    for (_, event) in &events {
        assert_eq!(event["execution_id"], response.execution_id);
        assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
    }
    let step = &events[1].1;
    assert_eq!(
        (step["step_id"].as_str(), step["step_index"].as_u64()),
        (Some("b"), Some(1))
    );
    assert_eq!(
        (step["output"].as_str(), step["tokens"].as_u64()),
        (Some("((in))"), Some(TOKENS.into()))
    );
    let end = &events[2].1;
    assert_eq!(end["output"], "((in))");
    assert_eq!(end["total_tokens"], 2 * TOKENS);
    assert!(end["execution_time_ms"].is_u64());
}

#[tokio::test]
async fn an_execution_that_fails_goes_out_with_its_error() {
    let mut bench = Bench::new().await;
    bench.execute(one("refuses")).await.unwrap();
    let (kind, event) = bench.heard().await;
    assert_eq!(kind, "chain_execution_failed");
    assert_eq!(event["error"]["code"], "ROUTER_FAILED");
    assert_eq!(event["error"]["message"], "no such model");
    assert_eq!(event["error"]["details"]["grpc_code"], "NotFound");
}

#[tokio::test]
async fn a_long_output_is_cut_in_events_and_its_length_told() {
    let mut bench = Bench::new().await;
    let response = bench.execute(one("gives_700_kib")).await.unwrap();
    assert_eq!(response.output.len(), 700 << 10);
    for (_, event) in bench.all_heard(2).await {
        assert_eq!(event["output"].as_str().unwrap().len(), EVENT_OUTPUT_BYTES);
        assert_eq!(event["metadata"]["output_bytes"], (700 << 10).to_string());
    }
}

#[tokio::test]
async fn operators_see_executions_steps_and_tokens() {
    let mut bench = Bench::new().await;
    let mut registry = Registry::with_prefix("intellirouter");
    bench.engine.register(&mut registry);
    let steps = [step("a", "echoes", ""), step("b", "echoes", "")];
    bench.execute(to_run(chain(steps), "in")).await.unwrap();
    bench.execute(one("refuses")).await.unwrap();
    let _running = bench.stream(one("stalls")).await;
    bench.router.has_open(1).await;
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        "intellirouter_chain_executions_total{outcome=\"success\"} 1",
        "intellirouter_chain_executions_total{outcome=\"error\"} 1",
        "intellirouter_chain_steps_total{outcome=\"success\"} 2",
        "intellirouter_chain_steps_total{outcome=\"error\"} 1",
        "intellirouter_chain_tokens_total 14",
        "intellirouter_chain_execution_seconds_count 2",
        "intellirouter_chain_executions_running 1",
        "intellirouter_chain_executions_refused_total 0",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

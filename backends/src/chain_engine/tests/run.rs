//! What an execution gives.

use std::collections::HashMap;

use intellirouter_proto::intellirouter::common::v1::{Message, RequestContext};

use super::double::TOKENS;
use super::*;
use crate::chain_engine::limits::EXECUTION_BYTES;

fn three() -> Chain {
    chain([
        step("a", "echoes", "{{variables.tone}}: {{input}}"),
        step("b", "echoes", "{{previous}}!"),
        step(
            "c",
            "echoes",
            "{{steps.a.output}} and {{steps.b.output}} by {{steps.a.model}}",
        ),
    ])
}

fn toned(input: &str) -> ChainExecutionRequest {
    ChainExecutionRequest {
        variables: [("tone".to_owned(), "kind".to_owned())].into(),
        ..to_run(three(), input)
    }
}

#[tokio::test]
async fn three_steps_feed_each_other() {
    let mut bench = Bench::new().await;
    let response = bench.execute(toned("hi")).await.unwrap();
    assert_eq!(response.status(), Ended::Success);
    assert_eq!(response.error, None);
    assert_eq!(response.output, "((kind: hi) and ((kind: hi)!) by picked)");
    assert_eq!(response.total_tokens, 3 * TOKENS);
    assert!(response.start_time.unwrap().seconds > 0);
    assert!(!response.execution_id.is_empty());

    let steps = &response.step_results;
    let ids: Vec<_> = steps.iter().map(|step| step.step_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(steps[1].input, "(kind: hi)!");
    assert_eq!(steps[1].output, "((kind: hi)!)");
    for step in steps {
        assert_eq!(step.status(), Ended::Success);
        assert_eq!((step.tokens, step.model.as_str()), (TOKENS, "picked"));
        assert!(step.start_time.is_some() && step.end_time.is_some());
        let metadata = step.metadata.as_ref().unwrap();
        assert_eq!(metadata.values["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn two_inputs_give_two_outputs() {
    let mut bench = Bench::new().await;
    let first = bench.execute(toned("hi")).await.unwrap();
    let second = bench.execute(toned("bye")).await.unwrap();
    assert_ne!(first.output, second.output);
    assert_ne!(first.execution_id, second.execution_id);
}

#[tokio::test]
async fn the_router_is_asked_for_what_the_step_says() {
    let mut bench = Bench::new().await;
    let parameters: HashMap<_, _> = [("top_k".to_owned(), "5".to_owned())].into();
    let full = ChainStep {
        system_prompt: "Be brief.".to_owned(),
        max_tokens: 64,
        temperature: 0.5,
        parameters: parameters.clone(),
        ..step("only", "echoes", "<{{input}}>")
    };
    let mut request = to_run(chain([full]), "hi");
    request.timeout_seconds = 20;
    request.context = Some(RequestContext {
        org_id: "acme".to_owned(),
        user_id: "whoever it says".to_owned(),
        ..Default::default()
    });
    let request = called_by("ada user", request);
    let response = bench
        .client
        .execute_chain(request)
        .await
        .unwrap()
        .into_inner();

    let asked = bench.router.asked().remove(0);
    let context = asked.context.unwrap();
    assert_eq!(
        context.request_id,
        format!("{}/only", response.execution_id)
    );
    assert_eq!(
        (context.user_id.as_str(), context.org_id.as_str()),
        ("ada", "acme")
    );
    let completion = asked.request.unwrap();
    assert_eq!(completion.model, "echoes");
    assert_eq!((completion.max_tokens, completion.temperature), (64, 0.5));
    assert_eq!(completion.additional_parameters, parameters);
    assert_eq!(completion.user, "ada");
    assert!(completion.stream);
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Default::default()
    };
    assert_eq!(
        completion.messages,
        [message("system", "Be brief."), message("user", "<hi>")]
    );
    let left = asked.routing.unwrap().timeout_ms;
    assert!((15_000..=20_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_stream_tells_every_step_and_ends_after_its_last_event() {
    let mut bench = Bench::new().await;
    let mut stream = bench.stream(toned("hi")).await;
    let events = rest(&mut stream).await;
    let kinds: Vec<_> = events.iter().map(|event| event.r#type()).collect();
    use pb::EventType as T;
    let a_step = [
        T::StepStarted,
        T::TokenGenerated,
        T::TokenGenerated,
        T::StepCompleted,
    ];
    let expected = [&a_step[..], &a_step, &a_step, &[T::ChainCompleted]].concat();
    assert_eq!(kinds, expected);
    let id = &events[0].execution_id;
    for event in &events {
        assert_eq!(&event.execution_id, id);
        assert!(event.timestamp.is_some());
    }
    let data = |index: usize| events[index].data.clone().unwrap();
    let Data::StepStarted(started) = data(4) else {
        panic!()
    };
    assert_eq!((started.step_id.as_str(), started.step_index), ("b", 1));
    assert_eq!(started.input, "(kind: hi)!");
    let (Data::TokenGenerated(one), Data::TokenGenerated(two)) = (data(5), data(6)) else {
        panic!()
    };
    assert_eq!(one.step_id, "b");
    assert_eq!(one.token + &two.token, "((kind: hi)!)");
    let Data::StepCompleted(completed) = data(7) else {
        panic!()
    };
    assert_eq!((completed.step_index, completed.tokens), (1, TOKENS));
    assert_eq!(completed.output, "((kind: hi)!)");
    let Data::ChainCompleted(completed) = data(12) else {
        panic!()
    };
    assert_eq!(completed.output, "((kind: hi) and ((kind: hi)!) by picked)");
    assert_eq!(completed.total_tokens, 3 * TOKENS);
}

#[tokio::test]
async fn tokens_come_before_their_step_is_over() {
    let mut bench = Bench::new().await;
    let mut stream = bench.stream(one("stalls")).await;
    assert!(matches!(next(&mut stream).await, Data::StepStarted(_)));
    let Data::TokenGenerated(token) = next(&mut stream).await else {
        panic!()
    };
    assert_eq!(token.token, "first ");
    bench.router.has_open(1).await;
}

#[tokio::test]
async fn a_step_that_fails_ends_the_execution_and_says_why() {
    let mut bench = Bench::new().await;
    for (model, code, message) in [
        ("refuses", "ROUTER_FAILED", "no such model"),
        (
            "cannot_be_reached",
            "ROUTER_FAILED",
            "the router can't be reached",
        ),
        ("breaks", "ROUTER_FAILED", "the model broke"),
        ("cuts", "ROUTER_FAILED", "before it was whole"),
        ("fails_in_band", "ROUTER_FAILED", "no model answers"),
        ("floods", "TOO_LARGE", "output"),
        ("panics", "INTERNAL", "internal"),
    ] {
        let steps = [
            step("a", "echoes", ""),
            step("b", model, ""),
            step("c", "echoes", ""),
        ];
        let before = bench.router.asked().len();
        let response = bench.execute(to_run(chain(steps), "in")).await.unwrap();
        let said = failed(&response, Ended::Error, code);
        assert!(said.contains(message), "{model}: {said}");
        assert_eq!(response.output, "", "{model}");
        assert_eq!(response.step_results.len(), 2, "{model}");
        let broken = &response.step_results[1];
        assert_eq!(
            (broken.status(), broken.input.as_str()),
            (Ended::Error, "(in)")
        );
        assert_eq!(broken.error, response.error);
        assert_eq!(bench.router.asked().len(), before + 2, "{model}");
    }
    // One that failed harms no other.
    assert_eq!(bench.execute(one("echoes")).await.unwrap().output, "(in)");
}

#[tokio::test]
async fn the_code_of_the_routers_error_is_told() {
    let mut bench = Bench::new().await;
    for (model, name, code) in [
        ("refuses", "grpc_code", "NotFound"),
        ("fails_in_band", "router_code", "ALL_DOWN"),
    ] {
        let response = bench.execute(one(model)).await.unwrap();
        let details = response.error.unwrap().details.unwrap();
        let kind = details.fields[name].kind.clone().unwrap();
        assert_eq!(kind, prost_types::value::Kind::StringValue(code.to_owned()));
    }
}

#[tokio::test]
async fn a_stream_tells_which_step_failed() {
    let mut bench = Bench::new().await;
    let steps = [step("a", "echoes", ""), step("b", "refuses", "")];
    let mut stream = bench.stream(to_run(chain(steps), "in")).await;
    let mut events = rest(&mut stream).await;
    let Some(Data::ChainFailed(chain)) = events.pop().unwrap().data else {
        panic!()
    };
    let Some(Data::StepFailed(step)) = events.pop().unwrap().data else {
        panic!()
    };
    assert_eq!((step.step_id.as_str(), step.step_index), ("b", 1));
    assert_eq!(step.error, chain.error);
    assert_eq!(chain.error.unwrap().code, "ROUTER_FAILED");
}

#[tokio::test]
async fn an_output_that_should_be_json_and_is_not_fails_its_step() {
    let mut bench = Bench::new().await;
    let json = |model: &str| ChainStep {
        output_format: "json".to_owned(),
        ..step("only", model, "")
    };
    let response = bench
        .execute(to_run(chain([json("gives_json")]), ""))
        .await
        .unwrap();
    assert_eq!(response.output, "{\"a\": [1]}");
    for model in ["echoes", "gives_nothing"] {
        let response = bench
            .execute(to_run(chain([json(model)]), "hi"))
            .await
            .unwrap();
        failed(&response, Ended::Error, "OUTPUT_NOT_JSON");
    }
}

#[tokio::test]
async fn a_name_that_is_not_known_when_its_step_comes_fails_the_step() {
    let mut bench = Bench::new().await;
    let steps = [
        step("a", "echoes", ""),
        step("b", "echoes", "{{variables.none}}"),
    ];
    let response = bench.execute(to_run(chain(steps), "in")).await.unwrap();
    let message = failed(&response, Ended::Error, "TEMPLATE");
    assert!(
        message.contains("line 1, column 1: variables.none"),
        "{message}"
    );
    assert_eq!(bench.router.asked().len(), 1);
}

#[tokio::test]
async fn all_inputs_and_outputs_together_are_bounded_so_that_an_answer_fits() {
    let mut bench = Bench::new().await;
    let small = |id: &str| step(id, "gives_700_kib", "go");
    let steps = [small("a"), small("b"), small("c"), small("d")];
    let response = bench.execute(to_run(chain(steps), "")).await.unwrap();
    failed(&response, Ended::Error, "TOO_LARGE");
    assert_eq!(response.step_results.len(), 4);
    let kept: usize = response
        .step_results
        .iter()
        .map(|step| step.output.len())
        .sum();
    assert!(kept <= EXECUTION_BYTES);

    let steps = [small("a"), small("b"), small("c")];
    let response = bench.execute(to_run(chain(steps), "")).await.unwrap();
    assert_eq!(response.status(), Ended::Success);
}

//! Requests that are refused before anything runs.

use intellirouter_proto::intellirouter::common::v1::RequestContext;

use super::*;

/// The fields that are named, for a change to a good request.
async fn fields(change: impl FnOnce(&mut ChainExecutionRequest)) -> Vec<String> {
    let mut bench = Bench::new().await;
    let mut request = one("echoes");
    change(&mut request);
    let status = bench.execute(request.clone()).await.unwrap_err();
    let named = faulty_fields(&status);
    let status = bench
        .client
        .stream_chain_execution(request)
        .await
        .unwrap_err();
    assert_eq!(faulty_fields(&status), named);
    assert!(bench.router.asked().is_empty());
    assert_eq!(bench.sql::<u32>("SELECT COUNT(*) FROM executions"), 0);
    named
}

/// The same, for a change to its chain.
async fn chain_fields(change: impl FnOnce(&mut Chain)) -> Vec<String> {
    fields(|request| {
        let Some(ChainIdentifier::Chain(chain)) = &mut request.chain_identifier else {
            panic!()
        };
        change(chain);
    })
    .await
}

#[tokio::test]
async fn a_request_without_a_chain_is_refused() {
    assert_eq!(
        fields(|request| request.chain_identifier = None).await,
        ["chain"]
    );
    assert_eq!(fields(|request| *request = by_id("")).await, ["chain_id"]);
    assert_eq!(
        chain_fields(|chain| chain.steps.clear()).await,
        ["chain.steps"]
    );
}

#[tokio::test]
async fn an_unknown_chain_is_not_found() {
    let mut bench = Bench::new().await;
    let status = bench.execute(by_id("none")).await.unwrap_err();
    assert_unknown(&status, "Chain", "none");
}

#[tokio::test]
async fn what_is_too_much_of_a_request_is_named() {
    let named = fields(|request| {
        request.input = "x".repeat((256 << 10) + 1);
        request.timeout_seconds = 3601;
        request
            .variables
            .insert("v".to_owned(), "x".repeat((64 << 10) + 1));
        request.context = Some(RequestContext {
            user_id: "x".repeat(257),
            tags: vec![String::new()],
            ..Default::default()
        });
    });
    assert_eq!(
        named.await,
        [
            "context.user_id",
            "context.tags[0]",
            "input",
            "variables[\"v\"]",
            "timeout_seconds"
        ]
    );
    let many = fields(|request| {
        request.variables = (0..65).map(|n| (n.to_string(), String::new())).collect();
    });
    assert_eq!(many.await, ["variables"]);
    let large = fields(|request| {
        request.variables = (0..9)
            .map(|n| (n.to_string(), "x".repeat(64 << 10)))
            .collect();
    });
    assert_eq!(large.await, ["variables"]);
    let nameless = fields(|request| {
        request.variables.insert(String::new(), String::new());
    });
    assert_eq!(nameless.await, ["variables"]);
}

#[tokio::test]
async fn every_bad_field_of_a_chain_is_named() {
    let named = chain_fields(|chain| {
        chain.id = "a b".to_owned();
        chain.name = "x".repeat(257);
        chain.description = "x".repeat(4097);
        chain.steps = vec![
            ChainStep {
                description: "x".repeat(4097),
                output_format: "yaml".to_owned(),
                temperature: f32::NAN,
                ..step("", &"x".repeat(257), &"x".repeat((16 << 10) + 1))
            },
            ChainStep {
                system_prompt: "x".repeat((64 << 10) + 1),
                ..step("b", "", "")
            },
        ];
    });
    assert_eq!(
        named.await,
        [
            "chain.id",
            "chain.name",
            "chain.description",
            "chain.steps[0].id",
            "chain.steps[0].description",
            "chain.steps[0].model",
            "chain.steps[0].input_template",
            "chain.steps[0].output_format",
            "chain.steps[0].temperature",
            "chain.steps[1].system_prompt",
        ]
    );
}

#[tokio::test]
async fn a_step_that_the_router_would_never_take_is_refused_with_the_callers_own_fields() {
    let odd = |step: &mut ChainStep| {
        step.model = "gpt 4 turbo!".to_owned();
        for name in ["messages", "n", "stream", "top_k"] {
            step.parameters.insert(name.to_owned(), "1".to_owned());
        }
    };
    let expected = [
        "chain.steps[0].model",
        "chain.steps[0].parameters[\"messages\"]",
        "chain.steps[0].parameters[\"stream\"]",
        "chain.steps[0].parameters[\"n\"]",
    ];
    assert_eq!(
        chain_fields(|chain| odd(&mut chain.steps[0])).await,
        expected
    );
    let mut bench = Bench::new().await;
    let mut odd_chain = Chain {
        id: "odd".to_owned(),
        ..chain([step("a", "", "")])
    };
    odd(&mut odd_chain.steps[0]);
    let put = pb::PutChainRequest {
        chain: Some(odd_chain),
        ..Default::default()
    };
    let status = bench.store.put_chain(put).await.unwrap_err();
    assert_eq!(faulty_fields(&status), expected);
}

#[tokio::test]
async fn a_caller_with_a_long_name_can_run_chains() {
    let mut bench = Bench::new().await;
    let request = called_by(&format!("{} user", "x".repeat(300)), one("echoes"));
    let ran = bench.client.execute_chain(request).await.unwrap();
    assert_eq!(ran.into_inner().status(), Ended::Success);
    let asked = bench.router.asked().remove(0);
    assert_eq!(asked.context.unwrap().user_id, "x".repeat(256));
    assert_eq!(asked.request.unwrap().user, "x".repeat(256));
}

#[tokio::test]
async fn ids_of_steps_are_their_own() {
    for id in ["", "a.b", "ü", &"x".repeat(65)] {
        let named = chain_fields(|chain| chain.steps[0].id = id.to_owned()).await;
        assert_eq!(named, ["chain.steps[0].id"], "{id}");
    }
    let twice = chain_fields(|chain| chain.steps.push(chain.steps[0].clone())).await;
    assert_eq!(twice, ["chain.steps[1].id"]);
}

#[tokio::test]
async fn numbers_and_sizes_of_chains_are_bounded() {
    let steps = |n: usize| {
        (0..n)
            .map(|n| step(&n.to_string(), "", ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        chain_fields(|chain| chain.steps = steps(65)).await,
        ["chain.steps"]
    );
    let large = chain_fields(|chain| {
        chain.steps = steps(20);
        for step in &mut chain.steps {
            step.system_prompt = "x".repeat(64 << 10);
        }
    });
    assert_eq!(large.await, ["chain"]);
    for (temperature, good) in [(-0.1, false), (2.1, false), (0.0, true), (2.0, true)] {
        let mut bench = Bench::new().await;
        let only = ChainStep {
            temperature,
            ..step("only", "", "")
        };
        let ran = bench.execute(to_run(chain([only]), "")).await;
        assert_eq!(ran.is_ok(), good, "{temperature}");
    }
}

#[tokio::test]
async fn a_template_that_cannot_be_read_is_refused_with_its_place() {
    let mut bench = Bench::new().await;
    let steps = [step("a", "", ""), step("b", "", "one\n  {{input")];
    let status = bench.execute(to_run(chain(steps), "")).await.unwrap_err();
    assert_eq!(faulty_fields(&status), ["chain.steps[1].input_template"]);
    assert!(status.message().contains("line 2, column 10"), "{status:?}");
    let hostile = chain_fields(|chain| chain.steps[0].input_template = "{{#if a}}".repeat(1500));
    assert_eq!(hostile.await, ["chain.steps[0].input_template"]);
}

#[tokio::test]
async fn an_execution_without_an_id_cannot_be_asked_for() {
    let mut bench = Bench::new().await;
    for id in ["", &"x".repeat(65)] {
        assert_eq!(
            faulty_fields(&bench.status(id).await.unwrap_err()),
            ["execution_id"]
        );
        assert_eq!(
            faulty_fields(&bench.cancel(id).await.unwrap_err()),
            ["execution_id"]
        );
    }
    assert_unknown(
        &bench.status("none").await.unwrap_err(),
        "Execution",
        "none",
    );
}

//! Chains that are stored.

use super::*;

fn named(id: &str) -> Chain {
    Chain {
        id: id.to_owned(),
        name: "A chain".to_owned(),
        ..chain([step("a", "echoes", "{{input}}")])
    }
}

async fn put(bench: &mut Bench, chain: Chain) -> Result<pb::PutChainResponse, Status> {
    let request = pb::PutChainRequest {
        chain: Some(chain),
        ..Default::default()
    };
    Ok(bench.store.put_chain(request).await?.into_inner())
}

async fn get(bench: &mut Bench, id: &str) -> Result<Chain, Status> {
    let chain_id = id.to_owned();
    let request = pb::GetChainRequest {
        context: None,
        chain_id,
    };
    let response = bench.store.get_chain(request).await?.into_inner();
    assert_eq!(response.status(), Ended::Success);
    Ok(response.chain.unwrap())
}

async fn delete(bench: &mut Bench, id: &str) -> Result<Chain, Status> {
    let chain_id = id.to_owned();
    let request = pb::DeleteChainRequest {
        context: None,
        chain_id,
    };
    Ok(bench
        .store
        .delete_chain(request)
        .await?
        .into_inner()
        .chain
        .unwrap())
}

async fn list(bench: &mut Bench, after: &str, limit: u32) -> (Vec<String>, bool) {
    let request = pb::ListChainsRequest {
        context: None,
        limit,
        after_id: after.to_owned(),
    };
    let page = bench.store.list_chains(request).await.unwrap().into_inner();
    (
        page.chains.into_iter().map(|chain| chain.id).collect(),
        page.more,
    )
}

#[tokio::test]
async fn a_stored_chain_can_be_read_run_replaced_and_deleted() {
    let mut bench = Bench::new().await;
    let stored = put(&mut bench, named("greet/v1")).await.unwrap();
    assert!(stored.created);
    assert_eq!(stored.chain.unwrap(), named("greet/v1"));
    assert_eq!(
        get(&mut bench, "greet/v1").await.unwrap(),
        named("greet/v1")
    );

    let mut request = by_id("greet/v1");
    request.input = "hi".to_owned();
    let response = bench.execute(request.clone()).await.unwrap();
    assert_eq!(response.output, "(hi)");
    assert_eq!(response.metadata.unwrap().values["chain_id"], "greet/v1");

    let mut changed = named("greet/v1");
    changed.steps[0].input_template = "<{{input}}>".to_owned();
    assert!(!put(&mut bench, changed.clone()).await.unwrap().created);
    assert_eq!(
        bench.execute(request.clone()).await.unwrap().output,
        "(<hi>)"
    );

    assert_eq!(delete(&mut bench, "greet/v1").await.unwrap(), changed);
    for status in [
        get(&mut bench, "greet/v1").await.unwrap_err(),
        delete(&mut bench, "greet/v1").await.unwrap_err(),
        bench.execute(request).await.unwrap_err(),
    ] {
        assert_unknown(&status, "Chain", "greet/v1");
    }
}

#[tokio::test]
async fn a_deleted_chain_runs_on() {
    let mut bench = Bench::new().await;
    let mut waiting = named("c");
    waiting.steps.insert(0, step("w", "waits", ""));
    put(&mut bench, waiting).await.unwrap();
    let mut stream = bench.stream(by_id("c")).await;
    bench.router.has_open(1).await;
    delete(&mut bench, "c").await.unwrap();
    bench.router.gate.add_permits(1);
    let last = rest(&mut stream).await.pop().unwrap();
    assert!(matches!(last.data, Some(Data::ChainCompleted(_))));
}

#[tokio::test]
async fn stored_chains_survive_the_process() {
    let mut bench = Bench::new().await;
    put(&mut bench, named("kept")).await.unwrap();
    let mut later = Bench::on(image(&bench), ChainEngineSettings::default()).await;
    assert_eq!(get(&mut later, "kept").await.unwrap(), named("kept"));
}

#[tokio::test]
async fn chains_are_listed_by_id_a_page_at_a_time() {
    let mut bench = Bench::new().await;
    for id in ["c", "a", "b"] {
        put(&mut bench, named(id)).await.unwrap();
    }
    let page = |ids: &[&str], more| {
        (
            ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>(),
            more,
        )
    };
    assert_eq!(list(&mut bench, "", 0).await, page(&["a", "b", "c"], false));
    assert_eq!(list(&mut bench, "", 2).await, page(&["a", "b"], true));
    assert_eq!(list(&mut bench, "b", 2).await, page(&["c"], false));
    assert_eq!(list(&mut bench, "c", 2).await, page(&[], false));
}

#[tokio::test]
async fn a_page_ends_before_it_is_too_large_for_a_client() {
    let mut bench = Bench::new().await;
    let large = |id: &str| {
        let mut chain = named(id);
        chain.steps[0].system_prompt = "x".repeat(64 << 10);
        let one = chain.steps[0].clone();
        chain.steps = (0..15)
            .map(|index| ChainStep {
                id: index.to_string(),
                ..one.clone()
            })
            .collect();
        chain
    };
    for id in ["a", "b", "c", "d", "e"] {
        put(&mut bench, large(id)).await.unwrap();
    }
    let (ids, more) = list(&mut bench, "", 0).await;
    assert_eq!((ids.len(), more), (3, true));
    let (ids, more) = list(&mut bench, "c", 0).await;
    assert_eq!((ids.len(), more), (2, false));
}

#[tokio::test]
async fn the_number_of_chains_is_bounded() {
    let settings = ChainEngineSettings {
        max_chains: 2,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    put(&mut bench, named("a")).await.unwrap();
    put(&mut bench, named("b")).await.unwrap();
    let status = put(&mut bench, named("c")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "chain_engine"
    );
    // What is there can be replaced, and one that goes makes room.
    assert!(!put(&mut bench, named("b")).await.unwrap().created);
    delete(&mut bench, "a").await.unwrap();
    put(&mut bench, named("c")).await.unwrap();
}

#[tokio::test]
async fn the_chains_together_stay_below_the_limit_in_bytes() {
    let settings = ChainEngineSettings {
        max_chain_bytes: 600,
        ..Default::default()
    };
    let mut bench = Bench::with(settings).await;
    let sized = |id: &str, bytes: usize| Chain {
        description: "x".repeat(bytes),
        ..named(id)
    };
    put(&mut bench, sized("a", 400)).await.unwrap();
    let status = put(&mut bench, sized("b", 400)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let status = put(&mut bench, sized("a", 800)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(get(&mut bench, "a").await.unwrap().description.len(), 400);
    put(&mut bench, sized("a", 10)).await.unwrap();
    put(&mut bench, sized("b", 400)).await.unwrap();
}

#[tokio::test]
async fn a_chain_that_could_not_run_is_not_stored() {
    let mut bench = Bench::new().await;
    let mut broken = named("c");
    broken.steps.push(step("b", "", "one\n{{#if}}"));
    broken.steps.push(step("d", "", "{{steps.e.output}}"));
    let status = put(&mut bench, broken).await.unwrap_err();
    let fields = [
        "chain.steps[1].input_template",
        "chain.steps[2].input_template",
    ];
    assert_eq!(faulty_fields(&status), fields);
    assert!(status.message().contains("line 2, column"), "{status:?}");

    let status = put(&mut bench, chain([])).await.unwrap_err();
    assert_eq!(faulty_fields(&status), ["chain.id", "chain.steps"]);
    let request = pb::PutChainRequest::default();
    let status = bench.store.put_chain(request).await.unwrap_err();
    assert_eq!(faulty_fields(&status), ["chain"]);
    assert_eq!(list(&mut bench, "", 0).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn ids_and_pages_that_cannot_be_are_refused() {
    let mut bench = Bench::new().await;
    for id in ["", "a b", "ü", &"x".repeat(129)] {
        assert_eq!(
            faulty_fields(&get(&mut bench, id).await.unwrap_err()),
            ["chain_id"]
        );
        assert_eq!(
            faulty_fields(&delete(&mut bench, id).await.unwrap_err()),
            ["chain_id"]
        );
    }
    let request = pb::ListChainsRequest {
        limit: 1001,
        after_id: "x".repeat(129),
        ..Default::default()
    };
    let status = bench.store.list_chains(request).await.unwrap_err();
    assert_eq!(faulty_fields(&status), ["limit", "after_id"]);
}

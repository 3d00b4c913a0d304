"""What ChainEngineService promises: how chains run, what is told of them, and how they are stopped."""

import grpc

from protocol import check
from services_kit import Code, chains, common, models

SUCCESS, ERROR, RUNNING = common.STATUS_SUCCESS, common.STATUS_ERROR, common.STATUS_IN_PROGRESS
TIMEOUT, CANCELLED = common.STATUS_TIMEOUT, common.STATUS_CANCELLED


class ChainCases:
    def __init__(self, kit, server):
        self.kit, self.server, self.stub = kit, server, kit.engine

    def scripted(self, behaviour):
        """A model of the scripted endpoint: its id, and its name there."""

        name = f"{self.kit.new('chained')}.{behaviour}"
        config = models.ConnectorConfig(
            type="openai", endpoint_url=self.server.url, parameters={"model": name}
        )
        model = models.ModelMetadata(
            id=self.kit.new("scripted"), name="Scripted", provider="tests", connector_config=config
        )
        return self.kit.register(model), name

    def request(self, *steps, text="gateways", **fields):
        return chains.ChainExecutionRequest(chain=chains.Chain(steps=steps), input=text, **fields)

    def execute(self, request, who="alice"):
        return self.kit.call(self.stub.ExecuteChain, request, who=who)

    def stream(self, request, who="alice", **how):
        return self.kit.call(self.stub.StreamChainExecution, request, who=who, **how)

    def status(self, execution_id, who="alice"):
        request = chains.ChainStatusRequest(execution_id=execution_id)
        answer = self.kit.call(self.stub.GetChainStatus, request, who=who)
        check(answer.execution_id == execution_id, answer)
        return answer

    def cancel(self, execution_id, who="alice"):
        request = chains.CancelChainRequest(execution_id=execution_id)
        return self.kit.call(self.stub.CancelChainExecution, request, who=who)

    def stuck(self, name):
        """A stream whose second step waits for the scripted model; its execution's id."""

        fast, (slow, model) = self.kit.local(), self.scripted(name)
        steps = [chains.ChainStep(id="quick", model=fast), chains.ChainStep(id="stuck", model=slow)]
        call = self.stream(self.request(*steps))
        first = next(call)
        self.server.arrived(model)
        return call, first.execution_id, model

    def three_steps_feed_each_other(self):
        model = self.kit.local()
        ids = [self.kit.new("step").replace(".", "_") for _ in range(3)]
        steps = [
            chains.ChainStep(id=ids[0], model=model, input_template="About {{input}}, {{variables.tone}}, {{tone}}"),
            chains.ChainStep(id=ids[1], model=model, input_template="Review: {{previous}}"),
            chains.ChainStep(
                id=ids[2], model=model, input_template=f"{{{{steps.{ids[0]}.output}}}} / {{{{steps.{ids[1]}.input}}}}"
            ),
        ]
        answer = self.execute(self.request(*steps, variables={"tone": "calm"}))
        check(answer.status == SUCCESS and not answer.HasField("error"), answer)
        draft, review, title = answer.step_results
        check([result.step_id for result in answer.step_results] == ids, answer)
        check(draft.input == "About gateways, calm, calm", draft.input)
        check(draft.input in draft.output and draft.output != draft.input, draft.output)
        check(review.input == f"Review: {draft.output}", review.input)
        check(title.input == f"{draft.output} / {review.input}", title.input)
        check(answer.output == title.output != "", answer.output)
        check(all(r.model == model and r.status == SUCCESS and r.tokens > 0 for r in answer.step_results), answer)
        check(answer.total_tokens == sum(result.tokens for result in answer.step_results), answer)
        check(answer.start_time.ToNanoseconds() <= answer.end_time.ToNanoseconds(), answer)
        for index, result in enumerate(answer.step_results):
            event = self.kit.events.wait("chain_step_completed", execution_id=answer.execution_id, step_index=index)
            seen = (event["step_id"], event["output"], event["tokens"])
            check(seen == (result.step_id, result.output, result.tokens), event)
        event = self.kit.events.wait("chain_execution_completed", execution_id=answer.execution_id)
        check((event["output"], event["total_tokens"]) == (answer.output, answer.total_tokens), event)
        kinds = self.kit.events.kinds(execution_id=answer.execution_id)
        check(kinds == ["chain_step_completed"] * 3 + ["chain_execution_completed"], kinds)

    def two_inputs_give_two_outputs(self):
        step = chains.ChainStep(id="only", model=self.kit.local())
        one, other = (self.execute(self.request(step, text=text)) for text in ("Delft", "Leiden"))
        check(one.status == other.status == SUCCESS, one, other)
        check("Delft" in one.output and "Leiden" in other.output, one.output, other.output)
        again = self.execute(self.request(step, text="Delft"))
        check(again.output == one.output and again.execution_id != one.execution_id, again)

    def the_caller_of_a_step_is_told_what_no_model_it_is(self):
        step = chains.ChainStep(id="only", model=self.kit.local(), input_template="{{input}}")
        output = self.execute(self.request(step)).output
        check(output.startswith("[local: no language model]"), output)

    def a_stream_tells_every_step_in_order_and_ends_well(self):
        model = self.kit.local()
        steps = [chains.ChainStep(id="one", model=model), chains.ChainStep(id="two", model=model)]
        events = list(self.stream(self.request(*steps)))
        kinds = [chains.EventType.Name(e.type).removeprefix("EVENT_TYPE_") for e in events]
        told = [kind for kind in kinds if kind != "TOKEN_GENERATED"]
        check(told == ["STEP_STARTED", "STEP_COMPLETED"] * 2 + ["CHAIN_COMPLETED"], kinds)
        for kind, event in zip(kinds, events):
            check(event.WhichOneof("data") == kind.lower(), event)
        check(len({event.execution_id for event in events}) == 1, events)
        for step in ("one", "two"):
            tokens = [e.token_generated.token for e in events if e.token_generated.step_id == step]
            done = next(e.step_completed for e in events if e.step_completed.step_id == step)
            check("".join(tokens) == done.output and len(tokens) > 3, tokens)
        last = events[-1].chain_completed
        check(last.output == done.output and last.total_tokens > 0, last)

    def tokens_arrive_before_their_step_is_over(self):
        model, name = self.scripted("gated")
        call = self.stream(self.request(chains.ChainStep(id="only", model=model)))
        kinds = [next(call).WhichOneof("data") for _ in range(2)]
        # The model has said its first piece, and says the rest when it is told to.
        check(kinds == ["step_started", "token_generated"], kinds)
        self.server.release(name)
        events = list(call)
        check(events[-1].WhichOneof("data") == "chain_completed", events)
        check(events[-1].chain_completed.output.startswith("first of"), events[-1])
        check(events[-1].chain_completed.total_tokens == 7, "the model's own count", events[-1])

    def a_status_is_told_while_it_runs_and_after(self):
        call, execution, model = self.stuck("gated")
        now = self.status(execution)
        check((now.status, now.current_step_id) == (RUNNING, "stuck"), now)
        check((now.completed_steps, now.total_steps) == (1, 2), now)
        self.server.release(model)
        check(list(call)[-1].WhichOneof("data") == "chain_completed", "the rest runs")
        now = self.status(execution)
        check((now.status, now.current_step_id) == (SUCCESS, ""), now)
        check((now.completed_steps, now.total_steps) == (2, 2), now)
        check(now.start_time.ToNanoseconds() <= now.update_time.ToNanoseconds(), now)

    def a_cancellation_takes_effect_inside_a_step(self):
        model, name = self.scripted("stalls_midway")
        quick = self.kit.new("quick")
        steps = [chains.ChainStep(id=quick, model=self.kit.local()), chains.ChainStep(id="slow", model=model)]
        running = self.stub.ExecuteChain.future(self.request(*steps), **self.kit.how("alice"))
        execution = self.kit.events.wait("chain_step_completed", step_id=quick)["execution_id"]
        self.server.arrived(name)
        answer = self.cancel(execution)
        check(answer.success and answer.execution_id == execution and not answer.HasField("error"), answer)
        self.server.gone(name)
        answer = running.result()
        check((answer.status, answer.error.code) == (CANCELLED, "CANCELLED"), answer)
        check([r.status for r in answer.step_results][:1] == [SUCCESS], "what was done is told", answer)
        event = self.kit.events.wait("chain_execution_failed", execution_id=execution)
        check(event["error"]["code"] == "CANCELLED", event)
        now = self.status(execution)
        check((now.status, now.completed_steps) == (CANCELLED, 1), now)
        again = self.cancel(execution)
        check(not again.success and again.error.code == "ALREADY_ENDED", again)

    def a_timeout_takes_effect_inside_a_step(self):
        model, name = self.scripted("stalls")
        step = chains.ChainStep(id="slow", model=model)
        answer = self.execute(self.request(step, timeout_seconds=1))
        check((answer.status, answer.error.code) == (TIMEOUT, "TIMEOUT"), answer)
        took = answer.end_time.ToMilliseconds() - answer.start_time.ToMilliseconds()
        check(900 <= took < 5000, took, "ms")
        self.server.gone(name)
        event = self.kit.events.wait("chain_execution_failed", execution_id=answer.execution_id)
        check(event["error"]["code"] == "TIMEOUT", event)
        check(self.status(answer.execution_id).status == TIMEOUT, "it is recorded")

    def a_deadline_of_the_caller_ends_the_execution(self):
        model, name = self.scripted("stalls")
        call = self.stream(self.request(chains.ChainStep(id="slow", model=model)), timeout=1)
        execution = next(call).execution_id
        try:
            more = list(call)
            # The engine may notice first and say how it ended, but then not in success.
            check(more[-1].WhichOneof("data") == "chain_failed", more)
        except grpc.RpcError as error:
            check(error.code() == Code.DEADLINE_EXCEEDED, error)
        self.server.gone(name)
        event = self.kit.events.wait("chain_execution_failed", execution_id=execution)
        check(event["error"]["code"] in ("TIMEOUT", "CANCELLED"), event)
        check(self.status(execution).status in (TIMEOUT, CANCELLED), "it is recorded")

    def a_caller_that_goes_away_cancels(self):
        call, execution, model = self.stuck("stalls_midway")
        call.cancel()
        self.server.gone(model)
        event = self.kit.events.wait("chain_execution_failed", execution_id=execution)
        check(event["error"]["code"] == "CANCELLED", event)
        check(self.status(execution).status == CANCELLED, "it is recorded")

    def an_execution_is_its_starters_and_the_operators(self):
        call, execution, model = self.stuck("gated")
        ask = chains.ChainStatusRequest(execution_id=execution)
        about = self.kit.refused(Code.NOT_FOUND, "ResourceInfo", self.stub.GetChainStatus, ask, who="bob")
        check(about.resource_name == execution, about)
        stop = chains.CancelChainRequest(execution_id=execution)
        self.kit.refused(Code.NOT_FOUND, "ResourceInfo", self.stub.CancelChainExecution, stop, who="bob")
        for who in ("alice", "operator", "service", "admin"):
            check(self.status(execution, who=who).status == RUNNING, who)
        check(self.cancel(execution, who="operator").success, "operators may cancel")
        self.server.gone(model)
        events = [event.WhichOneof("data") for event in call]
        check(events[-1] == "chain_failed", events)

    def a_step_without_the_wanted_form_fails_the_chain(self):
        step = chains.ChainStep(id="form", model=self.kit.local(), output_format="json")
        never = chains.ChainStep(id="never", model=self.kit.local())
        events = list(self.stream(self.request(step, never)))
        told = [e.WhichOneof("data") for e in events if e.WhichOneof("data") != "token_generated"]
        check(told == ["step_started", "step_failed", "chain_failed"], told)
        check(events[-2].step_failed.error.code == events[-1].chain_failed.error.code != "", events[-2:])
        answer = self.execute(self.request(step, never))
        check(answer.status == ERROR and answer.error.code and answer.error.message, answer)
        check([r.step_id for r in answer.step_results] == ["form"], "the next step never ran", answer)
        self.kit.events.wait("chain_execution_failed", execution_id=answer.execution_id)

    def a_model_that_fails_leads_to_another(self):
        model, name = self.scripted("errs_500")
        # Somewhere for the router to go.
        self.kit.local()
        answer = self.execute(self.request(chains.ChainStep(id="only", model=model)))
        check(answer.status == SUCCESS, answer)
        self.server.arrived(name)
        check(answer.step_results[0].model not in ("", model), answer)

    def a_malformed_chain_is_refused_before_anything_runs(self):
        execute, stream = self.stub.ExecuteChain, self.stub.StreamChainExecution
        model, name = self.scripted("answers")
        good = chains.ChainStep(id="good", model=model)
        step = lambda **fields: chains.ChainStep(model=model, **fields)
        for fields, request in [
            (["chain"], chains.ChainExecutionRequest(input="x")),
            (["chain.steps"], self.request()),
            (["chain.steps[1].id", "chain.steps[2].id"], self.request(good, step(id=""), step(id="good"))),
            (["chain.steps[1].output_format"], self.request(good, step(id="b", output_format="poem"))),
            (["chain.steps[1].temperature"], self.request(good, step(id="b", temperature=-1))),
            (["chain.steps[1].input_template"], self.request(good, step(id="b", input_template="{{#if}"))),
            (["chain.steps[1].input_template"], self.request(good, step(id="b", input_template="{{> file}}"))),
            (["chain.steps[1].input_template"], self.request(good, step(id="b", input_template="{{steps.c.output}}"))),
            (["chain.steps[1].input_template"], self.request(good, step(id="b", input_template="\\" * 16384))),
            (["chain.steps[1].model"], self.request(good, chains.ChainStep(id="b", model="no such name"))),
            (['chain.steps[1].parameters["n"]'], self.request(good, step(id="b", parameters={"n": "100"}))),
            (["timeout_seconds"], self.request(good, timeout_seconds=10**6)),
            (["input"], self.request(good, text="x" * 300_000)),
        ]:
            for method in (execute, stream):
                self.kit.malformed(fields, method, request, who="alice")
        check(self.server.count(name) == 0, "a step of a malformed chain ran")
        bad = self.kit.malformed(
            ["chain.steps[0].input_template"],
            execute,
            self.request(step(id="b", input_template="fine\n  {{#each}}")),
            who="alice",
        )
        check("line 2" in bad.field_violations[0].description, bad)

    def an_unknown_name_in_a_template_fails_its_step_by_name(self):
        step = chains.ChainStep(id="only", model=self.kit.local(), input_template="{{variables.nothing}}")
        answer = self.execute(self.request(step))
        check(answer.status == ERROR and "nothing" in answer.error.message, answer)

    def an_execution_that_is_not_there_is_named(self):
        ask = chains.ChainStatusRequest(execution_id="no-such-execution")
        about = self.kit.refused(Code.NOT_FOUND, "ResourceInfo", self.stub.GetChainStatus, ask)
        check(about.resource_name == "no-such-execution", about)
        stop = chains.CancelChainRequest(execution_id="no-such-execution")
        self.kit.refused(Code.NOT_FOUND, "ResourceInfo", self.stub.CancelChainExecution, stop)
        self.kit.malformed(["execution_id"], self.stub.GetChainStatus, chains.ChainStatusRequest())
        self.kit.malformed(["execution_id"], self.stub.CancelChainExecution, chains.CancelChainRequest())

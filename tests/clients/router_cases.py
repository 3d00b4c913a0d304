"""What RouterService promises: which model answers, what happens when one does not, and what is told of it."""

import math

import grpc

from protocol import check
from services_kit import Code, chat, common, models

SUCCESS = common.STATUS_SUCCESS
CONTENT, CUSTOM = models.ROUTING_STRATEGY_CONTENT_BASED, models.ROUTING_STRATEGY_CUSTOM
LOCAL = "[local: no language model]"


class RouterCases:
    def __init__(self, kit, server):
        self.kit, self.server, self.stub = kit, server, kit.router

    def scripted(self, behaviour, tag, **fields):
        """A model of the scripted endpoint: its id, and its name there."""

        name = f"{self.kit.new('routed')}.{behaviour}"
        config = models.ConnectorConfig(
            type="openai", endpoint_url=self.server.url, parameters={"model": name}
        )
        given = {"id": self.kit.new("scripted"), "name": "Scripted", "provider": "tests", "tags": [tag]}
        return self.kit.register(models.ModelMetadata(connector_config=config, **given, **fields)), name

    def request(self, text="hello", tag=None, request_id="", **routing):
        """A request that only the models with this tag may answer."""

        context = common.RequestContext(request_id=request_id)
        wanted = models.ModelFilter(tags=[tag] if tag else [])
        routing = models.RoutingRequest(model_filter=wanted, **routing)
        return models.RouteRequestRequest(context=context, request=chat(text), routing=routing)

    def route(self, *args, **fields):
        answer = self.kit.call(self.stub.RouteRequest, self.request(*args, **fields), who="alice")
        check(answer.status == SUCCESS and not answer.HasField("error"), answer)
        return answer

    def selected(self, *args, **fields):
        return self.route(*args, **fields).routing_metadata.selected_model_id

    def strategies(self):
        request = models.GetRoutingStrategiesRequest()
        answer = self.kit.call(self.stub.GetRoutingStrategies, request, who="alice")
        check(answer.status == SUCCESS, answer)
        return {strategy.type: strategy for strategy in answer.strategies}

    def update(self, kind, config, enabled=True):
        request = models.UpdateRoutingStrategyRequest(type=kind, config=config, enabled=enabled)
        answer = self.kit.call(self.stub.UpdateRoutingStrategy, request, who="operator")
        check(answer.status == SUCCESS and answer.strategy == self.strategies()[kind], answer)
        return answer.strategy

    def an_answer_tells_how_its_model_was_picked(self):
        tag = self.kit.new("tag")
        model, request_id = self.kit.local(tags=[tag]), self.kit.new("request")
        answer = self.route("how are you", tag, request_id)
        choice = answer.response.choices[0]
        check(choice.message.role == "assistant" and choice.finish_reason == "stop", choice)
        check(choice.message.content.startswith(LOCAL) and "how are you" in choice.message.content, choice)
        usage = answer.response.usage
        check(usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage)
        check(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)
        how = answer.routing_metadata
        check((how.selected_model_id, how.strategy_name) == (model, "round_robin"), how)
        check((how.models_considered, how.attempts, how.is_fallback) == (1, 1, False), how)
        check(how.selection_criteria and how.HasField("routing_start_time"), how)
        event = self.kit.events.wait("model_routing_decision", request_id=request_id)
        check((event["selected_model_id"], event["strategy_name"]) == (model, "round_robin"), event)
        event = self.kit.events.wait("model_usage", request_id=request_id, model_id=model)
        check((event["input_tokens"], event["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens), event)

    def two_texts_that_differ_get_answers_that_differ(self):
        tag = self.kit.new("tag")
        self.kit.local(tags=[tag])
        one, other, again = (self.route(text, tag).response for text in ("Delft", "Leiden", "Delft"))
        check(one.choices[0].message.content != other.choices[0].message.content, one, other)
        check(one.choices[0].message.content == again.choices[0].message.content, one, again)

    def a_stream_gives_each_piece_when_it_comes(self):
        tag, request_id = self.kit.new("tag"), self.kit.new("request")
        model, name = self.scripted("gated", tag)
        call = self.kit.call(self.stub.StreamRouteRequest, self.request("x", tag, request_id), who="alice")
        first = next(call)
        check(first.routing_metadata.selected_model_id == model and not first.done, first)
        pieces = [first]
        # The model says no more until this piece has been seen.
        while not any(choice.delta.content for choice in pieces[-1].chunk.choices):
            pieces.append(next(call))
        self.server.release(name)
        pieces += call
        text = "".join(choice.delta.content for piece in pieces for choice in piece.chunk.choices)
        check(text.startswith(f"first of {name}"), text)
        check([piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True], pieces)
        last = pieces[-1]
        tokens = dict(last.routing_metadata.additional_metadata)
        check(last.status == SUCCESS, last)
        check((tokens["prompt_tokens"], tokens["completion_tokens"], tokens["total_tokens"]) == ("3", "4", "7"), tokens)
        event = self.kit.events.wait("model_usage", request_id=request_id, model_id=model)
        check((event["input_tokens"], event["output_tokens"]) == (3, 4), event)

    def two_texts_choose_two_models_by_their_content(self):
        tag = self.kit.new("tag")
        coder, poet = self.kit.local(tags=[tag, "coding"]), self.kit.local(tags=[tag, "poetry"])
        rules = {"rule.1": r"(?i)\b(code|rust)\b => coding", "rule.2": r"(?i)\bpoem\b => poetry"}
        rules["default_tag"] = "poetry"
        by_content = {"tag": tag, "strategy": CONTENT, "strategy_parameters": rules}
        for text, model in [("Write Rust", coder), ("A poem", poet), ("Write CODE", coder), ("Hello", poet)]:
            how = self.route(text, **by_content).routing_metadata
            check((how.selected_model_id, how.strategy_name) == (model, "content_based"), text, how)

    def every_strategy_picks_by_its_rule(self):
        tag = self.kit.new("tag")
        # Far enough apart that what the first answers take does not change the order.
        known = [{"cost_per_1k_output": cost, "avg_latency_ms": ms} for cost, ms in ((3, 1e5), (1, 5e5), (2, 9e5))]
        ids = [self.scripted("answers", tag, **fields)[0] for fields in known]
        picked = lambda strategy: self.selected(tag=tag, strategy=strategy)
        check(picked(models.ROUTING_STRATEGY_LATENCY_OPTIMIZED) == ids[0], "the fastest")
        check(picked(models.ROUTING_STRATEGY_COST_OPTIMIZED) == ids[1], "the cheapest")
        turns = [picked(models.ROUTING_STRATEGY_ROUND_ROBIN) for _ in range(6)]
        check(turns[:3] == turns[3:] and sorted(turns[:3]) == sorted(ids), turns)
        weights = {"weights": f"{ids[0]}=0, {ids[2]}=5"}
        drawn = {self.selected(tag=tag, strategy=CUSTOM, strategy_parameters=weights) for _ in range(5)}
        check(drawn == {ids[2]}, drawn)
        check(self.selected(tag=tag) in ids, "a default is there")

    def the_least_busy_model_is_picked(self):
        tag = self.kit.new("tag")
        busy, name = self.scripted("gated", tag)
        calls = self.kit.call(self.stub.StreamRouteRequest, self.request(tag=tag), who="alice")
        check(next(calls).routing_metadata.selected_model_id == busy, "the only one")
        free = self.kit.local(tags=[tag])
        balanced = models.ROUTING_STRATEGY_LOAD_BALANCED
        check({self.selected(tag=tag, strategy=balanced) for _ in range(4)} == {free}, "the other one")
        self.server.release(name)
        check(list(calls)[-1].done, "the first call ends well")

    def a_model_that_fails_leads_to_the_next_as_a_fallback(self):
        for behaviour in ("errs_500", "errs_429", "errs_401", "cuts"):
            tag, request_id = self.kit.new("tag"), self.kit.new("request")
            broken, name = self.scripted(behaviour, tag)
            sound = self.kit.local(tags=[tag])
            answer = self.route("x", tag, request_id, preferred_model_id=broken)
            how = answer.routing_metadata
            check((how.selected_model_id, how.is_fallback, how.attempts) == (sound, True, 2), behaviour, how)
            self.server.arrived(name)
            event = self.kit.events.wait("model_routing_decision", request_id=request_id)
            check(event["selected_model_id"] == sound, behaviour, event)

    def a_stream_falls_back_as_long_as_nothing_was_said(self):
        tag = self.kit.new("tag")
        broken, _ = self.scripted("errs_500", tag)
        sound = self.kit.local(tags=[tag])
        request = self.request("x", tag, preferred_model_id=broken)
        pieces = list(self.kit.call(self.stub.StreamRouteRequest, request, who="alice"))
        how = pieces[0].routing_metadata
        check((how.selected_model_id, how.is_fallback) == (sound, True), how)
        check(pieces[-1].done, pieces[-1])

    def a_stream_that_breaks_off_never_ends_well(self):
        tag = self.kit.new("tag")
        broken, _ = self.scripted("cuts", tag)
        self.kit.local(tags=[tag])
        request = self.request("x", tag, preferred_model_id=broken)
        call = self.kit.call(self.stub.StreamRouteRequest, request, who="alice")
        pieces = []
        try:
            for piece in call:
                pieces.append(piece)
        except grpc.RpcError as error:
            check(error.code() == Code.UNAVAILABLE, error)
            check("ErrorInfo" in self.kit.details(error), error)
            check(pieces and not any(piece.done for piece in pieces), pieces)
            return
        raise AssertionError(f"a clean end: {pieces}")

    def when_every_model_fails_the_error_names_them(self):
        tag = self.kit.new("tag")
        ids = {self.scripted("errs_500", tag)[0] for _ in range(2)}
        for method in (self.stub.RouteRequest, self.stub.StreamRouteRequest):
            info = self.kit.refused(Code.UNAVAILABLE, "ErrorInfo", method, self.request(tag=tag), who="alice")
            check(all(model in str(dict(info.metadata)) for model in ids), info)

    def when_every_model_is_limited_the_error_tells_when_to_come_back(self):
        tag = self.kit.new("tag")
        self.scripted("errs_429", tag)
        for _ in range(2):
            retry = self.kit.refused(
                Code.RESOURCE_EXHAUSTED, "RetryInfo", self.stub.RouteRequest, self.request(tag=tag), who="alice"
            )
            check(0 < retry.retry_delay.ToMilliseconds() <= 7000, retry)

    def a_model_out_of_work_is_not_picked(self):
        tag = self.kit.new("tag")
        out, sound = self.kit.local(tags=[tag]), self.kit.local(tags=[tag])
        change = models.UpdateModelStatusRequest(model_id=out, status=models.MODEL_STATUS_MAINTENANCE)
        self.kit.call(self.kit.registry.UpdateModelStatus, change)
        check({self.selected(tag=tag) for _ in range(3)} == {sound}, "only the one that works")
        how = self.route(tag=tag, preferred_model_id=out).routing_metadata
        check((how.selected_model_id, how.is_fallback) == (sound, True), how)
        nobody = self.request(tag=tag, excluded_model_ids=[sound])
        self.kit.refused(Code.UNAVAILABLE, "ErrorInfo", self.stub.RouteRequest, nobody, who="alice")

    def a_model_that_is_not_there_is_named(self):
        missing = self.kit.new("missing")
        request = self.request(preferred_model_id=missing)
        about = self.kit.refused(Code.NOT_FOUND, "ResourceInfo", self.stub.RouteRequest, request, who="alice")
        check(about.resource_name == missing, about)
        request = self.request(tag=self.kit.new("tag"))
        self.kit.refused(Code.NOT_FOUND, "ErrorInfo", self.stub.StreamRouteRequest, request, who="alice")

    def a_timeout_of_the_request_ends_the_call_to_the_model(self):
        tag = self.kit.new("tag")
        _, name = self.scripted("stalls", tag)
        request = self.request(tag=tag, timeout_ms=300)
        self.kit.refused(Code.DEADLINE_EXCEEDED, "ErrorInfo", self.stub.RouteRequest, request, who="alice")
        self.server.gone(name)

    def a_deadline_of_the_caller_ends_the_call_to_the_model(self):
        tag = self.kit.new("tag")
        _, name = self.scripted("stalls", tag)
        self.kit.fails(Code.DEADLINE_EXCEEDED, self.stub.RouteRequest, self.request(tag=tag), who="alice", timeout=0.5)
        self.server.gone(name)

    def a_caller_that_goes_away_ends_the_call_to_the_model(self):
        tag = self.kit.new("tag")
        _, name = self.scripted("stalls_midway", tag)
        call = self.kit.call(self.stub.StreamRouteRequest, self.request(tag=tag), who="alice")
        next(call)
        self.server.arrived(name)
        call.cancel()
        self.server.gone(name)

    def a_malformed_request_is_refused_with_every_field_that_is_wrong(self):
        for method in (self.stub.RouteRequest, self.stub.StreamRouteRequest):
            refused = lambda fields, request: self.kit.malformed(fields, method, request, who="alice")
            refused(["request"], models.RouteRequestRequest())
            bad = models.RouteRequestRequest(
                request=models.ChatCompletionRequest(temperature=math.nan, top_p=2, n=1000),
                routing=models.RoutingRequest(max_attempts=99, timeout_ms=2**31, strategy=77),
            )
            fields = [f"request.{name}" for name in ("messages", "temperature", "top_p", "n")]
            fields += [f"routing.{name}" for name in ("max_attempts", "timeout_ms", "strategy")]
            refused(fields, bad)
            parameters = {"rule.1": "(unclosed => tag", "colour": "red"}
            fields = [f'routing.strategy_parameters["{name}"]' for name in parameters]
            refused(fields, self.request(strategy=CONTENT, strategy_parameters=parameters))

    def all_strategies_are_listed(self):
        listed = self.strategies()
        check(set(listed) == set(range(1, 7)), sorted(listed))
        for strategy in listed.values():
            check(strategy.name and strategy.description and strategy.enabled, strategy)

    def a_changed_strategy_is_used_and_a_disabled_one_refused(self):
        before = self.strategies()[CUSTOM]
        tag = self.kit.new("tag")
        never, always = self.kit.local(tags=[tag]), self.kit.local(tags=[tag])
        config = models.StrategyConfig(parameters={"weights": f"{never}=0, {always}=1"}, max_fallback_attempts=1)
        try:
            changed = self.update(CUSTOM, config)
            check(changed.config == config and changed.enabled, changed)
            check({self.selected(tag=tag, strategy=CUSTOM) for _ in range(3)} == {always}, "by the weights")
            self.update(CUSTOM, config, enabled=False)
            request = self.request(tag=tag, strategy=CUSTOM)
            self.kit.refused(
                Code.FAILED_PRECONDITION, "PreconditionFailure", self.stub.RouteRequest, request, who="alice"
            )
        finally:
            restored = self.update(CUSTOM, before.config)
        check(restored == before, restored)

    def a_malformed_setting_changes_nothing(self):
        before = self.strategies()
        update = self.stub.UpdateRoutingStrategy
        for fields, kind, config in [
            (["type"], 0, {}),
            (["type"], 77, {}),
            (["config.timeout_ms", "config.max_fallback_attempts"], CONTENT,
             {"timeout_ms": 2**31, "max_fallback_attempts": 99}),
            (["config.fallback_strategy"], CONTENT, {"fallback_strategy": CONTENT}),
            (['config.parameters["colour"]'], CONTENT, {"parameters": {"colour": "red"}}),
            (['config.parameters["weights"]'], CUSTOM, {"parameters": {"weights": "one=many"}}),
        ]:
            config = models.StrategyConfig(**config)
            request = models.UpdateRoutingStrategyRequest(type=kind, config=config, enabled=True)
            self.kit.malformed(fields, update, request, who="operator")
        check(self.strategies() == before, "something changed")

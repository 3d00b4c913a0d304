"""What ModelRegistryService promises, call by call."""

import math

from google.protobuf import json_format

from protocol import check
from services_kit import Code, chat, common, models

SUCCESS = common.STATUS_SUCCESS
STATUS_REASON = "status_reason"


class RegistryCases:
    def __init__(self, kit, server):
        self.kit, self.server, self.stub = kit, server, kit.registry

    def model(self, **fields):
        given = {"id": self.kit.new("model"), "name": "A model", "provider": "tests", **fields}
        return models.ModelMetadata(**given)

    def get(self, model_id, **how):
        request = models.GetModelRequest(model_id=model_id)
        answer = self.kit.call(self.stub.GetModel, request, **how)
        check(answer.status == SUCCESS, answer)
        return answer.metadata

    def found(self, **conditions):
        request = models.FindModelsRequest(filter=models.ModelFilter(**conditions))
        answer = self.kit.call(self.stub.FindModels, request, who="alice")
        check(answer.status == SUCCESS, answer)
        return [model.id for model in answer.models]

    def listed(self):
        answer = self.kit.call(self.stub.ListModels, models.ListModelsRequest(), who="alice")
        check(answer.status == SUCCESS, answer)
        return {model.id: model for model in answer.models}

    def set_status(self, model_id, status, reason=""):
        request = models.UpdateModelStatusRequest(model_id=model_id, status=status, reason=reason)
        answer = self.kit.call(self.stub.UpdateModelStatus, request, who="operator")
        check(answer.status == SUCCESS and answer.metadata.status == status, answer)
        return answer.metadata

    def check_health(self, model_id, **fields):
        request = models.CheckModelHealthRequest(model_id=model_id, **fields)
        return self.kit.call(self.stub.CheckModelHealth, request, who="operator")

    def a_registered_model_is_returned_as_it_was_given(self):
        given = self.model(
            version="2",
            type=models.MODEL_TYPE_CHAT,
            context_window=8192,
            capabilities=models.ModelCapabilities(streaming=True, additional_capabilities=["rhymes"]),
            cost_per_1k_input=0.5,
            cost_per_1k_output=1.5,
            max_tokens_per_request=1000,
            metadata={"home": "Delft"},
            tags=["small", "fast"],
            connector_config=models.ConnectorConfig(type="local", parameters={"delay_ms_per_token": "0"}),
        )
        request = models.RegisterModelRequest(metadata=given)
        answer = self.kit.call(self.stub.RegisterModel, request, who="operator")
        check(answer.status == SUCCESS and not answer.HasField("error"), answer)
        recorded = answer.metadata
        check(recorded.status == models.MODEL_STATUS_AVAILABLE, recorded)
        check(recorded.HasField("created_at") and recorded.HasField("updated_at"), recorded)
        check(self.get(given.id, who="alice") == recorded, "GetModel agrees")
        check(self.listed()[given.id] == recorded, "ListModels agrees")
        for name in ("created_at", "updated_at", "status"):
            recorded.ClearField(name)
        check(recorded == given, json_format.MessageToDict(recorded))

    def a_malformed_model_is_refused_with_every_field_that_is_wrong(self):
        register = self.stub.RegisterModel
        self.kit.malformed(["metadata"], register, models.RegisterModelRequest())
        bad = models.ModelMetadata(
            id="not an id",
            type=99,
            cost_per_1k_input=-1,
            avg_latency_ms=math.nan,
            tags=[""],
            connector_config=models.ConnectorConfig(type="local", timeout_ms=2**31),
        )
        fields = ["id", "name", "provider", "type", "cost_per_1k_input", "avg_latency_ms", "tags[0]"]
        fields.append("connector_config.timeout_ms")
        wrong = [f"metadata.{field}" for field in fields]
        self.kit.malformed(wrong, register, models.RegisterModelRequest(metadata=bad))
        for config, field in [
            (models.ConnectorConfig(type="telepathy"), "type"),
            (models.ConnectorConfig(type="openai", endpoint_url="nowhere"), "endpoint_url"),
            (models.ConnectorConfig(type="openai", endpoint_url="https://me:hunter2@host/v1"), "endpoint_url"),
        ]:
            request = models.RegisterModelRequest(metadata=self.model(connector_config=config))
            bad = self.kit.malformed([f"metadata.connector_config.{field}"], register, request)
            check("hunter2" not in str(bad), bad)

    def an_id_is_registered_once(self):
        model = self.model()
        self.kit.register(model)
        request = models.RegisterModelRequest(metadata=model)
        about = self.kit.refused(Code.ALREADY_EXISTS, "ResourceInfo", self.stub.RegisterModel, request)
        check(about.resource_name == model.id, about)

    def a_model_that_is_not_there_is_named(self):
        missing, model = self.kit.new("missing"), self.model()
        status = models.MODEL_STATUS_MAINTENANCE
        for method, request, name in [
            (self.stub.GetModel, models.GetModelRequest(model_id=missing), missing),
            (self.stub.RemoveModel, models.RemoveModelRequest(model_id=missing), missing),
            (self.stub.CheckModelHealth, models.CheckModelHealthRequest(model_id=missing), missing),
            (self.stub.UpdateModelStatus, models.UpdateModelStatusRequest(model_id=missing, status=status), missing),
            (self.stub.UpdateModel, models.UpdateModelRequest(metadata=model), model.id),
        ]:
            about = self.kit.refused(Code.NOT_FOUND, "ResourceInfo", method, request)
            check(about.resource_name == name, about)

    def a_request_without_what_it_needs_is_refused_with_the_field(self):
        self.kit.malformed(["model_id"], self.stub.GetModel, models.GetModelRequest())
        self.kit.malformed(["model_id"], self.stub.RemoveModel, models.RemoveModelRequest(model_id="a b"))
        self.kit.malformed(["metadata"], self.stub.UpdateModel, models.UpdateModelRequest())
        change = models.UpdateModelStatusRequest(reason="x" * 2000)
        self.kit.malformed(["model_id", "status", "reason"], self.stub.UpdateModelStatus, change)
        health = models.CheckModelHealthRequest(timeout_ms=10**9)
        self.kit.malformed(["model_id", "timeout_ms"], self.stub.CheckModelHealth, health)
        conditions = models.ModelFilter(max_latency_ms=-1, statuses=[0], tags=[""])
        find = models.FindModelsRequest(filter=conditions)
        fields = ["filter.max_latency_ms", "filter.statuses[0]", "filter.tags[0]"]
        self.kit.malformed(fields, self.stub.FindModels, find)

    def an_update_replaces_the_model_and_keeps_its_birth(self):
        model = self.model(tags=["before"], metadata={"colour": "red"})
        self.kit.register(model)
        born = self.get(model.id).created_at
        changed = models.ModelMetadata(id=model.id, name="Renamed", provider="tests", tags=["after"])
        request = models.UpdateModelRequest(metadata=changed)
        answer = self.kit.call(self.stub.UpdateModel, request, who="operator")
        check(answer.status == SUCCESS, answer)
        now = self.get(model.id)
        check(now == answer.metadata, now)
        check((now.name, list(now.tags), dict(now.metadata)) == ("Renamed", ["after"], {}), now)
        check(now.created_at == born and now.updated_at.ToNanoseconds() > born.ToNanoseconds(), now)

    def a_removed_model_is_returned_and_gone(self):
        model_id = self.kit.register(self.model(tags=["leaving"]))
        before = self.get(model_id)
        request = models.RemoveModelRequest(model_id=model_id)
        answer = self.kit.call(self.stub.RemoveModel, request, who="operator")
        check(answer.status == SUCCESS and answer.metadata == before, answer)
        self.kit.fails(Code.NOT_FOUND, self.stub.GetModel, models.GetModelRequest(model_id=model_id))
        check(model_id not in self.listed(), "it is still listed")
        check(self.found(tags=["leaving"]) == [], "it is still found")

    def models_are_found_by_every_condition_together(self):
        tag = self.kit.new("tag")
        cheap = self.kit.register(self.model(tags=[tag, "x"], provider="one", cost_per_1k_input=1, context_window=100))
        dear = self.kit.register(self.model(tags=[tag], provider="two", cost_per_1k_input=9, context_window=900))
        check(self.found(tags=[tag]) == sorted([cheap, dear]), "both by the tag")
        check(self.found(tags=[tag, "x"]) == [cheap], "all tags count")
        check(self.found(tags=[tag], providers=["two", "three"]) == [dear], "any provider counts")
        check(self.found(tags=[tag], max_cost_per_1k_input=2) == [cheap], "cost")
        check(self.found(tags=[tag], min_context_window=500) == [dear], "context window")
        check(self.found(tags=[tag], min_context_window=500, max_cost_per_1k_input=2) == [], "both")
        self.set_status(dear, models.MODEL_STATUS_DEPRECATED)
        check(self.found(tags=[tag], statuses=[models.MODEL_STATUS_AVAILABLE]) == [cheap], "status")

    def a_status_is_kept_with_its_reason(self):
        model_id = self.kit.register(self.model())
        self.set_status(model_id, models.MODEL_STATUS_MAINTENANCE, "new disks")
        now = self.get(model_id)
        check(now.status == models.MODEL_STATUS_MAINTENANCE, now)
        check(now.metadata[STATUS_REASON] == "new disks", now)

    def an_api_key_is_used_and_never_comes_back(self):
        key = self.kit.new("sk-secret")
        parameters = {"model": self.kit.new("keyed") + ".answers"}
        config = models.ConnectorConfig(
            type="openai", endpoint_url=self.server.url, api_key=key, parameters=parameters
        )
        model = self.model(connector_config=config)
        register = models.RegisterModelRequest(metadata=model)
        answers = [self.kit.call(self.stub.RegisterModel, register)]
        routing = models.RoutingRequest(preferred_model_id=model.id)
        ask = models.RouteRequestRequest(request=chat("hello"), routing=routing)
        answers.append(self.kit.call(self.kit.router.RouteRequest, ask))
        headers, _ = self.server.arrived(parameters["model"])
        check(headers.get("authorization") == f"Bearer {key}", sorted(headers))
        # Without a key in the request the one that is there is kept.
        model.connector_config.api_key = ""
        available = models.MODEL_STATUS_AVAILABLE
        for method, request in [
            (self.stub.UpdateModel, models.UpdateModelRequest(metadata=model)),
            (self.stub.GetModel, models.GetModelRequest(model_id=model.id)),
            (self.stub.ListModels, models.ListModelsRequest()),
            (self.stub.FindModels, models.FindModelsRequest()),
            (self.stub.CheckModelHealth, models.CheckModelHealthRequest(model_id=model.id)),
            (self.stub.UpdateModelStatus, models.UpdateModelStatusRequest(model_id=model.id, status=available)),
        ]:
            answers.append(self.kit.call(method, request))
        # Whoever may change models can't have the key sent elsewhere.
        model.connector_config.endpoint_url = "https://elsewhere.example/v1"
        update = models.UpdateModelRequest(metadata=model)
        error = self.kit.fails(Code.FAILED_PRECONDITION, self.stub.UpdateModel, update)
        answers.append(self.kit.details(error)["PreconditionFailure"])
        answers.append(self.kit.call(self.stub.RemoveModel, models.RemoveModelRequest(model_id=model.id)))
        for answer in answers:
            check(key.encode() not in answer.SerializeToString(), type(answer).__name__, "tells the key")
        check(key not in error.details(), "an error tells the key")
        with self.kit.events.changed:
            check(all(key not in str(payload) for _, payload in self.kit.events.seen), "an event tells the key")

    def a_built_in_model_is_healthy_and_the_check_is_an_event(self):
        model_id = self.kit.local()
        answer = self.check_health(model_id)
        result = answer.result
        check(answer.status == SUCCESS and result.healthy and result.error_message == "", answer)
        check(result.latency_ms >= 0 and result.HasField("timestamp"), result)
        check(self.get(model_id).HasField("last_checked_at"), "the check is recorded")
        self.kit.events.wait("model_health_check", model_id=model_id, healthy=True)

    def a_model_without_a_connector_cannot_be_checked(self):
        model_id = self.kit.register(self.model())
        request = models.CheckModelHealthRequest(model_id=model_id)
        about = self.kit.refused(
            Code.FAILED_PRECONDITION, "PreconditionFailure", self.stub.CheckModelHealth, request
        )
        check(len(about.violations) == 1, about)

    def an_endpoint_that_stops_makes_its_model_unavailable_until_it_answers_again(self):
        config = models.ConnectorConfig(type="openai", endpoint_url=self.server.url)
        model_id = self.kit.register(self.model(connector_config=config))
        check(self.check_health(model_id).result.healthy, "it is there")
        self.kit.events.wait("model_health_check", model_id=model_id, healthy=True)
        self.server.stop()
        try:
            down = self.check_health(model_id, timeout_ms=5000)
        finally:
            self.server.start()
        check(down.status == SUCCESS and not down.result.healthy and down.result.error_message, down)
        self.kit.events.wait("model_health_check", model_id=model_id, healthy=False)
        now = self.get(model_id)
        check(now.status == models.MODEL_STATUS_UNAVAILABLE, now)
        check(now.metadata[STATUS_REASON].startswith("health check failed"), now)
        check(self.check_health(model_id).result.healthy, "it is back")
        now = self.get(model_id)
        check(now.status == models.MODEL_STATUS_AVAILABLE and STATUS_REASON not in now.metadata, now)

    def a_healthy_endpoint_does_not_end_a_maintenance(self):
        model_id = self.kit.local()
        self.set_status(model_id, models.MODEL_STATUS_MAINTENANCE, "new disks")
        check(self.check_health(model_id).result.healthy, "it answers")
        check(self.get(model_id).status == models.MODEL_STATUS_MAINTENANCE, "it was put back to work")

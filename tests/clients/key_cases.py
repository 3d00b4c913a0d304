"""Where a key that the operator lends to models by name may go. The test that runs
this script has started the services with the key `lent` for the endpoint."""

from protocol import check
from services_kit import chat, common, models


class KeyCases:
    """`endpoint` is the one that the key is for; the script's own server is another."""

    def __init__(self, kit, server, endpoint):
        self.kit, self.server, self.endpoint = kit, server, endpoint

    def model(self, endpoint, key):
        parameters = {"api_key_name": key, "model": self.kit.new("lent") + ".answers"}
        config = models.ConnectorConfig(type="openai", endpoint_url=endpoint, parameters=parameters)
        given = {"id": self.kit.new("model"), "name": "Lent", "provider": "tests"}
        return models.ModelMetadata(connector_config=config, **given)

    def a_lent_key_goes_to_its_origin_alone(self):
        model = self.kit.register(self.model(self.endpoint, "lent"))
        request = models.RouteRequestRequest(request=chat("hello", model=model))
        answer = self.kit.call(self.kit.router.RouteRequest, request)
        check(answer.status == common.STATUS_SUCCESS, answer)
        check(answer.routing_metadata.selected_model_id == model, answer.routing_metadata)
        for endpoint, key in [(self.server.url, "lent"), (self.endpoint, "unknown")]:
            request = models.RegisterModelRequest(metadata=self.model(endpoint, key))
            field = "metadata.connector_config.parameters.api_key_name"
            self.kit.malformed([field], self.kit.registry.RegisterModel, request, who="operator")

"""Who may call what, for every method of the services."""

import grpc

from protocol import check
from services_kit import Code, chains, models

DENIED = {Code.UNAUTHENTICATED, Code.PERMISSION_DENIED}


class RolesCases:
    def __init__(self, kit, server):
        self.kit = kit

    def methods(self):
        """Every method, with an empty request, and who may call it beside admins and services."""

        registry, router = self.kit.registry, self.kit.router
        engine, store = self.kit.engine, self.kit.store
        return [
            (registry.RegisterModel, models.RegisterModelRequest(), {"operator"}),
            (registry.GetModel, models.GetModelRequest(), {"alice"}),
            (registry.UpdateModel, models.UpdateModelRequest(), {"operator"}),
            (registry.RemoveModel, models.RemoveModelRequest(), {"operator"}),
            (registry.ListModels, models.ListModelsRequest(), {"alice"}),
            (registry.FindModels, models.FindModelsRequest(), {"alice"}),
            (registry.UpdateModelStatus, models.UpdateModelStatusRequest(), {"operator"}),
            (registry.CheckModelHealth, models.CheckModelHealthRequest(), {"operator"}),
            (router.RouteRequest, models.RouteRequestRequest(), {"alice"}),
            (router.StreamRouteRequest, models.RouteRequestRequest(), {"alice"}),
            (router.GetRoutingStrategies, models.GetRoutingStrategiesRequest(), {"alice"}),
            (router.UpdateRoutingStrategy, models.UpdateRoutingStrategyRequest(), {"operator"}),
            (engine.ExecuteChain, chains.ChainExecutionRequest(), {"alice"}),
            (engine.StreamChainExecution, chains.ChainExecutionRequest(), {"alice"}),
            (engine.GetChainStatus, chains.ChainStatusRequest(), {"alice", "operator"}),
            (engine.CancelChainExecution, chains.CancelChainRequest(), {"alice", "operator"}),
            (store.PutChain, chains.PutChainRequest(), {"operator"}),
            (store.GetChain, chains.GetChainRequest(), {"alice"}),
            (store.ListChains, chains.ListChainsRequest(), {"alice"}),
            (store.DeleteChain, chains.DeleteChainRequest(), {"operator"}),
        ]

    def denied(self, method, request, who):
        """The code with which somebody is kept out; None for whoever gets as far as the service."""

        try:
            answer = self.kit.call(method, request, who=who)
            if hasattr(answer, "cancel"):
                list(answer)
        except grpc.RpcError as error:
            return error.code() if error.code() in DENIED else None
        return None

    def without_a_token_no_method_answers(self):
        for method, request, _ in self.methods():
            code = self.denied(method, request, None)
            check(code == Code.UNAUTHENTICATED, type(request).__name__, code)

    def without_a_role_no_method_answers(self):
        for method, request, _ in self.methods():
            code = self.denied(method, request, "nobody")
            check(code == Code.PERMISSION_DENIED, type(request).__name__, code)

    def users_run_and_read_and_operators_change(self):
        wrong = []
        for method, request, may in self.methods():
            for who in ("alice", "operator"):
                code = self.denied(method, request, who)
                if code != (None if who in may else Code.PERMISSION_DENIED):
                    wrong.append((who, type(request).__name__, code))
        check(not wrong, wrong)

    def admins_and_services_may_call_everything(self):
        for method, request, _ in self.methods():
            for who in ("admin", "service"):
                code = self.denied(method, request, who)
                check(code is None, who, type(request).__name__, code)

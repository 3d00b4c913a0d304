"""What becomes of an execution when a process that it needs ends. The test that
runs this script ends that process when it is asked to."""

import grpc

from chain_cases import ChainCases
from protocol import await_begin, check
from services_kit import Code, chains, common, models


class StopCases:
    def __init__(self, kit, server):
        self.server, self.chains = server, ChainCases(kit, server)

    def an_execution_outlives_the_order_to_stop(self):
        call, _, model = self.chains.stuck("gated")
        await_begin("the engine is told to stop")
        self.server.release(model)
        last = list(call)[-1]
        check(last.WhichOneof("data") == "chain_completed", last)

    def a_router_that_is_killed_fails_the_step_alone(self):
        call, execution, _ = self.chains.stuck("stalls_midway")
        await_begin("the registry is killed")
        told = [event for event in call if event.WhichOneof("data") != "token_generated"]
        kinds = [event.WhichOneof("data") for event in told[-2:]]
        check(kinds == ["step_failed", "chain_failed"], told)
        away = ("ROUTER_FAILED", "the router can't be reached")
        error = told[-1].chain_failed.error
        check((error.code, error.message) == away, "what the transport says stays inside", told[-1])
        now = self.chains.status(execution)
        check((now.status, now.completed_steps) == (common.STATUS_ERROR, 1), now)
        answer = self.chains.execute(self.chains.request(chains.ChainStep(id="only")))
        check((answer.error.code, answer.error.message) == away, answer)

    def an_execution_that_outlives_the_drain_ends_with_its_call(self):
        call, _, _ = self.chains.stuck("stalls_midway")
        await_begin("the gateway is stopped at once")
        try:
            check(False, "the call was let go on", list(call))
        except grpc.RpcError as error:
            check(error.code() == Code.UNAVAILABLE, "its client can act upon it", error)

    def a_full_disk_refuses_what_must_be_kept(self):
        kit = self.chains.kit
        kit.local()
        await_begin("the disk is full")
        config = models.ConnectorConfig(type="local")
        model = models.ModelMetadata(id=kit.new("late"), name="Late", provider="tests", connector_config=config)
        request = models.RegisterModelRequest(metadata=model)
        kit.refused(Code.UNAVAILABLE, "RetryInfo", kit.registry.RegisterModel, request)
        await_begin("the disk has room again")
        check(kit.register(model) == model.id)

    def chains_run_without_redis(self):
        model = self.chains.kit.local()
        await_begin("redis is killed")
        answer = self.chains.execute(self.chains.request(chains.ChainStep(id="only", model=model)))
        check(answer.status == common.STATUS_SUCCESS, answer)

    def events_come_late_rather_than_never(self):
        model = self.chains.kit.local()
        await_begin("redis is killed")
        step = chains.ChainStep(id="only", model=model)
        answer = self.chains.execute(self.chains.request(step))
        check(answer.status == common.STATUS_SUCCESS, answer)
        await_begin("redis is started again")
        events = self.chains.kit.events
        events.wait("chain_step_completed", execution_id=answer.execution_id)
        events.wait("chain_execution_completed", execution_id=answer.execution_id)

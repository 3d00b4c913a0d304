"""What becomes of an execution when a process that it needs ends. The test that
runs this script ends that process when it is asked to."""

from chain_cases import ChainCases
from protocol import await_begin, check
from services_kit import chains, common


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
        check(told[-1].chain_failed.error.code == "ROUTER_FAILED", told[-1])
        now = self.chains.status(execution)
        check((now.status, now.completed_steps) == (common.STATUS_ERROR, 1), now)

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

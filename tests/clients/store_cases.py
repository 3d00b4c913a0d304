"""What ChainStoreService promises: the chains that executions can name."""

from protocol import check
from services_kit import Code, chains, common

SUCCESS = common.STATUS_SUCCESS


class StoreCases:
    def __init__(self, kit, server):
        self.kit, self.stub = kit, kit.store

    def chain(self, **fields):
        given = {"id": self.kit.new("chain"), "name": "A chain", **fields}
        steps = [chains.ChainStep(id="only", input_template="Stored: {{input}}")]
        return chains.Chain(**{"steps": steps, **given})

    def put(self, chain):
        request = chains.PutChainRequest(chain=chain)
        answer = self.kit.call(self.stub.PutChain, request, who="operator")
        check(answer.status == SUCCESS and answer.chain == chain, answer)
        return answer.created

    def get(self, chain_id):
        answer = self.kit.call(self.stub.GetChain, chains.GetChainRequest(chain_id=chain_id), who="alice")
        check(answer.status == SUCCESS, answer)
        return answer.chain

    def a_chain_is_stored_replaced_and_removed(self):
        chain = self.chain(version=common.VersionInfo(major=1), metadata=common.Metadata(values={"by": "tests"}))
        check(self.put(chain) is True, "it is new")
        check(self.get(chain.id) == chain, "it is as it was given")
        chain.description = "Another one"
        check(self.put(chain) is False, "it replaces the first")
        check(self.get(chain.id) == chain, "it is the second")
        delete = chains.DeleteChainRequest(chain_id=chain.id)
        answer = self.kit.call(self.stub.DeleteChain, delete, who="operator")
        check(answer.status == SUCCESS and answer.chain == chain, answer)
        for method, request in [
            (self.stub.GetChain, chains.GetChainRequest(chain_id=chain.id)),
            (self.stub.DeleteChain, delete),
            (self.kit.engine.ExecuteChain, chains.ChainExecutionRequest(chain_id=chain.id)),
            (self.kit.engine.StreamChainExecution, chains.ChainExecutionRequest(chain_id=chain.id)),
        ]:
            about = self.kit.refused(Code.NOT_FOUND, "ResourceInfo", method, request)
            check(about.resource_name == chain.id, about)

    def a_stored_chain_runs_by_its_id(self):
        model = self.kit.local()
        step = chains.ChainStep(id="only", model=model, input_template="Stored: {{input}}")
        chain = self.chain(steps=[step])
        self.put(chain)
        request = chains.ChainExecutionRequest(chain_id=chain.id, input="gateways")
        answer = self.kit.call(self.kit.engine.ExecuteChain, request, who="alice")
        check(answer.status == SUCCESS, answer)
        check(answer.step_results[0].input == "Stored: gateways", answer)

    def chains_are_listed_by_id_page_by_page(self):
        prefix = self.kit.new("page")
        ids = [f"{prefix}-{n}" for n in range(5)]
        for chain_id in reversed(ids):
            self.put(self.chain(id=chain_id))
        # Others store chains too; those of this case follow its prefix without a gap.
        page = lambda after, limit: self.kit.call(
            self.stub.ListChains, chains.ListChainsRequest(after_id=after, limit=limit), who="alice"
        )
        first = page(prefix, 2)
        check([chain.id for chain in first.chains] == ids[:2] and first.more, first)
        rest = page(ids[1], 3)
        check([chain.id for chain in rest.chains] == ids[2:], rest)
        last = page("zzzz", 0)
        check(list(last.chains) == [] and not last.more, last)

    def a_malformed_chain_is_not_stored(self):
        put = self.stub.PutChain
        bad = self.chain(id="not an id", steps=[])
        self.kit.malformed(["chain"], put, chains.PutChainRequest())
        self.kit.malformed(["chain.id", "chain.steps"], put, chains.PutChainRequest(chain=bad))
        step = chains.ChainStep(id="only", input_template="{{#if}")
        chain = self.chain(steps=[step])
        self.kit.malformed(["chain.steps[0].input_template"], put, chains.PutChainRequest(chain=chain))
        self.kit.fails(Code.NOT_FOUND, self.stub.GetChain, chains.GetChainRequest(chain_id=chain.id))

    def a_request_without_what_it_needs_is_refused_with_the_field(self):
        self.kit.malformed(["chain_id"], self.stub.GetChain, chains.GetChainRequest())
        self.kit.malformed(["chain_id"], self.stub.DeleteChain, chains.DeleteChainRequest(chain_id="a b"))
        self.kit.malformed(["limit"], self.stub.ListChains, chains.ListChainsRequest(limit=1001))

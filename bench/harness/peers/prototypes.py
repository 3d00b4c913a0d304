"""The two pass-through prototypes, and the levers tried on them."""

import os

from . import Peer


class Prototype(Peer):
    leaves_out = "token, role, limit"
    checks_token = checks_role = False

    def __init__(self, name, binary, *flags):
        self.name, self.file, self.flags = name, binary, flags

    def missing(self, bench):
        path = bench.binary(self.file)
        return None if os.path.exists(path) else f"{path} is not built"

    def command(self, bench, ports):
        material = bench.material
        return [bench.binary(self.file), "--listen", f"127.0.0.1:{ports.gateway}",
                "--cert", material.cert("gateway"), "--key", material.key("gateway"),
                "--to", f"127.0.0.1:{ports.backend}", "--upstream-ca", material.ca,
                "--upstream-cert", material.cert("client"),
                "--upstream-key", material.key("client"), *self.flags]


MERGE = ("--merge", "16384")
TURN = ("--turn", "65536")

PEERS = [
    Prototype("proto-hyper", "proto-hyper"),
    Prototype("proto-h2", "proto-h2"),
    Prototype("proto-hyper-merge", "proto-hyper", *MERGE),
    Prototype("proto-h2-merge", "proto-h2", *MERGE),
    Prototype("proto-hyper-merge-turn", "proto-hyper", *MERGE, *TURN),
    Prototype("proto-h2-merge-turn", "proto-h2", *MERGE, *TURN),
    Prototype("proto-h2-drain-turn", "proto-h2", "--drain", "--turn", "131072"),
    Prototype("proto-h2-turn", "proto-h2", *TURN),
    Prototype("proto-h2-merge-turn32", "proto-h2", *MERGE, "--turn", "32768"),
    Prototype("proto-h2-merge-turn128", "proto-h2", *MERGE, "--turn", "131072"),
    Prototype("proto-h2-small-windows", "proto-h2", "--small-windows"),
    Prototype("proto-h2-mimalloc", "../proto-mimalloc/proto-h2"),
    Prototype("proto-hyper-mimalloc", "../proto-mimalloc/proto-hyper"),
    Prototype("proto-h2-release", "../release/proto-h2"),
]

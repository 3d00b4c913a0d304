"""Our gateway, with all of the job that it does."""

import os

from ..material import AUDIENCE, ISSUER, ROLE
from . import Peer


class Intellirouter(Peer):
    name = "intellirouter"

    def missing(self, bench):
        binary = bench.binary("intellirouter")
        return None if os.path.exists(binary) else f"{binary} is not built"

    def command(self, bench, ports):
        config = self.config(bench, ".toml", config_text(bench.material, ports))
        return [bench.binary("intellirouter"), "gateway", "--config", config]


def config_text(material, ports, limits=""):
    """`limits`: more lines for the table `[limits]`, which may be there only once."""
    return f"""\
[listen]
address = "127.0.0.1:{ports.gateway}"
cert_file = "{material.cert('gateway')}"
key_file = "{material.key('gateway')}"
[workers]
count = 1
[admin]
address = "127.0.0.1:{ports.admin}"
[log]
level = "warn"
access = false
[limits]
connections_per_address = 10000
open_calls_per_subject = 20000
{limits}[[limits.rates]]
name = "caller"
per = ["subject"]
rate = 1000000
[auth]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
[[auth.keys]]
algorithm = "HS256"
secret_file = "{material.secret_file}"
[identity]
key_file = "{material.key('identity')}"
[[upstreams]]
name = "bench"
endpoints = ["https://127.0.0.1:{ports.backend}"]
ca_file = "{material.ca}"
cert_file = "{material.cert('client')}"
key_file = "{material.key('client')}"
server_name = "localhost"
[[routes]]
match = "/bench.Bench/*"
upstream = "bench"
roles = ["{ROLE}"]
"""


PEERS = [Intellirouter()]

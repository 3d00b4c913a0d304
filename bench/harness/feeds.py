"""The servers of event streams that are measured, each before the same Redis.

A feed says how it is started, and which paths subscribe and publish. All have
TLS outside and one worker, and keep what was published for those who resume.
"""

import os
import subprocess

from .material import AUDIENCE, ISSUER, ROLE
from .peers import find, nginx

CHANNEL = "intellirouter:bench:load:tick"
NCHAN = "/usr/lib/nginx/modules/ngx_nchan_module.so"


class Gateway:
    """Token, roles, channel check, log, resume."""

    publish = f"/events/{CHANNEL}"
    subscribe = f"/events?channel={CHANNEL}"
    http2 = promises = True

    def __init__(self, name, redis, does):
        self.name, self.redis, self.does = name, redis, does

    def missing(self, bench):
        return built(bench, "intellirouter")

    def command(self, bench, ports):
        store = f"redis://127.0.0.1:{ports.redis}" if self.redis else "memory:"
        config = bench.write(self.name + ".toml", GATEWAY.format(
            p=ports, m=bench.material, store=store, cert=bench.material.cert("gateway"),
            key=bench.material.key("gateway"), identity=bench.material.key("identity"),
            issuer=ISSUER, audience=AUDIENCE, role=ROLE))
        return [bench.binary("intellirouter"), "gateway", "--config", config]


class Nchan:
    """nginx with nchan."""

    name = "nchan"
    does = "log in Redis, resume"
    publish = "/publish"
    subscribe = "/subscribe"
    http2 = True
    promises = False

    def missing(self, bench):
        there = find("nginx") and os.path.exists(NCHAN)
        return None if there else "not installed: run bench/install-peers"

    def command(self, bench, ports):
        text = nginx.config(
            bench, self.name, ports.server, 12288, NCHAN_HTTP.format(p=ports), NCHAN_SERVER)
        return nginx.command(bench.write("nchan.conf", f"load_module {NCHAN};\n{text}"))


class Bare:
    """The least that fans out: what the gateway's checks and log are held against."""

    name = "bare"
    does = "fan-out alone: no token, no channels, no log, no resume"
    publish = "/"
    subscribe = "/"
    http2 = promises = False

    def missing(self, bench):
        return built(bench, "bench-fanout")

    def command(self, bench, ports):
        return [bench.binary("bench-fanout"), "--listen", f"127.0.0.1:{ports.server}",
                "--cert", bench.material.cert("gateway"), "--key", bench.material.key("gateway")]


class Ports:
    """Where a feed listens, has its admin page, and finds its store."""

    def __init__(self, server, admin, redis):
        self.server, self.admin, self.redis = server, admin, redis


def every():
    """All feeds, in the order of the table."""
    return [Gateway("intellirouter", True, "token, channel check, log in Redis, resume"),
            Gateway("intellirouter-memory", False, "the same with the embedded store"),
            Nchan(), Bare()]


def redis(port, directory):
    """A store that keeps nothing on disk."""
    return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", directory]


def redis_missing():
    return None if find("redis-server") else "redis-server is not installed"


def flush(port):
    subprocess.run(["redis-cli", "-p", str(port), "flushall"], check=True, capture_output=True)


def built(bench, name):
    binary = bench.binary(name)
    return None if os.path.exists(binary) else f"{binary} is not built"


GATEWAY = """\
[listen]
address = "127.0.0.1:{p.server}"
cert_file = "{cert}"
key_file = "{key}"
[workers]
count = 1
[admin]
address = "127.0.0.1:{p.admin}"
[log]
level = "warn"
access = false
[limits]
connections_per_address = 10000
open_calls_per_subject = 20000
[auth]
issuer = "{issuer}"
audience = "{audience}"
[[auth.keys]]
algorithm = "HS256"
secret_file = "{m.secret_file}"
[identity]
key_file = "{identity}"
[events]
store = "{store}"
[[events.rules]]
roles = ["{role}"]
subscribe = ["intellirouter:bench:*"]
publish = ["intellirouter:bench:*"]
"""

NCHAN_HTTP = """\
    nchan_shared_memory_size 512m;
    upstream store {{ nchan_redis_server redis://127.0.0.1:{p.redis}; }}"""

# One channel that keeps about what the gateway does.
NCHAN_SERVER = """\
        location = /publish {
            nchan_publisher http;
            nchan_channel_id bench;
            nchan_redis_pass store;
            nchan_message_buffer_length 100000;
            nchan_message_timeout 1h;
        }
        location = /subscribe {
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_redis_pass store;
            nchan_subscriber_first_message newest;
        }"""

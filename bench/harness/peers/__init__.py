"""The systems that are measured, one file each.

A peer says what it leaves out of the whole job, and how it is started: every
one on one worker, TLS outside, mTLS to the same backend, `TCP_NODELAY` on both
sides, flow-control windows of 1 MiB per stream and 16 MiB per connection where
they can be set.
"""

import os
import shutil


class Peer:
    """What the runner needs to know of a peer."""

    name = ""
    leaves_out = ""
    checks_token = True
    checks_role = True

    def missing(self, bench):
        """Why this peer cannot run here, or None."""
        raise NotImplementedError

    def command(self, bench, ports):
        """Writes the config and returns the command line."""
        raise NotImplementedError

    def config(self, bench, suffix, text):
        path = os.path.join(bench.out, self.name + suffix)
        with open(path, "w") as file:
            file.write(text)
        return path


class Ports:
    """Where a peer listens, has its admin page, and finds the backend."""

    def __init__(self, gateway, admin, backend):
        self.gateway, self.admin, self.backend = gateway, admin, backend


def find(command):
    # Daemons live in sbin, which is not on every PATH.
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def every():
    """All peers, in the order of the table."""
    from . import envoy, haproxy, intellirouter, nginx
    return [*intellirouter.PEERS, *envoy.PEERS, *haproxy.PEERS, *nginx.PEERS]

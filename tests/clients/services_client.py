"""Every call of the services, with grpcio as the client, and the events that they send.

    services_client.py --target localhost:8443 --ca certs/ca.crt --token NAME=TOKEN ... --group GROUP [--case NAME ...]

Groups: registry, router, chains, store, roles. Two run only by name: stops asks
for processes to be ended, keys needs --endpoint URL. Tokens: admin, service, operator,
alice and bob (role user), nobody (no role). Stubs are made from the project's
.proto files when the script starts.
"""

import argparse
import sys

import grpc

import protocol
from chain_cases import ChainCases
from key_cases import KeyCases
from model_server import ModelServer
from registry_cases import RegistryCases
from roles_cases import RolesCases
from router_cases import RouterCases
from services_kit import Events, Kit
from stop_cases import StopCases
from store_cases import StoreCases

GROUPS = {
    "registry": RegistryCases,
    "router": RouterCases,
    "chains": ChainCases,
    "store": StoreCases,
    "roles": RolesCases,
    "stops": StopCases,
    "keys": KeyCases,
}
BY_NAME = {"stops", "keys"}


def cases_of(group):
    """The methods of a group that are cases: helpers have short names, cases are sentences."""

    return [name for name in vars(group) if name[0] != "_" and name.count("_") >= 3]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", action="append", required=True, metavar="NAME=TOKEN")
    parser.add_argument("--group", action="append", choices=GROUPS, help="may be repeated")
    parser.add_argument("--case", action="append", help="may be repeated; all cases by default")
    parser.add_argument("--endpoint", help="model server that the key `lent` is for")
    options = parser.parse_args()

    tokens = dict(text.split("=", 1) for text in options.token)
    credentials = grpc.ssl_channel_credentials(open(options.ca, "rb").read())
    with grpc.secure_channel(options.target, credentials) as channel:
        events = Events(options.target, options.ca, tokens["admin"])
        kit, server = Kit(channel, tokens, events), ModelServer()
        cases = []
        for group in options.group or [name for name in GROUPS if name not in BY_NAME]:
            more = [options.endpoint] if group == "keys" else []
            found = GROUPS[group](kit, server, *more)
            cases += [(name, getattr(found, name)) for name in cases_of(GROUPS[group])]
        wanted = [case for case in cases if not options.case or case[0] in options.case]
        if not wanted:
            parser.error("no such case")
        return protocol.run(wanted)


if __name__ == "__main__":
    sys.exit(main())

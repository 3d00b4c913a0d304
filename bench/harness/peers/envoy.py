"""Envoy, with token, roles and limit in its own filters."""

import json
import os

from ..material import AUDIENCE, ISSUER, ROLE, base64url, read
from . import Peer

TYPE = "type.googleapis.com/envoy.extensions."
BENCH = "/bench.Bench/"
JWT = "envoy.filters.http.jwt_authn"


class Envoy(Peer):
    name = "envoy"
    leaves_out = "limit per caller (its local limit is per route); identity token"

    def missing(self, bench):
        path = self.binary(bench)
        return None if os.path.exists(path) else "not installed: run bench/install-peers"

    def command(self, bench, ports):
        text = json.dumps(bootstrap(bench.material, ports), indent=1)
        return [self.binary(bench), "-c", self.config(bench, ".json", text),
                "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]

    def binary(self, bench):
        return os.path.join(bench.here, ".venv", "bin", "envoy")


def bootstrap(material, ports):
    return {
        "admin": {"address": address(ports.admin)},
        "static_resources": {"listeners": [listener(material, ports)],
                             "clusters": [cluster(material, ports)]},
    }


def listener(material, ports):
    tls = {"common_tls_context": {
        "alpn_protocols": ["h2"],
        "tls_certificates": [certificate(material, "gateway")]}}
    return {
        "name": "grpc",
        "address": address(ports.gateway),
        "filter_chains": [{
            "transport_socket": typed("envoy.transport_sockets.tls", "transport_sockets.tls.v3."
                                      "DownstreamTlsContext", tls),
            "filters": [typed("envoy.filters.network.http_connection_manager",
                              "filters.network.http_connection_manager.v3."
                              "HttpConnectionManager", manager(material))]}],
    }


def manager(material):
    return {
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {**windows(), "max_concurrent_streams": 256},
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": BENCH},
                        "route": {"cluster": "bench", "timeout": "0s"}}]}]},
        "http_filters": [
            typed(JWT, "filters.http.jwt_authn.v3.JwtAuthentication", authentication(material)),
            typed("envoy.filters.http.rbac", "filters.http.rbac.v3.RBAC", roles()),
            typed("envoy.filters.http.local_ratelimit",
                  "filters.http.local_ratelimit.v3.LocalRateLimit", limit()),
            typed("envoy.filters.http.router", "filters.http.router.v3.Router", {}),
        ],
    }


def authentication(material):
    key = {"kty": "oct", "alg": "HS256", "k": base64url(read(material.secret_file))}
    provider = {
        "issuer": ISSUER, "audiences": [AUDIENCE], "forward": True,
        "payload_in_metadata": "claims",
        "local_jwks": {"inline_string": json.dumps({"keys": [key]})},
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }
    return {"providers": {"bench": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}]}


def roles():
    has_role = {"metadata_matcher": {
        "filter": JWT, "path": [{"key": "claims"}, {"key": "roles"}],
        "value": {"list_match": {"one_of": {"string_match": {"exact": ROLE}}}}}}
    policy = {"permissions": [{"url_path": {"path": {"prefix": BENCH}}}],
              "principals": [{"sourced_metadata": has_role}]}
    return {"rules": {"action": "ALLOW", "policies": {"bench": policy}}}


def limit():
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "stat_prefix": "limit",
        "token_bucket": {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000,
                         "fill_interval": "1s"},
        "filter_enabled": always, "filter_enforced": always,
        "rate_limited_as_resource_exhausted": True,
    }


def cluster(material, ports):
    tls = {"sni": "localhost", "common_tls_context": {
        "alpn_protocols": ["h2"],
        "tls_certificates": [certificate(material, "client")],
        "validation_context": {
            "trusted_ca": {"filename": material.ca},
            "match_typed_subject_alt_names": [
                {"san_type": "DNS", "matcher": {"exact": "localhost"}}]}}}
    protocol = {"explicit_http_config": {
        "http2_protocol_options": {**windows(), "max_concurrent_streams": 4096}}}
    most = 1_000_000
    return {
        "name": "bench",
        "connect_timeout": "5s",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions", **protocol}},
        "transport_socket": typed("envoy.transport_sockets.tls",
                                  "transport_sockets.tls.v3.UpstreamTlsContext", tls),
        "load_assignment": {"cluster_name": "bench", "endpoints": [{
            "lb_endpoints": [{"endpoint": {"address": address(ports.backend)}}]}]},
    }


def windows():
    return {"initial_stream_window_size": 1 << 20, "initial_connection_window_size": 16 << 20}


def certificate(material, name):
    return {"certificate_chain": {"filename": material.cert(name)},
            "private_key": {"filename": material.key(name)}}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def typed(name, kind, config):
    return {"name": name, "typed_config": {"@type": TYPE + kind, **config}}


PEERS = [Envoy()]

"""HAProxy, with and without the policy."""

from ..material import AUDIENCE, ISSUER, ROLE, read
from . import Peer, find


class Haproxy(Peer):
    name = "haproxy"
    leaves_out = "roles beyond the first of the token; identity token"

    def missing(self, bench):
        return None if find("haproxy") else "not installed: run bench/install-peers"

    def command(self, bench, ports):
        text = BASE.format(m=bench.material, p=ports, both=bench.material.both("gateway"),
                           client=bench.material.both("client"),
                           policy=self.policy(bench.material))
        return [find("haproxy"), "-db", "-f", self.config(bench, ".cfg", text)]

    def policy(self, material):
        secret = read(material.secret_file).decode()
        return POLICY.format(secret=secret, issuer=ISSUER, audience=AUDIENCE, role=ROLE)


class HaproxyNoPolicy(Haproxy):
    name = "haproxy-nopolicy"
    leaves_out = "token, role, limit"
    checks_token = checks_role = False

    def policy(self, material):
        return ""


# Buffers of 32 KiB cost less than the default's 16 in C and D; with 64 some
# answers of D came short.
BASE = """\
global
    nbthread 1
    maxconn 8000
    tune.bufsize 32768
    tune.h2.initial-window-size 1048576
    tune.h2.max-concurrent-streams 256
    ssl-server-verify required

defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-request 30s
    timeout http-keep-alive 1h
    http-reuse always

frontend grpc
    bind 127.0.0.1:{p.gateway} ssl crt {both} alpn h2
{policy}\
    default_backend bench

backend bench
    server one 127.0.0.1:{p.backend} ssl alpn h2 verify required ca-file {m.ca} \
crt {client} sni str(localhost) verifyhost localhost pool-max-conn -1
"""

POLICY = """\
    http-request set-var(txn.token) http_auth_bearer
    http-request deny deny_status 401 unless {{ var(txn.token) -m len gt 0 }}
    http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')
    http-request deny deny_status 401 unless {{ var(txn.alg) -m str HS256 }}
    http-request deny deny_status 401 unless \
{{ var(txn.token),jwt_verify(txn.alg,"{secret}") -m int 1 }}
    http-request deny deny_status 401 unless \
{{ var(txn.token),jwt_payload_query('$.iss') -m str {issuer} }}
    http-request deny deny_status 401 unless \
{{ var(txn.token),jwt_payload_query('$.aud') -m str {audience} }}
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}
    acl bench path_beg /bench.Bench/
    acl user var(txn.token),jwt_payload_query('$.roles[0]') -m str {role}
    http-request deny deny_status 403 unless bench user
    stick-table type string len 64 size 100k expire 10m store http_req_rate(1s)
    http-request track-sc0 var(txn.token),jwt_payload_query('$.sub')
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
"""

PEERS = [Haproxy(), HaproxyNoPolicy()]

"""nginx, as far as its open-source edition goes."""

from . import Peer, find


class Nginx(Peer):
    name = "nginx"
    leaves_out = "token, role (no JWT in the open-source edition)"
    checks_token = checks_role = False

    def missing(self, bench):
        return None if find("nginx") else "not installed: run bench/install-peers"

    def command(self, bench, ports):
        material = bench.material
        server = SERVER.format(
            ca=material.ca, client_cert=material.cert("client"), client_key=material.key("client"))
        text = config(bench, self.name, ports.gateway, 8192, HTTP.format(p=ports), server)
        return command(self.config(bench, ".conf", text))


def config(bench, name, port, connections, http, server):
    """One worker with TLS outside; `http` and `server` stand in those blocks."""
    return CONFIG.format(
        out=bench.out, name=name, port=port, connections=connections, http=http, server=server,
        cert=bench.material.cert("gateway"), key=bench.material.key("gateway"))


def command(path):
    return [find("nginx"), "-e", "stderr", "-c", path]


CONFIG = """\
daemon off;
user root;
pid {out}/{name}.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 16384;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    tcp_nodelay on;
    client_body_temp_path {out}/nginx-body;
    proxy_temp_path {out}/nginx-proxy;
    fastcgi_temp_path {out}/nginx-fastcgi;
    uwsgi_temp_path {out}/nginx-uwsgi;
    scgi_temp_path {out}/nginx-scgi;
{http}
    server {{
        listen 127.0.0.1:{port} ssl http2 backlog=4096;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
{server}
    }}
}}
"""

# Its upstream side has no multiplexing: one connection per call in flight.
HTTP = """\
    limit_req_zone $binary_remote_addr zone=caller:10m rate=1000000r/s;
    limit_req_status 429;
    upstream bench {{
        server 127.0.0.1:{p.backend};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}"""

SERVER = """\
        http2_max_concurrent_streams 256;
        http2_body_preread_size 1m;
        client_max_body_size 0;
        client_body_buffer_size 128k;
        location /bench.Bench/ {{
            limit_req zone=caller burst=1000000 nodelay;
            grpc_pass grpcs://bench;
            grpc_buffer_size 64k;
            grpc_read_timeout 1h;
            grpc_send_timeout 1h;
            grpc_ssl_certificate {client_cert};
            grpc_ssl_certificate_key {client_key};
            grpc_ssl_trusted_certificate {ca};
            grpc_ssl_verify on;
            grpc_ssl_name localhost;
            grpc_ssl_server_name on;
            grpc_ssl_protocols TLSv1.2 TLSv1.3;
        }}"""

PEERS = [Nginx()]

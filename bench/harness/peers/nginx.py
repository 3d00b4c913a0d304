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
        text = CONFIG.format(
            out=bench.out, p=ports, ca=material.ca,
            cert=material.cert("gateway"), key=material.key("gateway"),
            client_cert=material.cert("client"), client_key=material.key("client"))
        return [find("nginx"), "-e", "stderr", "-c", self.config(bench, ".conf", text)]


# Its upstream side has no multiplexing: one connection per call in flight.
CONFIG = """\
daemon off;
user root;
pid {out}/nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    tcp_nodelay on;
    client_body_temp_path {out}/nginx-body;
    proxy_temp_path {out}/nginx-proxy;
    fastcgi_temp_path {out}/nginx-fastcgi;
    uwsgi_temp_path {out}/nginx-uwsgi;
    scgi_temp_path {out}/nginx-scgi;
    limit_req_zone $binary_remote_addr zone=caller:10m rate=1000000r/s;
    limit_req_status 429;
    upstream bench {{
        server 127.0.0.1:{p.backend};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{p.gateway} ssl http2 backlog=4096;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        http2_max_concurrent_streams 256;
        http2_body_preread_size 1m;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
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
        }}
    }}
}}
"""

PEERS = [Nginx()]

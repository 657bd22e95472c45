"""The ceiling: nginx and HAProxy that forward and do nothing else."""

from __future__ import annotations

import shutil

from benchmarks import nginx
from benchmarks.machine import Process, free_port
from benchmarks.peers import MissingError, Peer


class BareNginx(Peer):
    """nginx `proxy_pass` with keep-alive connections to the upstream: no key, no count."""

    title = "nginx proxy_pass (no key, no count)"

    def start(self) -> None:
        if nginx.binary() is None:
            raise MissingError(f"nginx is not installed. {nginx.HOW_TO_INSTALL}.")
        self.port = free_port()
        http = f"""
    upstream origin {{
        server 127.0.0.1:{self.bench.origin_port};
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffer_size 16k;
            proxy_buffers 16 16k;
        }}
    }}
"""
        command = nginx.write(self.bench.folder, "nginx-bare", nginx.configuration(http))
        self.process = Process("nginx-bare", command, self.bench.layout.proxy, self.bench.folder)
        self.process.wait_for_port(self.port)


class Haproxy(Peer):
    """HAProxy in HTTP mode with keep-alive connections to the upstream: no key, no count."""

    title = "HAProxy (no key, no count)"

    def start(self) -> None:
        found = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if found is None:
            raise MissingError("HAProxy is not installed. Debian and Ubuntu: apt install haproxy.")
        self.port = free_port()
        configuration = self.bench.folder / "haproxy.cfg"
        configuration.write_text(
            f"""
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
listen bench
    bind 127.0.0.1:{self.port} backlog 4096
    server origin 127.0.0.1:{self.bench.origin_port}
"""
        )
        command = [found, "-db", "-f", str(configuration)]
        self.process = Process("haproxy", command, self.bench.layout.proxy, self.bench.folder)
        self.process.wait_for_port(self.port)

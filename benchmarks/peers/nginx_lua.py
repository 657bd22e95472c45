"""nginx with Lua and Redis doing the gateway's job: what Kong and APISIX are made of, but no framework."""

from __future__ import annotations

from pathlib import Path

from benchmarks import nginx
from benchmarks.machine import Process, free_port
from benchmarks.peers import PEPPER, MissingError, Peer, counted_by_script, put_keys

PREFIX = "nginx"
_HERE = Path(__file__).parent


class NginxLua(Peer):
    """nginx, one EVALSHA a call, keep-alive connections to Redis and to the upstream."""

    title = "nginx + Lua + Redis"

    def start(self) -> None:
        load_lua = nginx.load_lua()
        if load_lua is None:
            raise MissingError(f"nginx with its Lua module is not installed. {nginx.HOW_TO_INSTALL_LUA}.")
        store = self.bench.store
        put_keys(store.client, PREFIX, self.credentials)
        sha = store.client.script_load((_HERE / "count.lua").read_text())
        self.port = free_port()
        http = f"""
    lua_socket_log_errors on;
    init_by_lua_block {{
        settings = {{
            prefix = "{PREFIX}", pepper = "{PEPPER}", sha = "{sha}", redis_port = {store.port},
        }}
        package.path = "{_HERE}/?.lua;" .. package.path
        gate = require "gate"
    }}
    upstream origin {{
        server 127.0.0.1:{self.bench.origin_port};
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        location / {{
            access_by_lua_block {{ gate.admit() }}
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffer_size 16k;
            proxy_buffers 16 16k;
        }}
    }}
"""
        command = nginx.write(self.bench.folder, "nginx-lua", nginx.configuration(http, load_lua))
        complaint = nginx.complaint(command)
        if complaint is not None:
            raise MissingError(f"nginx cannot run the Lua peer: {complaint}\n{nginx.HOW_TO_INSTALL_LUA}.")
        self.process = Process("nginx-lua", command, self.bench.layout.proxy, self.bench.folder)
        self.process.wait_for_port(self.port)

    def counted(self) -> int:
        return counted_by_script(self.bench.store.client, PREFIX)

"""What is known of the nginx on this machine, and the parts that all its configurations here share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

HOW_TO_INSTALL = "Debian and Ubuntu: apt install nginx-light"
HOW_TO_INSTALL_LUA = (
    "Debian and Ubuntu: apt install nginx-light libnginx-mod-http-lua lua-nginx-redis; "
    "elsewhere: OpenResty, which has everything"
)


def binary() -> str | None:
    """Return the path of nginx, or of OpenResty, or None when there is neither."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/openresty/bin"
    return shutil.which("nginx", path=path) or shutil.which("openresty", path=path)


def configuration(http: str, main: str = "") -> str:
    """Return a configuration of one worker process around the `http` text, tuned for a proxy under load."""
    user = "user root;" if os.geteuid() == 0 else ""  # a root's folder is closed to the default user
    return f"""
{main}
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off;
    default_type application/json;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 100000000;
    client_body_buffer_size 64k;
    client_header_buffer_size 4k;
    large_client_header_buffers 8 16k;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{http}
}}
"""


def write(folder: Path, name: str, text: str) -> list[str]:
    """Write a configuration into a folder of its own and return the command that runs nginx with it."""
    home = folder / name
    home.mkdir(exist_ok=True)
    (home / "nginx.conf").write_text(text)
    found = binary()
    if found is None:
        raise FileNotFoundError(f"nginx is not installed. {HOW_TO_INSTALL}.")
    return [found, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"]


def complaint(command: list[str]) -> str | None:
    """Return what nginx has against the configuration of `command`, or None when it would run."""
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    return None if tested.returncode == 0 else tested.stderr.strip()


def load_lua() -> str | None:
    """Return the lines that load the Lua module ("" when it is built in), or None when there is none."""
    found = binary()
    if found is None:
        return None
    built = subprocess.run([found, "-V"], capture_output=True, text=True, check=False).stderr
    if "lua-nginx-module" in built or "openresty" in built or "ngx_lua" in built:
        return ""
    folder = re.search(r"--modules-path=(\S+)", built)
    if folder is None:
        return None
    modules = [Path(folder[1]) / name for name in ("ndk_http_module.so", "ngx_http_lua_module.so")]
    if not all(module.exists() for module in modules):
        return None
    return "\n".join(f"load_module {module};" for module in modules)

"""What `tallygate serve` tells the person who started it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from urllib.parse import quote

from gateway.config import TOKEN_FILE
from gateway.first_start import Demo, read_secret
from gateway.ports import reachable
from gateway.settings import Settings

_SEARCH = (
    "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
    "<ItemTitle>{title}</ItemTitle></SearchItemsParameters>"
)


def text(settings: Settings, demo: Demo | None) -> str:
    """Return the addresses, and with a demo its key, the control token and calls to paste."""
    server = settings.server
    proxy = _url(server.proxy_host, server.proxy_port, tls=server.proxy_tls is not None)
    control = _url(server.control_host, server.control_port, tls=server.control_tls is not None)
    lines = ["", "Tallygate serves.", "", f"  proxy    {proxy}", f"  control  {control}"]
    token_file = settings.stores.data_dir / TOKEN_FILE
    if demo is None:
        lines += [f"  metrics  {control}/metrics", f"  token    in {token_file}", ""]
        return "\n".join(lines)
    token = read_secret(token_file) or f"(no longer in {token_file})"
    command = Path(sys.argv[0])
    if not command.name.startswith("tallygate"):
        command = Path("tallygate")
    search = quote(_SEARCH.format(title="phone"), safe="")
    by_get = (
        f"{proxy}/service-json/SearchItemsFrame?instanceKey={demo.key}&language=en&xmlParameters={search}"
    )
    by_get += "&framePosition=0&frameSize=3"
    form = [f"instanceKey={demo.key}", "language=ru", "framePosition=0", "frameSize=3"]
    by_post = f"curl {proxy}/service/SearchItemsFrame"
    by_post += "".join(f" -d {shlex.quote(field)}" for field in form)
    by_post += f" --data-urlencode {shlex.quote('xmlParameters=' + _SEARCH.format(title='чехол'))}"
    lines += [
        f"  key      {demo.key}",
        f"  token    {token}",
        "",
        "A search answered in JSON:",
        f"  curl {shlex.quote(by_get)}",
        "",
        "The same by POST, answered in XML:",
        f"  {by_post}",
        "",
        "What was counted, and the figures of all workers:",
        f"  {command} usage --group-by method,class",
        f"  curl -H {shlex.quote(f'Authorization: Bearer {token}')} {control}/metrics",
        "",
        f"Ctrl-C stops everything; the counts stay in {settings.stores.data_dir}.",
        "",
    ]
    return "\n".join(lines)


def _url(host: str, port: int, *, tls: bool) -> str:
    host = reachable(host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"

"""`python -m demo --port 8090`: serve the marketplace until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import signal

from demo.access import Access
from demo.catalogue import ITEMS, make_catalogue
from demo.marketplace import Marketplace
from demo.server import Connection
from demo.site import Site
from demo.switches import HELP, Switches

OWN_PATHS = """\
paths:
  /service-json/METHOD                 OTAPI in JSON, GET or POST
  /service/METHOD, /OtapiWebService2.asmx/METHOD   OTAPI in XML
  /router/rest                         TOP
  /rest/items, /rest/items/ID, /rest/search?q=     REST
  /rest/uploads                        takes any body by POST or PUT and tells its size and hash
  /demo/requests?limit=N               what arrived, byte for byte; DELETE forgets it
  /demo/health                         answers when the marketplace is up
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="A made-up marketplace for trying things out.",
        epilog=f"{OWN_PATHS}\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 picks a free one (default: 8090)")
    parser.add_argument("--seed", type=int, default=1, help="the catalogue's seed (default: 1)")
    parser.add_argument("--items", type=int, default=ITEMS, help=f"items in the catalogue (default: {ITEMS})")
    parser.add_argument("--delay-ms", type=int, default=0, help="wait before every answer")
    parser.add_argument("--require-key", metavar="KEY", help="refuse calls without this key")
    parser.add_argument("--secret", help="refuse calls that are not signed with this secret")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    marketplace = Marketplace(make_catalogue(options.seed, options.items))
    site = Site(marketplace, Access(options.require_key, options.secret))
    default = Switches(delay_ms=options.delay_ms)
    tasks: set[asyncio.Task[None]] = set()
    try:
        server = await loop.create_server(
            lambda: Connection(site, default, tasks), options.host, options.port
        )
    except OSError as error:
        raise SystemExit(f"demo: {options.host}:{options.port} cannot be used: {error.strerror}") from error
    host, port = server.sockets[0].getsockname()[:2]
    print(f"demo marketplace on http://{host}:{port}", flush=True)
    await stopping.wait()
    server.close()
    for task in tasks:
        task.cancel()


def main() -> None:
    """Run the program."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(parse()))
    else:
        uvloop.run(serve(parse()))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.identify_cost`: what identifying a call costs, in microseconds of one core.

Each figure is the best of several rounds, so that another process's work does not show in it. "fresh" calls
carry parameters that were never seen before; "repeated" ones are found in the bounded memory of earlier
readings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from urllib.parse import quote, urlencode

from gateway import config
from gateway.proxy.identify import Parts, identify
from gateway.settings import Route, Settings
from policies.decision import Denied

ROUNDS = 30
# Above what identification remembers, so that by the next round everything is fresh again.
DISTINCT = 1500

_HEADERS = [
    (b"Host", b"shop.example.com"),
    (b"User-Agent", b"Mozilla/5.0 (compatible; shop/3.1)"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Accept-Language", b"ru-RU,ru;q=0.9"),
    (b"Connection", b"keep-alive"),
    (b"X-Forwarded-For", b"192.0.2.7"),
    (b"Cookie", b"session=0123456789abcdef"),
]
_FORM_HEADERS = [
    *_HEADERS,
    (b"Content-Type", b"application/x-www-form-urlencoded"),
    (b"Content-Length", b"2048"),
]


def get_of(size_bytes: int, number: int) -> Parts:
    """Return a search by GET with a query of about `size_bytes`; each number makes other parameters."""
    query = urlencode(_parameters(number), quote_via=quote)
    query += "&comment=" + "x" * max(0, size_bytes - len(query) - 9)
    target = b"/service-json/SearchItemsFrame?" + query.encode()
    return Parts("GET", target, _HEADERS, None, True)


def post_of(size_bytes: int, number: int) -> Parts:
    """Return a search by POST with a form of about `size_bytes`."""
    form = urlencode(_parameters(number))
    form += "&comment=" + "x" * max(0, size_bytes - len(form) - 9)
    return Parts("POST", b"/service-json/SearchItemsFrame", _FORM_HEADERS, form.encode(), True)


def _parameters(number: int) -> dict[str, str]:
    xml = (
        "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
        f"<CategoryId>otc-{number}</CategoryId><ItemTitle>красное платье {number}</ItemTitle>"
        "<MinPrice>10</MinPrice><MaxPrice>900</MaxPrice></SearchItemsParameters>"
    )
    return {
        "instanceKey": "0123456789abcdef0123456789abcdef",
        "language": "ru",
        "sessionId": "",
        "xmlParameters": xml,
        "framePosition": "0",
        "frameSize": "40",
    }


def cost_us(call: Callable[[Parts], object], samples: Sequence[Parts], times: int) -> float:
    """Return microseconds per call over `samples`, `times` times in turn; the best round counts."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = perf_counter_ns()
        for _ in range(times):
            for sample in samples:
                call(sample)
        best = min(best, (perf_counter_ns() - begun) / (times * len(samples)))
    return best / 1000


def measure(settings: Settings) -> dict[str, float]:
    """Return microseconds per call by the kind of call."""
    route = next(route for route in settings.routes if route.path_prefix == "/service-json/")
    plain = Parts(
        "GET",
        b"/service-json/GetRootCategoryInfoList?instanceKey=0123456789abcdef&language=en",
        _HEADERS,
        None,
        True,
    )

    def call(parts: Parts) -> object:
        return _identified(route, settings, parts)

    return {
        "GET without parameters to read": cost_us(call, [plain], 500),
        "GET 1 KB, repeated": cost_us(call, [get_of(1024, 1)], 500),
        "GET 1 KB, fresh": cost_us(call, [get_of(1024, n) for n in range(DISTINCT)], 1),
        "POST 2 KB form, repeated": cost_us(call, [post_of(2048, 1)], 500),
        "POST 2 KB form, fresh": cost_us(call, [post_of(2048, n) for n in range(DISTINCT)], 1),
    }


def _identified(route: Route, settings: Settings, parts: Parts) -> object:
    found = identify(route, settings.methods, parts)
    assert not isinstance(found, Denied), found
    return found


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.identify_cost", description=__doc__).parse_args()
    environ = {"TALLYGATE_REDIS_URL": "redis://unused", "TALLYGATE_DATA_DIR": "unused"}
    settings = config.load(None, environ, keep_pepper=False)
    for name, microseconds in measure(settings).items():
        print(f"{name:<32} {microseconds:6.2f} us")


if __name__ == "__main__":
    main()

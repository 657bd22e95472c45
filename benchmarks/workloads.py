"""What is asked of every peer: requests and answers shaped like those of a marketplace API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import urlencode

METHOD = "SearchItemsFrame"
PATH = f"/service-json/{METHOD}"
SMALL_BYTES = 400
PAGE_BYTES = 24 * 1024
LARGE_BYTES = 1024 * 1024
GET_QUERY_BYTES = 1024
POST_FORM_BYTES = 2048
# Clients of a search ask for something new nearly every time: more requests than a proxy would remember.
VARIANTS = 2_000
MARK = "no-00000"  # of a request's number in its title
KEY_MARK = "key-000000"  # of a key's number in it
MANY_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load; `answer_bytes` is the length of the upstream's body.

    The calls are shared out among `keys`, in turn or at `random`. Without `share` every connection asks as
    fast as it is answered; with it calls come evenly, so many as that share of what the gateway can do with
    the other settings.
    """

    name: str
    http_method: str
    answer_bytes: int
    connections: int
    keys: int = 1
    share: float | None = None
    random: bool = False

    @property
    def variants(self) -> int:
        """Return after how many requests they come again."""
        return max(VARIANTS, self.keys)

    @property
    def title(self) -> str:
        """Say what the workload is in a few words."""
        size = f"{self.answer_bytes} B" if self.answer_bytes < 1024 else f"{self.answer_bytes // 1024} KB"
        asked = "GET, 1 KB query" if self.http_method == "GET" else "POST, 2 KB form"
        many = "1 connection" if self.connections == 1 else f"{self.connections} connections"
        keys = "" if self.keys == 1 else f", {self.keys:,} keys{' at random' if self.random else ''}"
        pace = "" if self.share is None else f", {self.share:.0%} of what the gateway can do"
        return f"{asked}, {size} answer, {many}{keys}{pace}"


WORKLOADS = (
    Workload("get-400", "GET", SMALL_BYTES, 64),
    Workload("get-24k", "GET", PAGE_BYTES, 64),
    Workload("post-400", "POST", SMALL_BYTES, 64),
    Workload("get-1m", "GET", LARGE_BYTES, 64),
    Workload("get-400-single", "GET", SMALL_BYTES, 1),
    Workload("get-400-512", "GET", SMALL_BYTES, 512),
    Workload("get-400-keys", "GET", SMALL_BYTES, 64, keys=MANY_KEYS),
    Workload("get-400-half", "GET", SMALL_BYTES, 64, share=0.5),
)
QUICK = ("get-400", "get-24k")


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it goes over the wire, without the Host header.

    `MARK` in it stands for its number, and `KEY_MARK` for that of its key.
    """

    http_method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: str


def request_of(workload: Workload, credential: str) -> Request:
    """Return the request of a workload, whose query or form is filled up to the stated size."""
    headers = (("User-Agent", "bench"), ("Accept", "*/*"), ("Accept-Encoding", "gzip,deflate"))
    if workload.http_method == "GET":
        return Request("GET", f"{PATH}?{_parameters(credential, GET_QUERY_BYTES)}", headers, "")
    form = (*headers, ("Content-Type", "application/x-www-form-urlencoded"))
    return Request("POST", PATH, form, _parameters(credential, POST_FORM_BYTES))


def numbered(text: str, number: int, keys: int) -> str:
    """Return a request's text as that of one that asks for something else, of the same length."""
    return text.replace(MARK, f"no-{number % VARIANTS:05}").replace(KEY_MARK, f"key-{number % keys:06}")


def answer(size_bytes: int) -> str:
    """Return a search answer of exactly `size_bytes` ASCII characters."""
    items: list[dict[str, object]] = []
    while len(_answer(items, "")) < size_bytes - 240:
        items.append(_item(len(items)))
    padding = size_bytes - len(_answer(items, ""))
    return _answer(items, "x" * padding)


def _answer(items: list[dict[str, object]], request_id: str) -> str:
    found = {"Content": items, "TotalCount": 4000}
    return json.dumps(
        {
            "ErrorCode": "Ok",
            "SubErrorCode": None,
            "ErrorDescription": "",
            "RequestId": request_id,
            "RequestTime": "00:00:00.1234567",
            "Result": {"Items": found, "SearchMethod": "Official", "Provider": "Taobao"},
        },
        separators=(",", ":"),
    )


def _item(number: int) -> dict[str, object]:
    return {
        "Id": f"6{number:011}",
        "Title": f"Canvas shoes, model {number}",
        "Price": {"OriginalPrice": 49 + number, "CurrencySign": "CNY"},
        "MainPictureUrl": f"https://pictures.example/i/{number:08}.jpg",
        "VendorId": "shoes-and-more",
        "Volume": 120,
    }


def _parameters(credential: str, size_bytes: int) -> str:
    """Write the form in the way the vendor's own client does, with a title long enough to fill it."""
    title = "canvas shoes "

    def written(filling: str) -> str:
        search = (
            "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
            f"<ItemTitle>{filling}</ItemTitle><OrderBy>Price:Asc</OrderBy></SearchItemsParameters>"
        )
        return urlencode(
            {
                "instanceKey": credential,
                "language": "en",
                "sessionId": "",
                "framePosition": "0",
                "frameSize": "50",
                "xmlParameters": search,
                "blockList": "",
            }
        )

    filling = MARK + " "
    while len(written(filling + title)) <= size_bytes:
        filling += title
    return written(filling + "s" * (size_bytes - len(written(filling))))

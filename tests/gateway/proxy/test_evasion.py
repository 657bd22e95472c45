"""A restricted key that tries to look official: everything that cannot be read for certain is refused
(OT-8)."""

from __future__ import annotations

from datetime import date
from urllib.parse import quote

import pytest

from policies.period import midnight
from tests.origin import Origin
from tests.rig import Answer, Rig

OFFICIAL = "<Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
ROOT = "<SearchItemsParameters>{}</SearchItemsParameters>"
FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
async def restricted(path: Rig) -> str:
    """A key whose invoice is ten days unpaid."""
    path.now = midnight(date(2026, 3, 12), path.settings.contract.zone)
    return await path.add_key(oldest_unpaid_issued_on=date(2026, 3, 2))


async def search(path: Rig, key: str, query: str, body: str | None = None, headers: str = "") -> Answer:
    """Search, by GET or with a body by POST."""
    target = f"/service-json/SearchItemsFrame?instanceKey={key}{query}"
    if body is None:
        return await path.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
    sent = body.encode()
    head = f"POST {target} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(sent)}\r\n\r\n"
    return await path.send(head.encode() + sent)


def xml(inner: str) -> str:
    """Return the parameter with this inside its root."""
    return "&xmlParameters=" + quote(ROOT.format(inner), safe="")


async def test_official_taobao_search_goes_on(path: Rig, restricted: str, upstream: Origin) -> None:
    """Said plainly, by GET and by POST, the exempt search is let through."""
    assert (await search(path, restricted, xml(OFFICIAL))).json()["ErrorCode"] == "Ok"
    assert (await search(path, restricted, "", xml(OFFICIAL)[1:], FORM)).json()["ErrorCode"] == "Ok"
    assert len(upstream.received) == 2


@pytest.mark.parametrize(
    "query",
    [
        "",
        xml("<Provider>Taobao</Provider>"),
        xml("<Provider>Taobao</Provider><SearchMethod>Extended</SearchMethod>"),
        xml("<Provider>Alibaba1688</Provider><SearchMethod>Official</SearchMethod>"),
        xml(OFFICIAL + "<SearchMethod>Extended</SearchMethod>"),
        xml(OFFICIAL + "<Provider>Alibaba1688</Provider>"),
        xml("<!--" + OFFICIAL + "--><Provider>Taobao</Provider><SearchMethod>Extended</SearchMethod>"),
        xml(OFFICIAL + "<!-- <SearchMethod>Extended</SearchMethod> -->"),
        xml("<Provider>Taobao</Provider><SearchMethod><![CDATA[Official]]></SearchMethod>"),
        xml("<Provider>Taobao</Provider><SearchMethod>&#79;fficial</SearchMethod>"),
        xml("<Provider>Taobao</Provider><SearchMethod>official</SearchMethod>"),
        xml("<provider>Taobao</provider><searchmethod>Official</searchmethod>"),
        xml("<Nested>" + OFFICIAL + "</Nested>"),
        xml("<Provider a='b'>Taobao</Provider><SearchMethod>Official</SearchMethod>"),
        xml("<?x?>" + OFFICIAL),
        xml(OFFICIAL) + xml("<Provider>Taobao</Provider><SearchMethod>Extended</SearchMethod>"),
        xml(OFFICIAL) + xml(OFFICIAL),
        xml(OFFICIAL) + "&XMLPARAMETERS=" + quote(ROOT.format("<SearchMethod>Extended</SearchMethod>")),
        "&XmlParameters=" + quote(ROOT.format(OFFICIAL)),
        "&xmlParameters=" + quote(quote(ROOT.format(OFFICIAL))),
        "&xmlParameters=" + quote("<!DOCTYPE x>" + ROOT.format(OFFICIAL)),
        "&xmlParameters=" + quote('<?xml version="1.0" encoding="utf-7"?>' + ROOT.format(OFFICIAL)),
        "&xmlParameters=" + quote(ROOT.format(OFFICIAL).encode("utf-16")),
        "&xmlParameters=" + quote(ROOT.format(OFFICIAL)) + "%zz",
        "&xmlParameters=" + quote(ROOT.format(OFFICIAL)[:-5]),
    ],
)
async def test_a_disguised_search_is_refused(
    path: Rig, restricted: str, upstream: Origin, query: str
) -> None:
    """Whatever a lenient reader might make of it, it does not reach the upstream."""
    got = await search(path, restricted, query)
    assert got.json()["ErrorCode"] == "ContractViolation"
    assert upstream.received == []
    assert (await path.counts(restricted)) == {"d:restricted": 1}


EXTENDED = xml("<SearchMethod>Extended</SearchMethod>")[1:]


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        (xml(OFFICIAL), EXTENDED, FORM),
        ("", xml(OFFICIAL)[1:] + "&" + EXTENDED, FORM),
        (xml(OFFICIAL), "", FORM),
        (xml(OFFICIAL), "x", "Content-Type: text/plain\r\n"),
        (xml(OFFICIAL), EXTENDED, "Content-Type: multipart/form-data; boundary=x\r\n"),
        ("", xml(OFFICIAL)[1:], FORM.replace("\r\n", "; charset=utf-16\r\n")),
        ("", xml(OFFICIAL)[1:], FORM + "Content-Encoding: gzip\r\n"),
        ("", xml(OFFICIAL)[1:] + "&padding=" + "x" * 1_100_000, FORM),
    ],
)
async def test_a_search_disguised_by_its_body_is_refused(
    path: Rig, restricted: str, upstream: Origin, query: str, body: str, headers: str
) -> None:
    """Parameters in two places, bodies that are not forms, coded ones, and ones over the bound are not
    official."""
    got = await search(path, restricted, query, body, headers)
    assert not got.body.startswith(b'{"ErrorCode":"Ok"')
    assert upstream.received == []


@pytest.mark.parametrize(
    "method", ["searchitemsframe", "SEARCHITEMSFRAME", "SearchItemsFrame.", "Search%49temsFrame"]
)
async def test_a_search_by_another_spelling_is_a_search(
    path: Rig, restricted: str, upstream: Origin, method: str
) -> None:
    """Letter case and encoding of the method's name open no way around the restriction."""
    got = await path.send(
        f"GET /service-json/{method}?instanceKey={restricted} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    )
    assert got.json()["ErrorCode"] in ("ContractViolation", "NotFound", "ValidationError")
    assert upstream.received == []

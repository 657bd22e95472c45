from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import pytest

from gateway.proxy.identify import Parts
from gateway.proxy.signature import sign, timestamp_of, verify
from policies.decision import Reason
from tests.gateway.proxy.calls import KEY, OFFICIAL, found, get, post

SECRET = "correct horse"
NOW = datetime(2026, 11, 21, 20, 15, 30, tzinfo=UTC).timestamp()
SKEW_S = 3600.0
STAMP = "20261121201530"


def signed(
    parameters: dict[str, str], method: str = "SearchItemsFrame", secret: str = SECRET
) -> dict[str, str]:
    """Sign as the vendor describes it: method, values in the order of names, secret."""
    text = method + "".join(parameters[name] for name in sorted(parameters)) + secret
    return {**parameters, "signature": hashlib.sha256(text.encode()).hexdigest()}


PARAMETERS = {
    "instanceKey": KEY,
    "language": "ru",
    "sessionId": "",
    "timestamp": STAMP,
    "xmlParameters": OFFICIAL.replace("red dress", 'красное платье & "туфли"'),
    "frameSize": "20",
}


def by_get(parameters: dict[str, str]) -> Parts:
    """Send parameters in a query."""
    return get("/service-json/SearchItemsFrame?" + urlencode(parameters, quote_via=quote))


def by_post(parameters: dict[str, str]) -> Parts:
    """Send parameters in a form."""
    return post("/service/SearchItemsFrame", urlencode(parameters).encode())


def judged(parts: Parts, now: float = NOW) -> Reason | None:
    """Verify a call."""
    return verify(found(parts), SECRET, now, SKEW_S)


def test_the_vendors_recipe_is_accepted() -> None:
    """A call signed over the unencoded values is right by GET and by POST, in any order of parameters."""
    right = signed(PARAMETERS)
    assert judged(by_get(right)) is None
    assert judged(by_post(right)) is None
    assert judged(by_get(dict(reversed(right.items())))) is None
    assert judged(by_get({**right, "signature": right["signature"].upper()})) is None


def test_raw_and_encoded_values_have_one_signature() -> None:
    """A client that sends Cyrillic and blanks raw signs the same text as one that encodes them."""
    right = signed(
        {"instanceKey": KEY, "timestamp": STAMP, "itemTitle": "красное платье"},
        "FindItemInfoListFrameByTitle",
    )
    raw = "&".join(f"{name}={value}" for name, value in right.items())
    assert judged(get(f"/service/FindItemInfoListFrameByTitle?{raw}")) is None


def test_parameters_of_query_and_form_are_signed_together() -> None:
    """A POST whose parameters stand partly in the query is signed over all of them."""
    right = signed(PARAMETERS)
    key = right.pop("instanceKey")
    assert judged(post(f"/service/SearchItemsFrame?instanceKey={key}", urlencode(right).encode())) is None


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "timestamp"])
def test_a_changed_value_is_noticed(name: str) -> None:
    """Whatever is changed after signing makes the signature wrong."""
    wrong = signed(PARAMETERS)
    wrong[name] += "1"
    assert judged(by_get(wrong)) is Reason.INVALID_SIGNATURE


def test_another_method_or_secret_is_noticed() -> None:
    """The method and the secret are part of what is signed."""
    assert judged(by_get(signed(PARAMETERS, method="GetItemFullInfo"))) is Reason.INVALID_SIGNATURE
    assert judged(by_get(signed(PARAMETERS, secret="other"))) is Reason.INVALID_SIGNATURE


def test_an_added_parameter_is_noticed() -> None:
    """A parameter that was not signed makes the signature wrong, and so does one given twice."""
    right = signed(PARAMETERS)
    assert judged(by_get({**right, "xmlExtra": "x"})) is Reason.INVALID_SIGNATURE
    target = by_get(right).target
    assert judged(get(target + b"&language=ru")) is Reason.INVALID_SIGNATURE
    assert judged(get(target + b"&signature=" + b"0" * 64)) is Reason.INVALID_SIGNATURE


@pytest.mark.parametrize("signature", ["0" * 64, "x", "подпись", "é" * 32])
def test_any_other_signature_is_wrong(signature: str) -> None:
    """A signature of any form but the right one is wrong, never an error."""
    assert judged(by_get({**PARAMETERS, "signature": signature})) is Reason.INVALID_SIGNATURE


def test_what_is_missing_is_named() -> None:
    """A call without signature or timestamp, or with an empty one, is told which."""
    assert judged(by_get(PARAMETERS)) is Reason.MISSING_SIGNATURE
    assert judged(by_get({**PARAMETERS, "signature": ""})) is Reason.MISSING_SIGNATURE
    without = {name: value for name, value in PARAMETERS.items() if name != "timestamp"}
    assert judged(by_get(signed(without))) is Reason.MISSING_TIMESTAMP
    assert judged(by_get(signed({**without, "timestamp": ""}))) is Reason.MISSING_TIMESTAMP
    assert judged(by_get(without)) is Reason.MISSING_SIGNATURE


@pytest.mark.parametrize("off_s", [-SKEW_S, 0, SKEW_S])
def test_an_hour_of_skew_is_allowed(off_s: float) -> None:
    """The clocks may differ by the skew exactly, in either direction."""
    assert judged(by_get(signed(PARAMETERS)), NOW + off_s) is None


@pytest.mark.parametrize("off_s", [-SKEW_S - 1, SKEW_S + 1, 86_400])
def test_more_skew_is_refused(off_s: float) -> None:
    """A call from further away in time is refused, however well it is signed."""
    assert judged(by_get(signed(PARAMETERS)), NOW + off_s) is Reason.INVALID_TIMESTAMP


@pytest.mark.parametrize(
    "stamp",
    ["2026-11-21", "20261121201530Z", "20261321201530", "1732219200", "٢٠٢٦١١٢١٢٠١٥٣٠", "20261121 201530"],
)
def test_malformed_timestamps_are_refused(stamp: str) -> None:
    """Anything but fourteen digits of a real date is no timestamp."""
    assert judged(by_get(signed({**PARAMETERS, "timestamp": stamp}))) is Reason.INVALID_TIMESTAMP


def test_signing_leaves_the_signature_out() -> None:
    """A signature can be computed over parameters that already hold an older one."""
    pairs = [(b"b", b"2"), (b"a", b"1"), (b"signature", b"old")]
    assert sign("M", pairs, "s") == hashlib.sha256(b"M12s").hexdigest()


def test_timestamps_are_written_in_utc() -> None:
    """An instant is stated as fourteen digits of UTC."""
    assert timestamp_of(NOW) == STAMP.encode()

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from gateway.dialects import refuse
from gateway.dialects.top import CODES
from gateway.failures import Failure
from gateway.settings import Dialect
from policies.decision import Reason

CAUSES = [*Reason, *Failure]


@pytest.mark.parametrize("cause", CAUSES)
def test_tops_clients_read_every_refusal(cause: Reason | Failure) -> None:
    """Every refusal has status 200 and an error_response with code, msg, sub_code and sub_msg, in either
    format.
    """
    as_json = refuse(Dialect.TOP, cause, path=b"/router/rest?format=json", request_id="r")
    error = json.loads(as_json.body)["error_response"]
    assert as_json.status == 200
    assert as_json.body.startswith(b'{"error_response":{"code":')
    assert isinstance(error["code"], int)
    as_xml = refuse(Dialect.TOP, cause, path=b"/router/rest?v=2.0&format=xml", request_id="r")
    root = ElementTree.fromstring(as_xml.body)  # noqa: S314 - of our own making
    assert root.tag == "error_response"
    for name in ("code", "msg", "sub_code", "sub_msg"):
        assert root.findtext(name) == str(error[name])


def test_every_cause_has_a_code_of_its_own() -> None:
    """Two causes never look the same to a client that reads the sub-code."""
    assert set(CODES) == set(CAUSES)
    assert len({sub_code for _, _, sub_code in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("path", [b"/router/rest", b"/router/rest?xformat=xml", b"/router/rest?format=xmlx"])
def test_json_is_the_form_unless_xml_is_asked_for(path: bytes) -> None:
    """Without a format in the target the refusal is JSON."""
    headers = dict(refuse(Dialect.TOP, Reason.UNKNOWN_KEY, path=path, request_id="r").headers)
    assert headers[b"Content-Type"] == b"application/json; charset=utf-8"


def test_a_wait_is_told() -> None:
    """A used-up limit is TOP's code 7 with a Retry-After."""
    found = refuse(Dialect.TOP, Reason.QUOTA_EXCEEDED, path=b"/", request_id="r", retry_after_s=9)
    assert json.loads(found.body)["error_response"]["code"] == 7
    assert dict(found.headers)[b"Retry-After"] == b"9"

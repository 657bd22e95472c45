"""The requests and answers of the benchmark have the sizes and the shape that its tables state."""

from __future__ import annotations

import json

import pytest

from benchmarks.workloads import PAGE_BYTES, SMALL_BYTES, WORKLOADS, Workload, answer, numbered, request_of


@pytest.mark.parametrize("size_bytes", [SMALL_BYTES, PAGE_BYTES])
def test_answer_has_the_stated_size_and_is_a_charged_one(size_bytes: int) -> None:
    """An answer is JSON of exactly the stated length that begins with the code of a paid call."""
    text = answer(size_bytes)
    assert len(text.encode()) == size_bytes
    assert text.startswith('{"ErrorCode":"Ok",')
    assert json.loads(text)["Result"]["Items"]["TotalCount"] == 4000


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_request_carries_the_key_and_has_the_stated_size(workload: Workload) -> None:
    """The query of a GET is 1 KB long, the form of a POST 2 KB, and both name the key first."""
    request = request_of(workload, "imported-key")
    parameters = request.body or request.target.partition("?")[2]
    assert len(parameters) == (1024 if request.http_method == "GET" else 2048)
    assert parameters.startswith("instanceKey=imported-key&")


def test_variants_of_a_request_differ_and_keep_its_length() -> None:
    """Two variants ask for different titles with the same number of bytes."""
    target = request_of(WORKLOADS[0], "imported-key-000000").target
    one, other = numbered(target, 1, 1), numbered(target, 1999, 1)
    assert one != other
    assert len(one) == len(other) == len(target)


def test_keys_of_requests_go_round() -> None:
    """The requests of a workload with several keys name each of them in turn."""
    target = request_of(WORKLOADS[0], "imported-key-000000").target
    assert [numbered(target, number, 3).partition("&")[0][-1] for number in range(4)] == ["0", "1", "2", "0"]

"""The faces of the marketplace under one roof: which path is answered by what."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from itertools import count

from demo import rest, top
from demo.access import Access
from demo.answers import JSON_TYPE, Answer, MethodError, otapi, to_json
from demo.journal import Journal
from demo.marketplace import Marketplace
from demo.request import Request
from demo.switches import Switches

OTAPI_PREFIXES = ("/service-json/", "/service/", "/otapiwebservice2.asmx/")
REMEMBERED = 2048
REMEMBERED_BYTES = 8 * 1024
# Below this size compressing saves nothing.
GZIP_FROM_BYTES = 256


class Site:
    """Answers requests; plain ones that were answered before are answered from memory."""

    def __init__(self, marketplace: Marketplace, access: Access) -> None:
        self.marketplace = marketplace
        self.journal = Journal()
        self._access = access
        self._remembered: dict[tuple[bytes, bytes, bytes, bytes, bool], tuple[Answer, str]] = {}
        self._numbers = count(1)

    def answer(self, request: Request, switches: Switches, *, plain: bool) -> Answer:
        """Return the answer; `plain` when no switch is set, so that it may come from memory."""
        path = request.path
        if path.startswith("/demo/"):
            return self._own(request)
        small = len(request.target) + request.body.length <= REMEMBERED_BYTES
        if not (plain and small and self._access.is_open):
            answer, method = self._make(request, switches)
            self.journal.add(request, method)
            return compressed(answer) if request.accepts_gzip and not switches.size_bytes else answer
        content_type = request.fields.get(b"content-type", b"")
        key = (request.method, request.target, request.body.kept, content_type, request.accepts_gzip)
        found = self._remembered.get(key)
        if found is None:
            answer, method = self._make(request, switches)
            found = (compressed(answer) if request.accepts_gzip else answer, method)
            if not method.lower().startswith(("runbulk", "getbulk")):
                if len(self._remembered) >= REMEMBERED:
                    self._remembered.clear()
                self._remembered[key] = found
        self.journal.add(request, found[1])
        return found[0]

    def _make(self, request: Request, switches: Switches) -> tuple[Answer, str]:
        path = request.path
        for prefix in OTAPI_PREFIXES:
            if path.lower().startswith(prefix):
                return self._otapi(
                    request, path[len(prefix) :], switches, is_json=prefix == OTAPI_PREFIXES[0]
                )
        if path == "/router/rest":
            method = request.parameters.get("method", "")
            if switches.error:
                return top.error(request, 15, "Remote service error", switches.error), method
            try:
                self._access.check(request, method)
            except MethodError:
                return top.error(request, 29, "Invalid App Key", "isv.invalid-app-key"), method
            return top.answer(self.marketplace, request), method
        method = f"{request.method.decode('latin-1')} {path}"
        if path.startswith("/rest/"):
            if switches.error:
                return rest.problem(400, switches.error), method
            try:
                self._access.check(request, method)
            except MethodError as error:
                return rest.problem(401, error.description), method
            return rest.answer(self.marketplace, request), method
        return rest.problem(404, "Not Found"), method

    def _otapi(
        self, request: Request, method: str, switches: Switches, *, is_json: bool
    ) -> tuple[Answer, str]:
        request_id = f"demo-{next(self._numbers)}"
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            self._access.check(request, method)
            if switches.error and switches.error != "BatchError":
                raise MethodError(switches.error, f"{switches.error} was asked for")
            result = self.marketplace.call(method, request.parameters)
            code = switches.error or "Ok"
            answer = otapi(is_json=is_json, result=result, code=code, request_id=request_id, time=time)
        except MethodError as error:
            answer = otapi(
                is_json=is_json,
                code=error.code,
                sub_code=error.sub_code,
                description=error.description,
                request_id=request_id,
                time=time,
            )
        return answer, method

    def _own(self, request: Request) -> Answer:
        if request.path == "/demo/health":
            return Answer(200, JSON_TYPE, b'{"status":"ok"}')
        if request.path != "/demo/requests":
            return rest.problem(404, "Not Found")
        if request.method == b"DELETE":
            self.journal.clear()
        limit = request.parameters.get("limit", "100")
        return Answer(200, JSON_TYPE, to_json(self.journal.show(int(limit) if limit.isdigit() else 100)))


def compressed(answer: Answer) -> Answer:
    """Return an answer with its body in gzip, the same bytes every time."""
    if len(answer.body) < GZIP_FROM_BYTES:
        return answer
    headers = (*answer.headers, (b"Content-Encoding", b"gzip"), (b"Vary", b"Accept-Encoding"))
    return Answer(answer.status, answer.content_type, gzip.compress(answer.body, 6, mtime=0), headers)

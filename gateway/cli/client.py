"""The control API as the commands use it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from gateway import config
from gateway.cli.output import CliError
from gateway.config import TOKEN_FILE
from gateway.ports import reachable
from gateway.settings import Settings

TIMEOUT_S = 120.0
LONG_S = 3_600.0  # for what goes through all accounts
PAGE = 1_000
CONFLICT = 409
NEXT_CURSOR = "X-Next-Cursor"
# Files of the certificate that a control port with client_ca_file asks for.
CLIENT_CERT, CLIENT_KEY = "TALLYGATE_CLIENT_CERT", "TALLYGATE_CLIENT_KEY"


_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}\Z")  # what a token and an idempotency key are made of


def new_idempotency_key() -> str:
    """Return a key for a command that is given once."""
    return f"cli-{secrets.token_hex(16)}"


@dataclass
class Connection:
    """Where the control API is and which token opens it; looked up when first needed."""

    given_url: str | None
    given_token: str | None
    config_path: Path | None
    environ: Mapping[str, str]

    @cached_property
    def settings(self) -> Settings:
        """Return the configuration; raises ConfigError."""
        return config.load(self.config_path, self.environ, keep_pepper=False)

    @cached_property
    def url(self) -> str:
        """Return the control API's address without a trailing slash."""
        if self.given_url is not None:
            parts = urlsplit(self.given_url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise CliError(
                    f"--url must be an address such as http://127.0.0.1:8081, not {self.given_url!r}"
                )
            return self.given_url.rstrip("/")
        server = self.settings.server
        host = reachable(server.control_host)
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if server.control_tls else 'http'}://{host}:{server.control_port}"

    @cached_property
    def token(self) -> str:
        """Return the control token; raises CliError that says how to get one."""
        if self.given_token is not None:
            text = self.given_token.strip()
            if not _VISIBLE.match(text):
                # A header cannot hold it; what is a token in form is for the gateway to judge.
                raise CliError("--token or TALLYGATE_TOKEN is no control token: one begins with tgc_.")
            return text
        if self.given_url is not None:
            # The local gateway's token is not for another one's eyes.
            raise CliError("With --url, give a token with --token or TALLYGATE_TOKEN.")
        path = self.settings.stores.data_dir / TOKEN_FILE
        try:
            return path.read_text(encoding="ascii").strip()
        except OSError as error:
            raise CliError(
                f"There is no control token: {path} cannot be read ({error.strerror}).\n"
                "Start `tallygate serve` here first, or give one with --token or TALLYGATE_TOKEN."
            ) from error

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Return how the control API is trusted, with a certificate of one's own where the environment names
        one; raises CliError when that is none."""
        context = ssl.create_default_context()
        if cert := self.environ.get(CLIENT_CERT):
            try:
                context.load_cert_chain(cert, self.environ.get(CLIENT_KEY) or cert, password=lambda: "")
            except (OSError, ValueError) as error:
                raise CliError(
                    f"{CLIENT_CERT} and {CLIENT_KEY} must name a certificate in PEM and its key, unencrypted."
                ) from error
        return context

    def call(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        *,
        idempotency_key: str | None = None,
        dry_run: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """Make one request and return its answer; raises CliError with what the API said.

        A dry run checks and tells everything, and changes nothing.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        if idempotency_key is not None:
            if not _VISIBLE.match(idempotency_key):
                raise CliError("--idempotency-key must have 1 to 255 visible characters.")
            headers["Idempotency-Key"] = idempotency_key
        if dry_run:
            headers["Dry-Run"] = "true"
        return asyncio.run(_answer(self.url, self.tls, verb, path, body, query, headers, timeout_s=timeout_s))

    def rehearsed(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Any:
        """Return what a change would answer, by a dry run: what is wrong is told before anybody is asked.

        With the idempotency key of a command that is repeated, perhaps, a refusal of the books is left to the
        change itself, which is then answered as it was, and None returned. Raises CliError.
        """
        key = new_idempotency_key() if idempotency_key is None else idempotency_key
        try:
            return self.call(verb, path, body, idempotency_key=key if verb == "POST" else None, dry_run=True)
        except ApiError as error:
            if error.status != CONFLICT or idempotency_key is None:
                raise
            return None

    def text(self, path: str, query: Mapping[str, str]) -> tuple[str, str | None]:
        """Return an answer that is no JSON, and where it goes on; raises CliError with what the API said."""
        headers = {"Authorization": f"Bearer {self.token}"}
        found = asyncio.run(_answer(self.url, self.tls, "GET", path, None, query, headers, as_text=True))
        text, following = found
        return text, following

    def pages(
        self, path: str, query: Mapping[str, str], limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the entries of a list, page after page, at most `limit`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            asked = dict(query) | {"limit": str(PAGE if left is None else min(left, PAGE))}
            page = self.call("GET", path, query=asked | ({"cursor": cursor} if cursor else {}))
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return


class ApiError(CliError):
    """What the API refused, with every field it named."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.errors = [error for error in problem.get("errors", []) if isinstance(error, dict)]
        detail = problem.get("detail") or "The answer is not one of a control API; check the address."
        lines = [f"{problem.get('title', f'HTTP {status}')}: {detail}"]
        lines += [f"  {error.get('field')}: {error.get('message')}" for error in self.errors]
        if status >= 500 and problem.get("request_id"):
            lines.append(f"  request id: {problem['request_id']}")
        super().__init__("\n".join(lines))


async def _answer(
    url: str,
    tls: ssl.SSLContext,
    verb: str,
    path: str,
    body: Mapping[str, Any] | None,
    query: Mapping[str, str] | None,
    headers: Mapping[str, str],
    *,
    as_text: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Any:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(
                verb, url + path, json=body, params=query, headers=headers, allow_redirects=False, ssl=tls
            ) as response,
        ):
            if as_text and response.ok:
                return await response.text(), response.headers.get(NEXT_CURSOR)
            answer: Any = None
            with contextlib.suppress(ValueError):
                answer = await response.json(content_type=None)
            if 200 <= response.status < 300 and answer is not None:
                return answer
            raise ApiError(response.status, answer if isinstance(answer, dict) else {})
    except aiohttp.ClientConnectorCertificateError as error:
        raise CliError(
            f"The certificate of {url} is not trusted; set SSL_CERT_FILE to its authority."
        ) from error
    except TimeoutError as error:
        raise CliError(f"The control API at {url} took longer than {timeout_s:.0f} s.") from error
    except (aiohttp.ClientError, ssl.SSLError, OSError) as error:
        if isinstance(error, ssl.SSLError) or url.startswith("https:"):
            hint = f"Does it ask for a certificate? {CLIENT_CERT} and {CLIENT_KEY} name one's files."
            raise CliError(f"No TLS with {url} ({type(error).__name__}).\n{hint}") from error
        raise CliError(
            f"The control API does not answer at {url} ({type(error).__name__}).\n"
            "Is `tallygate serve` running? Another address is given with --url or TALLYGATE_URL."
        ) from error


def of(context: Any) -> Connection:
    """Return the connection of a command."""
    connection: Connection = context.obj
    return connection


def segment(text: str) -> str:
    """Return an id as one segment of a path; raises CliError for what would name another path."""
    if text.strip(" .") == "":
        raise CliError(f"{text!r} is no id; ids are such as acc_0123456789abcdef, and lists show them.")
    return quote(text, safe="")

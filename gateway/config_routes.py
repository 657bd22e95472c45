"""Upstreams and routes in a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from gateway import config_model as model
from gateway.config_files import Files
from gateway.config_tables import Tables
from gateway.settings import Dialect, KeyOut, Route, Source, UnknownMethods, Upstream, UpstreamCredential
from gateway.validation import suggestion
from policies.methods import MethodRule

DEMO_UPSTREAM = "demo"


class Routing:
    """Reads upstreams and routes from the tables of a file."""

    def __init__(self, tables: Tables, files: Files, demo_url: str | None) -> None:
        """Take where the upstream named "demo" is to be found, None for where the file says."""
        self.tables = tables
        self.files = files
        self.demo_url = demo_url
        self.errors = tables.errors

    def upstreams(self) -> dict[str, Upstream | None]:
        """Read `[[upstreams]]` by name; one with errors is None, so that its routes are not blamed too."""
        upstreams: dict[str, Upstream | None] = {}
        for place, raw, table in self.tables.entries("upstreams", model.UpstreamTable, "name"):
            name = raw.get("name") if isinstance(raw, dict) else None
            if isinstance(name, str):
                if name in upstreams:
                    self.errors.append(f"{place}: another upstream has this name already")
                upstreams[name] = self._upstream(place, table) if table is not None else None
        if not self.tables.raw.get("upstreams"):
            self.errors.append("upstreams: at least one [[upstreams]] entry is needed")
        return upstreams

    def _upstream(self, place: str, table: model.UpstreamTable) -> Upstream:
        """Build one upstream from its table."""
        base_url = table.base_url
        if table.name == DEMO_UPSTREAM:
            base_url = self.demo_url or base_url
        parts = urlsplit(base_url)
        tls = parts.scheme == "https"
        if table.ca_file is not None and not tls:
            self.errors.append(f"{place}.ca_file: has no use, as base_url does not begin with https://")
        return Upstream(
            name=table.name,
            host=parts.hostname or "",
            port=parts.port or (443 if tls else 80),
            tls=tls,
            base_path=parts.path.rstrip("/"),
            host_header=table.host_header or parts.netloc,
            ca_file=self.files.authority(f"{place}.ca_file", table.ca_file),
            connect_timeout_s=table.connect_timeout_s,
            answer_timeout_s=table.answer_timeout_s,
            idle_s=table.idle_s,
            max_connections=table.max_connections,
        )

    def routes(self, upstreams: Mapping[str, Upstream | None], rules: Sequence[MethodRule]) -> list[Route]:
        """Read `[[routes]]`."""
        routes = []
        prefixes: set[str] = set()
        for place, _, table in self.tables.entries("routes", model.RouteTable, "path_prefix"):
            if table is None:
                continue
            if table.path_prefix in prefixes:
                self.errors.append(f"{place}: another route has this path_prefix already")
            prefixes.add(table.path_prefix)
            if table.upstream not in upstreams:
                hint = suggestion(table.upstream, upstreams)
                self.errors.append(f"{place}.upstream: there is no upstream {table.upstream!r}{hint}")
            if table.unknown_methods is UnknownMethods.REFUSE and not rules:
                self.errors.append(
                    f'{place}.unknown_methods: refuses all without [[methods]]; add some or say "allow"'
                )
            self._check(place, table)
            credential = self._credential(place, table)
            upstream = upstreams.get(table.upstream)
            if upstream is not None:
                routes.append(
                    Route(
                        path_prefix=table.path_prefix,
                        upstream=upstream,
                        dialect=table.dialect,
                        key_in=tuple(model.place_of(text) for text in table.key_in),
                        key_out=table.key_out,
                        credential=credential,
                        method_from=tuple(model.place_of(text) for text in table.method_from),
                        unknown_methods=table.unknown_methods,
                        signed=table.signed,
                        signature_skew_s=table.signature_skew_s,
                        max_body_bytes=table.max_body_bytes,
                        identify_body_bytes=table.identify_body_bytes,
                        item_id_prefixes=tuple(table.item_id_prefixes.items()),
                        on_counter_failure=table.on_counter_failure,
                    )
                )
        if not self.tables.raw.get("routes"):
            self.errors.append("routes: at least one [[routes]] entry is needed")
        return routes

    def _check(self, place: str, table: model.RouteTable) -> None:
        """Take down what does not go together in one route."""
        not_keys = {Source.PATH, Source.SOAP, Source.JSON_RPC}
        not_methods = {Source.BEARER, Source.AWS_CREDENTIAL}
        for text in table.key_in:
            if model.place_of(text).source in not_keys:
                self.errors.append(f"{place}.key_in: a key cannot stand in {text!r}")
        for text in table.method_from:
            if model.place_of(text).source in not_methods:
                self.errors.append(f"{place}.method_from: a method cannot stand in {text!r}")
        if table.signed and table.dialect is not Dialect.OTAPI:
            self.errors.append(f'{place}.signed: signatures are known for dialect = "otapi" only')
        if table.identify_body_bytes > table.max_body_bytes:
            self.errors.append(f"{place}.identify_body_bytes: must not be larger than max_body_bytes")

    def _credential(self, place: str, table: model.RouteTable) -> UpstreamCredential | None:
        """Read the key that takes the place of the client's."""
        source = table.credential
        if table.key_out is not KeyOut.REPLACE:
            if source is not None:
                self.errors.append(f'{place}.credential: is used only with key_out = "replace"')
            return None
        if source is None:
            self.errors.append(f'{place}.credential: key_out = "replace" needs key_env or key_file here')
            return None
        place = f"{place}.credential"
        key = self.files.secret(place, "key", source.key_env, source.key_file)
        if source.secret_env is None and source.secret_file is None:
            return UpstreamCredential(key)
        return UpstreamCredential(
            key, self.files.secret(place, "secret", source.secret_env, source.secret_file)
        )

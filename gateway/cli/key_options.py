"""The options by which a key's fields are given, the same for a new key and for one that is changed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli import values

FIELDS = "fields"  # the parameter through which a command takes them


def _option(what: str, **more: Any) -> Any:
    return Annotated[str | None, typer.Option(help=what, **more)]


def _list(what: str, metavar: str) -> Any:
    return Annotated[
        list[str] | None, typer.Option(help=f"{what} May be repeated; or none.", metavar=metavar)
    ]


# A field's name in the API -> its option. Texts may be `none`, which clears the field.
_OPTIONS: dict[str, Any] = {
    "site": _option("The client site, or none."),
    "label": _option("A note for people, or none."),
    "daily_limit": _option("Units a day, or none for the plan's.", metavar="UNITS"),
    "unlimited": Annotated[
        bool | None, typer.Option("--unlimited/--limited", help="Lift every limit, or not.")
    ],
    "window": _option("day, rolling_24h, or none for the plan's."),
    "purchased_at": _option(f"When it was bought; a new key is bought now. {values.INSTANT_HELP} Or none."),
    "expires_at": _option(f"{values.INSTANT_HELP} Or none."),
    "default_provider": _option("Provider of a call that names none, or none.", metavar="NAME"),
    "default_search_method": _option("SearchMethod of a search that names none, or none.", metavar="NAME"),
    "signing_secret_file": Annotated[
        Path | None,
        typer.Option(
            help="File with the secret that calls are signed with.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    "allow_network": _list("A network that the key may be used from, such as 203.0.113.0/24.", "NETWORK"),
    "allow_domain": _list("A site whose pages may use the key, its subdomains included.", "DOMAIN"),
}


def takes_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a key's fields; it gets those that were given as `fields`, as the API
    names and writes them."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != FIELDS]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        fields = _fields({name: given.pop(name) for name in _OPTIONS})
        command(**given, **{FIELDS: fields})

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    wrapped.__signature__ = signature.replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in (*parameters, *options)}
    return wrapped


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    """Read the options that were given; raises BadParameter for one that cannot be read."""
    fields: dict[str, Any] = {}
    for name, value in values.given(**options).items():
        if name in ("allow_network", "allow_domain"):
            fields[f"{name}s"] = [] if [each.lower() for each in value] == [values.NONE] else value
        elif name == "signing_secret_file":
            fields["signing_secret"] = _secret(value)
        elif isinstance(value, str) and values.cleared(value):
            fields[name] = None
        elif name == "daily_limit":
            fields[name] = _units(value)
        elif name in ("purchased_at", "expires_at"):
            fields[name] = values.instant(value, f"--{name.replace('_', '-')}")
        else:
            fields[name] = value
    return fields


def _secret(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"{file} cannot be read as text in UTF-8", param_hint="--signing-secret-file"
        ) from error


def _units(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise typer.BadParameter("must be a number of units, or none", param_hint="--daily-limit")
    return int(text)

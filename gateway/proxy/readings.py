"""The reading of a call's watched parameters: what they say, and whether every server must read them so."""

from __future__ import annotations

from typing import Final

from gateway.proxy.parameters import Spelling, decode_text, percent_decode
from gateway.proxy.request_plan import ITEM_ID, RuleView
from gateway.proxy.scan import QUERY_METHODS, UNSEEN, Found, Scan
from gateway.settings import Route
from policies.methods import MethodRule, Reading

_EXACT = Spelling.EXACT
# Of a call whose rule reads nothing, or that holds nothing to be read.
CERTAIN: Final = Reading()


def reading_of(view: RuleView, scan: Scan, http_method: str, plain_target: bool) -> Reading:
    """Read the watched parameters under a method's rule; with `plain_target` the query is of plain bytes."""
    from_form = http_method not in QUERY_METHODS
    found = [each for each in scan.data if each[0].data in view.data]
    if len(found) == 1 and not scan.doubtful:
        role, raw, in_form, unsure = found[0]
        if (
            role.data in view.xml
            and role.spelling is _EXACT
            and in_form is from_form
            and not unsure
            and isinstance(raw, bytes)
        ):
            reading = view.watch.read_sent(raw, plain=plain_target and not in_form)
            if reading is None:
                return view.read(raw)
            parted = scan.form if in_form else scan.query
            if parted is not None:
                parted.plain_value = raw
            return reading
    if not found and not scan.doubtful:
        return CERTAIN
    return _merged(view, scan, found, from_form)


def _merged(view: RuleView, scan: Scan, found: list[Found], from_form: bool) -> Reading:
    certain = not scan.doubtful
    values: dict[str, str] = {}
    mentions: set[str] = set()
    seen: set[str] = set()
    item_ids: list[str] = []
    for role, raw, in_form, unsure in found:
        name = role.data
        assert name is not None
        certain &= in_form is from_form and not unsure and name not in seen
        if name in seen and name != ITEM_ID:
            # What the upstream makes of two is unknown, so a second one is not worth reading.
            mentions |= view.watch.names
            continue
        seen.add(name)
        if name in view.xml:
            inner = view.read(raw) if isinstance(raw, bytes) else view.watch.read(raw)
            certain &= inner.certain and role.spelling is _EXACT and values.keys().isdisjoint(inner.values)
            values.update(inner.values)
            mentions |= inner.mentions
        elif name == ITEM_ID:
            item_ids.append(decode_text(raw) if isinstance(raw, bytes) else raw)
        else:
            decoded = percent_decode(raw) if isinstance(raw, bytes) else raw.encode()
            certain &= decoded is not None and name not in values and name not in view.only_in_xml
            values[name] = (decoded or b"").decode("utf-8", "replace")
    provider = _provider_of(view.rule, scan.plan.route, item_ids)
    if provider is not None:
        # The item is what the upstream fetches, whatever else the call says of its provider.
        certain &= view.rule.official is None or values.get("Provider", provider) == provider
        values["Provider"] = provider
    if certain:
        return Reading(True, values)
    mentions.update(values)
    if scan.unread_body is UNSEEN:
        mentions |= view.watch.names
    elif isinstance(scan.unread_body, bytes):
        mentions |= view.watch.mentioned(scan.unread_body.decode("latin-1"))
    return Reading(False, values, frozenset(mentions & view.watch.names))


def _provider_of(rule: MethodRule, route: Route, item_ids: list[str]) -> str | None:
    """Return the provider that the prefixes of item ids tell; of several the dearest."""
    providers = [
        provider
        for item_id in item_ids
        for prefix, provider in route.item_id_prefixes
        if item_id.lower().startswith(prefix.lower())
    ]
    return max(
        providers,
        key=lambda provider: max(
            (each.by_provider.get(provider, each.cost) for each in rule.surcharges), default=0
        ),
        default=None,
    )

"""Values of watched elements in the XML of a parameter, read only when every reader must read the same.

What is accepted as certain is a small subset of XML: one root, balanced tags, watched elements as its direct
children written exactly `<Name>value</Name>` or `<Name/>`. Everything else is not an error, just not certain:
an upstream with another parser may see another document. Texts and quotes that old clients leave unescaped do
no harm.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from operator import methodcaller
from urllib.parse import unquote

from gateway.proxy.parameters import percent_decode
from policies.methods import Reading

MAX_DEPTH = 64
# Far more than any client sends; what is longer is not worth the time to read it.
MAX_CHARACTERS = 32 * 1024
REMEMBERED_LEAVES = 512
REMEMBERED_LEAVES_BYTES = 256
SENT_MAX_BYTES = 4096  # of an urlencoded value that is read without being decoded
SENT_LEAVES_MAX = 4  # watched elements in it
PAUSE = 15  # values that are decoded at once behind one that had to be

_NAME = r"[A-Za-z_][\w.\-]*"
# What could turn into something else under another decoding, or that no XML holds.
_SUSPECT = (
    r"&%+\\\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uff1c\ufe64\u226e\u3008\u2329\u2039\u27e8\u276e\u02c2"
)
_FLAT = re.compile(
    rf"\s*<({_NAME})>\s*(?:<({_NAME})(?:>[^<{_SUSPECT}]*</\2>| ?/>)\s*)*</\1>\s*",
    re.ASCII,
)
_LEAF = re.compile(rf"<({_NAME})(?:>([^<]*)</| ?/>)", re.ASCII)
_VALUE = re.compile(r"(?:[\w.:|\-]+(?: [\w.:|\-]+)*)?", re.ASCII)
# All of what is suspect in UTF-8, and more: characters beyond ASCII by the first of their bytes.
_SUSPECT_BYTES = bytes((*range(9), 11, 12, *range(14, 32), 127)) + b"&%+\x5c\xcb\xe2\xe3\xef"
# Of a CDATA section that never began it is text to some readers, and to others the document is no XML.
_END_OF_CDATA = b"]]>"
_DECLARATION = re.compile(
    r"""<\?xml\s+version\s*=\s*(?:"1\.0"|'1\.0')(?:\s+encoding\s*=\s*(?i:"utf-8"|'utf-8'))?"""
    r"""(?:\s+standalone\s*=\s*(?:"yes"|'yes'|"no"|'no'))?\s*\?>""",
    re.ASCII,
)
_ATTRIBUTE = r"""\s+[A-Za-z_][\w.\-]*(?::[A-Za-z_][\w.\-]*)?\s*=\s*(?:"[^"<]*"|'[^'<]*')"""
_TOKEN = re.compile(rf"<(/?)({_NAME})((?:{_ATTRIBUTE})*)\s*(/?)>|([^<]+)", re.ASCII)
_ATTRIBUTE_NAME = re.compile(r"\s([A-Za-z_][\w.\-:]*)\s*=", re.ASCII)
# Written by .NET's serializer on every root; they bind prefixes and change no unprefixed name.
_HARMLESS_DECLARATIONS = (
    re.compile(
        r"""\s+xmlns:xsi\s*=\s*(?:"http://www\.w3\.org/2001/XMLSchema-instance"|'http://www\.w3\.org/2001/XMLSchema-instance')"""
    ),
    re.compile(
        r"""\s+xmlns:xsd\s*=\s*(?:"http://www\.w3\.org/2001/XMLSchema"|'http://www\.w3\.org/2001/XMLSchema')"""
    ),
)
# Any of these may turn into something else under a second decoding.
_ENCODED = re.compile(r"[&%+\\]")
_SPACE = " \t\r\n"  # what XML takes for space; Python takes more
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe]")
_ESCAPED_UNIT = re.compile(r"\\(?:u00|x)([0-9A-Fa-f]{2})")
# `<` and the characters that conversions to legacy code pages turn into it.
_OPENING = "[<\uff1c\ufe64\u226e\u3008\u2329\u2039\u27e8\u276e\u02c2]"


# What urlencoding makes of `<`, `</` and `>`, and of text that nobody could take for anything else.
_SENT_LT, _SENT_CLOSING, _SENT_GT = "%3[Cc]", "%3[Cc](?:%2[Ff]|/)", "%3[Ee]"
_SENT_NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*+"
_SENT_TEXT = r"[A-Za-z0-9_.\-~!$'()*+,/:@=?]*+"
_SENT_PLAIN_TEXT = r"[^%]*+"  # where all bytes are known to be those, or escapes
_SENT_ESCAPE = r"%(?:2[0-4789ACDEFacdef]|3[ABDabd]|40)"
_SENT_VALUE = r"[A-Za-z0-9_.:|\-]*+"

NOTHING = Reading()


class Watch:
    """A set of element names to look for."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self._by_folded = {name.lower(): name for name in names}
        # The alternatives are sorted so that the compiled pattern does not depend on the set's order.
        either = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or r"(?!)"
        self._tag = re.compile(rf"{_OPENING}[\s/]*(?:[^\s<>/:]*:)?(?:{either})(?![\w.\-])", re.IGNORECASE)
        self._clean = re.compile(rf"<({either})>({_VALUE.pattern})</\1>|<({either}) ?/>", re.ASCII)
        self._word = re.compile(either, re.IGNORECASE)
        # `_FLAT` and `_LEAF` for documents in which nothing is suspect: they are matched in half the time.
        plain = r"[A-Za-z_][A-Za-z0-9_.\-]*+"
        self._plain_flat = re.compile(
            rf"\s*+<(?!(?i:{either})>)({plain})>\s*+"
            rf"(?:<({plain})(?:>[^<]*+</\2>| ?/>)\s*+)*</\1>\s*+".encode()
        )
        self._plain_leaf = re.compile(rf"<({either})(?:>([^<]*)</| ?/>)".encode(), re.IGNORECASE)
        self._by_leaves: dict[tuple[tuple[bytes, bytes], ...], Reading] = {}
        leaves = min(len(names), SENT_LEAVES_MAX)
        self._sent, groups = _as_sent(either, leaves, _SENT_TEXT)
        self._sent_plain, _ = _as_sent(either, leaves, _SENT_PLAIN_TEXT)
        self._sent_leaves = methodcaller("group", *groups)
        self._by_sent_leaves: dict[object, Reading] = {}
        self._pause = 0

    def read_sent(self, raw: bytes, *, plain: bool) -> Reading | None:
        """Read the watched elements of a document as it was sent, urlencoded; None when it has to be decoded.

        With `plain` it is known to consist of `incoming.PLAIN_BYTES` without `&`, and is read faster.
        A document that is read so holds no escapes of letters or digits. It is one root with plain leaves in
        any reader's eyes, so what its watched leaves say is remembered, as the careful reader has read it.
        """
        if self._pause:
            self._pause -= 1
            return None
        pattern = self._sent_plain if plain else self._sent
        match = pattern.fullmatch(raw) if len(raw) <= SENT_MAX_BYTES else None
        if match is None:
            self._pause = PAUSE  # shops that search in Cyrillic or Chinese do so again and again
            return None
        leaves = self._sent_leaves(match)
        reading = self._by_sent_leaves.get(leaves)
        if reading is None:
            reading = self.read((percent_decode(raw) or b"").decode())
            if not reading.certain:
                return None
            if sum(map(len, reading.values.values())) <= REMEMBERED_LEAVES_BYTES:
                if len(self._by_sent_leaves) >= REMEMBERED_LEAVES:
                    self._by_sent_leaves.clear()
                self._by_sent_leaves[leaves] = reading
        return reading

    def read_encoded(self, document: bytes) -> Reading:
        """Read the watched elements of a document as it was sent; raises UnicodeDecodeError.

        Nearly all are plain: one root with leaves, and nothing in it that is worth a second look. What their
        watched leaves say is remembered.
        """
        text = document.decode()
        if (
            len(document) <= MAX_CHARACTERS
            and len(document.translate(None, _SUSPECT_BYTES)) == len(document)
            # One byte is looked for five times faster than three.
            and (document.find(b"]") < 0 or document.find(_END_OF_CDATA) < 0)
            and self._plain_flat.fullmatch(document) is not None
        ):
            leaves = tuple(self._plain_leaf.findall(document))
            reading = self._by_leaves.get(leaves)
            if reading is not None:
                return reading
            reading = self.read(text)
            if reading.certain and sum(len(value) for _, value in leaves) <= REMEMBERED_LEAVES_BYTES:
                if len(self._by_leaves) >= REMEMBERED_LEAVES:
                    self._by_leaves.clear()
                self._by_leaves[leaves] = reading
            return reading
        return self.read(text)

    def read(self, text: str) -> Reading:
        """Read the watched elements of a decoded document."""
        if len(text) > MAX_CHARACTERS or _END_OF_CDATA.decode() in text or _CONTROL.search(text):
            return self.uncertain(text)
        flat = _FLAT.fullmatch(text)
        if flat is not None:
            return self._read_flat(flat.group(1), text)
        document = text
        if document.startswith("<?"):
            declaration = _DECLARATION.match(document)
            if declaration is None:
                return self.uncertain(text)
            document = document[declaration.end() :]
        if not document.strip(_SPACE):
            return NOTHING if document is text else self.uncertain(text)
        clean = self._clean.findall(document)
        values = {pair or alone: value for pair, value, alone in clean}
        tags = sum(2 if pair else 1 for pair, _, _ in clean)
        # More tags than clean elements have means one in another spelling; fewer names, one that is doubled.
        if len(values) != len(clean) or len(self._tag.findall(document)) != tags:
            return self.uncertain(text)
        if not self._is_sound(document, len(clean)):
            return self.uncertain(text)
        if _ENCODED.search(document) and any(
            len(self._tag.findall(other)) != tags for other in _other_readings(document)
        ):
            return self.uncertain(text)
        return Reading(True, values)

    def _read_flat(self, root: str, text: str) -> Reading:
        """Read a document that is known to be one root with plain leaves, as nearly all are."""
        values: dict[str, str] = {}
        for name, value in _LEAF.findall(text):
            if name.lower() in self._by_folded:
                if name not in self.names or name in values or _VALUE.fullmatch(value) is None:
                    return self.uncertain(text)
                values[name] = value
        return self.uncertain(text) if root.lower() in self._by_folded else Reading(True, values)

    def uncertain(self, text: str) -> Reading:
        """Return the reading of a document that upstreams may see differently."""
        return Reading(False, mentions=self.mentioned(text))

    def mentioned(self, text: str) -> frozenset[str]:
        """Return the watched names that occur anywhere in a text or in a second decoding of it."""
        if len(text) > MAX_CHARACTERS:
            return self.names
        found = set(self._word.findall(text.replace("\0", "")))
        for other in _other_readings(text):
            found.update(self._word.findall(other))
        return frozenset(self._by_folded[name.lower()] for name in found if name.lower() in self._by_folded)

    def _is_sound(self, document: str, expected: int) -> bool:
        """Say whether a document is balanced and its watched elements stand right below the root."""
        open_names: list[str] = []
        at, rooted = 0, False
        while at < len(document):
            token = _TOKEN.match(document, at)
            if token is None:
                return False
            at = token.end()
            closing, name, attributes, alone, text = token.groups()
            if text is not None:
                if not open_names and text.strip(_SPACE):
                    return False
                continue
            if closing:
                if attributes or alone or not open_names or open_names.pop() != name:
                    return False
                continue
            if not open_names:
                if rooted or name in self.names:
                    return False
                rooted = True
                for harmless in _HARMLESS_DECLARATIONS:
                    attributes = harmless.sub("", attributes, count=1)
                if attributes:
                    return False
            elif any(n == "xmlns" or ":" in n for n in _ATTRIBUTE_NAME.findall(attributes)):
                return False
            if name in self.names:
                if len(open_names) != 1:
                    return False
                expected -= 1
            if not alone:
                open_names.append(name)
                if len(open_names) > MAX_DEPTH:
                    return False
        return rooted and not open_names and expected == 0


def _as_sent(either: str, watched: int, run: str) -> tuple[re.Pattern[bytes], list[int]]:
    """Return the pattern of urlencoded documents that are read undecoded, and its groups with watched leaves.

    Others may stand before, between and behind them. Whichever leaf comes, one branch alone can take it, so
    what does not match fails in time proportional to its length.
    """
    lt, gt, closing = _SENT_LT, _SENT_GT, _SENT_CLOSING
    text = f"{run}(?:{_SENT_ESCAPE}{run})*"
    other = rf"{lt}(?!(?i:{either})%)({_SENT_NAME}){gt}"
    groups: list[int] = []
    group = 2
    pattern = rf"{other}(?:{other}{text}{closing}\{group}{gt})*"
    for _ in range(watched):
        name, group = group + 1, group + 3
        groups += (name, name + 1)
        pattern += rf"(?:{lt}({either}){gt}({_SENT_VALUE}){closing}\{name}{gt}"
        pattern += rf"(?:{other}{text}{closing}\{group}{gt})*"
    pattern += ")?" * watched + rf"{closing}\1{gt}"
    return re.compile(pattern.encode()), groups or [1]


def _other_readings(text: str) -> Iterator[str]:
    """Yield what a text turns into when a reader decodes it once or twice more."""
    if "&" in text:
        once = html.unescape(text)
        yield once
        if "&" in once:
            yield html.unescape(once)
    if "%" in text:
        once = unquote(text)
        yield once
        if "%" in once:
            yield unquote(once)
        if "&" in once:
            yield html.unescape(once)
    if "\\" in text:
        yield _ESCAPED_UNIT.sub(lambda match: chr(int(match.group(1), 16)), text)
    if "+" in text:
        # Non-ASCII cannot stand in UTF-7 and would only end the attempt.
        try:
            yield text.encode("ascii", "ignore").decode("utf-7")
        except UnicodeDecodeError:
            yield text.replace("+ADw-", "<").replace("+ADw", "<").replace("+AD4-", ">")

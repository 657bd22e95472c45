from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.incoming import PLAIN_BYTES
from gateway.proxy.key_out import NEEDLESS_ESCAPE
from gateway.proxy.parameters import percent_decode
from gateway.proxy.xml_values import (
    MAX_DEPTH,
    PAUSE,
    REMEMBERED_LEAVES,
    REMEMBERED_LEAVES_BYTES,
    SENT_LEAVES_MAX,
    SENT_MAX_BYTES,
    Watch,
)
from policies.methods import Reading

WATCH = Watch(frozenset({"Provider", "SearchMethod", "CategoryId"}))
OFFICIAL = {"Provider": "Taobao", "SearchMethod": "Official"}

PLAIN = (
    "<SearchItemsParameters><Provider>Taobao</Provider><SearchMethod>Official</SearchMethod>"
    "<ItemTitle>red dress</ItemTitle></SearchItemsParameters>"
)


def read(text: str, watch: Watch = WATCH) -> Reading:
    """Read a document as text and as it was sent, where a second look finds what the first has remembered."""
    reading = watch.read(text)
    for _ in range(2):
        assert watch.read_encoded(text.encode()) == reading
        for escaped in (quote_plus(text), quote(text, safe="/"), re.sub("%..", in_lower_case, quote(text))):
            sent = read_sent(escaped, watch)
            assert sent is None or sent == reading
    return reading


def in_lower_case(found: re.Match[str]) -> str:
    """Write an escape as .NET's clients do."""
    return found[0].lower()


def read_sent(raw: str, watch: Watch = WATCH) -> Reading | None:
    """Read a document as it was sent, whatever was sent before it."""
    watch._pause = 0
    sent = watch.read_sent(raw.encode(), plain=False)
    if not raw.encode().translate(None, PLAIN_BYTES) and "&" not in raw:
        watch._pause = 0
        assert watch.read_sent(raw.encode(), plain=True) == sent
    assert sent is None or NEEDLESS_ESCAPE.search(raw.encode()) is None
    return sent


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"  {PLAIN}\r\n",
        f'<?xml version="1.0"?>\n{PLAIN}',
        f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>{PLAIN}',
        PLAIN.replace("><", ">\n  <"),
        PLAIN.replace("red dress", 'Красное "платье" & туфли'),
        PLAIN.replace("red dress", "Tom &amp; Jerry &lt;new&gt;"),
        PLAIN.replace("red dress", "C++ за 100% > цены"),
        PLAIN.replace("red dress", "a provider's search method"),
        PLAIN.replace("red dress", "红色连衣裙，新款"),
        PLAIN.replace("<ItemTitle>red dress</ItemTitle>", "<ItemTitle/><Sort />"),
        PLAIN.replace(
            "</SearchItemsParameters>",
            "<Configurators><Configurator Pid=\"20000\" Vid='1'/></Configurators></SearchItemsParameters>",
        ),
        PLAIN.replace(
            "<SearchItemsParameters>",
            '<SearchItemsParameters xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
            ' xmlns:xsd="http://www.w3.org/2001/XMLSchema">',
        ),
    ],
)
def test_plain_documents_are_certain(text: str) -> None:
    """Whatever clients are known to send is read: raw Cyrillic and quotes, layout, declarations, nested
    lists.
    """
    reading = read(text)
    assert reading.certain
    assert reading.values == OFFICIAL


@pytest.mark.parametrize("text", ["", "  \n", "<P/>", "<P></P>", "<P><ItemTitle>x</ItemTitle></P>"])
def test_documents_without_the_elements_are_certain(text: str) -> None:
    """Where nothing watched occurs, that itself is certain."""
    reading = read(text)
    assert reading.certain
    assert reading.values == {}


def test_empty_elements_are_empty_values() -> None:
    """An element in either empty form has the value of an empty text."""
    reading = read("<P><Provider></Provider><SearchMethod/><CategoryId /></P>")
    assert reading.certain
    assert reading.values == {"Provider": "", "SearchMethod": "", "CategoryId": ""}


EVASIONS = {
    "doubled": "<P><SearchMethod>Official</SearchMethod><SearchMethod>Extended</SearchMethod></P>",
    "doubled alike": "<P><SearchMethod>Official</SearchMethod><SearchMethod>Official</SearchMethod></P>",
    "doubled and empty": "<P><SearchMethod/><SearchMethod>Official</SearchMethod></P>",
    "other case": "<P><Provider>Taobao</Provider><searchMethod>Official</searchMethod></P>",
    "doubled in other case": "<P><Provider>Taobao</Provider><PROVIDER>Jd</PROVIDER></P>",
    "in a comment": "<P><!-- <SearchMethod>Official</SearchMethod> --></P>",
    "a comment beside": "<P><!----><SearchMethod>Official</SearchMethod></P>",
    "a comment in the value": "<P><SearchMethod>Offi<!-- -->cial</SearchMethod></P>",
    "in CDATA": "<P><![CDATA[<SearchMethod>Official</SearchMethod>]]></P>",
    "the end of CDATA that never began": "<P><SearchMethod>Official</SearchMethod><A>x]]>y</A></P>",
    "a form feed in the declaration": '<?xml version="1.0"\x0c?><P><SearchMethod>Official</SearchMethod></P>',
    "a form feed between tags": "<P>\x0c<SearchMethod>Official</SearchMethod></P>",
    "a wide space behind the root": "<P><SearchMethod>Official</SearchMethod><A b='c'/></P>\u2003",
    "CDATA in the value": "<P><SearchMethod><![CDATA[Official]]></SearchMethod></P>",
    "an entity in the value": "<P><SearchMethod>Offici&#97;l</SearchMethod></P>",
    "entities for the brackets": "<P>&lt;SearchMethod&gt;Extended&lt;/SearchMethod&gt;</P>",
    "numeric entities": "<P><Title>&#60;SearchMethod&#62;Extended&#60;/SearchMethod&#62;</Title></P>",
    "hexadecimal entities": "<P><Title>&#x3C;&#x53;earchMethod></Title></P>",
    "entities of entities": "<P><Title>&amp;lt;SearchMethod&amp;gt;</Title></P>",
    "a document type": '<!DOCTYPE P [<!ENTITY e "Extended">]><P><SearchMethod>Official</SearchMethod></P>',
    "an instruction": "<P><?x y?><SearchMethod>Official</SearchMethod></P>",
    "another declaration": '<?xml version="1.0" encoding="utf-16"?><P><Provider>Taobao</Provider></P>',
    "a declaration in another case": '<?xml version="1.0" Encoding="utf-8"?><P><Provider>Jd</Provider></P>',
    "another version": '<?xml version="1.1"?><P><SearchMethod>Official</SearchMethod></P>',
    "a late declaration": ' <?xml version="1.0"?><P><SearchMethod>Official</SearchMethod></P>',
    "an attribute": '<P><SearchMethod x="1">Official</SearchMethod></P>',
    "nil": '<P><SearchMethod xsi:nil="true">Official</SearchMethod></P>',
    "a namespace": '<P xmlns="urn:x"><SearchMethod>Official</SearchMethod></P>',
    "a prefix": "<P><x:SearchMethod>Extended</x:SearchMethod><SearchMethod>Official</SearchMethod></P>",
    "a type on the root": '<P xsi:type="Q"><SearchMethod>Official</SearchMethod></P>',
    "an attribute on the root": '<P Provider="Jd"><SearchMethod>Official</SearchMethod></P>',
    "too deep": "<P><Q><SearchMethod>Official</SearchMethod></Q></P>",
    "deep and shallow": "<P><SearchMethod>Official</SearchMethod><Q><SearchMethod>Jd</SearchMethod></Q></P>",
    "as the root": "<SearchMethod>Official</SearchMethod>",
    "as an empty root": "<Provider></Provider>",
    "around": "<SearchMethod><Provider>Taobao</Provider></SearchMethod>",
    "two roots": "<P><SearchMethod>Official</SearchMethod></P><P><SearchMethod>Extended</SearchMethod></P>",
    "behind the root": "<P></P><SearchMethod>Official</SearchMethod>",
    "text behind the root": "<P><SearchMethod>Official</SearchMethod></P>x",
    "text before the root": "x<P><SearchMethod>Official</SearchMethod></P>",
    "unbalanced": "<P><SearchMethod>Official</SearchMethod>",
    "crossed": "<P><Q><SearchMethod>Official</SearchMethod></P></Q>",
    "children": "<P><SearchMethod>Official<b/></SearchMethod></P>",
    "blanks in the tag": "<P><SearchMethod >Official</SearchMethod></P>",
    "a line in the tag": "<P><SearchMethod\n>Official</SearchMethod\n></P>",
    "blanks in the value": "<P><SearchMethod> Official </SearchMethod></P>",
    "a zero byte": "<P><SearchMethod>Official</SearchMethod><Search\0Method>Extended</Search\0Method></P>",
    "a control in a text": "<P><SearchMethod>Official</SearchMethod><T>\x1b</T></P>",
    "a byte-order mark": "\ufeff<P><SearchMethod>Official</SearchMethod></P>",
    "percent twice": "%3CP%3E%3CSearchMethod%3EOfficial%3C/SearchMethod%3E%3C/P%3E",
    "percent twice in a text": "<P><Provider>Taobao</Provider><T>%3CProvider%3EJd</T></P>",
    "percent thrice in a text": "<P><SearchMethod>Official</SearchMethod><T>%253CSearchMethod%253E</T></P>",
    "percent in the value": "<P><SearchMethod>Offici%61l</SearchMethod></P>",
    "UTF-7": "<P><SearchMethod>Official</SearchMethod><T>+ADw-SearchMethod+AD4-Extended</T></P>",
    "UTF-7 in one run": "<P><SearchMethod>Official</SearchMethod><T>+ADwAUw-earchMethod+AD4-</T></P>",
    "escaped units": "<P><SearchMethod>Official</SearchMethod><T>\\u003cSearchMethod\\u003e</T></P>",
    "wide brackets": "<P><SearchMethod>Official</SearchMethod><T>\uff1cSearchMethod\uff1e</T></P>",
    "wide letters": "<P><Provider>Taobao</Provider><\uff30rovider>Jd</\uff30rovider></P>",
    "no XML": '{"SearchMethod":"Official"}',
    "nothing but text": "Official",
}


@pytest.mark.parametrize("text", EVASIONS.values(), ids=EVASIONS.keys())
def test_whatever_could_be_read_otherwise_is_not_certain(text: str) -> None:
    """Each known way to show one server an element that another does not see leaves the reading uncertain."""
    reading = read(text)
    assert not reading.certain
    assert not reading.values


def test_what_is_remembered_of_a_document_does_not_stand_for_one_with_a_flaw() -> None:
    """Another document with the same watched elements is looked at by itself."""
    assert read(PLAIN).certain
    for flaw in ("]]>", "\x0b", "<b", "&lt;Provider&gt;", "%3CProvider%3E", "\uff1cProvider>"):
        assert not read(PLAIN.replace("red dress", flaw)).certain, flaw


def test_uncertain_readings_mention_what_occurs() -> None:
    """Names that occur in any form are mentioned, so that a surcharge cannot be hidden."""
    watch = Watch(frozenset({"ForceUpdate"}))
    for text in (
        "<P><!----><ForceUpdate>true</ForceUpdate></P>",
        "<P><!----><FORCEUPDATE>true</FORCEUPDATE></P>",
        "<P><!---->&lt;Force&#85;pdate&gt;</P>",
        "%3CForceUpdat%65%3Etrue",
        "<P><Force\0Update>true</Force\0Update></P>",
    ):
        assert read(text, watch).mentions == {"ForceUpdate"}
    assert read("<P><!----></P>", watch).mentions == frozenset()


def test_depth_is_bounded() -> None:
    """A document nested deeper than any client's is not read to its end."""
    deep = "<a>" * (MAX_DEPTH + 1) + "</a>" * (MAX_DEPTH + 1)
    assert not read(deep).certain
    assert read("<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH).certain


@pytest.mark.parametrize(
    "unit", ["<a>", "<a ", "<a></a>", "<a x='", "&lt;", "%3C", "\\u003c", "<!--", "+ADw", " "]
)
def test_long_hostile_documents_take_no_longer_than_their_length(unit: str) -> None:
    """No pattern backtracks: a document of 100,000 characters is read in one go."""
    WATCH.read(unit * (100_000 // len(unit)))
    WATCH.read("<P>" + unit * (100_000 // len(unit)) + "</P>")


# Readers that are more lenient than any server should be.


def by_elementtree(text: str, name: str) -> set[str]:
    """Read all elements of a name at any depth, letter case and namespace aside."""
    try:
        root = ElementTree.fromstring(text.strip().encode())  # noqa: S314 - of our own making
    except (ElementTree.ParseError, ValueError, LookupError):
        return set()
    return {
        "".join(element.itertext()).strip()
        for element in root.iter()
        if element.tag.rpartition("}")[2].lower() == name.lower()
    }


def by_pattern(text: str, name: str) -> set[str]:
    """Read whatever looks like an element of a name, in this text or in what it decodes to."""
    texts = {text, html.unescape(text), unquote(text), html.unescape(unquote(text))}
    texts |= {
        re.sub(r"<!--.*?-->|<!\[CDATA\[|\]\]>|<\?.*?\?>", "", each, flags=re.DOTALL) for each in list(texts)
    }
    pattern = rf"<\s*(?:[\w-]+:)?{name}(?:\s[^<>]*)?>([^<]*)"
    return {match.strip() for each in texts for match in re.findall(pattern, each, re.IGNORECASE)}


SNIPPETS = [
    "<SearchMethod>Extended</SearchMethod>",
    "<searchmethod>Extended</searchmethod>",
    "<Provider>Jd</Provider>",
    "<x:Provider xmlns:x='urn:x'>Jd</x:Provider>",
    "<Provider a='b'>Jd</Provider>",
    "<Provider >Jd</Provider >",
    "&lt;Provider&gt;Jd&lt;/Provider&gt;",
    "%3CProvider%3EJd%3C/Provider%3E",
    "<Q>",
    "</Q>",
    "<Q/>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?pi ?>",
    "&#69;",
    "&amp;",
    "%45",
    "x",
    " ",
    "/",
    "<",
    ">",
    '"',
    "\n",
    "xmlns='urn:x'",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Draw an official document with pieces put in, taken out, repeated, encoded or swapped in case."""
    text = PLAIN
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = text[start:end]
        change = draw(st.integers(0, 6))
        if change == 0:
            piece = draw(st.sampled_from(SNIPPETS))
        elif change == 1:
            piece += piece
        elif change == 2:
            piece = piece.swapcase()
        elif change == 3:
            piece = "".join(f"&#{ord(letter)};" for letter in piece)
        elif change == 4:
            piece = "".join(f"%{ord(letter):02x}" for letter in piece)
        elif change == 5:
            piece = draw(st.sampled_from(SNIPPETS)) + piece + draw(st.sampled_from(SNIPPETS))
        text = text[:start] + (piece if change < 6 else "") + text[end:]
    return text


@given(mutated())
def test_a_certain_reading_is_everyones_reading(text: str) -> None:
    """Where a reading is certain, readers far more lenient see the same values and no others."""
    reading = read(text)
    if not reading.certain:
        return
    for name in ("Provider", "SearchMethod"):
        expected = {reading.values[name]} if name in reading.values else set()
        assert by_pattern(text, name) <= expected | {""}
        assert by_elementtree(text, name) <= expected


@given(mutated())
def test_what_another_reader_takes_for_another_search_is_not_official(text: str) -> None:
    """A document that any lenient reader takes for something else is never read as the official search."""
    reading = read(text)
    seen = {
        name: by_pattern(text, name) | by_elementtree(text, name) for name in ("Provider", "SearchMethod")
    }
    if any(seen[name] - {OFFICIAL[name]} for name in OFFICIAL):
        assert not (reading.certain and reading.values == OFFICIAL)


def test_what_was_read_before_is_told_by_the_watched_leaves_alone() -> None:
    """A document with other watched leaves, in another order or doubled, is read anew."""
    watch = Watch(frozenset({"Provider", "CategoryId"}))
    assert read("<P><Provider>Taobao</Provider><A>1</A></P>", watch).values == {"Provider": "Taobao"}
    assert read("<Q><A>2</A><Provider>Taobao</Provider></Q>", watch).values == {"Provider": "Taobao"}
    assert read("<P><Provider>Tmall</Provider></P>", watch).values == {"Provider": "Tmall"}
    assert not read("<P><provider>Taobao</provider></P>", watch).certain
    assert not read("<P><Provider>Taobao</Provider><Provider>Taobao</Provider></P>", watch).certain
    assert not read("<Provider><Provider>Taobao</Provider></Provider>", watch).certain
    assert not read("<P><Provider>Ta%6Fbao</Provider></P>", watch).certain


def test_memory_of_leaves_is_bounded() -> None:
    """However many values clients send, only so many are remembered, and no long ones."""
    watch = Watch(frozenset({"CategoryId"}))
    for number in range(REMEMBERED_LEAVES + 10):
        assert read(f"<P><CategoryId>{number}</CategoryId></P>", watch).values == {"CategoryId": str(number)}
    read(f"<P><CategoryId>{'x' * (REMEMBERED_LEAVES_BYTES + 1)}</CategoryId></P>", watch)
    assert len(watch._by_leaves) == 10


SENT = quote_plus(PLAIN)


@pytest.mark.parametrize(
    "raw",
    [
        SENT,
        SENT.replace("%2F", "/"),
        SENT.replace("%3C", "%3c").replace("%3E", "%3e").replace("%2F", "%2f"),
        SENT.replace("+", "%20%21%22%23%24%27%28%29%2A%2a%2C%2D%2E%2F%3A%3a%3B%3D%3d%40"),
        quote(
            "<S><SearchMethod>Official</SearchMethod><A></A><Provider>Taobao</Provider><B>x</B></S>", safe=""
        ),
    ],
)
def test_plain_documents_are_read_as_they_were_sent(raw: str) -> None:
    """What nearly all clients send is not decoded, and says what its decoded text says."""
    for _ in range(2):
        reading = read_sent(raw)
        assert reading is not None
        assert (reading.certain, reading.values) == (True, OFFICIAL)
        assert reading == WATCH.read(unquote(raw.replace("+", " ")))


@pytest.mark.parametrize(
    "raw",
    [
        SENT.replace("red", "r%65d"),
        SENT.replace("red", "%D1%8F"),
        SENT.replace("red", "%26lt%3B"),
        SENT.replace("red", "%25"),
        SENT.replace("red", "%2B"),
        SENT.replace("red", "%5C"),
        SENT.replace("red", "%00"),
        SENT.replace("red", "%0A"),
        SENT.replace("red", "%3E"),
        SENT.replace("red", "\\"),
        SENT.replace("red", "<"),
        SENT.replace("red", ";"),
        SENT.replace("red", "%2"),
        SENT.replace("red", "я"),
        SENT.replace("Taobao", "Tao%2Dbao"),
        SENT.replace("Taobao", "Tao+bao"),
        SENT.replace("Provider", "provider"),
        SENT.replace("Provider", "Provider+"),
        SENT.replace("SearchItemsParameters", "Provider"),
        SENT.replace("SearchItemsParameters", "PROVIDER"),
        SENT + SENT,
        SENT[:-3],
        SENT + "%20",
        "%20" + SENT,
        SENT.replace("ItemTitle", "ItemTitles", 1),
        quote_plus("<P>" + "<Provider>Taobao</Provider>" * (SENT_LEAVES_MAX + 1) + "</P>"),
        quote_plus(PLAIN.replace("red", "red" * SENT_MAX_BYTES)),
        quote_plus(PLAIN.replace("<Provider>Taobao</Provider>", "<Provider>Taobao</Provider>" * 2)),
        quote_plus(PLAIN.replace("<Provider>", "<A><Provider>").replace("</Provider>", "</Provider></A>")),
    ],
)
def test_other_documents_are_decoded(raw: str) -> None:
    """What is not plain to everybody, or is written as hardly any client does, is left to the decoder."""
    assert read_sent(SENT) is not None
    assert read_sent(raw) is None


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "%3C",
                    "%3c",
                    "%3E",
                    "%2F",
                    "/",
                    "+",
                    "%20",
                    "%2C",
                    "%41",
                    "%D1%8F",
                    "%26",
                    "%",
                    "a",
                    "<",
                    "&",
                ),
                *(
                    "%3CP%3E",
                    "%3C%2FP%3E",
                    "%3CA%3Ex%3C%2FA%3E",
                    "%3CProvider%3E",
                    "Taobao",
                    "%3C%2FProvider%3E",
                ),
                *("%3CSearchMethod%3EOfficial%3C%2FSearchMethod%3E", "%3Cprovider%3EJd%3C%2Fprovider%3E"),
                "%3CProvider%3ETaobao%3C%2FProvider%3E",
            ]
        ),
        max_size=14,
    )
    .map("".join)
    .flatmap(lambda text: st.sampled_from([text, f"%3CQ%3E{text}%3C%2FQ%3E"]))
)
def test_a_document_as_it_was_sent_says_what_its_text_says(raw: str) -> None:
    """Whatever is read without being decoded is certain, and the same when it is decoded."""
    sent = read_sent(raw)
    if sent is not None:
        decoded = percent_decode(raw.encode())
        assert decoded is not None
        assert WATCH.read(decoded.decode()) == sent
        assert sent.certain


def test_what_has_to_be_decoded_pauses_the_shorter_way() -> None:
    """Behind a document that had to be decoded, the next few are decoded at once."""
    watch = Watch(WATCH.names)
    assert watch.read_sent(quote_plus(PLAIN.replace("red", "красное")).encode(), plain=False) is None
    for _ in range(PAUSE):
        assert watch.read_sent(SENT.encode(), plain=True) is None
    assert watch.read_sent(SENT.encode(), plain=True) is not None


def test_memory_of_leaves_as_they_were_sent_is_bounded() -> None:
    """However many values clients send, only so many are remembered, and no long ones."""
    watch = Watch(frozenset({"CategoryId"}))
    for number in range(REMEMBERED_LEAVES + 10):
        reading = read_sent(f"%3CP%3E%3CCategoryId%3E{number}%3C/CategoryId%3E%3C/P%3E", watch)
        assert reading is not None and reading.values == {"CategoryId": str(number)}
    long = "x" * (REMEMBERED_LEAVES_BYTES + 1)
    assert read_sent(f"%3CP%3E%3CCategoryId%3E{long}%3C/CategoryId%3E%3C/P%3E", watch) is not None
    assert len(watch._by_sent_leaves) == 10


def test_urlencoded_documents_that_end_wrongly_take_no_longer_than_their_length() -> None:
    """The shorter way gives up without trying one leaf after the other anew."""
    for unit in ("%3CA%3E" + "%20" * 20 + "%3C/A%3E", "%3CA%3Ex%3C/A%3E", "%20"):
        document = "%3CP%3E" + unit * ((SENT_MAX_BYTES - 20) // len(unit))
        for _ in range(200):
            assert read_sent(document) is None

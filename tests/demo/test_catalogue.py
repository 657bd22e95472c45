from __future__ import annotations

import pytest

from demo.catalogue import Catalogue, make_catalogue


def test_a_seed_makes_one_catalogue() -> None:
    """The same seed makes the same items, another seed makes others."""
    assert make_catalogue(7, 50) == make_catalogue(7, 50)
    assert make_catalogue(7, 50).items.keys() != make_catalogue(8, 50).items.keys()


def test_everything_hangs_together(catalogue: Catalogue) -> None:
    """Every item has a category below a root, a vendor of its provider and its provider's prefix."""
    prefixes = {"Taobao": "5", "Alibaba1688": "abb-", "Pinduoduo": "pdd-"}
    for item in catalogue.items.values():
        parent = catalogue.categories[item.category].parent
        assert parent is not None
        assert catalogue.categories[parent].parent is None
        assert catalogue.vendors[item.vendor].provider == item.provider
        assert item.id.startswith(prefixes[item.provider])


@pytest.mark.parametrize("title", ["phone", "PHONE", "чехол", "手机", "phone case"])
def test_titles_are_found_in_three_languages(catalogue: Catalogue, title: str) -> None:
    """A search finds the items whose titles hold every word, in any language and letter case."""
    found = catalogue.search(title=title)
    assert found
    assert all(word in item.folded for item in found for word in title.lower().split())
    assert len(found) < len(catalogue.items)


def test_filters_narrow_a_search(catalogue: Catalogue) -> None:
    """Provider, category, vendor and price each leave what matches; a root covers what is below."""
    root = catalogue.children(None)[0]
    below = {child.id for child in catalogue.children(root.id)}
    vendor = next(iter(catalogue.vendors))
    assert {item.category for item in catalogue.search(category=root.id)} == below
    assert {item.vendor for item in catalogue.search(vendor=vendor)} == {vendor}
    assert {item.provider for item in catalogue.search(provider="Pinduoduo")} == {"Pinduoduo"}
    assert all(1000 <= item.price_fen <= 2000 for item in catalogue.search(min_fen=1000, max_fen=2000))
    assert not catalogue.search(title="no such thing")

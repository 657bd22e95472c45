"""The made-up catalogue: categories, vendors and items, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from demo.words import COLOURS, DEPARTMENTS, QUALITIES, VENDORS, Words

LANGUAGES = ("en", "ru", "zh")
# Provider, prefix of its item ids, share of the catalogue.
PROVIDERS = (("Taobao", "", 6), ("Alibaba1688", "abb-", 3), ("Pinduoduo", "pdd-", 1))
SEARCH_METHODS = ("Official", "Extended", "ExtendedNew", "Promoted", "Default")
ITEMS = 4000
VENDORS_EACH = 8


@dataclass(frozen=True, slots=True)
class Category:
    """A category; `parent` is None for a root."""

    id: str
    name: Words
    parent: str | None


@dataclass(frozen=True, slots=True)
class Vendor:
    """A seller of items; `credit` is from 1 to 20."""

    id: str
    name: str
    provider: str
    credit: int
    city: str


@dataclass(frozen=True, slots=True)
class Item:
    """A thing for sale; `price_fen` is in hundredths of a yuan."""

    id: str
    provider: str
    title: Words
    category: str
    vendor: str
    price_fen: int
    quantity: int
    sales: int
    colours: tuple[Words, ...]
    folded: str = field(repr=False)  # all titles in lower case, for searching


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that is for sale."""

    categories: Mapping[str, Category]
    vendors: Mapping[str, Vendor]
    items: Mapping[str, Item]

    def children(self, parent: str | None) -> Sequence[Category]:
        """Return the categories right below one, or the roots."""
        return [category for category in self.categories.values() if category.parent == parent]

    def search(
        self,
        *,
        provider: str | None = None,
        title: str = "",
        category: str | None = None,
        vendor: str | None = None,
        min_fen: int = 0,
        max_fen: int | None = None,
    ) -> list[Item]:
        """Return the items that hold every word of `title` and match all else that is given."""
        words = title.lower().split()
        within = None if category is None else {category, *(child.id for child in self.children(category))}
        return [
            item
            for item in self.items.values()
            if (provider is None or item.provider == provider)
            and (within is None or item.category in within)
            and (vendor is None or item.vendor == vendor)
            and item.price_fen >= min_fen
            and (max_fen is None or item.price_fen <= max_fen)
            and all(word in item.folded for word in words)
        ]


def make_catalogue(seed: int = 1, items: int = ITEMS) -> Catalogue:
    """Make a catalogue; equal arguments make equal catalogues."""
    dice = random.Random(seed)
    categories, goods = _categories()
    vendors = _vendors(dice)
    by_provider = {name: [v for v in vendors.values() if v.provider == name] for name, _, _ in PROVIDERS}
    found: dict[str, Item] = {}
    number = 520_000_000
    for _ in range(items):
        number += dice.randint(1, 900)
        provider, prefix, _ = dice.choices(PROVIDERS, [share for _, _, share in PROVIDERS])[0]
        category, thing = dice.choice(goods)
        quality, colours = dice.choice(QUALITIES), tuple(dice.sample(COLOURS, dice.randint(1, 4)))
        title = (
            f"{colours[0][0]} {thing[0]} {quality[0]}".capitalize(),
            f"{thing[1]} {colours[0][1]}, {quality[1]}".capitalize(),
            f"{quality[2]}{colours[0][2]}{thing[2]}",
        )
        item = Item(
            id=f"{prefix}{number}",
            provider=provider,
            title=title,
            category=category,
            vendor=dice.choice(by_provider[provider]).id,
            price_fen=dice.randint(199, 99_900),
            quantity=dice.randint(0, 5_000),
            sales=dice.randint(0, 20_000),
            colours=colours,
            folded=" ".join(title).lower(),
        )
        found[item.id] = item
    return Catalogue(categories, vendors, found)


def _categories() -> tuple[dict[str, Category], list[tuple[str, Words]]]:
    categories: dict[str, Category] = {}
    goods: list[tuple[str, Words]] = []
    for root_number, (root_name, children) in enumerate(DEPARTMENTS, start=1):
        root = Category(f"otc-{root_number * 100}", root_name, None)
        categories[root.id] = root
        for number, (name, things) in enumerate(children, start=1):
            child = Category(f"otc-{root_number * 100 + number}", name, root.id)
            categories[child.id] = child
            goods += [(child.id, thing) for thing in things]
    return categories, goods


def _vendors(dice: random.Random) -> dict[str, Vendor]:
    cities = ("Guangzhou", "Shenzhen", "Hangzhou", "Yiwu", "Shanghai")
    vendors = {}
    for provider, prefix, _ in PROVIDERS:
        for number in range(VENDORS_EACH):
            name = f"{VENDORS[number % len(VENDORS)]} {provider[:2].upper()}{number + 1}"
            vendor = Vendor(
                f"{prefix}vendor-{number + 1}", name, provider, dice.randint(1, 20), dice.choice(cities)
            )
            vendors[vendor.id] = vendor
    return vendors

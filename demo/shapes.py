"""How items, vendors and categories look in OTAPI's answers."""

from __future__ import annotations

from demo.answers import Value
from demo.catalogue import LANGUAGES, Catalogue, Category, Item, Vendor

YUAN_TO_DOLLAR = 0.14


def language_index(language: str) -> int:
    """Return which of the titles a caller wants; English when it asks for none that there is."""
    return LANGUAGES.index(language) if language in LANGUAGES else 0


def price(fen: int) -> dict[str, Value]:
    """Return a price in the seller's and in the shop's currency."""
    return {
        "OriginalPrice": fen / 100,
        "OriginalCurrencyCode": "CNY",
        "ConvertedPrice": f"{fen / 100 * YUAN_TO_DOLLAR:.2f} $",
    }


def item_in_list(item: Item, language: int) -> dict[str, Value]:
    """Return an item as a search shows it."""
    picture = f"https://img.example.com/items/{item.id}.jpg"
    return {
        "Id": item.id,
        "ProviderType": item.provider,
        "Title": item.title[language],
        "OriginalTitle": item.title[2],
        "CategoryId": item.category,
        "VendorId": item.vendor,
        "Price": price(item.price_fen),
        "MasterQuantity": item.quantity,
        "MainPictureUrl": picture,
        "ExternalItemUrl": f"https://market.example.com/item/{item.id}",
        "FeaturedValues": [{"Name": "TotalSales", "Value": str(item.sales)}],
    }


def item_in_full(item: Item, language: int, catalogue: Catalogue) -> dict[str, Value]:
    """Return an item with all that there is to know of it."""
    attributes: list[Value] = [
        {
            "Pid": "1627207",
            "Vid": str(28320 + number),
            "PropertyName": ("Colour", "Цвет", "颜色")[language],
            "Value": colour[language],
            "IsConfigurator": True,
        }
        for number, colour in enumerate(item.colours)
    ]
    configured: list[Value] = [
        {
            "Id": f"{item.id}-{number}",
            "Quantity": item.quantity // len(item.colours),
            "Price": price(item.price_fen + 50 * number),
            "Configurators": [{"Pid": "1627207", "Vid": str(28320 + number)}],
        }
        for number in range(len(item.colours))
    ]
    return {
        **item_in_list(item, language),
        "VendorName": catalogue.vendors[item.vendor].name,
        "Attributes": attributes,
        "ConfiguredItems": configured,
        "Pictures": [f"https://img.example.com/items/{item.id}-{number}.jpg" for number in range(1, 6)],
        "Description": f"<p>{item.title[language]}</p>",
        "IsSellAllowed": item.quantity > 0,
    }


def vendor_in_full(vendor: Vendor) -> dict[str, Value]:
    """Return a vendor."""
    return {
        "Id": vendor.id,
        "ProviderType": vendor.provider,
        "Name": vendor.name,
        "DisplayName": vendor.name,
        "Credit": {"Level": vendor.credit, "Score": vendor.credit * 512},
        "Location": {"City": vendor.city, "State": "China"},
    }


def category_in_list(category: Category, language: int, catalogue: Catalogue) -> dict[str, Value]:
    """Return a category."""
    return {
        "Id": category.id,
        "Name": category.name[language],
        "ParentId": category.parent or "",
        "IsParent": bool(catalogue.children(category.id)),
        "IsHidden": False,
        "IsVirtual": False,
    }

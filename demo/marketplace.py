"""The methods of the OTAPI face."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping

from demo.answers import MethodError, Value
from demo.catalogue import PROVIDERS, SEARCH_METHODS, Catalogue, Item
from demo.shapes import category_in_list, item_in_full, item_in_list, language_index, vendor_in_full

FRAME_MAX = 200
BULK_MAX = 10_000
BULK_JOBS_KEPT = 100

Parameters = Mapping[str, str]
Method = Callable[["Marketplace", Parameters], Value]


class Marketplace:
    """A catalogue with methods over it; only bulk jobs and orders leave something behind."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._jobs: OrderedDict[str, list[Value]] = OrderedDict()
        self._jobs_made = 0

    def call(self, method: str, parameters: Parameters) -> Value:
        """Return a method's result; raises MethodError."""
        found = METHODS.get(method.lower())
        if found is None:
            raise MethodError("NotFound", f"Method {method} is not found")
        return found(self, parameters)

    def find(self, parameters: Parameters) -> tuple[list[Item], str, str]:
        """Return the items that a search asks for, and the provider and search method it used."""
        wanted = elements(parameters.get("xmlparameters", ""))
        provider = wanted.get("Provider") or "Taobao"
        search_method = wanted.get("SearchMethod") or "Extended"
        if provider not in {name for name, _, _ in PROVIDERS}:
            raise MethodError("NotAvailable", f"Provider {provider} is not available")
        if search_method not in SEARCH_METHODS:
            raise MethodError("ValidationError", f"Search method {search_method} is unknown")
        items = self.catalogue.search(
            provider=provider,
            title=wanted.get("ItemTitle") or parameters.get("itemtitle", ""),
            category=wanted.get("CategoryId") or parameters.get("categoryid") or None,
            vendor=wanted.get("VendorId") or parameters.get("vendorid") or None,
            min_fen=_fen(wanted.get("MinPrice")) or 0,
            max_fen=_fen(wanted.get("MaxPrice")),
        )
        if search_method == "Promoted":
            items = sorted(items, key=lambda item: -item.sales)
        return items, provider, search_method

    def item(self, item_id: str) -> Item:
        """Return an item; raises MethodError when there is none of this id."""
        found = self.catalogue.items.get(item_id)
        if found is None:
            raise MethodError("NotFound", "Item is not found")
        return found

    def search_items_frame(self, parameters: Parameters) -> Value:
        """Answer one frame of a search."""
        items, provider, search_method = self.find(parameters)
        language = language_index(parameters.get("language", ""))
        position, size = _frame(parameters)
        frame: list[Value] = [item_in_list(item, language) for item in items[position : position + size]]
        return {
            "Provider": provider,
            "SearchMethod": search_method,
            "CurrentSort": "Default",
            "Items": {"Content": frame, "TotalCount": len(items)},
            "MaximumPageCount": 100,
        }

    def old_search(self, parameters: Parameters) -> Value:
        """Answer one of the older searches: the frame alone."""
        items, _, _ = self.find(parameters)
        language = language_index(parameters.get("language", ""))
        position, size = _frame(parameters)
        return {
            "Content": [item_in_list(item, language) for item in items[position : position + size]],
            "TotalCount": len(items),
        }

    def batch_search_items_frame(self, parameters: Parameters) -> Value:
        """Answer a search together with the blocks that a page shows beside it."""
        language = language_index(parameters.get("language", ""))
        result: dict[str, Value] = {"Items": self.search_items_frame(parameters)}
        blocks = set(re.split(r"[,;]\s*", parameters.get("blocklist", "")))
        if "SubCategories" in blocks:
            wanted = elements(parameters.get("xmlparameters", "")).get("CategoryId") or None
            result["SubCategories"] = [
                category_in_list(category, language, self.catalogue)
                for category in self.catalogue.children(wanted)
            ]
        if "AvailableSearchMethods" in blocks:
            result["AvailableSearchMethods"] = [
                {"Provider": name, "SearchMethod": method}
                for name, _, _ in PROVIDERS
                for method in SEARCH_METHODS
            ]
        return result

    def get_item_full_info(self, parameters: Parameters) -> Value:
        """Answer one item in full."""
        item = self.item(parameters.get("itemid", ""))
        return item_in_full(item, language_index(parameters.get("language", "")), self.catalogue)

    def get_item_info(self, parameters: Parameters) -> Value:
        """Answer one item as a list shows it."""
        return item_in_list(
            self.item(parameters.get("itemid", "")), language_index(parameters.get("language", ""))
        )

    def get_item_info_list(self, parameters: Parameters) -> Value:
        """Answer several items; unknown ones are left out."""
        language = language_index(parameters.get("language", ""))
        known = self.catalogue.items
        return {"Content": [item_in_list(known[each], language) for each in ids(parameters) if each in known]}

    def batch_get_item_full_info(self, parameters: Parameters) -> Value:
        """Answer one item and the blocks that an item's page shows beside it."""
        item = self.item(parameters.get("itemid", ""))
        language = language_index(parameters.get("language", ""))
        result: dict[str, Value] = {"Item": item_in_full(item, language, self.catalogue)}
        blocks = set(re.split(r"[,;]\s*", parameters.get("blocklist", "")))
        if "Vendor" in blocks:
            result["Vendor"] = vendor_in_full(self.catalogue.vendors[item.vendor])
        if "RootPath" in blocks:
            result["RootPath"] = self._root_path(item.category, language)
        if "VendorItems" in blocks:
            others = self.catalogue.search(vendor=item.vendor)[:4]
            result["VendorItems"] = {"Content": [item_in_list(each, language) for each in others]}
        return result

    def get_root_category_info_list(self, parameters: Parameters) -> Value:
        """Answer the root categories."""
        return self._categories(None, parameters)

    def get_category_subcategory_info_list(self, parameters: Parameters) -> Value:
        """Answer the categories right below one."""
        return self._categories(
            parameters.get("parentcategoryid") or parameters.get("categoryid", ""), parameters
        )

    def get_category_info(self, parameters: Parameters) -> Value:
        """Answer one category."""
        found = self.catalogue.categories.get(parameters.get("categoryid", ""))
        if found is None:
            raise MethodError("NotFound", "Category is not found")
        return category_in_list(found, language_index(parameters.get("language", "")), self.catalogue)

    def get_category_root_path(self, parameters: Parameters) -> Value:
        """Answer the categories from one up to its root."""
        return self._root_path(
            parameters.get("categoryid", ""), language_index(parameters.get("language", ""))
        )

    def get_vendor_info(self, parameters: Parameters) -> Value:
        """Answer one vendor."""
        found = self.catalogue.vendors.get(parameters.get("vendorid", ""))
        if found is None:
            raise MethodError("NotFound", "Vendor is not found")
        return vendor_in_full(found)

    def run_bulk_items(self, parameters: Parameters) -> Value:
        """Start a job over the items named by `itemIds`."""
        wanted = ids(parameters)
        language = language_index(parameters.get("language", ""))
        known = self.catalogue.items
        return self._start(
            [item_in_full(known[each], language, self.catalogue) for each in wanted if each in known]
        )

    def run_bulk_search_items(self, parameters: Parameters) -> Value:
        """Start a job over everything that a search finds."""
        items, _, _ = self.find(parameters)
        language = language_index(parameters.get("language", ""))
        return self._start([item_in_list(item, language) for item in items[:BULK_MAX]])

    def get_bulk_result(self, parameters: Parameters) -> Value:
        """Answer what a job has made."""
        found = self._jobs.get(parameters.get("activityid", ""))
        if found is None:
            raise MethodError("NotFound", "Activity is not found")
        return {"IsFinished": True, "Progress": 100, "Items": found}

    def _start(self, items: list[Value]) -> Value:
        if not items:
            raise MethodError("ValidationError", "No item to work on")
        self._jobs_made += 1
        activity = f"bulk-{self._jobs_made}"
        self._jobs[activity] = items
        if len(self._jobs) > BULK_JOBS_KEPT:
            self._jobs.popitem(last=False)
        return {"ActivityId": activity, "TotalCount": len(items)}

    def _categories(self, parent: str | None, parameters: Parameters) -> Value:
        language = language_index(parameters.get("language", ""))
        return {
            "Content": [
                category_in_list(each, language, self.catalogue) for each in self.catalogue.children(parent)
            ]
        }

    def _root_path(self, category_id: str, language: int) -> Value:
        path: list[Value] = []
        category = self.catalogue.categories.get(category_id)
        while category is not None:
            path.append(category_in_list(category, language, self.catalogue))
            category = self.catalogue.categories.get(category.parent or "")
        return {"Content": path}


def elements(xml: str) -> dict[str, str]:
    """Read simple elements leniently: what old clients leave unescaped does no harm."""
    return {
        name: text.strip()
        .replace("&quot;", '"')
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
        for name, text in re.findall(r"<(\w+)>([^<]*)</\1>", xml)
    }


def ids(parameters: Parameters) -> list[str]:
    """Return the item ids that a caller lists, parted by commas or semicolons."""
    listed = parameters.get("itemids") or parameters.get("idslist") or parameters.get("itemid", "")
    found = [each for each in re.split(r"[,;]\s*", listed) if each]
    if len(found) > BULK_MAX:
        raise MethodError("ValidationError", f"At most {BULK_MAX} items")
    return found


def _frame(parameters: Parameters) -> tuple[int, int]:
    try:
        position, size = int(parameters.get("frameposition") or 0), int(parameters.get("framesize") or 20)
    except ValueError as error:
        raise MethodError("ValidationError", "framePosition and frameSize are numbers") from error
    if position < 0 or not 0 < size <= FRAME_MAX:
        raise MethodError("ValidationError", f"framePosition is at least 0, frameSize 1 to {FRAME_MAX}")
    return position, size


def _fen(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return round(float(text) * 100)
    except ValueError as error:
        raise MethodError("ValidationError", "A price is a number") from error


def _fixed(result: Value) -> Method:
    return lambda _marketplace, _parameters: result


_STATUSES: tuple[Value, ...] = tuple(
    {"Id": n, "Name": name} for n, name in enumerate(("New", "Paid", "Sent", "Closed"), 1)
)

METHODS: Mapping[str, Method] = {
    name.lower(): method
    for name, method in {
        "SearchItemsFrame": Marketplace.search_items_frame,
        "BatchSearchItemsFrame": Marketplace.batch_search_items_frame,
        "SearchPromoteItemsFrame": Marketplace.search_items_frame,
        "FindCategoryItemInfoListFrame": Marketplace.old_search,
        "FindCategoryItemSimpleInfoListFrame": Marketplace.old_search,
        "FindItemInfoListFrameByTitle": Marketplace.old_search,
        "FindItemSimpleInfoListFrameByTitle": Marketplace.old_search,
        "GetCategoryItemInfoListFrame": Marketplace.old_search,
        "GetCategoryItemSimpleInfoListFrame": Marketplace.old_search,
        "GetVendorItemInfoSortedListFrame": Marketplace.old_search,
        "GetVendorItemSimpleInfoSortedListFrame": Marketplace.old_search,
        "GetItemFullInfo": Marketplace.get_item_full_info,
        "GetItemInfo": Marketplace.get_item_info,
        "GetItemInfoList": Marketplace.get_item_info_list,
        "BatchGetItemFullInfo": Marketplace.batch_get_item_full_info,
        "GetRootCategoryInfoList": Marketplace.get_root_category_info_list,
        "GetCategorySubcategoryInfoList": Marketplace.get_category_subcategory_info_list,
        "GetCategoryInfo": Marketplace.get_category_info,
        "GetCategoryRootPath": Marketplace.get_category_root_path,
        "GetVendorInfo": Marketplace.get_vendor_info,
        "RunBulkItems": Marketplace.run_bulk_items,
        "RunBulkSearchItems": Marketplace.run_bulk_search_items,
        "GetBulkItemsResult": Marketplace.get_bulk_result,
        "GetBulkSearchItemsResult": Marketplace.get_bulk_result,
        "GetOrderStatusList": _fixed({"Content": _STATUSES}),
        "GetOrdersHistory": _fixed({"Content": [], "TotalCount": 0}),
        "GetSalesOrdersList": _fixed({"Content": [], "TotalCount": 0}),
        "SearchOrders": _fixed({"Content": [], "TotalCount": 0}),
        "CreateOrder": _fixed({"Id": "ORD-0000000001", "Status": "New"}),
        "AddOrder": _fixed({"Id": "ORD-0000000001", "Status": "New"}),
        "GetBasket": _fixed({"Elements": [], "TotalCost": 0}),
        "GetUserInfo": _fixed({"Id": "1", "Login": "demo", "IsEmailVerified": True}),
        "CreateTicket": _fixed({"Id": "TICKET-0000000001", "Status": "Opened"}),
        "GetTicketInfoList": _fixed({"Content": [], "TotalCount": 0}),
        "GetInstanceOptionsInfo": _fixed({"InstanceName": "Demo", "DefaultLanguage": "en"}),
        "GetCommonInstanceOptionsInfo": _fixed({"InstanceName": "Demo", "DefaultLanguage": "en"}),
        "GetCallStatistics": _fixed({"Content": []}),
        "GetCurrencyRateHistory": _fixed({"Content": []}),
        "UpdateInstanceOptions": _fixed(True),
        "SearchUsersWithSummary": _fixed({"Content": [], "TotalCount": 0}),
    }.items()
}

# ruff: noqa: INP001, PLC0415, T201 - a script, not part of a package
"""A shop whose prices and pages are cached: the origin that its loaders call, and its visitors.

    python3 docs/tutorial/shop.py visit URL COUNT [--forever]

Prices are those of the price list, less the discounts in the file that SHOP_DISCOUNTS names: {"brand": percent}.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path


def price_of(number: int) -> dict[str, object]:
    """What a product costs."""
    file = Path(os.environ.get("SHOP_DISCOUNTS", "var/discounts.json"))
    discounts = json.loads(file.read_text()) if file.exists() else {}
    brand = "Ember" if number % 2 else "Aurora"
    return {"brand": brand, "price": (100 + number) * (100 - discounts.get(brand, 0)) // 100}


def prices(keys: list[str]) -> dict[str, object]:
    """The loader of `price:NUMBER`; each has its brand as a tag."""
    from cachesvc.ports import Loaded

    told = {key: price_of(int(key.partition(":")[2])) for key in keys}
    return {
        key: Loaded(json.dumps(price).encode(), "application/json", tags=(f"brand:{price['brand']}",))
        for key, price in told.items()
    }


def pages(keys: list[str]) -> dict[str, object]:
    """The loader of `page:NUMBER`, which is made of that product's price."""
    from cachesvc.ports import Loaded

    made = {}
    for key in keys:
        number = key.partition(":")[2]
        price = price_of(int(number))
        html = f"<h1>{price['brand']} {number}</h1> only {price['price']} EUR"
        made[key] = Loaded(html.encode(), "text/html", parents=(f"price:{number}",))
    return made


def visit(url: str, count: int) -> int:
    """Look at the first pages of Ember; how many of them had to come from the origin."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    loaded = 0
    for number in range(1, 2 * count, 2):
        with opener.open(f"{url}/v1/cache/page:{number}") as answer:
            loaded += "detail=loader" in answer.headers["Cache-Status"]
    return loaded


if __name__ == "__main__":
    _, _, url, count, *forever = sys.argv
    print(f"{count} pages, {visit(url, int(count))} of them from the origin")
    while forever:
        visit(url, int(count))

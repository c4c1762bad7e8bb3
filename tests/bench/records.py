"""Values to measure with: small JSON records, from a file or made up."""

from __future__ import annotations

import json
import random
from pathlib import Path

KEYS = 20_000
UPSERT = (
    "INSERT INTO plain VALUES ($1, $2, now()) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated = excluded.updated"
)
_NAMES = ["Aurora", "Basalt", "Cirrus", "Delta", "Ember", "Fjord", "Garnet", "Harbor", "Indigo", "Juniper"]
_WORDS = ["phone", "charger", "cable", "case", "screen", "dual", "black", "silver", "fast", "travel", "soft", "leather"]


def name_of(number: int) -> str:
    return f"product:{number:012d}"  # as redis-benchmark writes a random key


def value_of(number: int) -> bytes:
    """One of usual length."""
    value = {"id": f"{number:06d}", "status": "open", "assignee": {"id": 17}, "title": "a title of usual length"}
    return json.dumps(value | {"tags": ["alpha", "beta"], "rank": number}, separators=(",", ":")).encode()


def records(file: Path | None, *, count: int = 800, seed: int = 7) -> list[bytes]:
    """The lines of an NDJSON file after its first (which names the columns), or product records made up from a seed."""
    if file is not None:
        return [line.strip().encode() for line in file.read_text().splitlines()[1:] if line.strip()]
    rng = random.Random(seed)
    return [_product(rng) for _ in range(count)]


def _product(rng: random.Random) -> bytes:
    """As shops' records are: id and title come again in links, an image has a name of its own."""
    asin = "B0" + "".join(rng.choices("0123456789ABCDEFGHJKLMNPQRSTUVWXYZ", k=8))
    brand = rng.choice(_NAMES)
    title = [brand, *rng.choices(_WORDS, k=rng.randint(6, 14))]
    image = "".join(rng.choices("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=10))
    product = [
        asin,
        brand,
        " ".join(title),
        f"https://www.shop.example/{'-'.join(title[:5])}/dp/{asin}",
        f"https://images.shop.example/images/I/{image}._AC_UY218_QL75_.jpg",
        round(rng.uniform(1, 5), 1),
        f"https://www.shop.example/product-reviews/{asin}",
        rng.randint(0, 999),
        f"${rng.uniform(10, 900):.2f}",
    ]
    return json.dumps(product).encode()

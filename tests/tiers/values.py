"""Entries and values to store."""

from __future__ import annotations

import os
import random
from pathlib import Path

import orjson

from cachesvc.model.entry import JSON, Entry, content_hash
from cachesvc.model.keys import Key
from cachesvc.model.position import Version

NOW = 1_790_000_000.123456
MONTH = 30 * 86_400


def an_entry(
    value: bytes, key: str = "product:1", version: int = 1_790_000_000_000_000 - MONTH * 1_000_000, **others: object
) -> Entry:
    entry = Entry(Key(key), Version(version), value, JSON, NOW, NOW, NOW + 86_400.0, content_hash(JSON, value))
    entry = entry._replace(**others)  # type: ignore[arg-type]
    return entry._replace(content_hash=content_hash(entry.content_type, value))


def records() -> list[bytes]:
    """Product records of `RECORDS_FILE` (NDJSON, the first line names the columns), else generated ones like them."""
    path = os.environ.get("RECORDS_FILE")
    if path:
        return Path(path).read_bytes().splitlines()[1:]
    r = random.Random(11)
    brands = ["Nokia", "Motorola", "Samsung", "Apple", "Sony", "Xiaomi", "Google"]
    words = ["Unlocked Phone", "Dual SIM", "64GB", "128GB", "Renewed", "GSM Carrier", "International Version", "Camera", "5G"]
    models = [f"{r.choice(brands)} {r.choice('ACGMSXZ')}{r.randrange(100)}" for _ in range(60)]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

    def one() -> bytes:
        name = "B0" + "".join(r.choices(letters, k=8))
        model = r.choice(models)
        title = f"{model} {' '.join(r.sample(words, k=r.randrange(2, 5)))} {r.choice(['Black', 'Silver', 'Gold', 'Blue'])}"
        url = f"https://www.shop.example/cell-phones/{model.replace(' ', '-')}/dp/{name}"
        image = (
            f"https://media.images.example/images/I/{''.join(r.choices(letters, k=11))}._AC_UY218_SEARCH213888_FMwebp_QL75_.jpg"
        )
        review = f"https://www.shop.example/product-reviews/{name}"
        return orjson.dumps(
            [
                name,
                model.split()[0],
                title,
                url,
                image,
                r.randrange(10, 50) / 10,
                review,
                r.randrange(500),
                f"${r.randrange(900)}.99",
            ]
        )

    return [one() for _ in range(792)]

"""Values to measure with: small JSON records, from a file or made up."""

from __future__ import annotations

import json
import random
from pathlib import Path

_NAMES = ["Aurora", "Basalt", "Cirrus", "Delta", "Ember", "Fjord", "Garnet", "Harbor", "Indigo", "Juniper"]
_WORDS = ["phone", "charger", "cable", "case", "screen", "dual", "black", "silver", "fast", "travel", "soft", "leather"]


def records(file: Path | None, *, count: int = 800, seed: int = 7) -> list[bytes]:
    """The lines of an NDJSON file after its first (which names the columns), or product records made up from a seed."""
    if file is not None:
        return [line.strip().encode() for line in file.read_text().splitlines()[1:] if line.strip()]
    rng = random.Random(seed)
    return [
        json.dumps(
            {
                "asin": "B" + "".join(rng.choices("0123456789ABCDEFGHJKLMNP", k=9)),
                "brand": rng.choice(_NAMES),
                "title": " ".join(rng.choices(_WORDS, k=rng.randint(5, 14))),
                "url": f"https://shop.example/dp/{rng.getrandbits(40):x}",
                "image": f"https://images.example/I/{rng.getrandbits(50):x}.jpg",
                "rating": round(rng.uniform(1, 5), 1),
                "reviews": rng.randint(0, 3000),
                "prices": f"${rng.uniform(10, 900):.2f}",
            }
        ).encode()
        for _ in range(count)
    ]

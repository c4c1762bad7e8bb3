# ruff: noqa: INP001 - a script, not part of a package
"""Print 400 made-up products as the body of one `POST /v1/batch`; the same at every run, and with nothing but Python."""

import json
import random
import sys

BRANDS = ["Aurora", "Basalt", "Cirrus", "Delta", "Ember"]
THINGS = ["phone", "charger", "cable", "case", "screen"]

made = random.Random(7)
products = [
    {"brand": made.choice(BRANDS), "name": f"{made.choice(THINGS)} {number}", "price": made.randint(1, 900)}
    for number in range(1, 401)
]
operations = [
    {"operation": "set", "key": f"product:{number}", "value": product} for number, product in enumerate(products, start=1)
]
json.dump({"operations": operations}, sys.stdout)

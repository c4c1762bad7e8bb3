"""The origin of the module `made`: it has whatever is asked for, but for keys with `absent` or `broken` in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def load(keys: Sequence[str]) -> Mapping[str, object]:
    if any("broken" in key for key in keys):
        raise OSError("the origin is broken")
    return {key: {"made": key} for key in keys if "absent" not in key}

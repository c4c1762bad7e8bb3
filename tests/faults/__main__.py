"""`python -m tests.faults`: runs that last, each with a report. The exit code is 0 only when nothing was violated."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.faults import realtime
from tests.faults.checker import check
from tests.faults.history import ended_table, read_history, write_history
from tests.faults.plan import CLIENTS, Stores
from tests.faults.run import Result, plan_text, replay, run
from tests.faults.sites import run as sites

SCENARIOS: Final = ("stores", "realtime", "sites")
_TOLD: Final = 20  # violations told in words; the report has all
_LONGEST: Final = 24 * 3_600.0


def report(result: Result, history: Path) -> str:
    """What came of a run, as Markdown."""
    lines = [
        f"# Faults over {result.stores}, seed {result.seed}, {result.seconds:g} s",
        "",
        f"{CLIENTS} clients, {len(result.history)} operations, {len(result.troubles)} faults,"
        f" {len(result.violations)} violations; {result.took:.0f} s in all. The history: `{history.name}`;"
        f" what the services said: `{history.with_suffix('.log').name}`.",
        "",
        f"The same plan again: `{replay(result.stores, result.seed, result.seconds)}`",
        "",
        *ended_table(result.history),
        "",
        "## Violations",
        "",
    ]
    counted = Counter(violation.kind for violation in result.violations)
    lines += [f"- {kind}: {count}" for kind, count in counted.items()] or ["None."]
    lines += ["", *(f"- **{violation.kind}**: {violation.text}" for violation in result.violations)]
    lines += ["", "## Faults", "", "```", *plan_text(result), "```", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parse(arguments)
    if asked.check is not None:
        return _check_again(asked.check)
    asked.reports.mkdir(parents=True, exist_ok=True)
    seed = asked.seed if asked.seed is not None else int(time.time())
    failed = False
    if "realtime" in asked.scenario:
        failed = _realtime(asked, seed)
    if "stores" in asked.scenario:
        failed = _over_stores(asked, seed) or failed
    if "sites" in asked.scenario:
        failed = _sites(asked, seed) or failed
    return 1 if failed else 0


def _sites(asked: argparse.Namespace, seed: int) -> bool:
    """Whether something was violated."""
    with tempfile.TemporaryDirectory(prefix="cachesvc-faults-") as directory:
        outcomes = sites.run(seed, asked.seconds, Path(directory), tell=_tell)
    name = asked.reports / f"faults-sites-{seed}"
    write_history(name.with_suffix(".jsonl"), outcomes.history)
    name.with_suffix(".log").write_text("\n".join(outcomes.said) + "\n")
    name.with_suffix(".md").write_text(sites.report(outcomes))
    for violation in outcomes.violations[:_TOLD]:
        _tell(f"VIOLATION {violation}")
    _tell(f"sites, seed {seed}: {len(outcomes.history)} operations, {len(outcomes.violations)} violations; {name}.md")
    if outcomes.violations:
        _tell(f"the same plan again (how it falls together is the machine's doing): {sites.replay(outcomes)}")
    return bool(outcomes.violations)


def _realtime(asked: argparse.Namespace, seed: int) -> bool:
    """Whether something was violated."""
    with tempfile.TemporaryDirectory(prefix="cachesvc-faults-") as directory:
        outcome = realtime.run(seed, asked.seconds, Path(directory), clients=asked.clients, rate=asked.changes, tell=_tell)
    name = asked.reports / f"faults-realtime-{seed}"
    name.with_suffix(".log").write_text("\n".join(outcome.said) + "\n")
    name.with_suffix(".md").write_text(realtime.report(outcome))
    for violation in outcome.violations[:_TOLD]:
        _tell(f"VIOLATION {violation}")
    _tell(
        f"realtime, seed {seed}: {outcome.told} messages, {outcome.drops} drops, {len(outcome.restarts)} restarts,"
        f" {len(outcome.violations)} violations; {name}.md"
    )
    if outcome.violations:
        _tell(f"the same plan again (how it falls together is the machine's doing): {realtime.replay(outcome)}")
    return bool(outcome.violations)


def _over_stores(asked: argparse.Namespace, seed: int) -> bool:
    """Whether something was violated."""
    failed = False
    for stores in asked.stores:
        with tempfile.TemporaryDirectory(prefix="cachesvc-faults-") as directory:
            result = run(stores, seed, asked.seconds, Path(directory), rate=asked.rate, tell=_tell)
        name = f"faults-{stores}-{seed}"
        history = asked.reports / f"{name}.jsonl"
        write_history(history, result.history)
        (asked.reports / f"{name}.log").write_text("\n".join(result.said) + "\n")
        (asked.reports / f"{name}.md").write_text(report(result, history))
        for violation in result.violations[:_TOLD]:
            _tell(f"VIOLATION {violation.kind}: {violation.text}")
        _tell(
            f"{stores}, seed {seed}: {len(result.history)} operations, {len(result.troubles)} faults,"
            f" {len(result.violations)} violations; {asked.reports / name}.md"
        )
        if result.violations:
            failed = True
            _tell(f"the same plan again (how it falls together is the machine's doing): {replay(stores, seed, asked.seconds)}")
    return failed


def _check_again(history: Path) -> int:
    violations = check(read_history(history))
    for violation in violations:
        _tell(f"{violation.kind}: {violation.text}")
    return 1 if violations else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break everything but the promises.")
    parser.add_argument(
        "--scenario", type=_scenarios, default=list(SCENARIOS), help="stores, realtime, sites, or several with commas"
    )
    parser.add_argument("--clients", type=int, default=100, help="of the scenario realtime")
    parser.add_argument("--changes", type=_within(1.0, 1_000.0), default=20.0, help="a second, of the scenario realtime")
    parser.add_argument(
        "--stores", type=_stores, default=list(Stores), help="postgres, cluster, sqlite, or several with commas"
    )
    parser.add_argument("--seconds", type=_within(1.0, _LONGEST), default=60.0, help="of faults, over each of the stores")
    parser.add_argument("--seed", type=int, help="of the plan; without one it is taken from the clock, and told")
    parser.add_argument("--rate", type=_within(1.0, 10_000.0), default=200.0, help="operations a second, of all clients")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="the directory for the report and the history")
    parser.add_argument("--check", type=Path, metavar="FILE", help="run nothing: check this history again")
    return parser.parse_args(arguments)


def _stores(text: str) -> list[Stores]:
    try:
        return [Stores(name) for name in text.replace(",", " ").split()]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are {', '.join(Stores)}") from exc


def _scenarios(text: str) -> list[str]:
    names = text.replace(",", " ").split()
    if not names or not set(names) <= set(SCENARIOS):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are {', '.join(SCENARIOS)}")
    return names


def _within(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            found = float(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from exc
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"{text}: allowed is {least:g} to {most:g}")
        return found

    return number


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())

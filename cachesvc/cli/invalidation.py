"""The command invalidate: look first, ask where it is much, then do it, and say where it is in force.

The rule that must not break: over `ASKS_FROM` entries nothing is invalidated that nobody agreed to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.operator import Operator, operator

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cachesvc.client.http import Client
    from cachesvc.protocol.api import Invalidate, Invalidated, Previewed

ASKS_FROM: Final = 100
_SAMPLE: Final = 10  # keys that are shown
_BRANCHES: Final = 20  # lines of a cascade's tree


@operator
def invalidate(
    at: Operator,
    *,
    keys: Annotated[list[str] | None, typer.Argument(help="Keys.")] = None,
    pattern: Annotated[str | None, typer.Option(help="A glob: *, ?, [abc], [!a]; \\ escapes.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="All that has this tag; may be repeated.")] = None,
    cascade: Annotated[bool, typer.Option("--cascade", help="Also what depends on them, however indirectly.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Keep it as stale; it is refreshed on its next use.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every live node has applied it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be hit.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help=f"Do not ask before more than {ASKS_FROM} entries.")] = False,
) -> Exit:
    """Invalidate by keys, pattern and tags.

    What would be hit is shown first. Before more than 100 entries it asks; without a terminal, or with --json, it then
    needs --yes (else exit code 5). When nothing matches: exit code 1, and it is in force all the same. With --wait, where a
    node has not applied it: exit code 6.
    """
    from cachesvc.cli.output import print_json
    from cachesvc.protocol.api import Invalidate, parse

    named = {"keys": keys or [], "pattern": pattern, "tags": tags or []}
    wish = parse(Invalidate, named | {"cascade": cascade, "soft": soft})
    with at.connected() as client:
        if dry_run:
            told = client.preview(wish)
            print_json(told) if at.as_json else _show_preview(told, cascade=cascade)
            return Exit.OK if told.matched else Exit.NOTHING
        if not _agreed(at, client, wish, yes=yes):
            return Exit.DECLINED
        done = client.invalidate(wish, wait=wait)
    if at.as_json:
        print_json(done)
    else:
        _show_done(done, soft=soft)
    if wait and not done.applied:
        return Exit.PARTLY
    return Exit.NOTHING if done.matched == 0 else Exit.OK


def _agreed(at: Operator, client: Client, wish: Invalidate, *, yes: bool) -> bool:
    """Whether to go on: shows what would be hit, and asks where it is much."""
    from cachesvc.cli.output import plural, say
    from cachesvc.client.errors import Away, Unreachable

    if yes and at.as_json:
        return True
    try:
        told = client.preview(wish)
    except (Away, Unreachable) as error:
        if not yes:
            say("what would be hit cannot be told now; --yes goes on without")
            raise
        say(f"what would be hit is not known ({error}); going on, as --yes says")
        return True
    if not at.as_json:
        _show_preview(told, cascade=wish.cascade)
    hit = told.matched + told.cascaded
    if yes or hit <= ASKS_FROM:
        return True
    if at.as_json or not at.can_be_asked:
        say(f"{plural(hit, 'entry', 'entries')} would be invalidated: more than {ASKS_FROM} need --yes. Nothing was done.")
        return False
    if at.agrees(f"Invalidate {plural(hit, 'entry', 'entries')}?"):
        return True
    say("Nothing was done.")
    return False


def _show_preview(told: Previewed, *, cascade: bool) -> None:
    from rich.tree import Tree

    from cachesvc.cli.output import add, count, nbytes, plural, show, shown, table

    extent = f"would be hit: {plural(told.matched, 'entry', 'entries')}"
    if cascade:
        extent += f" and {plural(told.cascaded, 'dependent')}"
    show(f"{extent}, {nbytes(told.bytes)}")
    if not told.modules:
        return
    rows = table("module", "entries", "bytes", "loader calls", right=("entries", "bytes", "loader calls"))
    for module, counts in sorted(told.modules.items()):
        add(rows, module, count(counts["entries"]), nbytes(counts["bytes"]), count(told.loads.get(module)))
    if len(told.modules) > 1:
        entries, loads = told.matched + told.cascaded, sum(told.loads.values()) or None
        add(rows, "all", count(entries), nbytes(told.bytes), count(loads), style="bold")
    show(rows)
    some = Tree("some of them")
    for key in told.sample[:_SAMPLE]:
        some.add(shown(key))
    show(some)
    if told.cascade:
        show(_tree(told))


def _tree(told: Previewed) -> RenderableType:
    """The dependents below what they depend on. One that depends on several stands below the first."""
    from rich.tree import Tree

    from cachesvc.cli.output import plural, shown

    root = Tree("cascade")
    below: dict[str, list[str]] = {}
    for key, parents in sorted(told.cascade.items()):
        below.setdefault(parents[0] if parents else "", []).append(key)
    starts = [parent for parent in below if parent not in told.cascade] or list(below)[:1]
    seen: set[str] = set()
    waiting = [(root, start) for start in reversed(starts)]
    while waiting and len(seen) < _BRANCHES:
        branch, name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        twig = branch.add(shown(name))
        waiting += [(twig, key) for key in reversed(below.get(name, ()))]
    left = told.cascaded - len(seen - set(starts))
    if left > 0:
        root.add(f"and {plural(left, 'dependent')} more")
    return root


def _show_done(done: Invalidated, *, soft: bool) -> None:
    from cachesvc.cli.output import plural, show

    matched = "all that matched" if done.matched is None else plural(done.matched, "entry", "entries")
    cascaded = f" and {plural(done.cascaded, 'dependent')}" if done.cascaded else ""
    show(f"{'marked as stale' if soft else 'invalidated'} {matched}{cascaded}, by change {done.sequence}")
    if done.applied:
        show("every live node has applied it")
    elif done.missing:
        show(f"not applied yet by {', '.join(done.missing)}")
    elif done.missing is not None:
        show("it is not known who has applied it: the nodes could not be asked for")
    if done.silent:
        show(f"not heard of lately, and may still serve what they hold in memory: {', '.join(done.silent)}")
    if done.matched is None and done.job is not None:
        show(f"they are counted as they are swept: cachesvc job {done.job}")

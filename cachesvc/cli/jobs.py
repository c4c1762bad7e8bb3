"""Commands on jobs: warm, jobs, job; and how a job is followed, with a progress bar where somebody looks.

Who stops looking does not stop the job: Ctrl-C asks, and says how it is cancelled.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cachesvc.cli.exits import Exit
from cachesvc.cli.numbers import finite
from cachesvc.cli.operator import Operator, operator

if TYPE_CHECKING:
    from rich.progress import Progress

    from cachesvc.client.http import Client
    from cachesvc.protocol.operations import JobTold

NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait for the job's end.")]


@operator
def warm(
    at: Operator,
    *,
    keys: Annotated[list[str] | None, typer.Argument(help="Keys.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Keys that match: *, ?, [abc], [!a]; \\ escapes.")] = None,
    module: Annotated[str | None, typer.Option(help="What its loader knows of a user: with --user and --data-type.")] = None,
    user: Annotated[str | None, typer.Option(help="The user's id, with --module.")] = None,
    data_types: Annotated[list[str] | None, typer.Option("--data-type", help="With --module; may be repeated.")] = None,
    source: Annotated[str | None, typer.Option(help="loader, database, or peer: the hot keys of another node.")] = None,
    peer: Annotated[str | None, typer.Option(help="Which node, with --source peer.")] = None,
    rate: Annotated[float | None, typer.Option(parser=finite, metavar="NUMBER", help="Keys a second at most.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Keys that a loader is asked for at once.")] = None,
    no_wait: NoWait = False,
) -> Exit:
    """Fill the tiers with what will be asked for.

    A job with errors, or that did not come to its end: exit code 6. When there was nothing to warm: exit code 1.
    """
    from cachesvc.cli.output import say
    from cachesvc.protocol.api import parse
    from cachesvc.protocol.operations import Warm

    given = {
        "keys": keys,
        "pattern": pattern,
        "module": module,
        "userId": user,
        "dataTypes": data_types,
        "source": source,
        "peer": peer,
        "rate": rate,
        "concurrency": concurrency,
    }
    wish = parse(Warm, {name: value for name, value in given.items() if value is not None})
    with at.connected() as client:
        told = client.warm(wish)
        if told.note:
            say(told.note)
        done = outcome(at, client, told, wait=not no_wait)
    if done is Exit.NOTHING:
        say("there was nothing to warm: no entry, and nothing that a loader has")
    return done


@operator
def jobs(at: Operator, limit: Annotated[int, typer.Option(min=1, help="How many to list at most.")] = 100) -> Exit:
    """List the jobs, the newest first. When there are none: exit code 1."""
    from cachesvc.cli.output import add, count, print_json, say, show, table

    with at.connected() as client:
        told = client.jobs(limit=limit)
    if at.as_json:
        print_json(told)
    elif told.jobs:
        rows = table("job", "state", "done", "errors", "what", right=("done", "errors"), folds=("what",))
        for job in told.jobs:
            add(rows, job.id, job.state, _extent(job), count(job.error_count), job.title)
        show(rows)
    else:
        say("there are no jobs")
    return Exit.OK if told.jobs else Exit.NOTHING


@operator
def job(
    at: Operator,
    *,
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for its end; with --json a line each time it moves.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End it. What it has done stays.")] = False,
) -> Exit:
    """Tell how a job stands. When there is none: exit code 1; when it ended with errors, or too soon: exit code 6."""
    from cachesvc.cli.output import print_json

    with at.connected() as client:
        told = client.cancel(job_id) if cancel else client.job(job_id)
        if cancel:
            _told(at, told)
            return Exit.OK
        if not (follow and at.as_json):
            return outcome(at, client, told, wait=follow)
        for told in client.follow_job(job_id):
            print_json(told)
        return ended(told)


def outcome(at: Operator, client: Client, told: JobTold, *, wait: bool) -> Exit:
    """Follow a job to its end, if wanted, and print how it stands."""
    from cachesvc.client.http import ENDED

    if wait and told.state not in ENDED:
        told, interrupted = _followed(at, client, told)
        if interrupted:
            _told(at, told)
            return Exit.INTERRUPTED
    _told(at, told)
    return ended(told)


def ended(told: JobTold) -> Exit:
    """The exit code for a job as it stands."""
    if told.state in ("failed", "cancelled") or told.error_count:
        return Exit.PARTLY
    found = told.done - told.counts.get("absent", 0)
    return Exit.NOTHING if told.state == "done" and not found else Exit.OK


def _followed(at: Operator, client: Client, told: JobTold) -> tuple[JobTold, bool]:
    """The job as it stands in the end, and whether somebody did not wait for it."""
    from rich.progress import BarColumn, Progress, TextColumn

    from cachesvc.cli.output import console, printable, say

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[extent]}", markup=False))
    job_id, latest = told.id, told
    try:
        # without a terminal nothing is drawn
        with Progress(*columns, console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
            bar.add_task(printable(told.title), total=told.total, extent="")
            _move(bar, told)
            for latest in client.follow_job(job_id):
                _move(bar, latest)
        return latest, False
    except KeyboardInterrupt:
        if at.can_be_asked and at.agrees(f"\nThe job {job_id} goes on by itself. Cancel it?"):
            return client.cancel(job_id), True
        say(f"the job goes on; to cancel it: cachesvc job {job_id} --cancel")
        return latest, True


def _move(bar: Progress, told: JobTold) -> None:
    from cachesvc.cli.output import plural, span

    parts = [_extent(told)]
    if told.rate is not None:
        parts.append(f"{told.rate:,.0f}/s")
    if told.eta is not None:
        parts.append(f"{span(told.eta)} left")
    if told.error_count:
        parts.append(plural(told.error_count, "error"))
    bar.update(bar.task_ids[0], completed=told.done, total=told.total, extent="  ".join(parts))


def _extent(told: JobTold) -> str:
    return f"{told.done:,}" if told.total is None else f"{told.done:,} of {told.total:,}"


def _told(at: Operator, told: JobTold) -> None:
    from cachesvc.cli.output import add, plural, print_json, show, span, table

    if at.as_json:
        print_json(told)
        return
    took = span(told.ended_at - told.started_at) if told.ended_at is not None and told.started_at is not None else None
    became = ", ".join(f"{number:,} {what}" for what, number in told.counts.items() if number)
    parts = [f"job {told.id}: {told.title}", told.state, f"{_extent(told)} keys", became, f"in {took}" if took else ""]
    if told.error_count:
        parts.append(plural(told.error_count, "error"))
    show("; ".join(part for part in parts if part))
    if told.reason:
        show(told.reason)
    if told.errors:
        rows = table("key", "error")
        for error in told.errors[:20]:
            add(rows, error.key, error.message)
        show(rows)

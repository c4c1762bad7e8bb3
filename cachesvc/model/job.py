"""Jobs: work that outlives a request, and how far it has come.

The rule that must not break: whoever moves a job says which revision it saw, so one that was cancelled, or that another node
has taken over, is moved by nobody who does not know it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import orjson

from cachesvc.errors import Overloaded

MAX_ERRORS: Final = 100  # kept with a job; all are counted
MAX_MESSAGE: Final = 300  # characters


class JobState(StrEnum):
    """Fixed on the wire and on disk: add, never rename."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobState.WAITING, JobState.RUNNING)


class Job(NamedTuple):
    """A job as it is kept; what it is to do is kept beside it, as its body, until it has ended.

    `same` is a checksum of what it does: while a job has not ended there is no second one. Times are Unix seconds.
    """

    id: str
    kind: str
    title: str
    same: str = ""
    place: str = ""  # where it can run, "" on any node
    state: JobState = JobState.WAITING
    created_at: float = 0.0
    updated_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    node: str = ""  # that runs it, or ran it last
    done: int = 0
    total: int | None = None
    counts: Mapping[str, int] = {}
    errors: tuple[tuple[str, str], ...] = ()  # key and message
    error_count: int = 0
    checkpoint: str = ""  # from where it goes on, in its kind's own words
    reason: str = ""  # why it failed
    revision: int = 1
    attempts: int = 0  # how often a node began with it since it last came further

    @property
    def rate(self) -> float | None:
        """What is done a second, since it started."""
        seconds = self.updated_at - self.started_at if self.started_at is not None else 0.0
        return self.done / seconds if seconds > 0 else None

    @property
    def eta(self) -> float | None:
        """Seconds that the rest takes at that rate."""
        if self.state is not JobState.RUNNING or self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    def counted(self, **counts: int) -> Job:
        """With so many more, all of them done."""
        return self._replace(
            done=self.done + sum(counts.values()),
            counts={**self.counts, **{name: self.counts.get(name, 0) + more for name, more in counts.items()}},
        )

    def failed_for(self, errors: Iterable[tuple[str, str]]) -> Job:
        """With these keys done, and wrong."""
        told = [(key, message[:MAX_MESSAGE]) for key, message in errors]
        room = MAX_ERRORS - len(self.errors)
        return self._replace(
            done=self.done + len(told), errors=(*self.errors, *told[:room]), error_count=self.error_count + len(told)
        )

    def moved(self, now: float) -> Job:
        """The next revision."""
        return self._replace(updated_at=now, revision=self.revision + 1)

    def ended(self, state: JobState, now: float, *, reason: str = "") -> Job:
        return self.moved(now)._replace(state=state, ended_at=now, reason=reason[:MAX_MESSAGE])


def twin(unended: Iterable[Job], job: Job, *, most: int) -> Job | None:
    """The one that does the same already. Raises `Overloaded` when there is none and no room for another."""
    held = list(unended)
    for one in held:
        if job.same and one.same == job.same:
            return one
    if len(held) >= most:
        raise Overloaded(f"{most} jobs wait or run, which is the limit", retry_after=5.0)
    return None


def forgotten(jobs: Iterable[Job], *, before: float, most: int) -> list[str]:
    """The ids of jobs that ended before a time, or that are more than `most` ended ones; the newest are kept."""
    ended = sorted((job for job in jobs if job.state.ended), key=lambda job: job.ended_at or 0.0, reverse=True)
    return [job.id for place, job in enumerate(ended) if place >= most or (job.ended_at or 0.0) < before]


def pack_job(job: Job) -> bytes:
    return orjson.dumps(job._asdict())


def unpack_job(packed: bytes) -> Job:
    """What `pack_job` wrote; names it does not know, of a newer version, are passed over."""
    said = orjson.loads(packed)
    known = {name: said[name] for name in Job._fields if name in said}
    known["state"] = JobState(said["state"])
    known["errors"] = tuple((key, message) for key, message in said["errors"])
    return Job(**known)

"""Jobs as they are told, whichever way."""

from __future__ import annotations

from typing import Final

from cachesvc.model.job import Job
from cachesvc.protocol.operations import JobError, JobTold

GOES_ON: Final = "the same was begun before; it goes on at its own pace, whatever rate or concurrency is given now"


def job_told(job: Job, *, known: bool = False) -> JobTold:
    """A job as it is told; `known` to who asked for it and got one that was there."""
    return JobTold.model_validate(
        {
            "id": job.id,
            "kind": job.kind,
            "title": job.title,
            "state": job.state.value,
            "reason": job.reason or None,
            "created_at": job.created_at,
            "started_at": job.started_at,
            "updated_at": job.updated_at,
            "ended_at": job.ended_at,
            "node": job.node or None,
            "done": job.done,
            "total": job.total,
            "rate": round(job.rate, 3) if job.rate is not None else None,
            "eta": round(job.eta, 3) if job.eta is not None else None,
            "counts": dict(job.counts),
            "errors": [JobError(key=key, message=message) for key, message in job.errors],
            "error_count": job.error_count,
            "attempts": job.attempts,
            "note": GOES_ON if known else None,
        }
    )

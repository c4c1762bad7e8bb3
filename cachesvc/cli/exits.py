"""Exit codes: what a script can tell from them. They never change their meaning."""

from __future__ import annotations

from enum import IntEnum

from cachesvc.client.errors import Away, ClientError, Conflict, Damaged, NotFound, ServiceError, StartOver
from cachesvc.errors import CacheError, SchemaMismatch, SettingsError, StartError


class Failed(CacheError):
    """What a command could not do on this side: a file that cannot be written, for one."""


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    NOTHING = 1  # nothing found, nothing matched
    USAGE = 2
    REFUSED = 3
    AWAY = 4
    DECLINED = 5
    PARTLY = 6
    FAULT = 70  # of ours: sysexits.h calls it EX_SOFTWARE
    INTERRUPTED = 130  # as shells count SIGINT
    PIPE = 141  # and SIGPIPE


TOLD = """\b
Exit codes of the operator commands:
  0    done
  1    nothing found, or nothing matched
  2    the command line, or what the service was asked, is not acceptable
  3    a condition was not met (--if-match, --if-absent, a lost position)
  4    no service there, or it is away
  5    asked and declined, or nobody there to ask
  6    not done, or only in part: a job with errors, a node that lags, a file that is
       damaged or cannot be written, copies that an audit had to repair
  130  interrupted (Ctrl-C)
"""

_CODES = (
    (StartError, 1),  # these three are of `serve`: see docs/how-to/run.md
    (SettingsError, 2),
    (SchemaMismatch, 3),
    (NotFound, Exit.NOTHING),
    (Conflict, Exit.REFUSED),
    (StartOver, Exit.REFUSED),
    (Away, Exit.AWAY),
    (ServiceError, Exit.USAGE),
    (Damaged, Exit.PARTLY),
    (Failed, Exit.PARTLY),
    (ClientError, Exit.AWAY),
)


def exit_of(error: CacheError) -> int:
    """The exit code that an error ends with."""
    if isinstance(error, ServiceError) and error.status >= 500:
        return Exit.AWAY
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.USAGE)

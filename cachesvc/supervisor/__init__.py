"""Supervisor: the processes of a service. It binds, starts, restarts and stops; it never looks at an entry."""

from cachesvc.supervisor.service import run

__all__ = ["run"]

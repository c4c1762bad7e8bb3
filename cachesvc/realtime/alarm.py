"""Alarms about what another party does wrong, which it may do as often as it likes."""

from __future__ import annotations

import logging
from typing import Final

LOGGED: Final = 10


class Alarm:
    """The first few are logged one by one, then every thousandth; all are counted."""

    def __init__(self, log: logging.Logger, level: int = logging.WARNING) -> None:
        self.raised = 0
        self._log = log
        self._level = level

    def __call__(self, text: str, *said: object, exc_info: bool = False) -> None:
        self.raised += 1
        if self.raised <= LOGGED or self.raised % 1_000 == 0:
            self._log.log(self._level, text, *said, exc_info=exc_info)

"""Imported by Python at its start where this directory is on its path: a machine whose clock is wrong."""

import os
import time

_ahead = float(os.environ["CLOCK_AHEAD"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _ahead
time.time_ns = lambda: _time_ns() + int(_ahead * 1e9)

"""A node: one process with a memory tier of its own, which follows the log. `building.py` is the composition root."""

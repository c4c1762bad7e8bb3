"""A multi-level cache service: memory, Redis and database behind one interface, on one change log."""

__version__ = "0.1.0"

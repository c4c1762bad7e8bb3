"""Node: composition root: the only place that builds things from settings."""

"""Other sites: deployments with stores of their own, which this one follows, and compares itself with."""

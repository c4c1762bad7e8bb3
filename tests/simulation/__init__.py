"""Many nodes and sites in one process, on made-up time and a made-up network: what follows, compares and takes over."""

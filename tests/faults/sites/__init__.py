"""The scenario "sites": three sites, each two nodes over stores of its own, and links between them that fail."""

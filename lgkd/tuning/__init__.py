"""Search settings of a recipe on held-out images: `lgkd sweep`."""

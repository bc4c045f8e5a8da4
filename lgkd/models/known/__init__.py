"""Which models lgkd knows by name, a file for each family; no torch."""

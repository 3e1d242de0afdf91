"""Charts as data, and drawn."""

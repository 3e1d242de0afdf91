"""A run folder as plain records."""

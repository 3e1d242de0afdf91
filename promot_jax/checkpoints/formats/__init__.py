"""Checkpoints of other programs, read and written; one file for each format."""

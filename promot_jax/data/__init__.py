"""Rows, tasks and texts: batches, vocabularies, scores of answers."""

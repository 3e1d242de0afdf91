"""What the records of a run come to: scores, tables, comparisons."""

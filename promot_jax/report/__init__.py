"""Reads a run folder and writes its report: an HTML page, Markdown, figures, a terminal table."""

"""Compiles an experiment for devices that need not be there, and says what it would take."""

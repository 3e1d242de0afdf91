"""Measurements of a model in the course of its training, beyond scores."""

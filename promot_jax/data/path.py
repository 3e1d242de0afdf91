"""The name of the path that rows take to batches."""

# Stages and records keep it. Where rows come in another order, it must be another name.
DATA_PATH = "grain"

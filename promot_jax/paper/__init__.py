"""The paper's tables and figures: their numbers, their runs, and our scores beside them."""

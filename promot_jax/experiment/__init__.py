"""An experiment and its run: stages in order, evaluation, probes, what is written down."""

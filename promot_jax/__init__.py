"""Fine-tune a language model in two stages so that it keeps its other abilities (ProMoT)."""

__version__ = "0.1.0"

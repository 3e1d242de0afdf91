"""Settings that make no other run and no other stage: a folder goes on with them.

Most weigh time against memory, and change results by rounding alone. Epochs are written down as the
steps that they come to, and those count.
"""

# Fields of a stage.
OF_STAGE = ("pack", "epochs")
# As a configuration names them: macros, and those fields.
CONFIGURED = (
    "SCAN_LAYERS",
    "REMAT",
    "EPOCHS",
    "PROMPT_EPOCHS",
    *(f"stages.Stage.{name}" for name in OF_STAGE),
)

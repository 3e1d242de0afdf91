"""Settings that weigh time against memory, and change results by rounding alone.

They make no other run and no other stage: a folder goes on with them, whatever they were.
"""

# Fields of a stage.
OF_STAGE = ("pack",)
# As a configuration names them: macros, and those fields.
CONFIGURED = ("SCAN_LAYERS", "REMAT", *(f"stages.Stage.{name}" for name in OF_STAGE))

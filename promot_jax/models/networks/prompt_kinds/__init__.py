"""What a prompt is made of: rows of the input, keys and values of each layer, offsets of tokens.

A prompt of any kind has a name, and a row of a batch picks one by its number in `prompt_ids`. So
all kinds are attached, mixed in a batch and taken off in the same way. Their leaves stand at
`decoder/prompt/NAME/` or `encoder/prompt/NAME/`, see `trees.PROMPT`.
"""

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.models.networks.prompt_kinds.decomposed import Decomposed
from promot_jax.models.networks.prompt_kinds.kind import Kind, Prefixes, Soft
from promot_jax.models.networks.prompt_kinds.prefix import Prefix

__all__ = ["SOFT", "Decomposed", "Kind", "Prefix", "Prefixes", "Soft", "of_params"]

SOFT = Soft()


def of_params(params: Tree) -> Kind:
    """Returns the kind of the prompts in a parameter tree; without any, soft ones.

    Raises:
      UserError: they are of several kinds.
    """
    leaves: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, leaf in trees.flatten(params).items():
        if match := trees.PROMPT.fullmatch(path):
            leaves.setdefault(match[2], {})[f"{match[1]}/{match[3]}"] = leaf.shape
    kinds = {name: _kind(found) for name, found in leaves.items()}
    if len(different := dict.fromkeys(kinds.values())) > 1:
        found = ", ".join(f"{name} is a {kind.word}" for name, kind in kinds.items())
        raise UserError(f"all prompts of a model must be of one kind: {found}")
    return next(iter(different), SOFT)


def _kind(shapes: dict[str, tuple[int, ...]]) -> Kind:
    for path, shape in shapes.items():
        if path.endswith("/offset_a"):
            return Decomposed(*shape)
    sides = [side for side in ("encoder", "decoder") if f"{side}/keys" in shapes]
    if not sides:
        return SOFT
    return Prefix("both" if len(sides) > 1 else sides[0])

"""Selections by a draw: half of the matrices, or some entries of each."""

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from promot_jax.base import trees, values
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.training.selections import layers, top_k
from promot_jax.training.selections.selection import Selection, SelectionState


@dataclasses.dataclass(frozen=True)
class Half(Selection):
    """Half fine-tuning (arXiv 2404.18466): of each kind of matrix, half move, drawn layer by layer.

    Of an attention's four matrices each layer moves two; of an MLP's three a random half of the
    layers moves two and the others one; of two norms one. A bias goes with its matrix. What lies in
    no layer, such as embeddings and head, moves if it trains at all.

    Attributes:
      share: of the matrices of a kind, over all layers together; 1 is the plain transformation.
      rotate_every: steps after which the draw is made anew; None draws once.
      seed: of the draw; None takes the stage's.
    """

    share: values.Probability = 0.5
    rotate_every: values.Count | None = None
    seed: values.Seed | None = None

    def around(self, tx: optax.GradientTransformation) -> optax.GradientTransformation:
        """See `Selection.around`."""
        # What an additional operation changes in rounding is left out, too.
        return tx if self.share == 1 else super().around(tx)

    def count(self, state: SelectionState, params: Tree) -> int:
        """See `Selection.count`."""
        return trees.count(params) if self.share == 1 else super().count(state, params)

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`.

        Raises:
          UserError: no layer trains, or the share comes to no matrix.
        """
        kinds = layers.kinds(params)
        if not any(self._number(kind) for kind in kinds.values()):
            raise UserError(
                f"selections.Half.share = {self.share} selects none of the matrices that train, "
                f"which are of {len(kinds)} kinds; give more, or let layers train"
            )
        turn = 0 if self.rotate_every is None else state.count // self.rotate_every
        key = jax.random.fold_in(jax.random.key(self.seed or 0), turn)
        drawn = {
            name: self._draw(jax.random.fold_in(key, zlib.crc32("/".join(name).encode())), kind)
            for name, kind in kinds.items()
        }

        def mask(path, leaf):
            found = layers.LAYER.fullmatch(path)
            if not found:
                return np.ones((1,) * leaf.ndim, bool)
            name = layers.kind_of(found)
            kind = kinds[name]
            column = drawn[name][:, kind.modules.index(layers.module_of(found))]
            rows = column if found[2] is None else column[kind.numbers.index(int(found[2]))]
            return layers.spread(rows, leaf)

        leaves = trees.flatten(params).items()
        return trees.unflatten({path: mask(path, leaf) for path, leaf in leaves})

    def _number(self, kind: layers.Kind) -> int:
        return round(self.share * len(kind.numbers) * len(kind.modules))

    def _draw(self, key: jax.Array, kind: layers.Kind) -> jax.Array:
        """Returns booleans [layers, modules], of which so many are true, in each layer alike."""
        shape = len(kind.numbers), len(kind.modules)
        each, more = divmod(self._number(kind), shape[0])
        of_layers, of_modules = jax.random.split(key)
        counts = each + (jax.random.permutation(of_layers, shape[0]) < more)
        order = jnp.argsort(jax.random.uniform(of_modules, shape), axis=1)
        return order < counts[:, None]


@dataclasses.dataclass(frozen=True)
class RandomSparse(Selection):
    """Entries drawn once, equally many of each matrix of a shape, as in SHiRA (arXiv 2406.13175).

    Vectors, such as norms and biases, keep still.

    Attributes:
      share: of the entries of each matrix.
      rank: in place of the share, as many as a LoRA of that rank has: r (in + out), as in PEFT.
      seed: of the draw; None takes the stage's.
    """

    share: values.Probability = 0.01
    rank: values.Count | None = None
    seed: values.Seed | None = None

    def kept(self, params: Tree) -> Tree:
        """See `Selection.kept`: masks of the matrices.

        Raises:
          UserError: no matrix trains, or one has fewer entries than the rank asks for.
        """
        key, found = jax.random.key(self.seed or 0), {}
        for path, leaf in trees.flatten(params).items():
            if len(shape := layers.shape(path, leaf)) < 2:
                continue
            number = self._number(path, shape)

            def draw(code, shape=shape, number=number):
                bits = jax.random.bits(jax.random.fold_in(key, code), shape, jnp.uint32)
                return top_k.largest(bits, number)

            codes = np.array(
                [zlib.crc32(name.encode()) for name in layers.names(path, leaf)], np.uint32
            )
            found[path] = jax.vmap(draw)(codes).reshape(leaf.shape)
        if not found:
            raise UserError("selections.RandomSparse: no matrix trains; name some in `trainable`")
        return trees.unflatten(found)

    def masks(self, state: SelectionState, params: Tree) -> Tree:
        """See `Selection.masks`."""
        kept = trees.flatten(state.kept)
        still = {path: np.zeros(1, bool) for path in trees.flatten(params)}
        return trees.unflatten(still | kept)

    def _number(self, path: str, shape: tuple[int, ...]) -> int:
        size = math.prod(shape)
        if self.rank is None:
            return max(1, int(self.share * size))
        if (number := self.rank * (shape[-2] + shape[-1])) > size:
            raise UserError(
                f"selections.RandomSparse.rank = {self.rank} asks for {number} entries of {path}, "
                f"which has {size}; give less"
            )
        return number

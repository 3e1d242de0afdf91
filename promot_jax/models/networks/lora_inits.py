"""How low-rank adapters begin that should leave alone what a model knows.

An adapter begins as that part of its kernel, of rank r, which matters least, in place of a product
of zero. What it begins with, `A0 B0`, is kept beside it and taken off again: the kernel acts as
`W + scale * (A B - A0 B0)`. So the model is what it was before the first step, and the kernel
itself never changes. The papers take the part out of the kernel, which computes the same.

Each kind says the part of a kernel [in, out] as three factors: [in, r], its sizes [r] and [r, out].
"""

import abc
import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from promot_jax.base import values
from promot_jax.base.errors import UserError

Factors = tuple[jax.Array, jax.Array, jax.Array]

DAMPING, TRIES = 0.01, 20


@dataclasses.dataclass(frozen=True)
class Init(abc.ABC):
    """What all kinds share.

    Attributes:
      reads: whether it goes by what kernels read, on rows of `mixture`.
    """

    reads: ClassVar[bool] = False

    def __post_init__(self):
        values.check_fields(self)

    @abc.abstractmethod
    def factors(self, kernel: jax.Array, moment: jax.Array | None, rank: int) -> Factors:
        """Returns the part of a kernel that matters least.

        Args:
          kernel: float32 [in, out].
          moment: of a kind that reads, the mean of `x x'` over what the kernel reads, [in, in].
          rank: r.
        """


@dataclasses.dataclass(frozen=True)
class MiLoRA(Init):
    """The smallest singular values and their vectors (Wang et al. 2024, arXiv 2406.09044)."""

    def factors(self, kernel: jax.Array, moment: jax.Array | None, rank: int) -> Factors:
        """See `Init.factors`."""
        u, s, v = jnp.linalg.svd(kernel, full_matrices=False)
        return u[:, -rank:], s[-rank:], v[-rank:]


@dataclasses.dataclass(frozen=True)
class Reading(Init):
    """What kinds share that go by what kernels read.

    Attributes:
      mixture: task whose rows tell what the model should go on doing, such as general questions;
        its inputs are cut as the stage's own are.
      batches: of these rows, of the stage's size.
    """

    reads: ClassVar[bool] = True
    mixture: values.Text
    batches: Annotated[values.Count, values.LATER] = 8


@dataclasses.dataclass(frozen=True)
class CorDA(Reading):
    """The least of the kernel as these inputs see it (Yang et al. 2024, arXiv 2406.05223).

    The smallest singular values of `C W`, with C the inputs' second moments, and `C^-1` before
    them: the mode that preserves knowledge. As in PEFT, C gets 1 % of its mean diagonal, doubled
    until its inverse is one.
    """

    def factors(self, kernel: jax.Array, moment: jax.Array | None, rank: int) -> Factors:
        """See `Init.factors`.

        Raises:
          UserError: inputs that are all zero, or not finite.
        """
        one, share = jnp.eye(len(kernel)), jnp.mean(jnp.diag(moment))
        for attempt in range(TRIES):
            whole = moment + DAMPING * 2**attempt * share * one
            inverse = jnp.linalg.inv(whole)
            if jnp.linalg.norm(_product(whole, inverse) - one) < 0.05:
                u, s, v = jnp.linalg.svd(_product(whole, kernel), full_matrices=False)
                return _product(inverse, u[:, -rank:]), s[-rank:], v[-rank:]
        raise UserError(
            f"CorDA.mixture {self.mixture!r}: what a kernel reads of its rows has no inverse; take "
            "other rows, or more batches"
        )


@dataclasses.dataclass(frozen=True)
class LoRANull(Reading):
    """The kernel on the directions that these inputs use least (Tang et al. 2025, 2503.02659)."""

    def factors(self, kernel: jax.Array, moment: jax.Array | None, rank: int) -> Factors:
        """See `Init.factors`."""
        # The eigenvalues ascend.
        least = jnp.linalg.eigh(moment).eigenvectors[:, :rank]
        u, s, v = jnp.linalg.svd(_product(least.T, kernel), full_matrices=False)
        return _product(least, u), s, v


def begin(
    init: Init, kernel: jax.Array, moment: jax.Array | None, rank: int, scale: float
) -> tuple[jax.Array, jax.Array]:
    """Returns `lora_a` [in, r] and `lora_b` [r, out], float32, with which an adapter begins.

    Their product times `scale` is the part that `init` says; its sizes are shared evenly.

    Raises:
      UserError: a rank above that of the kernel.
    """
    if rank > min(kernel.shape):
        raise UserError(
            f"Lora.init takes {rank} directions out of a kernel {kernel.shape}; give a rank of "
            f"{min(kernel.shape)} at most"
        )
    left, sizes, right = init.factors(kernel.astype(jnp.float32), moment, rank)
    roots = jnp.sqrt(sizes / scale)
    return left * roots, roots[:, None] * right


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.matmul(first, second, precision="highest")

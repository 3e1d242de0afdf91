"""Counts the operations of a program as it was written, before any compiler sees it."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def count(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the multiplications and additions of all matrix products that a function asks for.

    See `of_jaxpr`.

    Args:
      function: what jax can trace.
      *arguments: arrays or shapes.
    """
    return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def of_jaxpr(jaxpr: core.Jaxpr) -> float:
    """Returns the operations of the matrix products and convolutions of a jaxpr, on all devices.

    A product of [m, k] and [k, n] has 2 m k n. What stands in a scan counts as often as the scan
    runs; what a backward pass computes again counts again. Of the branches of a condition the
    largest counts, and a loop without a known end counts once: that of a beam search is one token.
    What no output needs does not count, such as gradients of frozen kernels in a layer that is
    computed again.
    """
    return _of(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


def _of(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "cond":
            total += max(_of(branch.jaxpr) for branch in equation.params["branches"])
        elif name == "while":
            total += _of(equation.params["body_jaxpr"].jaxpr)
        else:
            times = equation.params["length"] if name == "scan" else 1
            total += times * sum(map(_of, _inner(equation)))
    return total


def _product(equation) -> float:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    inner = math.prod(left[i] for i in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * inner


def _convolution(equation) -> float:
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / out_features


def _inner(equation) -> list[core.Jaxpr]:
    """Returns the jaxprs that an equation calls: of jit, remat, custom derivatives, scans."""
    found = []
    for value in equation.params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found

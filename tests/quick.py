"""`jax.jit` for programs that run once: compiling them would cost more than running them."""

import functools

import jax

quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)

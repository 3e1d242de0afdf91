"""The host's memory: what a training step frees stays at hand for the next one.

On a CPU each step asks for its temporary arrays and frees them at its end. glibc returns such large
blocks to Linux at once, which clears every page of them when the next step comes.
"""

import ctypes
import importlib.util
import os
import sys

import jax

# Parameters of mallopt(3), from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

# Packages by which jax finds accelerators.
PLUGINS = ("jax_plugins", "libtpu")


def keep() -> bool:
    """Makes the C library keep what is freed, for as long as the process lives.

    Call it before jax makes its devices: the threads that it starts then share one heap, where
    large blocks are found again. Returns whether it is so now. It is not where the steps run on an
    accelerator, with another C library than glibc, and where the environment has settings of
    malloc's own (`GLIBC_TUNABLES`, `MALLOC_ARENA_MAX` and the like), which then decide.
    """
    if not _on_cpu() or _settled() or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Without arenas of their own threads share the heap, without mmap all blocks lie in it, and it
    # is never trimmed.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
    return mallopt is not None and all(mallopt(*setting) for setting in settings)


def _on_cpu() -> bool:
    """Whether jax will compute on the CPU, found without making its devices."""
    if platforms := jax.config.jax_platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(importlib.util.find_spec(plugin) for plugin in PLUGINS)


def _settled() -> bool:
    return any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)

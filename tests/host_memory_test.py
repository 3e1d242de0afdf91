"""A step's memory is found again by the next one, where nothing else decides."""

import ctypes
import itertools
import os
import platform
import statistics
import subprocess
import sys

import jax
import pytest

from promot_jax import host_memory

GLIBC = platform.libc_ver()[0] == "glibc"

# Pages asked of Linux so far, after each step; 64 MB of temporary arrays are 16,384 of 4 kB.
FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from promot_jax import host_memory
if sys.argv[1] == "keep":
    assert host_memory.keep()
step = jax.jit(lambda x: jnp.tanh(x @ x.T) @ x)
x = jax.random.normal(jax.random.key(0), (4096, 2))
for _ in range(40):
    step(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(not GLIBC, reason="settings of glibc's malloc")
def test_a_step_finds_the_pages_of_the_one_before():
    environment = {name: value for name, value in os.environ.items() if name not in settled()}
    found = {}
    for what in ("keep", "leave"):
        command = [sys.executable, "-c", FAULTS, what]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        counts = [int(line) for line in run.stdout.split()]
        # Now and then a small array lies in the gap and one step has to ask: the middle one counts.
        found[what] = statistics.median(b - a for a, b in itertools.pairwise(counts))
    assert found["keep"] < 1000
    # Pages may be large ones, of 2 MB.
    assert found["leave"] > found["keep"] + 20


def settled():
    return [name for name in os.environ if name == "GLIBC_TUNABLES" or name.startswith("MALLOC_")]


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the C library, on a Linux without accelerator and settings."""
    found = []

    class Library:
        def __init__(self, name):
            assert name is None

        def mallopt(self, *setting):
            found.append(setting)
            return 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: None)
    for name in settled():
        monkeypatch.delenv(name)
    platforms = jax.config.jax_platforms
    yield found
    jax.config.update("jax_platforms", platforms)


@pytest.mark.parametrize("platforms", [None, "cpu"])
def test_the_c_library_is_told(platforms, calls):
    jax.config.update("jax_platforms", platforms)
    assert host_memory.keep()
    assert calls == [(-8, 1), (-4, 0), (-1, -1)]


@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_"])
def test_settings_of_the_environment_decide(name, calls, monkeypatch):
    monkeypatch.setenv(name, "")
    assert not host_memory.keep()
    assert not calls


def test_an_accelerator_or_another_system_is_left_alone(calls, monkeypatch):
    jax.config.update("jax_platforms", "cuda,cpu")
    assert not host_memory.keep()
    jax.config.update("jax_platforms", "cpu")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not host_memory.keep()
    monkeypatch.setattr(sys, "platform", "linux")
    jax.config.update("jax_platforms", None)
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: name == "libtpu")
    assert not host_memory.keep()
    assert not calls


def test_another_c_library_is_left_alone(calls, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    jax.config.update("jax_platforms", "cpu")
    assert not host_memory.keep()

"""All tests of a session, and the processes they start, share what they compile."""

import atexit
import contextlib
import ctypes
import gc
import os
import pathlib
import shutil
import sys
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The folder is new for each session: pytest-xdist's workers find it in their environment.
if "PROMOT_TEST_CACHE" not in os.environ:
    os.environ["PROMOT_TEST_CACHE"] = tempfile.mkdtemp(prefix="promot-test-")
    atexit.register(shutil.rmtree, os.environ["PROMOT_TEST_CACHE"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(os.environ["PROMOT_TEST_CACHE"], "jax"))
os.environ["PROMOT_CACHE"] = str(pathlib.Path(os.environ["PROMOT_TEST_CACHE"], "rows"))
# Small programs too, of which there are thousands: the other worker reads them in half the time.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# The tests of meshes set their own number.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
# Programs here run for a moment, and compiling them well would take most of the time of all tests.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Takes what is slow for long too, and puts what is long first.

    A worker that got a long file last would end after the others.
    """
    for item in items:
        if any(map(item.get_closest_marker, ("slow", "smollm2"))):
            item.add_marker("long")
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """Keeps what is imported out of the search for garbage, and searches seldom: jax adds to it."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


# Bytes in use after which a process forgets what it compiled: a megabyte and more for each program.
MUCH = 2 * 2**30


@pytest.fixture(scope="module", autouse=True)
def bounded():
    """Gives the memory of compiled programs back after a file, where they have taken much."""
    yield
    if resident() > MUCH and "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Returns the bytes of memory that this process holds, 0 where /proc does not tell."""
    try:
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the figures of reports empty: to draw them takes longer than a run of a few steps."""

    def save(chart, styles, paper, path):
        path.write_bytes(b"")

    monkeypatch.setattr("promot_jax.report.charts.figures._save", save)

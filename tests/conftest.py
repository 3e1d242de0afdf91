"""All tests of a session, and the processes they start, share what they compile."""

import gc
import os
import pathlib
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The folder is new for each session: pytest-xdist's workers find it in their environment.
if "PROMOT_TEST_CACHE" not in os.environ:
    os.environ["PROMOT_TEST_CACHE"] = tempfile.mkdtemp(prefix="promot-test-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(os.environ["PROMOT_TEST_CACHE"], "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# The tests of meshes set their own number.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
# Programs here run for a moment, and compiling them well would take most of the time of all tests.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

# Files that compile or train much, longest first. Their tests are marked `long`.
LONG = (
    "commands/cli_test.py",
    "experiment/methods_test.py",
    "commands/your_task_test.py",
    "base/processes_test.py",
    "training/lineage_test.py",
    "experiment/experiment_test.py",
    "training/train_test.py",
    "base/partitioning_test.py",
    "integrations/t5x_train_test.py",
    "integrations/t5x_gins_test.py",
    "models/networks_test.py",
    "models/decoder_test.py",
    "models/decoder_variants_test.py",
    "models/stack_test.py",
    "models/prompt_test.py",
    "models/lora_test.py",
    "models/chunked_loss_test.py",
    "models/models_test.py",
    "models/huggingface_parity_test.py",
    "models/huggingface_prefix_test.py",
    "models/generate_parity_test.py",
    "experiment/probes_test.py",
    "experiment/runner_test.py",
    "experiment/preview_test.py",
    "training/stage_folder_test.py",
    "plan/plan_test.py",
    "checkpoints/conversion_test.py",
    "checkpoints/round_trip_test.py",
    "checkpoints/gguf_interop_test.py",
    "checkpoints/huggingface_interop_test.py",
    "checkpoints/peft_interop_test.py",
    "checkpoints/peft_merge_test.py",
    "checkpoints/pretrained_test.py",
    "benchmarks_test.py",
    "wheel_test.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the tests of long files, and those that are slow, and puts the former first.

    A worker that gets a long file last would end after the others.
    """
    places = {pathlib.Path(__file__).parent / name: place for place, name in enumerate(LONG)}
    for item in items:
        if item.path in places or any(map(item.get_closest_marker, ("slow", "smollm2"))):
            item.add_marker("long")
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_collection_finish():
    """Keeps what is imported out of the search for garbage, and searches seldom: jax adds to it."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)

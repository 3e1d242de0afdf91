"""All tests of a session, and the processes they start, share what they compile."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The folder is new for each session: pytest-xdist's workers find it in their environment.
if "PROMOT_TEST_CACHE" not in os.environ:
    os.environ["PROMOT_TEST_CACHE"] = tempfile.mkdtemp(prefix="promot-test-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(os.environ["PROMOT_TEST_CACHE"], "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
# The tests of meshes set their own number.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

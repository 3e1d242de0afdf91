"""Wheel and checkout, from whatever folder: the package finds all that belongs to it."""

import pathlib
import subprocess
import sys
import sysconfig

import pytest

from tests.commands.cli_test import MINI, at

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parent.parent


def test_a_checkout_needs_no_installation():
    # What an editable installation adds to Python's finders is left out.
    program = (
        "import sys\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        "import promot_jax.tasks.mini_world as world\n"
        "from promot_jax import configuration\n"
        "print(world.__file__, configuration.GIN_FOLDER)\n"
        "import pkgutil, promot_jax\n"
        "print(*(found.name for found in pkgutil.iter_modules(promot_jax.__path__)))"
    )
    command = [sys.executable, "-c", program]
    found = subprocess.check_output(command, cwd=ROOT, text=True).splitlines()
    assert found[0] == f"{ROOT / 'tasks' / 'mini_world.py'} {ROOT / 'gin'}"
    # Nothing else of the checkout becomes a part of the package.
    assert {"tasks", "cli"} <= set(found[1].split())
    assert not {"tests", "setup", "promot_jax", "benchmarks"} & set(found[1].split())


def test_an_installed_wheel_runs_an_experiment(tmp_path):
    def call(*command, **options):
        subprocess.run([str(part) for part in command], check=True, **options)

    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)
    # Requirements come from this environment; its own link to the checkout is not among them,
    # because a .pth file is read in a site folder only.
    site = next((tmp_path / "venv").rglob("site-packages"))
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = "import promot_jax, promot_jax.tasks as t; print(promot_jax.__file__, t.__file__)"
    found = subprocess.check_output([python, "-c", where], cwd=elsewhere, text=True)
    assert found.count(str(site)) == 2
    # Where the working directory is a checkout, that is what `python -m` imports, whole.
    where = "import promot_jax.tasks.mini as m; print(m.__file__)"
    found = subprocess.check_output([python, "-c", where], cwd=ROOT, text=True)
    assert found.strip() == str(ROOT / "tasks" / "mini.py")
    promot = tmp_path / "venv" / "bin" / "promot"
    # Two steps from the bundled model, in its own size.
    flags = [flag for flag in MINI if "T5Config" not in flag and "INITIAL" not in flag]
    call(promot, "run", "mini", at("runs/mini"), *flags, cwd=elsewhere)
    assert (elsewhere / "runs/mini/report.html").exists()
    question = "Q: what is the capital of mali? A:"
    answer = subprocess.check_output(
        [promot, "generate", "runs/mini", "--prompt", "rte", question], cwd=elsewhere, text=True
    )
    assert answer.strip()

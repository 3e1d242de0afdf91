"""The built wheel, in a new environment, from another folder: everything it needs is in it."""

import pathlib
import subprocess
import sys
import sysconfig

from tests.commands.cli_test import MINI, at

ROOT = pathlib.Path(__file__).parent.parent


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

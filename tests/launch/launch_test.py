"""The launch scripts: what all have in common; this machine, SLURM, XManager; their page."""

import importlib.util
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from promot_jax import configuration
from tests.launch.launch_scripts import (
    LAUNCH,
    ROOT,
    bash,
    executable,
    printed,
    promot_arguments,
    small_checkout,
)

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
CALLED = [script for script in SCRIPTS if script.name != "environment.sh"]
# Macros that say where things are or what is run, not how it is trained.
PLACES = {
    *("EVAL_FILE", "INITIAL_CHECKPOINT_PATH", "METHODS", "MODEL_DIR", "REUSE", "SEEDS"),
    *("TEST_FILE", "TRAIN_FILE"),
}


# --- all scripts ---


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_well_formed(script):
    subprocess.run(["bash", "-n", script], check=True)


def test_shellcheck_finds_nothing():
    shellcheck = pathlib.Path(sys.executable).parent / "shellcheck"
    names = [str(script.relative_to(ROOT)) for script in SCRIPTS]
    done = subprocess.run(
        [shellcheck, "--external-sources", *names], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", CALLED, ids=lambda path: path.name)
def test_help_is_the_usage(script):
    for flag in ("-h", "--help"):
        done = bash(script, flag, cwd="/", env={"PATH": os.environ["PATH"]})
        assert (done.returncode, done.stderr) == (0, "")
        assert f"launch/{script.name}" in done.stdout
        assert "usage: " in done.stdout
        assert "shellcheck" not in done.stdout
        assert "#SBATCH" not in done.stdout


def test_no_script_sets_a_hyper_parameter():
    macros = {
        name
        for file in configuration.GIN_FOLDER.rglob("*.gin")
        for name in re.findall(r"^([A-Z][A-Z_]+) = ", file.read_text(), re.MULTILINE)
    }
    assert {"LEARNING_RATE", "TRAIN_STEPS", "BATCH_SIZE", "PROMPT_LENGTH"} <= macros - PLACES
    files = [file for file in LAUNCH.iterdir() if file.is_file()]
    assert len(files) > len(SCRIPTS)
    for file in files:
        words = set(re.findall(r"[A-Z][A-Z_]+", file.read_text()))
        assert not words & (macros - PLACES), file.name
        set_by_gin = set(re.findall(r"--gin\.([A-Za-z_.]+)=", file.read_text()))
        assert set_by_gin <= {"MODEL_DIR", "NAME", "INITIAL_CHECKPOINT_PATH"}, file.name


@pytest.fixture
def checkout(tmp_path):
    return small_checkout(tmp_path / "checkout")


# --- this machine ---

FLAGS = ["--seeds", "0", "--gin.TITLE='it\"s $5'"]
TOGETHER = ["--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"]


@pytest.mark.parametrize(
    ("name", "extras", "last"),
    [
        ("local", ".", [".venv/bin/promot", "run", "mini"]),
        ("cpu_smoke", ".", [".venv/bin/promot", "run", "cpu_smoke"]),
        ("test", ".[test]", [".venv/bin/python", "-m", "pytest", *TOGETHER]),
    ],
)
def test_local_scripts_run_what_a_dry_run_prints(name, extras, last, checkout, tmp_path):
    record = f"""#!{sys.executable} -IS
import json, os, pathlib, shutil, sys
with open({str(tmp_path / "ran")!r}, "a") as file:
    print(json.dumps(sys.argv), file=file)
if sys.argv[1:3] == ["-m", "venv"]:
    folder = pathlib.Path(sys.argv[3], "bin")
    folder.mkdir(parents=True)
    for name in ("pip", "promot", "python", "ruff"):
        shutil.copy(__file__, folder / name)
"""
    python = tmp_path / "python"
    executable(python, record)
    env = {**os.environ, "PYTHON": str(python)}
    script = checkout / "launch" / f"{name}.sh"
    commands = printed(script, *FLAGS, env=env, cwd="/")
    assert commands[0] == [str(python), "-m", "venv", ".venv"]
    assert commands[1][0] == ".venv/bin/pip"
    assert commands[1][-2:] == ["--editable", extras]
    assert commands[-1] == [*last, *FLAGS]
    assert not (checkout / ".venv").exists()
    (tmp_path / "ran").unlink()  # the look at the version of Python
    assert bash(script, *FLAGS, env=env, cwd="/").returncode == 0
    ran = [json.loads(line) for line in (tmp_path / "ran").read_text().splitlines()]
    # The last one replaces the shell, which then names it by its whole path.
    ran[-1][0] = os.path.relpath(ran[-1][0], checkout)
    assert ran[1:] == commands
    # The environment is made once.
    assert printed(script, *FLAGS, env=env) == commands[1:]


def test_a_wrong_python_is_one_line(checkout):
    done = bash(checkout / "launch/local.sh", env={**os.environ, "PYTHON": "no-python"})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no-python" in done.stderr
    assert "set PYTHON" in done.stderr


# --- SLURM ---


def slurm(tmp_path, srun):
    """Returns the environment of a job, with this `srun`."""
    executable(tmp_path / "bin/srun", f"#!/bin/bash\n{srun}\n")
    executable(tmp_path / "bin/scontrol", f'#!/bin/bash\necho "$@" >>{tmp_path}/scontrol\n')
    executable(tmp_path / "checkout/.venv/bin/promot", "")
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    folder = str(tmp_path / "checkout")
    return {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": folder}


def test_slurm_runs_promot_on_each_task(checkout, tmp_path):
    env = slurm(tmp_path, f'printf "%s\\n" "$@" >{tmp_path}/ran\nexit 4')
    spooled = tmp_path / "slurm_script"
    shutil.copy(LAUNCH / "slurm.sbatch", spooled)
    assert bash(spooled, "mini", *FLAGS, env=env).returncode == 4
    ran = (tmp_path / "ran").read_text().splitlines()
    dry = bash(spooled, "mini", *FLAGS, env={**env, "DRY_RUN": "1"})
    assert printed(spooled, "mini", *FLAGS, env=env) == [shlex.split(dry.stdout)]
    assert shlex.split(dry.stdout) == ["srun", *ran]
    where = ran.index(f"{checkout}/.venv/bin/promot")
    arguments, rest = promot_arguments(ran[where:])
    assert (arguments.experiment, arguments.distributed, arguments.seeds) == ("mini", True, "0")
    assert rest == FLAGS[2:]


def test_slurm_queues_again_before_the_time_limit(checkout, tmp_path):
    env = slurm(tmp_path, f"touch {tmp_path}/started; sleep 0.3")
    job = subprocess.Popen(["bash", LAUNCH / "slurm.sbatch", "mini"], env=env, stderr=-1)
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert b"job 7 is queued again" in job.communicate(timeout=20)[1]
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "EXPERIMENT is missing"),
        (["mini", "--gin.MODEL_DIR='gs://b/x'"], "a folder that all nodes share"),
        (["mini"], ".venv/bin/promot is missing"),
    ],
)
def test_slurm_says_in_one_line_what_is_wrong(arguments, said, checkout):
    done = bash(
        LAUNCH / "slurm.sbatch", *arguments, env={**os.environ, "SLURM_SUBMIT_DIR": str(checkout)}
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


def test_slurm_asks_for_one_task_a_gpu_and_requeues():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {"requeue", "open-mode=append", "signal=B:USR1@120"} <= set(asked)
    assert {"ntasks-per-node=1", "gpus-per-node=1"} <= set(asked)
    # sbatch reads such lines only before the first command.
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < first


# --- XManager ---


@pytest.fixture(scope="module")
def xm_launch():
    spec = importlib.util.spec_from_file_location("xm_launch", LAUNCH / "xm_launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SWEEP = [
    *("--name=gentle", "--experiment=mini", "--image=registry/promot_jax:1", "--bucket=gs://b/"),
    *("--methods=promot,fine_tuning", "--seeds=0,1,2"),
]


def described(xm_launch, capsys, *flags):
    assert xm_launch.main([*flags, "--dry_run"]) == 0
    return json.loads(capsys.readouterr().out)


def test_xm_launch_makes_a_job_for_each_method_and_seed(xm_launch, capsys):
    flags = ["--gin_file=a.gin", FLAGS[2]]
    found = described(xm_launch, capsys, *SWEEP, "--platform=a100", "--topology=4", *flags)
    assert found["requirements"] == {"a100": "4"}
    assert len(found["jobs"]) == 6
    for job, (method, seed) in zip(
        found["jobs"], itertools.product(["promot", "fine_tuning"], range(3)), strict=True
    ):
        assert job["name"] == f"{method}-seed_{seed}"
        arguments, rest = promot_arguments(["promot", *job["args"]])
        assert (arguments.experiment, arguments.gin_file) == ("mini", ["a.gin"])
        assert (arguments.methods, arguments.seeds) == (method, str(seed))
        assert rest == [f"--gin.MODEL_DIR='/gcs/b/gentle/{method}/seed_{seed}'", FLAGS[2]]


def test_xm_launch_leaves_to_the_experiment_what_is_not_given(xm_launch, capsys):
    found = described(xm_launch, capsys, *SWEEP[:4])
    (job,) = found["jobs"]
    assert job["args"] == ["run", "mini", "--gin.MODEL_DIR='/gcs/b/gentle/all'"]
    assert found["requirements"] == {"tpu_v3": "8"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--platform=tpu_v3", "--topology=32"], "--topology=32: tpu_v3 comes in 8"),
        (["--seeds=0,0"], "--seeds=0,0: expected a list without repetitions"),
        (["--methods=promot,"], "--methods=promot,: expected a list"),
        (["--bucket=gs://b/folder"], "--bucket=gs://b/folder: expected a bucket"),
        (["--name=a/b"], "--name=a/b: expected letters"),
        (["--gin.MODEL_DIR='x'"], "--gin.MODEL_DIR='x': set by --bucket and --name"),
        (["--gin.SEEDS=(0,)"], "set by --seeds"),
        (["--spot"], "unknown argument '--spot'"),
    ],
)
def test_xm_launch_says_in_one_line_what_is_wrong(flags, said, xm_launch, capsys):
    assert xm_launch.main([*SWEEP, *flags, "--dry_run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_xm_launch_needs_its_own_environment_to_launch(xm_launch, capsys):
    assert xm_launch.main(SWEEP) == 2
    assert "launch/xmanager_requirements.txt" in capsys.readouterr().err


def test_the_requirements_of_xmanager_are_pinned():
    lines = (LAUNCH / "xmanager_requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert all(re.match(r"[\w-]+==[\w.]+( ; .+)?$", pin) for pin in pins)
    assert {"xmanager==0.8.5.post1", "protobuf==6.33.6"} <= set(pins)


# Launches through XManager with Google replaced, and prints what would have been sent.
LAUNCHER = """
import json, sys
from unittest import mock
import google.auth
from google.auth import credentials
from google.cloud import aiplatform
import xm_launch

sent = []

class CustomJob:
    resource_name = "projects/1/locations/l/customJobs/1"

    def __init__(self, **given):
        sent.append(given)

    def submit(self, **given):
        sent[-1].update(given)

    def _dashboard_uri(self):
        return "nowhere"

account = credentials.AnonymousCredentials(), "my-project"
with mock.patch.object(aiplatform, "CustomJob", CustomJob), \
     mock.patch.object(google.auth, "default", lambda *_, **__: account), \
     mock.patch("xmanager.cloud.auth.get_service_account", lambda: "nobody"):
    assert xm_launch.main(sys.argv[1:]) == 0
for job in sent:
    (pool,) = job["worker_pool_specs"]
    container, machine = pool.container_spec, pool.machine_spec
    print("sent", json.dumps([
        job["project"], job["location"], job["staging_bucket"], container.image_uri,
        list(container.args), machine.machine_type, machine.accelerator_count,
    ]))
"""


@pytest.mark.slow
def test_xmanager_accepts_the_jobs(tmp_path, xm_launch, capsys):
    plain = described(xm_launch, capsys, *SWEEP, FLAGS[2])
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-r", LAUNCH / "xmanager_requirements.txt"],
        check=True,
        timeout=600,
    )
    # XManager keeps its list of experiments in the home folder.
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(LAUNCH)}
    dry = subprocess.check_output(
        [python, LAUNCH / "xm_launch.py", *SWEEP, FLAGS[2], "--dry_run"], text=True, env=env
    )
    jobs = json.loads(dry)["jobs"]
    machine = {"machine_type": "cloud-tpu", "accelerator_type": "TPU_V3", "accelerator_count": 8}
    assert jobs == [{**job, "machine": machine} for job in plain["jobs"]]
    flags = [*SWEEP, FLAGS[2], "--location=europe-west4", "--project=my-project"]
    out = subprocess.check_output([python, "-c", LAUNCHER, *flags], text=True, env=env)
    sent = [json.loads(line[5:]) for line in out.splitlines() if line.startswith("sent ")]
    place = ["my-project", "europe-west4", "gs://b", "registry/promot_jax:1"]
    assert sent == [[*place, job["args"], "cloud-tpu", 8] for job in plain["jobs"]]


# --- the page and the image ---


def test_the_page_names_every_script_and_its_commands_are_right(checkout, xm_launch, capsys):
    page = (ROOT / "docs/launch.md").read_text()
    named = set(re.findall(r"launch/([\w.]+\w)", page))
    there = {file.name for file in LAUNCH.iterdir() if file.is_file()}
    own = {"environment.sh", "tpu_worker.sh", "Dockerfile.dockerignore"}
    assert named == there - own
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    checked = []
    for words in filter(None, map(shlex.split, lines)):
        if words[0] == "bash":
            rest = [word for word in words[2:] if word != "--dry-run"]
            assert printed(checkout / words[1], *rest)
            checked.append(words[1])
        elif words[0] == "sbatch":
            place = words.index("launch/slurm.sbatch")
            assert printed(checkout / words[place], *words[place + 1 :])
            checked.append(words[place])
        elif "launch/xm_launch.py" in words:
            assert described(xm_launch, capsys, *words[2:-1])["jobs"]
            checked.append(words[1])
    assert set(checked) == {
        *(f"launch/{name}.sh" for name in ("local", "cpu_smoke", "test", "tpu_vm")),
        *("launch/slurm.sbatch", "launch/xm_launch.py"),
    }


def test_the_image_installs_an_extra_that_there_is():
    text = (LAUNCH / "Dockerfile").read_text()
    extras = re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
    (default,) = re.findall(r"^ARG EXTRA=(\w+)$", text, re.MULTILINE)
    (named,) = re.findall(r"--build-arg EXTRA=(\w+)", text)
    assert {default, named} <= set(extras)
    assert 'ENTRYPOINT ["promot"]' in text

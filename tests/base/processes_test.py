"""Runs of several processes on one machine: the same results as one, and one end for all."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from promot_jax.base.jsonl import read_jsonl
from promot_jax.experiment.run_folder import RunFolder
from tests.commands.cli_test import SHRINK, at, fails

pytestmark = pytest.mark.long

# Each of the four devices holds a quarter of the parameters.
RUN = [
    *SHRINK,
    "--seeds=0",
    "--methods=promot",
    "--curve=0.5",
    *(
        f"--gin.{binding}"
        for binding in (
            "INITIAL_CHECKPOINT_PATH=None",
            "TASKS=[]",
            "PROMPT_TRAIN_STEPS=1",
            "PROMPT_EVAL_PERIOD=1",
            "TRAIN_STEPS=4",
            "EVAL_PERIOD=2",
            "DROPOUT_RATE=0.1",
            "experiment.Experiment.fsdp=4",
        )
    ),
]


def start(count, command, devices=1, folders=None):
    """Starts processes that meet at a free port; `command` follows `python`."""
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    # jax warns of proxies, which grpc would use.
    env = {name: value for name, value in os.environ.items() if "_proxy" not in name.lower()}
    env |= {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": os.getcwd()}
    processes = []
    for number in range(count):
        flags = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
        flags = [*flags, f"--process_id={number}"] if count > 1 else []
        processes.append(
            subprocess.Popen(
                [sys.executable, *command, *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
                cwd=folders[number] if folders else None,
            )
        )
    return processes


def ends(processes, seconds=300):
    """Waits for processes; returns the exit code, output and lines of errors of each."""
    found = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=seconds)
            found.append((process.returncode, out, error.strip().splitlines()))
    finally:
        for process in processes:
            process.kill()
    return found


def run_mini(folder, count, *flags):
    """Runs the shrunken experiment on four devices; returns what process 0 printed."""
    command = ["-m", "promot_jax.cli", "run", "mini", at(folder), *RUN, *flags]
    found = ends(start(count, command, devices=4 // count))
    assert [code for code, _, _ in found] == [0] * count, [lines[-3:] for _, _, lines in found]
    assert "seed 0: RTE" in found[0][1]
    # C++ code of the collectives writes lines of its own, and may break one with another.
    spoken = "".join(out for _, out, _ in found[1:])
    lines = [line for line in spoken.splitlines() if not line.startswith("[Gloo]")]
    assert [line for line in lines if line.strip()] == []
    return found[0][1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "alone"
    run_mini(folder, 1)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "together"
    run_mini(folder, 2)
    return folder


def interrupted(run, folder):
    """Copies a finished run as it was after step 2 of its second stage."""
    shutil.copytree(run, folder)
    stage = folder / "seed_0/prompt-model"
    for name in ("results.jsonl", "samples.jsonl", "curves.jsonl", "report.html"):
        (folder / name).unlink()
    (stage / "stage.json").unlink()
    kept = sorted(path.name for path in (stage / "checkpoints").iterdir() if path.name.isdigit())
    assert kept[-1] == "4"
    shutil.rmtree(stage / "checkpoints" / "4")
    return folder


TRAINED = {"prompt": 3, "prompt-model": 5}


def assert_same_run(one, other, trained=TRAINED):
    """The same files, losses to rounding, answers and lineages; `trained` has a log's lines."""
    for stage, lines in trained.items():
        folders = [run / "seed_0" / stage for run in (one, other)]
        logs = [read_jsonl(folder / "metrics.jsonl") for folder in folders]
        assert [len(log) for log in logs] == [lines, lines]
        for ours, theirs in zip(*logs, strict=True):
            assert ours.keys() == theirs.keys()
            np.testing.assert_allclose(
                list(ours.values()), list(theirs.values()), rtol=1e-4, err_msg=str(ours)
            )
        ours, theirs = (json.loads((folder / "stage.json").read_text()) for folder in folders)
        for name in ("fingerprint", "best_step", "trainable", "frozen"):
            assert ours[name] == theirs[name], name
    for file in ("results.jsonl", "samples.jsonl", "curves.jsonl"):
        ours, theirs = (
            [line | {"seconds": 0.0} for line in read_jsonl(run / file)] for run in (one, other)
        )
        assert len(ours) > 0
        assert ours == theirs
    assert (one / "report.html").exists()
    assert (other / "report.html").exists()


def test_two_processes_do_what_one_does(alone, together):
    assert_same_run(alone, together)
    described = json.loads((together / "run.json").read_text())
    assert described["finished"]
    assert described["machine"]["devices"] == "4 x cpu in 2 processes"
    for stage in ("prompt", "prompt-model"):
        assert len(list((together / "seed_0" / stage).glob("events.out.tfevents*"))) == 1
    # Each process wrote its part of the checkpoint.
    parts = (together / "seed_0/prompt-model/checkpoints/4/state").glob("ocdbt.process_*")
    assert {path.name for path in parts} == {"ocdbt.process_0", "ocdbt.process_1"}


@pytest.mark.slow
def test_one_process_continues_what_two_began(alone, together, tmp_path):
    folder = interrupted(together, tmp_path / "run")
    run_mini(folder, 1)
    assert_same_run(alone, folder)


@pytest.mark.slow
def test_four_processes_continue_what_one_began(alone, tmp_path):
    folder = interrupted(alone, tmp_path / "run")
    run_mini(folder, 4)
    assert_same_run(alone, folder)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_further_rows_and_objectives(tmp_path):
    flags = ["--replay=self:0.25", "--methods=promot+on_policy,ewc,self_distillation,sparse,lwf"]
    flags += ["--gin.KL_ROWS='mini_cb'"]
    run_mini(tmp_path / "alone", 1, *flags)
    run_mini(tmp_path / "together", 2, *flags)
    stages = ("prompt-model_on_policy", "model_ewc", "model_self_distillation", "model_lwf")
    trained = {"prompt": 3, **dict.fromkeys((*stages, "model", "model-model_sparse"), 5)}
    assert_same_run(tmp_path / "alone", tmp_path / "together", trained)


# A group of processes without an experiment: they need no tensorflow, and start in a second.
PROGRAM = """
import os, pathlib, signal, sys
from promot_jax import cli
from promot_jax.base import distributed
from promot_jax.commands import run
from promot_jax.base.errors import UserError

where, folder = sys.argv[1], pathlib.Path(sys.argv[2])
distributed.CONNECT_SECONDS, distributed.LEAVE_SECONDS, distributed.VISIBLE_SECONDS = 60, 3, 1

def refuse(word):
    if word in where.split():
        raise UserError(f"{word} is refused\\nin gin's words")

def body(arguments, overrides):
    from jax.experimental import multihost_utils

    me = f"process_{arguments.process_id}"
    with run._held(folder, "LEARNING_RATE = 0.1" if "same" in where else me):
        print(distributed.by_main(os.getpid), distributed.is_main(), flush=True)
        multihost_utils.sync_global_devices("met")
        distributed.by_main(refuse, "main")
        refuse(me)
        if f"crash_{me}" in where:
            raise KeyError(me)
        for name in ("SIGKILL", "SIGTERM"):
            if f"{name}_{me}" in where:
                os.kill(os.getpid(), getattr(signal, name))
        multihost_utils.sync_global_devices("end")

run._run_experiment = body
code = cli.main(["run", "mini", *sys.argv[3:]])
print("ended", code)
sys.exit(code)
"""


def group(where, folder, folders=None):
    """Runs two processes of `PROGRAM`, as `ends`."""
    return ends(start(2, ["-c", PROGRAM, where, str(folder)], folders=folders), seconds=60)


def test_process_0_acts_for_all(tmp_path):
    (code, out, error), (other_code, other_out, other_error) = group("same", tmp_path / "run")
    assert (code, other_code) == (0, 0), error + other_error
    said, other_said = out.splitlines(), other_out.splitlines()
    said, other_said = (
        [line for line in lines if not line.startswith("[Gloo]")] for lines in (said, other_said)
    )
    pid = said[0].split()[0]
    assert said == [f"{pid} True", "ended 0"]
    assert other_said == [f"{pid} False", "ended 0"]


@pytest.mark.parametrize(
    ("where", "code", "line"),
    [
        ("same main", 2, "main is refused"),
        pytest.param("same process_0", 2, "process_0 is refused", marks=pytest.mark.slow),
        ("same process_1", 2, "process_1 is refused"),
        pytest.param("same process_0 process_1", 2, "is refused", marks=pytest.mark.slow),
        ("same crash_process_1", 1, "process 1 failed: KeyError: 'process_1'"),
        ("different", 2, "('process_1', there 'process_0'); give every process the same command"),
    ],
)
def test_one_process_ends_all(tmp_path, where, code, line):
    found = group(where, tmp_path / "run")
    assert [found_code for found_code, _, _ in found] == [code, code], found
    for number, (_, out, error) in enumerate(found):
        if f"crash_process_{number}" in where:
            assert error.pop(0).startswith("Traceback")
            error = error[-1:]
        assert len(error) == 1, error
        assert error[0].startswith("promot: ")
        assert line in error[0]
        assert "ended" not in out
    # A line of one process is every process's line.
    if " process_0 " not in where:
        assert found[0][2][-1] == found[1][2][-1]


@pytest.mark.parametrize(
    ("sent", "number"),
    [("SIGKILL", 0), ("SIGKILL", 1), pytest.param("SIGTERM", 1, marks=pytest.mark.slow)],
)
def test_a_killed_process_ends_the_others(tmp_path, sent, number):
    began = time.monotonic()
    found = group(f"same {sent}_process_{number}", tmp_path / "run")
    assert found[number][0] == -getattr(signal, sent)
    assert found[1 - number][0] not in (0, -getattr(signal, sent))
    assert time.monotonic() - began < 60


def test_a_held_folder_ends_all_in_one_line(tmp_path):
    with RunFolder(tmp_path).locked():
        found = group("same", tmp_path)
    for code, _, error in found:
        assert code == 2
        assert len(error) == 1
        assert "another process is running" in error[0]


def test_a_folder_that_is_not_shared_ends_all_in_one_line(tmp_path):
    hosts = [tmp_path / name for name in "ab"]
    for host in hosts:
        host.mkdir()
    for code, _, error in group("same", "run", hosts):
        assert code == 2
        assert len(error) == 1
        assert "process 1 on " in error[0]
        assert "does not see what process 0 writes in run; MODEL_DIR must be" in error[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--coordinator=h:1"], "--num_processes is missing; --coordinator, --num_processes, "),
        (["--num_processes=2", "--process_id=0"], "--coordinator is missing"),
        (["--distributed", "--process_id=0"], "by itself; leave out --process_id"),
        (["--coordinator=h", "--num_processes=2", "--process_id=0"], "expected HOST:PORT"),
        (["--coordinator=h:1", "--num_processes=2", "--process_id=2"], "from 0 to 1"),
        (
            ["--coordinator=h:1", "--num_processes=0", "--process_id=0"],
            "--num_processes = 0: expected a whole number of at least 1",
        ),
        (["--coordinator=h:99999", "--num_processes=2", "--process_id=0"], "cannot listen"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(capsys, flags, expected):
    assert expected in fails(capsys, "run", "mini", *flags)


def test_a_taken_port_is_one_line(capsys):
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        flags = [f"--coordinator={address}", "--num_processes=2", "--process_id=0"]
        line = fails(capsys, "run", "mini", *flags)
    assert f"--coordinator {address}: process 0 cannot listen" in line
    assert "Address already in use" in line


def test_nobody_at_the_coordinator_is_one_line(tmp_path):
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    program = PROGRAM.replace("CONNECT_SECONDS, ", "CONNECT_SECONDS = 2; _, ")
    for number in (0, 1):
        flags = [f"--coordinator={address}", "--num_processes=2", f"--process_id={number}"]
        done = subprocess.run(
            [sys.executable, "-c", program, "same", str(tmp_path), *flags],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"promot: not all processes have met at {address} within 2 s")
        assert done.stderr.count("\n") == 1


def test_nothing_to_detect_is_one_line(tmp_path):
    env = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "promot_jax.cli", "run", "mini", "--distributed"],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("promot: --distributed: no other processes found")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_processes_agree_when_patience_is_at_an_end(tmp_path):
    # The last one of a flag counts. Nothing is learned, so that no score is better for long.
    flags = ["--patience=1"]
    flags += [f"--gin.{binding}" for binding in ("BATCH_SIZE=6", "TRAIN_STEPS=12", "EVAL_PERIOD=1")]
    command = ["-m", "promot_jax.cli", "run", "mini", at(tmp_path), *RUN, *flags]
    found = ends(start(2, command, devices=2), seconds=600)
    assert [code for code, _, _ in found] == [0, 0], [lines[-3:] for _, _, lines in found]
    summary = json.loads((tmp_path / "seed_0/prompt-model/stage.json").read_text())
    assert summary["steps"] == summary["best_step"] + 1 < 12
    assert f"stopped at step {summary['steps']} of 12" in found[0][1]

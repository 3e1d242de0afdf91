"""launch/tpu_vm.sh and tpu_worker.sh against a cloud that is simulated in a folder."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest

from tests.launch.launch_scripts import commands, executable, promot_arguments, small_checkout

# A stand-in for gcloud. The cloud is a folder: cloud.json holds the states of the slice and of the
# request, worker_I are the home folders of its workers, and `calls` is what was asked.
GCLOUD = """#!{python} -IS
import json, os, sys
os.chdir({cloud!r})
words = sys.argv[1:]
with open("calls", "a") as file:
    print(json.dumps(words), file=file)
with open("cloud.json") as file:
    state = json.load(file)
flags = dict(zip(words, words[1:]))
homes = [os.path.abspath(f"worker_{{i}}") for i in range(2)]

def save():
    with open("cloud.json", "w") as file:
        json.dump(state, file)

def fail(line):
    sys.exit("ERROR: (gcloud." + ".".join(words[:4]) + ") " + line + "\\nmore about it")

def advance(name):
    if isinstance(state[name], list):  # what later looks see
        first, *rest = state[name]
        state[name] = rest if len(rest) > 1 else rest[0]
        save()
        return first
    return state[name]

if words[0] == "storage":
    print(state["namespace"])
elif words[3] == "describe":
    found = advance("slice" if words[2] == "tpu-vm" else "request")
    if found in ("NONE", "LOGIN"):
        fail("NOT_FOUND: no such thing" if found == "NONE" else "You have no active account")
    print(found)
elif words[3] == "create":
    state.update(slice=["NONE", "CREATING", "READY"], request=["WAITING_FOR_RESOURCES", "ACTIVE"])
    [os.mkdir(home) for home in homes]
    save()
elif words[3] == "delete" and state.pop("stubborn", False):
    save()
    fail("the operation failed")
elif words[3] == "delete":
    state.update(slice="NONE", request="NONE")
    os.system("rm -rf worker_*")
    save()
elif state["slice"] != "READY":
    fail("the TPU is not READY")
elif words[3] == "scp":
    for home in homes:
        os.system(f"cp {{words[4]}} {{home}}/{{words[5].split(':')[1]}}")
elif words[3] == "ssh":
    import subprocess
    env = {{"CLOUD": os.getcwd(), "PATH": os.getcwd() + "/bin:/usr/bin:/bin"}}
    chosen = homes if flags["--worker"] == "all" else [homes[int(flags["--worker"])]]
    if " follow " in flags["--command"]:
        open("followed", "w").close()
    ran = [
        subprocess.Popen(["bash", "-c", flags["--command"]], cwd=home, env={{**env, "HOME": home}})
        for home in chosen
    ]
    sys.exit(max(process.wait() for process in ran))
"""
# uv of a worker: makes an environment with the `promot` of the test.
UV = """#!/bin/bash
if [ "$1" = venv ]; then
  mkdir -p "${@: -1}/bin" && cp "$CLOUD/promot" "${@: -1}/bin/promot" && touch "${@: -1}/bin/python"
  chmod +x "${@: -1}/bin/python"
else
  [ -e launch/tpu_worker.sh ] && [ ! -e runs ] && [ ! -e .venv ]
fi
"""
# promot of a worker: counts its starts in the bucket, where MODEL_DIR is, then does as told.
PROMOT = """#!/bin/bash
me=${HOME##*_}
folder=$(tr " " "\\n" <<<"$*" | sed -n "s/^--gin.MODEL_DIR='\\(.*\\)'$/\\1/p" | tail -n 1)
mkdir -p "$folder"
echo "$*" >>"$folder/starts_$me"
start=$(wc -l <"$folder/starts_$me")
echo "worker $me start $start: $JAX_PLATFORMS"
"""


class Cloud:
    """A simulated Google Cloud and a checkout to start from."""

    def __init__(self, folder, checkout):
        self.folder, self.checkout, self.bucket = folder, checkout, folder / "bucket"
        bin_folder = folder / "bin"
        executable(bin_folder / "gcloud", GCLOUD.format(python=sys.executable, cloud=str(folder)))
        executable(bin_folder / "sudo", '#!/bin/bash\nexec "$@"\n')
        executable(bin_folder / "gcsfuse", '#!/bin/bash\necho "$@" >>"$CLOUD/mounts"\n')
        executable(bin_folder / "findmnt", "#!/bin/bash\nexit 1\n")
        pip = f'#!/bin/bash\nmkdir -p "$HOME/.local/bin"\ncp {folder}/uv "$HOME/.local/bin/uv"\n'
        executable(bin_folder / "python3", pip)
        executable(folder / "uv", UV)
        for unwanted in (".venv", "runs"):
            (checkout / unwanted).mkdir()
        self.set(slice="NONE", request="NONE")
        self.does("")

    def set(self, **states):
        text = {"slice": "READY", "request": "ACTIVE", "namespace": "True", **states}
        (self.folder / "cloud.json").write_text(json.dumps(text))
        if text["slice"] == "READY":
            [(self.folder / f"worker_{i}").mkdir(exist_ok=True) for i in range(2)]

    def does(self, program):
        executable(self.folder / "promot", PROMOT + program)

    def command(self, *flags):
        return [
            *("bash", str(self.checkout / "launch/tpu_vm.sh"), "--name", "pod", "--zone", "z-a"),
            *("--mount", str(self.bucket), *flags),
        ]

    @property
    def env(self):
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "PROMOT_POLL_SECONDS": "0", "TMPDIR": str(self.folder)}

    def run(self, *flags):
        return subprocess.run(
            self.command(*flags), capture_output=True, text=True, env=self.env, timeout=60
        )

    def calls(self, *kinds):
        """Returns what was asked of gcloud, such as `create`."""
        text = (self.folder / "calls").read_text()
        calls = [json.loads(line) for line in text.splitlines()]
        return [call for call in calls if call[3] in kinds]

    def starts(self, worker, experiment="mini"):
        return (self.bucket / experiment / f"starts_{worker}").read_text().splitlines()


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path / "cloud", small_checkout(tmp_path / "checkout"))


SLICE = ("--type", "v4-16", "--bucket", "gs://my-bucket")
TAKE_AWAY = """
until [ -e "$CLOUD/followed" ]; do sleep 0.05; done
[ "$me" = 1 ] || sed -i 's/"slice": "[A-Z]*"/"slice": "PREEMPTED"/' "$CLOUD/cloud.json"
exit 143
"""


def test_tpu_vm_dry_run_prints_what_a_run_does(cloud):
    flags = [*SLICE, "--spot", "--project", "p", "mini", "--seeds", "0", "--gin.TITLE='it\"s $5'"]
    dry = cloud.run("--dry-run", *flags)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert not (cloud.folder / "calls").exists()
    gcloud = [words[1:] for words in commands(dry.stdout) if words[0] == "gcloud"]
    *asked, delete = [words for words in gcloud if "describe" not in words]
    assert [words[3] for words in asked] == ["create", "scp", *5 * ["ssh"]]
    assert delete[2:5] == ["queued-resources", "delete", "pod"]
    assert {"--spot", "--node-id", "v4-16", "tpu-ubuntu2204-base"} <= set(asked[0])
    assert all(words[words.index("--project") + 1] == "p" for words in asked)
    start = shlex.split(asked[4][-1])
    assert start[:6] == ["cd", "promot_jax", "&&", "bash", "launch/tpu_worker.sh", "start"]
    arguments, rest = promot_arguments(start[6:])
    assert (arguments.experiment, arguments.distributed) == ("mini", True)
    assert rest == [f"--gin.MODEL_DIR='{cloud.bucket}/mini'", "--gin.TITLE='it\"s $5'"]

    (cloud.bucket / "tensorflow_datasets").mkdir(parents=True)
    done = cloud.run(*flags)
    assert done.returncode == 0, done.stderr
    assert (cloud.folder / "worker_1/tensorflow_datasets").samefile(
        cloud.bucket / "tensorflow_datasets"
    )
    assert cloud.calls("create", "scp", "ssh", "delete") == asked
    expected = f"run mini --distributed --gin.MODEL_DIR='{cloud.bucket}/mini' --seeds 0 "
    assert cloud.starts(0) == cloud.starts(1) == [expected + "--gin.TITLE='it\"s $5'"]
    mounts = (cloud.folder / "mounts").read_text().splitlines()
    options = "--metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0"
    assert mounts == [f"{options} my-bucket {cloud.bucket}"] * 2
    assert "worker 0 start 1: tpu,cpu\n" in done.stdout
    assert "worker 1" not in done.stdout
    assert "still there and paid for" in done.stderr


def test_tpu_vm_continues_on_a_new_slice_after_preemption(cloud):
    cloud.does(f'if [ "$start" = 1 ]; then {TAKE_AWAY} fi\necho continued')
    done = cloud.run(*SLICE, "--spot", "--delete-after", "mini")
    assert done.returncode == 0, done.stderr
    kinds = [call[3] for call in cloud.calls("create", "delete")]
    assert kinds == ["create", "delete", "create", "delete"]
    assert all("--force" in call for call in cloud.calls("delete"))
    assert len(cloud.starts(0)) == len(cloud.starts(1)) == 2
    assert len(set(cloud.starts(0) + cloud.starts(1))) == 1
    assert "pod is PREEMPTED" in done.stderr
    first, second = (done.stdout.index(f"worker 0 start {i}") for i in (1, 2))
    assert first < second < done.stdout.index("continued")


def test_tpu_vm_takes_the_slice_that_is_there(cloud):
    cloud.set()
    assert cloud.run(*SLICE, "gin/experiments/mini.gin").returncode == 0
    assert not cloud.calls("create", "delete")
    assert len(cloud.starts(1)) == 1


@pytest.mark.parametrize("request_state", ["NONE", "SUSPENDED"])
def test_tpu_vm_removes_what_is_left_of_a_slice(request_state, cloud):
    slice_state = {"NONE": "TERMINATED", "SUSPENDED": "NONE"}[request_state]
    cloud.set(slice=slice_state, request=request_state)
    assert cloud.run(*SLICE, "mini").returncode == 0
    (delete,) = cloud.calls("delete")
    assert delete[2] == {"NONE": "tpu-vm", "SUSPENDED": "queued-resources"}[request_state]
    assert len(cloud.calls("create")) == 1


def test_tpu_vm_tries_a_failed_deletion_again(cloud):
    cloud.set(slice="PREEMPTED", stubborn=True)
    sleep = f'#!/bin/bash\necho "$@" >>{cloud.folder}/pauses\n'
    executable(cloud.folder / "bin/sleep", sleep)
    assert cloud.run(*SLICE, "mini").returncode == 0
    assert [call[3] for call in cloud.calls("create", "delete")] == ["delete", "delete", "create"]
    # After the failure, and for the new slice's two states before READY.
    assert (cloud.folder / "pauses").read_text().split() == ["0"] * 3


def test_tpu_vm_starts_again_when_a_worker_was_restarted(cloud):
    cloud.set()
    # Worker 1 vanishes without an exit code, as by a reboot; jax ends the others.
    cloud.does("""
if [ "$start" = 1 ] && [ "$me" = 1 ]; then
  echo "$PPID other-boot" >"$HOME/promot_run/process"
  kill -KILL "$PPID"
fi
[ "$start" != 1 ] || exit 134
""")
    done = cloud.run(*SLICE, "mini")
    assert done.returncode == 0, done.stderr
    assert "lost on a worker" in done.stderr
    assert [len(cloud.starts(worker)) for worker in (0, 1)] == [2, 2]
    assert not cloud.calls("create", "delete")


def test_a_lost_terminal_does_not_end_the_run(cloud):
    cloud.set()
    cloud.does('while [ ! -e "$CLOUD/enough" ]; do sleep 0.1; done; echo finished')
    first = subprocess.Popen(
        cloud.command(*SLICE, "mini"),
        env=cloud.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert b"worker 0 start 1" in first.stdout.readline()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    other = cloud.run(*SLICE, "other")
    assert other.returncode == 2
    assert "pod is busy: running promot run mini" in other.stderr
    second = subprocess.Popen(
        cloud.command(*SLICE, "mini"), env=cloud.env, stdout=-1, stderr=-1, text=True
    )
    assert "worker 0 start 1" in second.stdout.readline()
    (cloud.folder / "enough").touch()
    out, error = second.communicate(timeout=30)
    assert (second.returncode, out) == (0, "finished\n")
    assert "runs this already" in error
    assert len(cloud.starts(0)) == 1


def test_a_failing_run_is_not_repeated(cloud):
    cloud.set()
    cloud.does('echo "promot: MODEL_DIR is wrong"\nexit 3')
    done = cloud.run(*SLICE, "--delete-after", "mini")
    assert done.returncode == 1
    assert "promot: MODEL_DIR is wrong" in done.stdout
    assert "the run ended 3" in done.stderr
    assert len(cloud.starts(0)) == 1
    assert not cloud.calls("create", "delete")


@pytest.mark.parametrize(
    ("states", "deleted"),
    [
        ({}, ["queued-resources"]),
        ({"request": "NONE"}, ["tpu-vm"]),
        ({"slice": "NONE", "request": "FAILED"}, ["queued-resources"]),
        ({"slice": "NONE", "request": "NONE"}, []),
    ],
)
def test_tpu_vm_deletes_on_request(states, deleted, cloud):
    cloud.set(**states)
    done = cloud.run("--delete")
    assert done.returncode == 0
    assert [call[2] for call in cloud.calls("delete")] == deleted
    assert ("nothing to delete" in done.stderr) == (not deleted)


@pytest.mark.parametrize(
    ("experiment", "folder"),
    [("paper/mt5_xxl/rte", "paper/mt5_xxl/rte"), ("my/own.gin", "own")],
)
def test_each_experiment_has_its_run_folder(experiment, folder, cloud):
    dry = cloud.run("--dry-run", *SLICE, experiment)
    (start,) = [words[-1] for words in commands(dry.stdout) if "tpu_worker.sh start" in words[-1]]
    assert f"--gin.MODEL_DIR='{cloud.bucket}/{folder}'" in shlex.split(start)


@pytest.mark.parametrize(
    ("states", "flags", "said"),
    [
        ({}, [*SLICE], "EXPERIMENT is missing"),
        ({}, [*SLICE[2:], "mini"], "--type is missing"),
        ({}, [*SLICE[:2], "mini"], "give --bucket gs://BUCKET or --nfs"),
        ({}, [*SLICE[:2], "--bucket=gs://b/folder", "mini"], "give the bucket alone"),
        ({}, [*SLICE[:2], "--bucket=b", "mini"], "expected gs://BUCKET"),
        ({}, [*SLICE[:2], "--nfs=server", "mini"], "expected HOST:/SHARE"),
        ({}, [*SLICE, "--nfs=server:/share", "mini"], "not both"),
        ({}, [*SLICE, "--seeds", "0", "mini"], "flags of promot run come after EXPERIMENT"),
        ({}, [*SLICE, "--type"], "--type needs a value"),
        ({}, [*SLICE, "mini", "--gin.MODEL_DIR='gs://b/x'"], "which all workers share"),
        ({"namespace": ""}, [*SLICE, "mini"], "gs://my-bucket has no hierarchical namespace"),
        ({"slice": "LOGIN"}, [*SLICE, "mini"], "You have no active account"),
        ({"slice": "STOPPED"}, [*SLICE, "mini"], "tpu-vm start pod --zone z-a"),
        ({"slice": "NONE", "request": "FAILED"}, [*SLICE, "mini"], "--delete --name pod"),
    ],
)
def test_tpu_vm_says_in_one_line_what_is_wrong(states, flags, said, cloud):
    cloud.set(**states)
    done = cloud.run(*flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.stdout == ""

"""What reads ahead: its processes end with the one that reads."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.long

PROGRAM = """
import multiprocessing, sys, time
from promot_jax.data import prefetch

if __name__ == "__main__":
    found = prefetch.ahead(hex, 3, 2)
    print(next(found), *(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # What has ended may wait for somebody to ask.
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_when_who_reads_is_killed(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, tmp_path / "program.py"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        first, *workers = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
    assert (first, len(workers)) == (hex(3), 2)
    until = time.monotonic() + 60
    while any(lives(int(pid)) for pid in workers):
        assert time.monotonic() < until, workers
        time.sleep(0.05)

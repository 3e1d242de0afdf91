"""Several processes at work on one run: how they meet, what one does for all, how they end.

Every process runs the same program on its part of the devices. Process 0 alone writes files and
speaks; what it reads from them reaches the others through the coordination service of
`jax.distributed`. A process that fails takes the others with it, whatever they wait for.

A run of one process needs none of this: each function then does the plain thing at once.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from promot_jax.base.errors import UserError, explained, first_line

# Hosts of one job start at different times.
CONNECT_SECONDS = 300
# How long process 0, which keeps the coordination service, waits for others to leave after a fault.
LEAVE_SECONDS = 15
# Network file systems may show a new file late.
VISIBLE_SECONDS = 30
# Longer than any run: whoever waits is told when another process fails.
FOREVER_MS = 2**31 - 1

FAILED, GONE, DONE = "promot/failed/", "promot/gone/", "promot/done/"
GIVEN = "promot/given/"


@dataclasses.dataclass
class _Group:
    """The processes of a run, as one of them sees them.

    Attributes:
      client: of the coordination service: a store of keys and values.
      process: number of this process.
      count: of all processes.
      calls: calls of `by_main` so far, equal on all processes.
      gathered: the number of the last call of `gathered` among them.
      ending: held by the thread that ends this process.
    """

    client: Any
    process: int
    count: int
    calls: int = 0
    gathered: int = 0
    ending: threading.Lock = dataclasses.field(default_factory=threading.Lock)


_group: _Group | None = None


def several() -> bool:
    """Says whether this process belongs to a group."""
    return _group is not None


def is_main() -> bool:
    """Says whether this is the process that writes and speaks: number 0, or the only one."""
    return _group is None or _group.process == 0


def by_main(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function on process 0 and returns its result on every process.

    All processes must make the same calls in the same order, none inside another.

    Args:
      function: reads or writes files of the run; its result is as JSON keeps it.
      *arguments: of the function.
    """
    if _group is None:
        return function(*arguments)
    _group.calls += 1
    key = f"{DONE}{_group.calls}"
    if _group.process == 0:
        _group.client.key_value_set(key, json.dumps(function(*arguments)))
    return json.loads(_group.client.blocking_key_value_get(key, FOREVER_MS))


def gathered(value: Any) -> list[Any]:
    """Returns a value of every process, on every process, in the order of their numbers.

    All processes must make the same calls, in the same order as those of `by_main`. Devices have no
    part in it, and nothing is left in the coordination service: a training may call it every step.

    Args:
      value: of this process, as JSON keeps it.
    """
    if _group is None:
        return [value]
    group, number = _group, _group.calls + 1

    def collect() -> list[Any]:
        keys = [f"{GIVEN}{number}/{process}" for process in range(1, group.count)]
        found = [json.loads(group.client.blocking_key_value_get(k, FOREVER_MS)) for k in keys]
        group.client.key_value_delete(f"{GIVEN}{number}/")
        if group.gathered:
            # Whoever has given a value to this call has what the last one returned.
            group.client.key_value_delete(f"{DONE}{group.gathered}")
        return [value, *found]

    if group.process:
        group.client.key_value_set(f"{GIVEN}{number}/{group.process}", json.dumps(value))
    found = by_main(collect)
    group.gathered = number
    return found


def check_same(text: str) -> None:
    """Checks that every process has the configuration of process 0.

    Raises:
      UserError: this process has another one.
    """
    if (main := by_main(lambda: text)) != text:
        pairs = itertools.zip_longest(text.splitlines(), main.splitlines(), fillvalue="nothing")
        here, there = next((here, there) for here, there in pairs if here != there)
        raise UserError(
            f"process {_group.process} has another configuration than process 0 ({here!r}, there "
            f"{there!r}); give every process the same command and the same files"
        )


def check_shared(folder: pathlib.Path) -> None:
    """Checks that every process sees the folder that process 0 writes.

    Raises:
      UserError: this process does not.
    """
    if _group is None:
        return
    file = folder / ".processes"

    def mark():
        file.write_text(text := secrets.token_hex(8))
        return text

    mark = by_main(mark)
    until = time.monotonic() + VISIBLE_SECONDS
    while not file.is_file() or file.read_text() != mark:
        if time.monotonic() > until:
            raise UserError(
                f"process {_group.process} on {socket.gethostname()} does not see what process 0 "
                f"writes in {folder}; MODEL_DIR must be on a file system that all processes share"
            )
        time.sleep(0.5)


@contextlib.contextmanager
def joined(
    detect: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Joins this process with the others of its run; within the block they are one group.

    Enter it before anything else uses jax. When the block fails on one process, every process
    prints the same line and exits with the same code; the block then does not end. Without
    arguments nothing happens.

    Args:
      detect: whether to find the other processes by what Cloud TPU, Kubernetes, SLURM or Open MPI
        tell each process.
      coordinator: `HOST:PORT` at which process 0 waits for the others.
      num_processes: number of processes.
      process_id: number of this one, from 0.

    Raises:
      UserError: arguments that do not go together, a port that is taken, or nothing to detect.
    """
    global _group
    if not _asked(detect, coordinator, num_processes, process_id):
        yield
        return
    _group = _meet(coordinator, num_processes, process_id)
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(_group, ended), daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        _fail(_group, error)
    ended.set()
    watcher.join()
    _group = None


def _asked(detect, coordinator, num_processes, process_id) -> bool:
    """Says whether there are several processes, after a look at what was given."""
    flags = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    given = [flag for flag, value in flags.items() if value is not None]
    missing = [flag for flag, value in flags.items() if value is None]
    if detect and given:
        raise UserError(f"--distributed finds the other processes by itself; leave out {given[0]}")
    if not given:
        return detect
    if missing:
        raise UserError(f"{missing[0]} is missing; {', '.join(flags)} go together")
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise UserError(f"--coordinator {coordinator}: expected HOST:PORT, as in 10.0.0.1:8476")
    if num_processes < 1:
        raise UserError(f"--num_processes {num_processes}: give at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id {process_id}: give a number from 0 to {num_processes - 1}, another one "
            "to each process"
        )
    if process_id == 0:
        _check_free(coordinator)
    return True


def _check_free(coordinator: str) -> None:
    """Raises UserError where process 0 cannot listen; the coordination service would crash."""
    try:
        with socket.create_server(("", int(coordinator.rsplit(":", 1)[1]))):
            pass
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--coordinator {coordinator}: process 0 cannot listen at this port "
            f"({getattr(error, 'strerror', error)}); choose another"
        ) from None


def _meet(coordinator, num_processes, process_id) -> _Group:
    """Waits for all processes and returns their group."""
    import jax

    # The client of the service has no public name; orbax takes it from here, too.
    from jax._src import distributed as service

    where = coordinator or "the coordinator"
    # jax itself would end the process with a trace of native code.
    patience = threading.Timer(
        CONNECT_SECONDS,
        _exit,
        (
            2,
            f"not all processes have met at {where} within {CONNECT_SECONDS} s; start every one, "
            "with an address of process 0 that the others reach",
        ),
    )
    patience.daemon = True
    patience.start()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=2 * CONNECT_SECONDS
        )
    except ValueError as error:
        if coordinator is not None:
            raise
        raise UserError(
            f"--distributed: no other processes found ({first_line(error)}); under Cloud TPU, "
            "Kubernetes, SLURM or Open MPI they are, elsewhere give --coordinator HOST:PORT "
            "--num_processes N --process_id I"
        ) from None
    finally:
        patience.cancel()
    # jax takes it for a notice that somebody reads; it shall end this process as it ends any.
    signal.signal(signal.SIGTERM, on_sigterm)
    state = service.global_state
    return _Group(state.client, state.process_id, state.num_processes)


def _watch(group: _Group, ended: threading.Event) -> None:
    """Ends this process when another one has failed, whatever its main thread waits for."""
    while not ended.wait(1.0):
        _end_with_others(group)


def _fail(group: _Group, error: BaseException) -> NoReturn:
    """Tells the other processes that this one has failed, and ends it."""
    # Perhaps it has only because another one has gone.
    _end_with_others(group)
    known = explained(error)
    if known is None:
        traceback.print_exception(error)
        known = f"process {group.process} failed: {type(error).__name__}: {first_line(error)}", 1
    with contextlib.suppress(Exception):
        group.client.key_value_set(f"{FAILED}{group.process}", json.dumps(known))
    _end(group, *known)


def _end_with_others(group: _Group) -> None:
    """Ends this process if another one has failed."""
    with contextlib.suppress(Exception):
        if failed := group.client.key_value_dir_get(FAILED):
            _end(group, *json.loads(failed[0][1]))


def _end(group: _Group, line: str, code: int) -> NoReturn:
    """Prints a line and ends this process, process 0 after the others."""
    if not group.ending.acquire(blocking=False):
        threading.Event().wait()
    print(f"promot: {line}", file=sys.stderr)
    with contextlib.suppress(Exception):
        group.client.key_value_set(f"{GONE}{group.process}", "")
        until = time.monotonic() + LEAVE_SECONDS
        while group.process == 0 and time.monotonic() < until:
            if len(group.client.key_value_dir_get(GONE)) == group.count:
                break
            time.sleep(0.1)
    _exit(code)


def _exit(code: int, line: str | None = None) -> NoReturn:
    """Ends the process at once: an orderly end would wait for all the others."""
    if line is not None:
        print(f"promot: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

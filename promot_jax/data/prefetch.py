"""Reading ahead: windows of rows are made by a thread or by processes while steps are computed."""

import functools
import multiprocessing.connection
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

# Windows that wait for whoever reads them, of each worker.
AHEAD = 2


def ahead(make: Callable[[int], Any], first: int, workers: int) -> Iterator[Any]:
    """Yields `make(first)`, `make(first + 1)` …, each begun before it is asked for.

    What is raised in `make` is raised where its result is asked for.

    Args:
      make: called in another thread, or in other processes, which get a copy of it.
      first: its first argument.
      workers: processes; 0 is one thread of this process.
    """
    import grain

    # Of so many elements, grain looks at none before it is asked for.
    numbers = grain.MapDataset.range(first, 2**62)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
    if workers:
        # Grain reads flags there, which a program without absl.app never parses.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # Pickled whole: grain would give every array a piece of shared memory of its own.
        made = numbers.map(functools.partial(_pickled, make)).to_iter_dataset(options)
        made = made.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD)
        )
    else:
        made = numbers.map(make).to_iter_dataset(options)
    found = iter(made)
    try:
        for element in found:
            yield pickle.loads(element) if workers else element
    except Exception as error:
        # Grain's, about its own frames.
        vars(error).pop("__notes__", None)
        raise
    finally:
        found.close()


def _pickled(make: Callable[[int], Any], number: int) -> bytes:
    _end_with_parent()
    return pickle.dumps(make(number), pickle.HIGHEST_PROTOCOL)


@functools.cache
def _end_with_parent() -> None:
    """Ends this process when the one that reads is gone, however that ended: `kill -9` too."""
    parent = multiprocessing.parent_process()

    def watch():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

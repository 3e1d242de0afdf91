"""Real processes, each of which reads its own rows: the batches of one process, packed ones too."""

import collections
import json

import pytest

from tests.base.processes_test import ends, start

pytestmark = pytest.mark.long

# Writes down the rows that this process read, and those that the devices of all processes hold.
PROGRAM = """
import contextlib, itertools, json, sys
import numpy as np
from promot_jax.base import distributed, partitioning

folder, cases, rows = sys.argv[1], sys.argv[2].split(), 16
given = dict(flag.lstrip("-").split("=") for flag in sys.argv[3:])
number, count = int(given.get("process_id", 0)), int(given.get("num_processes", 1))
group = distributed.joined(False, given["coordinator"], count, number) if count > 1 else None

def line(array):
    return np.asarray(array).tolist()

def batches(mesh, mode):
    kinds = {
        "sorted": batching.SortedBatches(rows, ((27, 4), (29, 4), (32, 4))),
        "tokens": batching.TokenBatches(28 * rows, ((27, 4), (29, 4), (32, 4)), rows),
    }
    kind = kinds.get(mode, batching.FixedBatches(rows, ((33, 4), (34, 4))))
    share = partitioning.share(mesh)
    options = {"seed": 3, "share": share, "vocabulary": mini.vocabulary()}
    def read():
        return batching.train_batches("mini_rte", {"inputs": 48, "targets": 4}, kind, **options)
    pack = lambda batch: batch
    if mode == "packed":
        sample = list(itertools.islice(read(), 4))
        pack = packing.Packer(sample, None, 1, 0, partitioning.row_parts(mesh), share)
    for batch in itertools.islice(map(pack, read()), 12):
        placed = partitioning.shard_batch(mesh, batch, share)
        whole = multihost_utils.process_allgather(placed, tiled=True)
        yield {
            "own": {name: line(array) for name, array in batch.items()},
            "whole": {name: line(array) for name, array in whole.items()},
        }

with group or contextlib.nullcontext():
    import jax
    from jax.experimental import multihost_utils
    from promot_jax.data import batching, packing
    from promot_jax.tasks import mini

    written = {}
    for case in cases:
        mode, model_parallel = case.split("-")
        mesh, left = partitioning.make_mesh(int(model_parallel)), []
        found = list(batches(mesh, mode))
        if count > 1:
            distributed.gathered("the last one")
            left = distributed._group.client.key_value_dir_get("promot/given/")
            left += distributed._group.client.key_value_dir_get("promot/done/")
        written[case] = {
            "share": partitioning.share(mesh), "batches": found, "left": len(left)
        }
    with open(f"{folder}/{number}.json", "w") as file:
        json.dump(written, file)
"""

# What so many processes read, which start once for all of it: how, and the `model` axis.
CASES = {
    1: ("plain-1", "sorted-1", "tokens-1"),
    2: ("plain-1", "tokens-1", "plain-4", "packed-1"),
    4: ("plain-1", "sorted-1", "plain-2"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of so many processes writes down of a case, by their number and the case."""
    written = {}
    for count, cases in CASES.items():
        folder = tmp_path_factory.mktemp("shares")
        command = ["-c", PROGRAM, str(folder), " ".join(cases)]
        done = ends(start(count, command, 4 // count), seconds=300)
        assert [code for code, _, _ in done] == [0] * count, [lines[-5:] for _, _, lines in done]
        files = [json.loads((folder / f"{n}.json").read_text()) for n in range(count)]
        written |= {(count, case): [file[case] for file in files] for case in cases}
    return written


@pytest.mark.parametrize(
    ("mode", "count", "model_parallel", "shares"),
    [
        ("plain", 2, 1, [[0, 2], [1, 2]]),
        ("plain", 4, 1, [[0, 4], [1, 4], [2, 4], [3, 4]]),
        ("sorted", 4, 1, [[0, 4], [1, 4], [2, 4], [3, 4]]),
        ("tokens", 2, 1, [[0, 2], [1, 2]]),
        # Of each row, two processes have a half of the model.
        ("plain", 4, 2, [[0, 2], [0, 2], [1, 2], [1, 2]]),
        ("plain", 2, 4, [[0, 1], [0, 1]]),
    ],
)
def test_processes_read_disjoint_rows_of_the_batch_of_one(
    found, mode, count, model_parallel, shares
):
    together, (alone,) = found[count, f"{mode}-{model_parallel}"], found[1, f"{mode}-1"]
    assert [one["share"] for one in together] == shares
    first = {tuple(share): number for number, share in enumerate(shares)}
    widths = set()
    for number, expected in enumerate(alone["batches"]):
        parts = [together[first[part]]["batches"][number]["own"] for part in sorted(first)]
        for name, rows in expected["whole"].items():
            assert [row for part in parts for row in part[name]] == rows
        for one in together:
            assert one["batches"][number]["whole"] == expected["whole"]
        widths.add(len(expected["whole"]["encoder_input_tokens"][0]))
    # Each process had to hear how long the rows of the others are.
    assert len(widths) > 1
    # Values of the last call alone, whatever the number of steps.
    assert max(one["left"] for one in together) <= 2


def targets(batch):
    """The targets of a batch, packed or not, each with the token before it."""
    found = collections.Counter()
    for tokens, weights in zip(
        batch["decoder_target_tokens"], batch["decoder_loss_weights"], strict=True
    ):
        found.update(token for token, weight in zip(tokens, weights, strict=True) if weight)
    return found


def test_processes_pack_the_rows_that_they_have(found):
    (alone,), (one, other) = found[1, "plain-1"], found[2, "packed-1"]
    packed = 0
    for number, expected in enumerate(alone["batches"]):
        batch = one["batches"][number]["whole"]
        assert batch == other["batches"][number]["whole"]
        packed += "decoder_tokens" in batch
        assert targets(batch) == targets(expected["whole"])
    assert packed > 6

"""The benchmarks compare the same work and refuse to compare another; no timing is asserted."""

import dataclasses
import importlib
import json
import sys
import time

import jax
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import decoding, ours, train_step, workers
from benchmarks.shapes import SHAPES, UNEVEN
from promot_jax.base import partitioning
from promot_jax.models import architectures

pytestmark = pytest.mark.long

pytest.importorskip("torch")
pytest.importorskip("peft")


class Here:
    """A contender in this process: importing jax and torch anew would take most of the time."""

    def __init__(self, target, arguments):
        self.built = {"seconds": 0.0}
        module, name = target.split(":")
        # What JSON makes of the arguments.
        arguments = json.loads(json.dumps(arguments))
        self._subject = getattr(importlib.import_module(module), name)(**arguments)

    def run(self, count):
        started = time.perf_counter()
        facts = self._subject.run(count)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "cpu_seconds": seconds, "facts": facts}

    def about(self):
        return {"peak_mb": 1, **self._subject.about()}

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch):
    """Contenders in this process, whose programs compile fast and run slowly."""
    monkeypatch.setattr(workers, "Worker", Here)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run(monkeypatch, file, *flags):
    """Runs the command; returns what it wrote."""
    once = ["--rounds", "1", "--times", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *flags, *once])
    benchmarks.main()
    return json.loads(file.read_text())


@pytest.mark.parametrize("shape", ["tiny", pytest.param("tiny_llama", marks=pytest.mark.slow)])
def test_contenders_do_the_same_work(shape, here, monkeypatch, tmp_path, capsys):
    kinds = ("train" if shape == "tiny" else "uneven", "decode")
    content = run(
        monkeypatch, tmp_path / "figures.json", "--only", ",".join(kinds), "--shape", shape
    )
    assert {"date", "command", "processor", "cores", "load", "versions", "device"} <= set(content)
    assert content["versions"].keys() >= {"jax", "torch", "transformers", "peft"}
    printed = capsys.readouterr().out
    for result in content["results"]:
        assert result["name"] in printed
        mine, *others = result["contenders"].values()
        assert set(mine["seconds"]) == {"median", "min", "max"}
        assert {"cpu_seconds", "first_seconds", "peak_mb", "facts"} <= set(mine)
        for theirs, ratio in zip(others, result["ratio"].values(), strict=True):
            assert ratio["median"] == theirs["seconds"]["median"] / mine["seconds"]["median"]
    found = [(result["kind"], result["name"]) for result in content["results"]]
    assert found[-1] == ("decode", "6 tokens, beam 4")
    assert content["results"][-1]["equal_rows"] == 1.0
    stages = content["results"][:-1]
    assert [len(result["contenders"]) for result in stages] == (
        [2, 2, 2] if "train" in kinds else [3, 4]
    )
    for result in stages:
        assert result["loss_difference"] < 1e-4
        for row in result["contenders"].values():
            # The steps train: at the second sight of the first batch, its loss is lower.
            assert row["facts"]["then"]["losses"][-1] < row["facts"]["first"]["losses"][0]


def test_uneven_rows_are_packed_where_the_table_says_so(monkeypatch):
    taken = []
    monkeypatch.setattr(ours.partitioning, "shard_batch", lambda mesh, batch: taken.append(batch))
    monkeypatch.setattr(ours, "make_train_step", lambda *_: lambda *_: (None, {"loss": 0.0}))
    shape = SHAPES["tiny_llama"]
    model = architectures.build(shape.family, ours._tuples(shape.config), None)
    params = jax.jit(model.init)(jax.random.key(0))
    monkeypatch.setattr(ours, "_open", lambda *_: (model, params, partitioning.make_mesh()))
    for rows in ("packed", "padded"):
        given = dataclasses.asdict(shape)
        ours.train_step(given, "", "float32", "fine_tuning", rows).run(UNEVEN + 1)
    packed, padded = taken[: UNEVEN + 1], taken[UNEVEN + 1 :]
    assert all("decoder_prompts" in batch for batch in packed)
    targets = [[b["decoder_loss_weights"].sum() for b in side] for side in (packed, padded)]
    assert targets[0] == targets[1]
    assert targets[0][0] == targets[0][-1]


class Liar(Here):
    """Contenders of which the peers find something else."""

    def __init__(self, target, arguments):
        self.built = {"seconds": 0.0}
        self._theirs = "peers" in target

    def run(self, count):
        facts = {"losses": [1.5 if self._theirs else 1.0], "tokens": [[int(self._theirs)]]}
        return {"seconds": 1.0, "cpu_seconds": 1.0, "facts": facts}

    def about(self):
        return {"peak_mb": 1}


@pytest.mark.parametrize(("kind", "more"), [(train_step, []), (decoding, [4])])
def test_other_work_is_not_compared(kind, more, monkeypatch):
    monkeypatch.setattr(workers, "Worker", Liar)
    with pytest.raises(RuntimeError, match=r"different losses|0% of the rows"):
        list(kind.measure(SHAPES["tiny"], "", "float32", 1, 1, *more))


def test_contenders_run_in_processes_of_their_own():
    target = "tests.counted:counted"
    result = workers.compare({"a": (target, {"start": 0}), "b": (target, {"start": 10})}, 3, 2)
    # Once, then twice as a warm-up, then three rounds of two.
    facts = {label: row["facts"] for label, row in result["contenders"].items()}
    assert facts["a"] == {"first": {"count": 1}, "then": {"count": 3}, "end": 9}
    assert facts["b"]["end"] == 19
    assert list(result["ratio"]) == ["b"]
    assert result["contenders"]["a"]["peak_mb"] > 1
    worker = workers.Worker(target, {"start": 0})
    with pytest.raises(RuntimeError, match="10 is too many"):
        worker.run(10)
    worker.close()


@pytest.mark.parametrize("flags", [["--shape", "huge"], ["--only", "train,fly"]])
def test_unknown_names_are_one_line(flags, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "figures.json", *flags)
    assert "is none of" in capsys.readouterr().err.splitlines()[-1]

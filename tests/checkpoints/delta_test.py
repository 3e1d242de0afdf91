"""Deltas: what training changed, as a folder that is added to the same start."""

import json
import re
import shutil

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import promot_jax
from promot_jax import checkpoints, cli
from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import delta
from promot_jax.training import afterwards
from tests import tiny

FLOATS = st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False)
LEAVES = hnp.arrays(np.float32, (3, 5), elements=FLOATS)


@given(LEAVES, LEAVES, hnp.arrays(bool, (3, 5)))
def test_one_delta_gives_every_bit_of_the_end(start, other, moved):
    end = np.where(moved, other, start)
    change = delta.between(start, end)
    if change is None:
        assert (start == end).all()
        return
    assert len(change.places) == (start != end).sum()
    found = start.astype(np.float64).reshape(-1)
    found[change.places] += change.values
    found = found.reshape(3, 5)
    # But where an entry becomes 2^29 times smaller than it was.
    same = found.astype(np.float32) == end
    assert (same | (np.abs(found - end) <= 2.0**-52 * np.abs(start))).all()
    assert same[np.abs(end) >= 2.0**-29 * np.abs(start)].all()


def written(folder, start, end):
    names = start.keys() & end.keys()
    found = {name: delta.between(start[name], end[name]) for name in sorted(names)}
    delta.save(folder, {name: change for name, change in found.items() if change}, {"run": "r"})
    return str(folder)


@pytest.fixture
def base():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(4, 6)).astype(np.float32) for name in ("a/kernel", "b/kernel")}


def test_deltas_add_up_in_any_order(base, tmp_path):
    ends = []
    for number in range(2):
        end = {name: leaf.copy() for name, leaf in base.items()}
        end["a/kernel"][number : number + 2] += 0.3 * (number + 1)
        ends.append(end)
    ends[1]["b/kernel"][0, 0] = 7.0
    paths = [written(tmp_path / str(number), base, end) for number, end in enumerate(ends)]
    found = [dict(delta.added(base, order)) for order in (paths, paths[::-1])]
    for name, leaf in base.items():
        exact = leaf.astype(np.float64) + sum(end[name].astype(np.float64) - leaf for end in ends)
        for one in found:
            np.testing.assert_allclose(one[name], exact, rtol=1e-7)
    assert (found[0]["a/kernel"] == found[1]["a/kernel"]).all()
    # The base itself is left alone.
    assert base["b/kernel"][0, 0] != 7.0


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("density", [0.03, 0.2, 0.9, 1.0])
def test_ties_of_deltas_is_that_of_whole_models_and_peft_s(count, density):
    rng = np.random.default_rng(count)
    start = rng.normal(size=(30, 20)).astype(np.float32)
    # The second changes few entries, the third is unchanged.
    moved = [rng.random(start.shape) < share for share in (0.9, 0.1, 0.0, 1.0)][:count]
    ends = [np.where(m, start + rng.normal(size=start.shape), start) for m in moved]
    ends = [end.astype(np.float32) for end in ends]
    changes = [change for end in ends if (change := delta.between(start, end))]
    found = delta.merged(changes, start.size, count, f"ties:{density}").reshape(start.shape)
    begun, *ended = ({"k": jnp.asarray(leaf)} for leaf in (start, *ends))
    whole = afterwards.ties(begun, ended, density, 1.0)["k"]
    np.testing.assert_allclose(start + found, whole, atol=1e-6)
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("peft.utils.merge_utils").ties(
        [torch.from_numpy(end - start) for end in ends], torch.ones(count), density
    )
    np.testing.assert_allclose(found, theirs, atol=1e-6)


def test_deltas_are_merged_by_their_sum_their_mean_or_ties(base, tmp_path):
    ends = [{name: leaf + change for name, leaf in base.items()} for change in (1.0, -3.0)]
    ends[1]["b/kernel"] = base["b/kernel"]
    paths = [written(tmp_path / str(n), base, end) for n, end in enumerate(ends)]
    assert (dict(delta.added(base, paths[:1] * 2))["b/kernel"] == base["b/kernel"] + 2).all()
    for by, (a, b) in {"sum": (-2, 1), "mean": (-1, 0.5), "ties:1": (-3, 1)}.items():
        found = dict(delta.added(base, paths, by))
        np.testing.assert_allclose(found["a/kernel"], base["a/kernel"] + a, atol=1e-6)
        np.testing.assert_allclose(found["b/kernel"], base["b/kernel"] + b, atol=1e-6)


@pytest.mark.parametrize("by", ["dare", "mean:0.5", "ties:", "ties:0", "ties:1.5", "ties:nan", ""])
def test_another_way_to_merge_deltas_is_one_line(base, tmp_path, by):
    path = written(tmp_path / "d", base, {name: leaf + 1 for name, leaf in base.items()})
    with pytest.raises(UserError, match="is no way to merge deltas; give sum, mean, ties"):
        list(delta.added(base, [path], by))


@pytest.mark.parametrize(
    ("adapters", "by", "line"),
    [
        ([], "ties", "--merge_deltas ties goes with 1 --adapter DELTA or more; leave it out"),
        (["d"], "mean", "--merge_deltas mean goes with 2 --adapter DELTA or more; leave it out"),
        (["d", "d"], "soup", "'soup' is no way to merge deltas; give sum, mean, ties"),
    ],
)
def test_a_merge_of_nothing_is_one_line(base, tmp_path, capsys, adapters, by, line):
    path = written(tmp_path / "d", base, {name: leaf + 1 for name, leaf in base.items()})
    given = [part for _ in adapters for part in ("--adapter", path)]
    assert cli.main(["import", "model", str(tmp_path / "out"), *given, "--merge_deltas", by]) == 2
    assert line in capsys.readouterr().err


def test_a_model_takes_a_delta_with_stacked_layers_too(tmp_path):
    plain = tiny.model(num_encoder_layers=2)
    start = jax.device_get(plain.init(jax.random.key(0)))
    end = jax.tree.map(lambda leaf: leaf + np.float32(0.25) * (leaf > 0), start)
    path = written(tmp_path / "delta", trees.flatten(start), trees.flatten(end))
    found = pretrained.with_deltas(plain, jax.tree.map(jax.numpy.asarray, start), [path])
    assert tiny.leaves_equal(found, end)
    stacked = trees.stack_layers(jax.tree.map(jax.numpy.asarray, start))
    found = pretrained.with_deltas(
        tiny.model(num_encoder_layers=2, scan_layers=True), stacked, [path]
    )
    assert tiny.leaves_equal(trees.unstack_layers(found), end)


def broken(name, folder):
    if name == "no arrays":
        (folder / "delta.npz").unlink()
    elif name == "cut":
        whole = (folder / "delta.npz").read_bytes()
        (folder / "delta.npz").write_bytes(whole[: len(whole) // 2])
    elif name == "no json":
        (folder / "delta.json").write_text("{")
    else:
        about = json.loads((folder / "delta.json").read_text())
        if name == "newer":
            about["version"] = 99
        elif name == "leaves":
            about["leaves"] = [1]
        elif name == "outside":
            about["leaves"]["a/kernel"]["shape"] = [1, 1]
        (folder / "delta.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no arrays", "is damaged"),
        ("cut", "is damaged"),
        ("no json", "is not JSON"),
        ("newer", "has version 99 of deltas, this program reads 1; install a newer"),
        ("leaves", "is damaged"),
        ("outside", "a/kernel is changed where it has nothing"),
    ],
)
def test_a_damaged_delta_is_one_line(base, tmp_path, name, line):
    end = {leaf: array + np.float32(1) for leaf, array in base.items()}
    path = written(tmp_path / "delta", base, end)
    broken(name, tmp_path / "delta")
    with pytest.raises(UserError, match=line):
        list(delta.added(base, [path]))


def test_a_delta_of_another_model_is_refused(base, tmp_path):
    end = {leaf: array + np.float32(1) for leaf, array in base.items()}
    path = written(tmp_path / "delta", base, end)
    with pytest.raises(UserError, match="this one has no b/kernel"):
        list(delta.added({"a/kernel": base["a/kernel"]}, [path]))
    with pytest.raises(UserError, match=r"its a/kernel has shape \(4, 6\), the model's \(6, 4\)"):
        list(delta.added({name: leaf.T for name, leaf in base.items()}, [path]))
    with pytest.raises(UserError, match="no delta of this model: a/kernel is not what it was"):
        list(delta.added(end, [path]))


FLAGS = [
    *(
        "--seeds=0",
        "--methods=sparse",
        "--curve=none",
        "--gin.TRAIN_STEPS=2",
        "--gin.EVAL_PERIOD=1",
    ),
    *("--gin.BATCH_SIZE=4", "--gin.EVAL_EXAMPLES=2", "--gin.VALIDATION_EXAMPLES=2"),
    *("--gin.TASKS=[]", "--gin.DROPOUT_RATE=0.0", "--gin.SPARSE_SHARE=0.05"),
]


@pytest.mark.long
def test_a_run_is_exported_as_a_delta_and_answers_alike(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "delta"
    assert cli.main(["run", "mini", f"--gin.MODEL_DIR='{run}'", *FLAGS]) == 0
    capsys.readouterr()
    assert cli.main(["export", str(run), str(out), "--format", "delta", "--dry-run"]) == 0
    assert not out.exists()
    said = capsys.readouterr().out
    # At most what was chosen: some entries end where they began.
    share = float(re.search(r"changed entries \((.*)%\)", said)[1])
    assert 4 < share <= 5
    assert cli.main(["export", str(run), str(out), "--format", "delta"]) == 0
    whole, base = tmp_path / "whole", tmp_path / "base"
    assert cli.main(["export", str(run), str(whole)]) == 0
    assert cli.main(["import", checkpoints.bundled(), str(base), "--adapter", f"d={out}"]) == 0
    trained, added = (
        trees.flatten(pretrained.load(source, model, partitioning.make_mesh()))
        for model, source in map(pretrained.open_model, (str(whole), str(base)))
    )
    assert tiny.leaves_equal(trained, added)
    capsys.readouterr()
    assert cli.main(["inspect", str(out)]) == 0
    assert "delta" in capsys.readouterr().out
    given = ["generate", "--checkpoint", checkpoints.bundled(), "--adapter", str(out), "a b"]
    assert cli.main(given) == 0
    answered = capsys.readouterr().out
    assert cli.main(["generate", "--checkpoint", str(whole), "a b"]) == 0
    assert capsys.readouterr().out == answered
    model = promot_jax.load(checkpoints.bundled()).attach(out)
    assert tiny.leaves_equal(trees.flatten(model.params), trained)
    assert cli.main([*given, "--adapter", str(out), "--merge_deltas", "mean"]) == 0
    assert capsys.readouterr().out == answered
    assert cli.main(["generate", str(run), "a b", "--merge_deltas", "mean"]) == 2
    assert "--merge_deltas goes with --checkpoint" in capsys.readouterr().err
    shutil.rmtree(out)
    assert cli.main(["export", str(base), str(out), "--format", "delta"]) == 2
    assert "--format delta goes with a run" in capsys.readouterr().err

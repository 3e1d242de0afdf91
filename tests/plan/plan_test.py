"""`promot plan`: slices, meshes, estimates, its command line; `plan_counts_test` has the counts."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from promot_jax import cli, configuration
from promot_jax.base import partitioning
from promot_jax.base.errors import UserError
from promot_jax.data.token_weights import ByPattern
from promot_jax.models.attached import Attached
from promot_jax.plan import flops, measure, programs, roofline, search, tables, topology
from promot_jax.plan.chips import CHIPS, GIB
from promot_jax.plan.costs import Costs
from promot_jax.plan.measure import Measured, Memory
from promot_jax.plan.programs import Held, Program
from promot_jax.training import objectives
from promot_jax.training.replay import Replay
from promot_jax.training.stages import Method
from tests import tiny

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "chip", "shape"),
    [
        ("v4-8", "v4", (2, 2, 1)),
        ("v4-128", "v4", (4, 4, 4)),
        ("v4-512", "v4", (4, 8, 8)),
        ("v4:4x4x8", "v4", (4, 4, 8)),
        ("v5p-128", "v5p", (4, 4, 4)),
        ("v5e-1", "v5e", (1, 1)),
        ("v5litepod-16", "v5e", (4, 4)),
        ("v6e-256", "v6e", (16, 16)),
        ("v6e:2x2", "v6e", (2, 2)),
        ("cpu:8", "cpu", (8,)),
    ],
)
def test_topologies(name, chip, shape):
    found = topology.parse(name)
    assert (found.chip.name, found.shape, found.size) == (chip, shape, math.prod(shape))


def test_every_usual_slice_has_its_number_of_chips():
    for shapes in topology.SHAPES.values():
        assert shapes
        assert all(math.prod(shape) == chips for chips, shape in shapes.items())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v7-8", "unknown; give one such as v4-128"),
        ("v4", "unknown"),
        ("cpu", "unknown"),
        ("cpu:0", "unknown"),
        ("v4-4", "no usual size; there are v4-8, v4-16"),
        ("v4-9", "no usual size"),
        ("v5e-3", "no usual size; there are v5e-1, v5e-4"),
        ("v5e-4x4", "no usual size"),
        ("v5e:4x4x4", "a slice of v5e has 2 dimensions, such as v5e:4x4"),
    ],
)
def test_topologies_that_there_are_not(name, words):
    with pytest.raises(UserError, match=re.escape(words)):
        topology.parse(name)


def test_without_tpus_compiler(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["plan", "--experiment", "mini", "--topology", "v4-128"]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("--topology v4-128 needs TPU's compiler: pip install 'promot_jax[tpu]'")


def measured(needed=10 * GIB, held=2 * GIB, costs=None, rows=64, microbatches=1, **mesh):
    """A measurement on v4, made up."""
    program = Program("model", ("promot",), rows, 512, 16, microbatches, lambda mesh: None)
    sizes = {"data": 4, "fsdp": 4, "model": 4} | mesh
    memory = Memory(held, held, held, 2 * needed, 0.0, needed) if costs else None
    return Measured(program, sizes, Held(held, 0, 0), 1e12, needed, 1.0, 2.0, memory, costs)


def test_roofline():
    work = Costs(flops=55e12, bytes=1228e8, collectives={"all-gather": (1, 75e9)})
    found = roofline.of(measured(costs=work), CHIPS["v4"])
    assert (found.compute, found.memory, found.links) == pytest.approx((0.2, 0.1, 0.25))
    assert (found.seconds, found.bound) == (0.25, "links")
    assert roofline.of(measured(), CHIPS["v4"]) is None
    assert roofline.of(measured(costs=work), CHIPS["cpu"]) is None


def test_memory():
    told = Memory(arguments=10, results=9, aliased=8, laid_out=7, code=1, peak=15)
    assert (told.needed, told.temporaries) == (15, 4)
    silent = dataclasses.replace(told, peak=None)
    assert (silent.needed, silent.temporaries) == (18, 7)


def test_advice():
    work = Costs(flops=1.0)
    v4 = CHIPS["v4"]
    assert search.advice(measured(costs=work), v4) is None
    # 2 GiB stay, 38 are of 4 rows: those of 2 rows fit.
    assert search.advice(measured(needed=40 * GIB), v4) == "--microbatches 2"
    # Rows are as few as can be.
    assert search.advice(measured(needed=40 * GIB, rows=16), v4) == "--mesh fsdp=2,model=8"
    # 24 GiB of parameters: two more halvings at least.
    found = search.advice(measured(needed=60 * GIB, held=24 * GIB), v4)
    assert found == "--mesh fsdp=8,model=4"
    alone = measured(needed=80 * GIB, rows=1, data=1, fsdp=1, model=16)
    assert search.advice(alone, v4) == "more chips or shorter rows"
    assert search.advice(measured(needed=1e15, costs=work), CHIPS["cpu"]) is None


def test_meshes_to_try():
    found = list(search.meshes(8, {}, rows=4))
    # data x fsdp divides the 4 rows, so model is at least 2.
    assert found == [
        {"data": 1, "fsdp": 4, "model": 2},
        {"data": 4, "fsdp": 1, "model": 2},
        {"data": 1, "fsdp": 2, "model": 4},
        {"data": 2, "fsdp": 1, "model": 4},
        {"data": 1, "fsdp": 1, "model": 8},
    ]
    assert list(search.meshes(8, {"fsdp": 2}, rows=4)) == [found[2]]


def test_a_search_takes_more_microbatches_where_it_must():
    asked = []

    def make(parts):
        program = measured(rows=8).program
        return dataclasses.replace(program, microbatches=parts)

    def compile_(program, mesh):
        asked.append((dict(mesh.shape), program.microbatches))
        needed = (2 + 60 / program.microbatches) * GIB
        work = Costs(flops=1e12) if needed < 30 * GIB else None
        return measured(needed, costs=work, rows=8, microbatches=program.microbatches, **mesh.shape)

    devices = np.array(jax.devices()[:1])
    found = list(search.search(make, devices, {}, CHIPS["v4"], compile_))
    one = {"data": 1, "fsdp": 1, "model": 1}
    assert asked == [(one, 1), (one, 4)]
    table = tables.table(found, CHIPS["v4"])
    assert len(table) == 3
    assert re.match(r"data=1,fsdp=1,model=1 +4 +17.00 GiB +yes", table[1])
    assert re.match(r"data=1,fsdp=1,model=1 +1 +62.00 GiB +no", table[2])
    with pytest.raises(UserError, match="no mesh with these axes divides 1 devices"):
        next(search.search(make, devices, {"model": 2}, CHIPS["v4"], compile_))


def test_best_first():
    slow, fast, small = (Costs(flops=flop) for flop in (2e12, 1e12, 2e12))
    fits, large = measured(costs=slow), measured(needed=40 * GIB, costs=fast)
    refused, smaller = measured(needed=90 * GIB), measured(needed=5 * GIB, costs=small)
    best = search.best_first([refused, large, fits, smaller], CHIPS["v4"])
    assert best == [smaller, fits, large, refused]


@pytest.mark.parametrize("text", ["data", "data=x", "rows=4", "data=0", "data=1,data=1"])
def test_axes_that_are_none(text):
    with pytest.raises(UserError, match="expected sizes of axes, such as data=4"):
        search.axes_of(text)


def test_a_refusal_names_what_was_needed():
    words = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (16.85G) exceeds available HBM (15.75G)."
    )
    assert measure._needed(words) == pytest.approx(16.85 * GIB)
    assert measure._needed("RESOURCE_EXHAUSTED: no more") == float("inf")
    refused = dataclasses.replace(measured(needed=math.inf), refusal="no more")
    text = "\n".join(tables.lines(refused, CHIPS["v4"]))
    assert "unknown of the 30.75 GiB that a program may take: DOES NOT FIT" in text
    assert json.loads(json.dumps(tables.plain(refused, CHIPS["v4"])))["needed"] is None


@pytest.mark.parametrize("name", ["paper/mt5_small/rte", "paper/palm_8b/enfr"])
def test_programs_of_the_paper_need_no_file(name):
    sizes = ["NUM_LAYERS=2", "EMB_DIM=64", "NUM_HEADS=2", "MLP_DIM=64", "VOCAB_SIZE=4096"]
    absent = ["INITIAL_CHECKPOINT_PATH='/none'", "VOCABULARY='/none'"]
    configuration.parse(
        [configuration.experiment_file(name)],
        [f"--gin.{binding}" for binding in (*sizes, *absent, "EVAL_BATCH_SIZE=2", "BATCH_SIZE=2")],
    )
    experiment, _, _ = configuration.built()
    stages = programs.training(experiment, experiment.selected)
    # The random prompt's stage is that of ProMoT's second one.
    shared = next(p for p in stages if p.name == "prompt-model")
    assert shared.users == ("promot", "random_prompt")
    assert len(stages) == 11
    chosen = programs.training(experiment, experiment.selected, "prompt-model", every_bucket=True)
    assert [p.inputs for p in chosen] == [128, 256, 512]
    assert [p.name for p in programs.training(experiment, experiment.selected, "model")] == [
        "model"
    ]
    mesh = partitioning.make_mesh()
    for program in (chosen[0], *programs.decoding(experiment, experiment.selected)):
        traced, held = program.trace(mesh)
        assert flops.of_jaxpr(traced.jaxpr.jaxpr) > 1e6
        assert held.total > 4096 * 64 * 4
    assert [p.inputs for p in programs.decoding(experiment, experiment.selected)] == [512, 2048]


def test_a_reference_is_held_and_computed():
    stages = [tiny.stage(objective=chosen) for chosen in ((), (objectives.KL(),))]
    found = []
    for stage in stages:
        method = Method("own", "Own", [stage])
        experiment = tiny.tiny_experiment(methods=[method])
        (program,) = programs.training(experiment, [method])
        traced, held = program.trace(partitioning.make_mesh())
        found.append((held, flops.of_jaxpr(traced.jaxpr.jaxpr)))
    (plain, work), (compared, more) = found
    assert (plain.frozen, compared.frozen) == (0, plain.trainable)
    assert compared.slots == plain.slots
    # A forward pass beside three.
    assert 1.25 < more / work < 1.45


def test_replayed_rows_may_be_the_longest():
    replay = Replay("mini_triviaqa", 0.25, {"inputs": 99, "targets": 2})
    method = Method("own", "Own", [tiny.stage(replay=replay)])
    (program,) = programs.training(tiny.tiny_experiment(methods=[method]), [method])
    assert (program.inputs, program.targets) == (99, tiny.LENGTHS["targets"])


def test_what_objectives_read_and_draw_is_counted():
    own_rows = objectives.KL(rows="mini_triviaqa", size=8)
    settings = [
        {},
        {"objective": (own_rows, objectives.RowWeights(ByPattern("True")))},
        {"objective": (objectives.OnPolicy(),), "teacher": Attached("rte"), "prompt_length": 3},
    ]
    work = []
    for changes in settings:
        method = Method("own", "Own", [tiny.stage(**changes)])
        experiment = tiny.tiny_experiment(methods=[method])
        (program,) = programs.training(experiment, [method])
        work.append(flops.of_jaxpr(program.trace(partitioning.make_mesh())[0].jaxpr.jaxpr))
    # As many rows beside the others, in four passes; the teacher, and answers that are drawn.
    plain, beside, drawn = work
    assert 2.1 < beside / plain < 2.7
    assert 1.4 < drawn / plain < 2.2


SHRINK = [
    f"--gin.t5.T5Config.{binding}"
    for binding in ("emb_dim=16", "mlp_dim=32", "num_encoder_layers=1", "num_decoder_layers=1")
]


def promot(*arguments, **environment):
    """Runs a command in a process of its own, which may choose its devices."""
    own = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | environment
    return subprocess.run(
        [sys.executable, "-m", "promot_jax.cli", "plan", *arguments],
        capture_output=True,
        text=True,
        env=own,
        timeout=300,
    )


def test_the_miniature_on_eight_host_devices(tmp_path):
    file = tmp_path / "plan.json"
    done = promot(
        *("--experiment", "mini", "--topology", "cpu:8", "--stage", "prompt"),
        *("--mesh", "fsdp=2,model=2", "--microbatches", "2", "--json", str(file), *SHRINK),
    )
    assert done.returncode == 0, done.stderr
    assert "mini on cpu:8 (8 x cpu)" in done.stdout
    assert "prompt (prompt_tuning, promot): 32 rows of 64 + 4 tokens in 2 microb" in done.stdout
    found = json.loads(file.read_text())
    (program,) = found["programs"]
    assert program["mesh"] == {"data": 2, "fsdp": 2, "model": 2}
    # A prompt of 16 rows, replicated; Adafactor's slots for it are as large, unfactored.
    assert program["held"]["trainable"] == 16 * 16 * 4
    assert program["held"]["slots"] >= 16 * 16 * 4
    assert program["held"]["frozen"] > 1280 * 16 * 4 / 4
    assert program["costs"]["flops"] >= program["asked_flops"] * 0.9 > 0
    assert program["costs"]["collectives"]
    assert program["fits"]
    assert program["needed"] > program["memory"]["arguments"] > program["held"]["frozen"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "none"], "--stage 'none' is no stage of these methods; they have model, pro"),
        (["--mesh", "model=3"], "model_parallel = 3 and fsdp = 1 do not divide the 1 devices"),
        (["--mesh", "data=2,fsdp=1"], "data=2, fsdp=1 and model=1 do not multiply"),
        (["--mesh", "rows=3"], "--mesh 'rows=3': expected sizes of axes"),
        (["--methods", "promott"], "no method 'promott' in this run"),
        (
            ["--microbatches", "3", "--stage", "prompt"],
            "32 rows, which microbatches = 3 does not divide",
        ),
        (["--search"], "--search takes one stage; choose it by --stage from model, prompt, pro"),
        (["--search", "--decode"], "--decode is not for --search; leave it out"),
        (["--json", "/none/x.json"], "--json /none/x.json: there is no folder /none"),
        (["--gin.TRAIN_STEP=3"], "nothing in this experiment uses TRAIN_STEP"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    assert cli.main(["plan", "--experiment", "mini", "--topology", "cpu:1", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if not line.startswith("compiling")]) == 1, lines
    assert words in lines[-1]


@pytest.mark.slow
def test_a_slice_of_v5e(tmp_path):
    pytest.importorskip("libtpu", reason="needs TPU's compiler: pip install 'promot_jax[tpu]'")
    file = tmp_path / "plan.json"
    done = promot(
        *("--experiment", "paper/mt5_small/rte", "--topology", "v5e-4", "--stage", "prompt-model"),
        *("--mesh", "fsdp=2,model=2", "--json", str(file), "--gin.SCAN_LAYERS=True"),
        *("--gin.NUM_LAYERS=3", "--gin.BATCH_SIZE=4"),
        XLA_FLAGS="",
    )
    assert done.returncode == 0, done.stderr
    assert "15.75 GiB that a program may take: fits" in done.stdout
    assert "bound by" in done.stdout
    (program,) = json.loads(file.read_text())["programs"]
    # The scan's number of rounds is read from its condition.
    assert program["costs"]["unknown_loops"] == 0
    assert program["costs"]["flops"] > 1.2 * program["xla"]["flops"]
    assert 0.8 < program["costs"]["flops"] / program["asked_flops"] < 2
    assert {"all-gather", "all-reduce"} <= set(program["costs"]["collectives"])
    # A quarter of the parameters, and Adafactor's factors of them.
    assert program["held"]["trainable"] > 50 * program["held"]["slots"] > 0


@pytest.mark.slow
def test_a_slice_that_is_too_small():
    pytest.importorskip("libtpu", reason="needs TPU's compiler: pip install 'promot_jax[tpu]'")
    done = promot(
        *("--experiment", "paper/mt5_xxl/rte", "--topology", "v5e-1", "--stage", "prompt"),
        *("--mesh", "model=1", "--gin.NUM_LAYERS=8"),
        XLA_FLAGS="",
    )
    assert done.returncode == 0, done.stderr
    assert "DOES NOT FIT" in done.stdout
    assert "not asked: parameters and slots alone are more than a device holds" in done.stdout

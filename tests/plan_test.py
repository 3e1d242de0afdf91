"""`promot plan`: what it reads in a compiled program, counts, estimates and says."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax import cli, configuration, partitioning
from promot_jax.errors import UserError
from promot_jax.plan import (
    costs,
    flops,
    hlo,
    measure,
    programs,
    roofline,
    search,
    tables,
    topology,
)
from promot_jax.plan.chips import CHIPS, GIB
from promot_jax.plan.costs import Costs
from promot_jax.plan.measure import Measured, Memory
from promot_jax.plan.programs import Held, Program

# A step of 8 devices in 2 groups of 4, as XLA writes it, with a scan over 24 layers in it.
STEP = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[64,32]{1,0})->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.3 (p.1: bf16[64,32]) -> bf16[16,32] {
  %p.1 = bf16[64,32]{1,0} parameter(0)
  %whole = bf16[64,32]{1,0} all-reduce(%p.1), channel_id=9, BY_IOTA, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %mine = bf16[16,32]{1,0} dynamic-slice(%whole, %zero, %zero), dynamic_slice_sizes={16,32}
}

%turn (t: f32[64,32]) -> f32[64,32] {
  %t = f32[64,32]{1,0} parameter(0)
  ROOT %all = f32[64,32]{1,0} all-to-all(%t), channel_id=5, BY_IOTA, dimensions={0}
}

%body (state: STATE) -> STATE {
  %state = (s32[]{:T(128)}, f32[64,32]{1,0}, /*index=2*/f32[24,32,32]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%state), index=0
  %h = f32[64,32]{1,0} get-tuple-element(%state), index=1
  %kernels = f32[24,32,32]{2,1,0} get-tuple-element(%state), index=2
  %kernel = f32[1,32,32]{2,1,0} dynamic-slice(%kernels, %n), dynamic_slice_sizes={1,32,32}
  %flat = f32[32,32]{1,0} bitcast(%kernel)
  %product = f32[64,32]{1,0} dot(%h, %flat), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %reduced = f32[64,32]{1,0} all-reduce(%product), channel_id=1, BY_LIST, to_apply=%add
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  ROOT %out = STATE tuple(%next, %reduced, %kernels)
}

%condition (state.1: STATE) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %state.1 = STATE parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt = pred[] compare(%n.1, %limit), direction=LT
}

ENTRY %main (a: f32[64,32], k: f32[24,32,32], g: bf16[64,32]) -> f32[64,32] {
  %a = f32[64,32]{1,0:T(8,128)} parameter(0), sharding={devices=[8,1]<=[8]}
  %k = f32[24,32,32]{2,1,0} parameter(1)
  %g = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(2)
  %zero.1 = s32[] constant(0)
  %start = STATE tuple(%zero.1, %a, %k)
  %layers = STATE while(%start), condition=%condition, body=%body
  %h.1 = f32[64,32]{1,0} get-tuple-element(%layers), index=1
  %gather = (f32[64,32], f32[256,32]) all-gather-start(%h.1), channel_id=2, BY_IOTA
  %gathered = f32[256,32]{1,0} all-gather-done(%gather)
  %eight = f32[8]{0} constant({...})
  %both = (f32[64,32], f32[8]) all-reduce(%h.1, %eight), channel_id=3, BY_AXES, to_apply=%add
  %part = f32[16,32]{1,0} reduce-scatter(%h.1), channel_id=4, BY_LIST, to_apply=%add
  %turning = ((f32[64,32]{1,0}), f32[64,32]{1,0}) async-start(%h.1), calls=%turn
  %turned = f32[64,32]{1,0} async-done(%turning)
  %moved = (f32[64,32], f32[64,32]) collective-permute-start(%turned), channel_id=6
  %arrived = f32[64,32]{1,0} collective-permute-done(%moved)
  %scattered = bf16[16,32]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %end = f32[64,32]{1,0} add(%arrived, %h.1)
}
"""
for short, long in {
    "STATE": "(s32[], f32[64,32]{1,0}, /*index=2*/f32[24,32,32]{2,1,0:T(8,128)})",
    "BY_IOTA": "replica_groups=[2,4]<=[8]",
    "BY_LIST": "replica_groups={{0,1,2,3},{4,5,6,7}}",
    "BY_AXES": "replica_groups=mesh['data'=2,'fsdp'=1,'model'=4] {'fsdp','model'}",
}.items():
    STEP = STEP.replace(short, long)
ROWS = 64 * 32 * 4  # bytes of a float32 [64, 32]


def test_collectives_of_a_program_with_a_scan():
    found = costs.count(STEP, devices=8).collectives
    assert found == {
        # 24 in the loop; two arrays in one; 2 (n-1)/n of each.
        "all-reduce": (25, 24 * 1.5 * ROWS + 1.5 * (ROWS + 32)),
        # Each device holds a quarter and sends it to 3 others.
        "all-gather": (1, 3 * ROWS),
        # One of its own, one as TPU writes it, in bfloat16.
        "reduce-scatter": (2, 0.75 * ROWS + 0.75 * ROWS / 2),
        "all-to-all": (1, 0.75 * ROWS),
        "collective-permute": (1, ROWS),
    }


def test_work_in_a_scan_counts_as_often_as_it_runs():
    counted = costs.count(STEP, devices=8)
    assert counted.flops == 24 * 2 * 64 * 32 * 32
    assert counted.unknown_loops == 0
    # Of the stacked kernels, a round reads one: its slice is read, written, and read by `dot`.
    kernel = 32 * 32 * 4
    in_loop = 3 * kernel + 2 * ROWS + 2 * ROWS + 3 * 4
    once = costs.count(STEP.replace("constant(24)", "constant(1)"), devices=8)
    assert counted.bytes - once.bytes == 23 * in_loop
    # Gather 5, reductions 2 and 1.25, exchanges 2 and 2, the fusion 0.625, the sum 3.
    assert once.bytes == in_loop + 15.875 * ROWS + 2 * 32


def test_traffic_of_parts_and_of_the_cores_own_memory():
    text = """%read (p: f32[24,32,32], n: s32[]) -> f32[32,32] {
  %p = f32[24,32,32]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %one = f32[1,32,32]{2,1,0} dynamic-slice(%p, %n), dynamic_slice_sizes={1,32,32}
  ROOT %flat = f32[32,32]{1,0:S(1)} bitcast(%one)
}
%write (q: f32[24,32,32], x: f32[32,32]) -> f32[24,32,32] {
  %q = f32[24,32,32]{2,1,0} parameter(0)
  %x = f32[32,32]{1,0:S(1)} parameter(1)
  %row = f32[1,32,32]{2,1,0} bitcast(%x)
  ROOT %changed = f32[24,32,32]{2,1,0} dynamic-update-slice(%q, %row)
}
ENTRY %main (stack: f32[24,32,32]) -> f32[24,32,32] {
  %stack = f32[24,32,32]{2,1,0} parameter(0)
  %k = s32[]{:T(128)S(2)} parameter(1)
  %kernel = f32[32,32]{1,0:T(8,128)S(1)} fusion(%stack, %k), kind=kLoop, calls=%read
  %twice = f32[32,32]{1,0:T(8,128)S(1)} add(%kernel, %kernel)
  ROOT %out = f32[24,32,32]{2,1,0} fusion(%stack, %twice), kind=kLoop, calls=%write
}"""
    # One kernel of the stack is read, one is written; the sum stays in the core.
    assert costs.count(text, 1).bytes == 2 * 32 * 32 * 4
    outside = text.replace("T(8,128)S(1)", "T(8,128)")
    assert costs.count(outside, 1).bytes == (2 + 1 + 3 + 1) * 32 * 32 * 4


def test_a_noted_number_of_rounds_goes_before_the_condition():
    noted = STEP.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"},"x":[]}'
    )
    assert costs.count(noted, devices=8).flops == 7 * 2 * 64 * 32 * 32


def test_a_loop_that_counts_by_more_than_one():
    by_three = STEP.replace("%one = s32[] constant(1)", "%one = s32[] constant(3)")
    assert costs.count(by_three, devices=8).flops == 8 * 2 * 64 * 32 * 32
    by_five = STEP.replace("%one = s32[] constant(1)", "%one = s32[] constant(5)")
    assert costs.count(by_five, devices=8).flops == 5 * 2 * 64 * 32 * 32


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    unknown = costs.count(STEP.replace("direction=LT", "direction=NE"), devices=8)
    assert (unknown.flops, unknown.unknown_loops) == (2 * 64 * 32 * 32, 1)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[4,2]<=[8]", 2),
        ("[1,8]<=[2,2,2]T(2,1,0)", 8),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=16] {'axis_0','axis_1'}", 4),
        ("{}", 64),
    ],
)
def test_sizes_of_groups(groups, size):
    assert costs.group_size(f", channel_id=1, replica_groups={groups}, to_apply=%add", 64) == size


def test_shapes_and_places_of_arrays():
    line = (
        "  ROOT %f.1 = (bf16[4,612]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s4[3]{0}, pred[]) "
        'fusion(%a, %b.2), kind=kLoop, calls=%inner, metadata={op_name="f(x)[0]"}'
    )
    text = f"ENTRY %main (a: f32[]) -> f32[] {{\n{line}\n}}"
    (found,) = hlo.parse(text).computations["main"].values()
    assert (found.opcode, found.operands, found.root) == ("fusion", ("a", "b.2"), True)
    assert found.called("calls") == "inner"
    assert [array.bytes for array in found.arrays] == [4 * 612 * 2, 2, 1]
    assert [array.in_main_memory for array in found.arrays] == [False, True, True]


def test_text_without_a_program():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("nothing")


def convolution(window, labels, left, right, out):
    shapes = [f"f32[{','.join(map(str, dims))}]" for dims in (left, right, out)]
    text = f"""ENTRY %main (a: f32[], b: f32[]) -> f32[] {{
  %a = {shapes[0]} parameter(0)
  %b = {shapes[1]} parameter(1)
  ROOT %c = {shapes[2]} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}"""
    return costs.count(text, 1).flops


def test_products_that_tpu_writes_as_convolutions():
    # [4, 612, 512] @ [512, 384]: its batch is a place of the window of one.
    plain = convolution("size=1", "0bf_io0->0bf", (4, 612, 512), (512, 384, 1), (4, 612, 384))
    assert plain == 2 * 4 * 612 * 512 * 384
    # Scores of 4 x 6 heads, [612, 64] @ [64, 612] each: the spread-out window meets each once.
    heads = convolution(
        "size=4x6 stride=3x5 lhs_dilate=4x6",
        "0b1f_0o1i->01bf",
        (4, 612, 6, 64),
        (4, 612, 6, 64),
        (4, 6, 612, 612),
    )
    assert heads == 2 * 4 * 6 * 612 * 612 * 64


def test_an_image_convolution_with_padding():
    # 3 places see 3 inputs, but for the two at the border, which see 2.
    found = convolution("size=3 pad=1_1", "b0f_0io->b0f", (1, 5, 1), (3, 1, 1), (1, 5, 1))
    assert found == 2 * (3 * 3 + 2 * 2)


a, w = jnp.ones((8, 16)), jnp.ones((16, 16))
PRODUCT = 2 * 8 * 16 * 16


def scanned(a, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), a, None, length=5)[0].sum()


def rematerialised(a, w):
    return jax.checkpoint(lambda x: jnp.tanh(x @ w))(a).sum()


@jax.custom_vjp
def customized(a, w):
    return a @ w


customized.defvjp(lambda a, w: (a @ w, (a, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda a, w: a @ w, 1),
        (scanned, 5),
        (jax.grad(scanned, argnums=(0, 1)), 15),
        (jax.grad(rematerialised, argnums=(0, 1)), 4),
        (customized, 1),
        (jax.grad(lambda a, w: customized(a, w).sum(), argnums=(0, 1)), 3),
        (jax.jit(jax.vmap(lambda row, w: row @ w, in_axes=(0, None))), 1),
        (lambda a, w: jax.lax.cond(a[0, 0] > 0, lambda: a @ w @ w, lambda: a), 2),
        (lambda a, w: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ w, a), 1),
    ],
)
def test_operations_that_a_function_asks_for(function, products):
    assert flops.count(function, a, w) == products * PRODUCT


def test_operations_of_batched_and_general_products():
    left, right = jnp.ones((2, 3, 5, 7)), jnp.ones((7, 3, 11, 2))
    product = flops.count(lambda x, y: jnp.einsum("abcd,dbea->abce", x, y), left, right)
    assert product == 2 * 2 * 3 * 5 * 7 * 11
    image, kernel = jnp.ones((1, 4, 9)), jnp.ones((6, 4, 3))
    convolved = flops.count(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (1,), "VALID"), image, kernel
    )
    assert convolved == 2 * (6 * 7) * (4 * 3)


@pytest.mark.parametrize("function", [scanned, jax.grad(scanned, argnums=(0, 1))])
def test_compiled_work_is_what_was_asked_for(function):
    compiled = jax.jit(function).lower(a, w).compile()
    assert costs.count(compiled.as_text(), 1).flops == flops.count(function, a, w)


def test_without_loops_the_counts_are_xlas():
    def network(x, w):
        for _ in range(4):
            x = jnp.tanh(x @ w)
        return x

    compiled = jax.jit(network).lower(jnp.ones((256, 128)), jnp.ones((128, 128))).compile()
    counted, xla = costs.count(compiled.as_text(), 1), compiled.cost_analysis()
    assert counted.flops == pytest.approx(xla["flops"], rel=0.02)
    assert counted.bytes == pytest.approx(xla["bytes accessed"], rel=0.02)


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


SHRINK = [
    f"--gin.t5.T5Config.{binding}"
    for binding in ("emb_dim=16", "mlp_dim=32", "num_encoder_layers=1", "num_decoder_layers=1")
]


def promot(*arguments, **environment):
    """Runs a command in a process of its own, which may choose its devices."""
    own = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    own |= {"XLA_FLAGS": flags, **environment}
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
    # A prompt of 8 rows, replicated; Adafactor's slots for it are as large, unfactored.
    assert program["held"]["trainable"] == 8 * 16 * 4
    assert program["held"]["slots"] >= 8 * 16 * 4
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
        (["--microbatches", "3", "--stage", "prompt"], "cannot be divided over data x fsdp = 1"),
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

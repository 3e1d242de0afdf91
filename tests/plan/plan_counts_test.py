"""What `promot plan` counts: work of a program as it is written, and as XLA compiled it."""

import jax
import jax.numpy as jnp
import pytest

from promot_jax.plan import costs, flops, hlo

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
    text = """%slice (s: f32[24,32,32], m: s32[]) -> f32[1,32,32] {
  %s = f32[24,32,32]{2,1,0} parameter(0)
  %m = s32[] parameter(1)
  ROOT %one = f32[1,32,32]{2,1,0} dynamic-slice(%s, %m), dynamic_slice_sizes={1,32,32}
}
%read (p: f32[24,32,32], n: s32[]) -> f32[32,32] {
  %p = f32[24,32,32]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %inner = f32[1,32,32]{2,1,0} fusion(%p, %n), kind=kLoop, calls=%slice
  ROOT %flat = f32[32,32]{1,0:S(1)} bitcast(%inner)
}
%write (q: f32[24,32,32], x: f32[32,32]) -> f32[24,32,32] {
  %q = f32[24,32,32]{2,1,0} parameter(0)
  %x = f32[32,32]{1,0:S(1)} parameter(1)
  %row = f32[1,32,32]{2,1,0} bitcast(%x)
  ROOT %changed = f32[24,32,32]{2,1,0} dynamic-update-slice(%q, %row)
}
%outer (o: f32[24,32,32], u: f32[32,32]) -> f32[24,32,32] {
  %o = f32[24,32,32]{2,1,0} parameter(0)
  %u = f32[32,32]{1,0:S(1)} parameter(1)
  ROOT %nested = f32[24,32,32]{2,1,0} fusion(%o, %u), kind=kLoop, calls=%write
}
ENTRY %main (stack: f32[24,32,32]) -> f32[24,32,32] {
  %space = f32[24,32,32]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %stack = f32[24,32,32]{2,1,0} parameter(0)
  %k = s32[]{:T(128)S(2)} parameter(1)
  %kernel = f32[32,32]{1,0:T(8,128)S(1)} fusion(%stack, %k), kind=kLoop, calls=%read
  %twice = f32[32,32]{1,0:T(8,128)S(1)} add(%kernel, %kernel)
  ROOT %out = f32[24,32,32]{2,1,0} fusion(%stack, %twice), kind=kLoop, calls=%outer
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
        (jax.value_and_grad(rematerialised, argnums=(0, 1)), 4),
        # Forward, again, and the gradient of `a`; none of `w`.
        (jax.value_and_grad(rematerialised), 3),
        # Nobody asks for the value.
        (jax.grad(rematerialised), 2),
        (customized, 1),
        (jax.value_and_grad(lambda a, w: customized(a, w).sum(), argnums=(0, 1)), 3),
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

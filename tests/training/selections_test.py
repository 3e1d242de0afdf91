"""What selections choose, and that all else keeps every bit."""

import functools
import math
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies

from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.training import adafactor, optimizers, selections
from promot_jax.training.selections import top_k
from promot_jax.training.stages import Method
from tests import tiny
from tests.quick import quick_jit

pytestmark = pytest.mark.long

LAYER = {f"attention/{name}/kernel": (4, 4) for name in ("key", "out", "query", "value")}
LAYER |= {f"mlp/{name}/kernel": shape for name, shape in (("wi_0", (4, 6)), ("wi_1", (4, 6)))}
LAYER |= {"mlp/wo/kernel": (6, 4)}
LAYER |= {f"pre_{name}_layer_norm/scale": (4,) for name in ("attention", "mlp")}
OUTSIDE = {"encoder/encoder_norm/scale": (4,), "token_embedder/embedding": (9, 4)}


def params(layers=4, dtype=jnp.float32):
    """A small tree of stacked layers; the first of each leaf is a negative zero."""
    rng = np.random.default_rng(0)
    shapes = OUTSIDE | {f"encoder/layers/{path}": (layers, *LAYER[path]) for path in LAYER}
    drawn = {path: rng.normal(size=shape) for path, shape in shapes.items()}
    for leaf in drawn.values():
        leaf.flat[0] = -0.0
    return trees.unflatten({path: jnp.asarray(leaf, dtype) for path, leaf in drawn.items()})


SELECTIONS = {
    "half": selections.Half(seed=3),
    "rotated": selections.Half(rotate_every=4, seed=3),
    "random": selections.RandomSparse(0.25, seed=3),
    "rank": selections.RandomSparse(rank=1, seed=3),
    "located": selections.Located((".*/layers_[13]/mlp/wo/kernel", "token_embedder/.*")),
    "rates": selections.LayerRates(0.5, first=1),
    "changed": selections.MostChanged(0.3),
    "mofo": selections.MoFO(0.25),
}
OPTIMIZERS = {
    "adamw": functools.partial(optimizers.plain_adamw, 0.01, 0.1),
    "adafactor": functools.partial(adafactor.adafactor, 0.01, weight_decay=0.1),
    "lion": functools.partial(optax.lion, 0.01, weight_decay=0.1),
}
# Worked out by hand, of 616 elements.
COUNTS = {"half": 328, "rotated": 328, "random": 145, "rank": 261, "located": 84, "rates": 436}
COUNTS |= {"changed": 184, "mofo": 181}


def bits(leaf):
    return np.asarray(leaf).view(f"u{leaf.dtype.itemsize}")


def gradients(tree):
    return jax.tree.map(lambda leaf: jnp.sin(leaf * 50 + 1), tree)


def begun(selection, tx, before):
    """Returns the transformation around `tx` and its state."""
    around = selection.around(tx)
    state = jax.jit(around.init)(before)
    if isinstance(selection, selections.MostChanged):
        after = jax.tree.map(lambda leaf, moved: leaf + 0.01 * moved, before, gradients(before))
        state = selection.chosen(state, before, after)
    return around, state


def trained(selection, optimizer, before, steps=3):
    tx, state = begun(selection, OPTIMIZERS[optimizer](), before)

    @jax.jit
    def step(tree, state):
        updates, state = tx.update(gradients(tree), state, tree)
        return optax.apply_updates(tree, updates), state

    after = before
    for _ in range(steps):
        after, state = step(after, state)
    return after, state


CASES = [(name, "adamw", jnp.float32) for name in ("half", "rank", "rates", "changed")]
CASES += [(name, "adamw", jnp.bfloat16) for name in ("located", "mofo")]
CASES += [("changed", "adafactor", jnp.float32), ("random", "adafactor", jnp.float32)]
CASES += [("located", "lion", jnp.float32), ("mofo", "lion", jnp.float32)]


@pytest.mark.parametrize(("name", "optimizer", "dtype"), CASES)
def test_what_is_not_selected_keeps_every_bit(name, optimizer, dtype):
    selection, before = SELECTIONS[name], params(dtype=dtype)
    after, state = trained(selection, optimizer, before)
    masks, still = selection.masks(state, before), 0
    for old, new, mask in zip(*map(jax.tree.leaves, (before, after, masks)), strict=True):
        mask = np.broadcast_to(np.asarray(mask) != 0, old.shape)
        if name != "mofo":
            np.testing.assert_array_equal(bits(old)[~mask], bits(new)[~mask])
            # A step that is too small for bfloat16 leaves some of the others where they are.
            assert dtype == jnp.bfloat16 or (np.asarray(old != new)[mask]).all()
        still += int((bits(old) == bits(new)).sum())
    total = trees.count(before)
    if dtype == jnp.float32 and name != "mofo":
        assert total - still == selection.count(state, before) == COUNTS[name]
    assert 0 < still < total


def test_the_filter_of_momenta_is_the_one_of_its_paper():
    """Each matrix moves where its moment is among the k largest; norms move whole."""
    before = params()
    selection, tx = SELECTIONS["mofo"], optimizers.plain_adamw(0.01, 0.1)
    around, state = begun(selection, tx, before)
    updates, state = around.update(gradients(before), state, before)
    plain, _ = tx.update(gradients(before), tx.init(before), before)
    (moment,) = (m for _, m in optax.tree_utils.tree_get_all_with_path(state.inner, "mu"))
    moved = 0
    for path, leaf in trees.flatten(moment).items():
        layers = np.abs(leaf) if "/layers/" in path else np.abs(leaf)[None]
        k = int(0.25 * layers[0].size)
        least = [np.sort(layer.ravel())[-k] for layer in layers]
        mask = np.array([layer >= low for layer, low in zip(layers, least, strict=True)])
        mask = (mask if layers[0].ndim > 1 else np.ones_like(mask)).reshape(leaf.shape)
        np.testing.assert_array_equal(
            trees.flatten(updates)[path], np.where(mask, trees.flatten(plain)[path], 0)
        )
        moved += mask.sum()
    assert selection.count(state, before) == moved == COUNTS["mofo"]


def test_the_filter_needs_a_first_moment():
    stage = functools.partial(tiny.stage, selection=selections.MoFO())
    with pytest.raises(UserError, match=r"first moment.*OPTIMIZER = 'adamw'"):
        stage().transformation()
    stage(optimizer=optimizers.adamw, gradient_clip=1.0, schedule="linear").transformation()


@pytest.mark.parametrize(
    "selection",
    [
        selections.Half(1.0),
        selections.MoFO(1.0),
        selections.MostChanged(1.0),
        selections.Located((".*",)),
        selections.RandomSparse(1.0),
    ],
    ids=lambda selection: type(selection).__name__,
)
def test_all_of_it_is_the_transformation_itself(selection):
    before, tx = params(), optimizers.plain_adamw(0.01, 0.1)
    if isinstance(selection, selections.RandomSparse):
        matrices = [path for path in trees.flatten(before) if not path.endswith("scale")]
        before, _ = trees.partition(before, matrices)
    around, state = begun(selection, tx, before)
    expected, _ = tx.update(gradients(before), tx.init(before), before)
    found, state = around.update(gradients(before), state, before)
    assert tiny.leaves_equal(found, expected)
    assert selection.count(state, before) == trees.count(before)


def unstacked(masks, before):
    whole = jax.tree.map(lambda mask, leaf: jnp.broadcast_to(mask, leaf.shape), masks, before)
    return trees.flatten(trees.unstack_layers(whole))


@pytest.mark.parametrize("name", ["half", "random", "rates", "changed", "mofo"])
def test_layers_have_the_same_masks_stacked_or_not(name):
    selection, stacked = SELECTIONS[name], params()
    found = []
    for before in (stacked, trees.unstack_layers(stacked)):
        tx, state = begun(selection, optimizers.plain_adamw(0.01), before)

        @quick_jit
        def masks(before, state, tx=tx):
            _, state = tx.update(gradients(before), state, before)
            return unstacked(selection.masks(state, before), before)

        found.append(masks(before, state))
    assert found[0].keys() == found[1].keys()
    for path, mask in found[0].items():
        np.testing.assert_array_equal(mask, found[1][path], err_msg=path)


def test_an_optimizer_that_is_given_layer_by_layer_has_its_momenta_found():
    selection, before = SELECTIONS["mofo"], params()
    found = []
    for tx in (optax.adamw(0.01), adafactor.layer_by_layer(optax.adamw(0.01))):
        around = selection.around(tx)
        found.append(around.update(gradients(before), around.init(before), before)[0])
    assert tiny.leaves_equal(*found)


# ---- half ----------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(
    layers=strategies.integers(1, 6),
    share=strategies.floats(0.3, 1.0, exclude_max=True),
    seed=strategies.integers(0, 2**32 - 1),
)
def test_of_each_kind_the_share_moves_in_all_layers_alike(layers, share, seed):
    selection, before = selections.Half(share, seed=seed), params(layers)
    masks = trees.flatten(selection.masks(selections.SelectionState(0, {}, None), before))
    kinds = {"layers/attention/": 4, "layers/mlp/": 3, "layers/pre_.*norm/": 2}
    for kind, modules in kinds.items():
        of_kind = [m.ravel() for path, m in masks.items() if re.search(kind, path)]
        assert len(of_kind) == modules
        # Modules that move, of each layer.
        moving = np.sum(of_kind, axis=0)
        assert moving.sum() == round(share * layers * modules)
        assert moving.max() - moving.min() <= 1
    assert all(masks[path].all() for path in OUTSIDE)


def test_a_draw_is_made_anew_every_so_many_steps():
    selection, before = SELECTIONS["rotated"], params()

    def drawn(count, selection=selection):
        state = selections.SelectionState(jnp.int32(count), {}, None)
        return selection.masks(state, before)

    first = drawn(0)
    assert all(tiny.leaves_equal(first, drawn(count)) for count in (1, 3))
    assert not tiny.leaves_equal(first, drawn(4))
    assert tiny.leaves_equal(drawn(4), drawn(7))
    # The first turn is what is drawn without rotation, of the same seed alone.
    assert tiny.leaves_equal(first, drawn(9, SELECTIONS["half"]))
    assert not tiny.leaves_equal(first, drawn(0, selections.Half(seed=4)))


def test_a_stage_gives_its_seed_to_a_draw_without_one():
    stage = tiny.stage(selection=selections.Half())
    assert stage.drawn(7).selection == selections.Half(seed=7)
    assert tiny.stage(selection=selections.Half(seed=1)).drawn(7).selection.seed == 1
    located = tiny.stage(selection=SELECTIONS["located"])
    assert located.drawn(7) is located
    assert tiny.stage().drawn(7).selection is None


# ---- other kinds ---------------------------------------------------------------------------------


def test_rates_fall_from_layer_to_layer():
    masks = selections.LayerRates(0.5).masks(None, params())
    found = {path: mask.ravel().tolist() for path, mask in trees.flatten(masks).items()}
    assert found["encoder/layers/mlp/wo/kernel"] == [0.125, 0.25, 0.5, 1.0]
    assert found["token_embedder/embedding"] == [0.0625]
    assert found["encoder/encoder_norm/scale"] == [1.0]
    frozen = trees.flatten(selections.LayerRates(1.0, first=0.5).masks(None, params()))
    assert frozen["encoder/layers/mlp/wo/kernel"].ravel().tolist() == [0.0, 0.0, 1.0, 1.0]
    assert frozen["token_embedder/embedding"].ravel().tolist() == [0.0]
    # Updates are those of the transformation times the rate.
    before, tx = params(), OPTIMIZERS["adamw"]()
    plain, _ = tx.update(gradients(before), tx.init(before), before)
    around = selections.LayerRates(0.5).around(tx)
    found, _ = around.update(gradients(before), around.init(before), before)
    path = "encoder/layers/mlp/wo/kernel"
    expected = trees.flatten(plain)[path] * np.array([0.125, 0.25, 0.5, 1.0])[:, None, None]
    np.testing.assert_array_equal(trees.flatten(found)[path], expected)


def test_a_rank_gives_as_many_entries_as_in_peft():
    shape = (6, 9)
    torch = pytest.importorskip("torch")
    shira = pytest.importorskip("peft.tuners.shira.mask_functions")
    theirs = shira.random_mask(torch.nn.Linear(*shape), 2, random_seed=0).sum()
    leaf = {"wo": {"kernel": jnp.zeros(shape)}}
    ours = selections.RandomSparse(rank=2, seed=0).kept(leaf)["wo"]["kernel"].sum()
    assert int(ours) == int(theirs) == 2 * sum(shape)


@hypothesis.settings(max_examples=6, deadline=None)
@hypothesis.given(data=strategies.data(), share=strategies.floats(0.01, 1.0))
def test_random_entries_are_an_exact_share(data, share):
    shape = tuple(data.draw(strategies.lists(strategies.integers(1, 7), min_size=2, max_size=3)))
    seed = data.draw(strategies.integers(0, 9))
    kept = selections.RandomSparse(share, seed=seed).kept({"kernel": jnp.zeros(shape)})
    assert kept["kernel"].shape == shape
    assert kept["kernel"].sum() == max(1, int(share * math.prod(shape)))


# ---- the largest ---------------------------------------------------------------------------------


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(data=strategies.data(), dtype=strategies.sampled_from(["float32", "bfloat16"]))
def test_the_most_changed_are_those_of_a_sort(data, dtype):
    shapes = {"a": (3, 4), "b/c": (5,), "b/layers_0/d": (2, 3), "b/layers_1/d": (2, 3)}
    # Few values, so that many are equal.
    change = strategies.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 1e-30, 2**-126])
    drawn = data.draw(strategies.lists(change, min_size=29, max_size=29))
    parts = np.split(np.array(drawn), np.cumsum([math.prod(s) for s in shapes.values()])[:-1])
    after = {
        p: jnp.asarray(part.reshape(shapes[p]), dtype)
        for p, part in zip(shapes, parts, strict=True)
    }
    before = {path: jnp.zeros_like(leaf) for path, leaf in after.items()}
    sizes = np.concatenate([np.abs(np.asarray(a, np.float32)).ravel() for a in after.values()])
    hypothesis.assume(sizes.any())
    count = data.draw(strategies.integers(1, sizes.size))
    expected = np.zeros(sizes.size, bool)
    expected[np.argsort(-sizes, kind="stable")[:count]] = True
    both = [trees.unflatten(leaves) for leaves in (before, after)]
    for pair in (both, [trees.stack_layers(tree) for tree in both]):
        masks = trees.flatten(trees.unstack_layers(top_k.most_changed(*pair, count)))
        found = np.concatenate([mask.ravel() for mask in masks.values()])
        np.testing.assert_array_equal(found, expected)


def test_the_largest_are_counted_beyond_what_a_float_holds():
    values = jnp.asarray(np.random.default_rng(0).integers(0, 2**32, 5000, np.uint32))
    for k in (1, 2, 1234, 5000):
        assert top_k.kth_largest(values, k) == np.sort(values)[-k]
        assert top_k.largest(values, k).sum() == k


# ---- errors --------------------------------------------------------------------------------------

NORMS = {"encoder": {"encoder_norm": {"scale": jnp.ones(4)}}}


@pytest.mark.parametrize(
    ("selection", "tree", "said"),
    [
        (selections.Located((".*/layers_9/.*",)), params(), r"'.*/layers_9/.*' matches no param"),
        (selections.LayerRates(first=4), params(), r"LayerRates.first = 4: there are 4 layers"),
        (selections.LayerRates(), NORMS, "there are 0 layers"),
        (selections.Half(), NORMS, r"Half.share = 0.5 selects none of the matrices.*0 kinds"),
        (selections.Half(0.01), params(), r"Half.share = 0.01 selects none.*3 kinds"),
        (selections.RandomSparse(), NORMS, "RandomSparse: no matrix trains"),
        (selections.RandomSparse(rank=9), params(), r"rank = 9 asks for 72 entries of encoder/la"),
        (selections.MostChanged(0.001), params(), "MostChanged.share = 0.001 is none of 616 elem"),
        (selections.MoFO(), NORMS, "MoFO: no matrix trains"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, selections.Selection) else "",
)
def test_what_selects_nothing_is_one_line(selection, tree, said):
    with pytest.raises(UserError, match=said) as error:
        jax.eval_shape(selection.around(optimizers.plain_adamw(0.1)).init, tree)
    assert "\n" not in str(error.value)


def test_settings_out_of_range_or_without_effect_are_errors():
    with pytest.raises(UserError, match=r"Half.share = 1.5: expected a number above 0"):
        selections.Half(1.5)
    with pytest.raises(UserError, match=r"decay = 1\.0 and first = 0 change nothing"):
        selections.LayerRates(1.0)
    with pytest.raises(UserError, match=r"Stage\.selection = 'half': expected"):
        tiny.stage(selection="half")
    stage = tiny.stage(selection=selections.MostChanged(0.1))
    with pytest.raises(UserError, match=r"method 'm': .* and 'model' is the first"):
        Method("m", "M", [stage])


def test_a_stage_before_that_trained_something_else_is_an_error():
    tree = params()
    with pytest.raises(UserError, match="the stage before changed none"):
        top_k.most_changed(tree, jax.tree.map(jnp.copy, tree), 3)


# ---- the average of the steps --------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_average_is_that_of_the_iterates_of_the_plain_optimizer(optimizer):
    """Against float64; the iterates themselves are the plain ones bit for bit."""
    decay, before, tx = 0.7, params(), OPTIMIZERS[optimizer]()
    selection = selections.Average(decay)
    around, plain = selection.around(tx), before
    after, state, inner = before, around.init(before), tx.init(before)
    averages = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), before)
    for _ in range(5):
        updates, inner = tx.update(gradients(plain), inner, plain)
        plain = optax.apply_updates(plain, updates)
        averages = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * np.asarray(new, np.float64),
            averages,
            plain,
        )
        place = selection.place(state, after)
        updates, state = around.update(gradients(place), state, after)
        after = optax.apply_updates(after, updates)
        assert tiny.leaves_equal(state.kept, plain)
    for path, leaf in trees.flatten(after).items():
        np.testing.assert_allclose(leaf, trees.flatten(averages)[path], rtol=2e-6, atol=2e-7)
    assert selection.count(state, before) == trees.count(before)


def test_an_average_without_decay_is_the_newest_iterate():
    before, tx = params(), OPTIMIZERS["adamw"]()
    around = selections.Average(0.0).around(tx)
    updates, state = around.update(gradients(before), around.init(before), before)
    for found, newest in zip(
        *map(jax.tree.leaves, (optax.apply_updates(before, updates), state.kept)), strict=True
    ):
        np.testing.assert_allclose(found, newest, rtol=1e-6, atol=1e-7)

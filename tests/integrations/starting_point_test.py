"""What another trainer starts a stage from: network, vocabulary and parameters of a checkpoint."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
from absl import logging

from promot_jax import models
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import t5x
from promot_jax.integrations import starting_point, uncaught
from promot_jax.models.networks import decoder, prompt, t5
from promot_jax.models.networks.lora import Lora
from promot_jax.tasks import mini
from tests import tiny
from tests.checkpoints.t5x_writers import WRITERS
from tests.quick import quick_jit

PROMPT = "encoder/prompt/rte/prompt"
TOKENS = np.array([[5, 6, 7, 1], [8, 9, 1, 0]])
TARGETS = np.array([[4, 3, 1], [2, 1, 0]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model as T5X's, bare and with a prompt, and as ours, with a vocabulary too."""
    folder = tmp_path_factory.mktemp("models")
    bare, prompted = tiny.model(), tiny.model(prompt_names=("rte",), prompt_length=3)
    params = drawn(prompted)
    leaves = trees.flatten(params)
    WRITERS["t5x"](folder / "prompted", leaves)
    WRITERS["t5x"](folder / "bare", {k: v for k, v in leaves.items() if k != PROMPT})
    pretrained.save(folder / "ours", prompted, params, {})
    assert bare.network.config != prompted.network.config
    return {file.name: str(file) for file in folder.iterdir()}


def drawn(model):
    """Parameters without a compiled initialiser."""
    rng = np.random.default_rng(0)
    shapes, _ = model.shapes_and_axes()
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32), shapes
    )


def expected(network):
    shapes, _ = models.EncoderDecoderModel(network, None).shapes_and_axes()
    return shapes


def read(path):
    source = starting_point.known.open_checkpoint(path)
    return {leaf: np.asarray(source.read(leaf)) for leaf in source.leaves}


# --- network ---


def test_a_call_that_names_no_prompt_gets_the_first():
    model = tiny.model(prompt_names=("a", "b"), prompt_length=3)
    config, params = model.network.config, drawn(model)
    theirs, ours = starting_point.PromptedTransformer(config), t5.Transformer(config)
    bare = starting_point.PromptedTransformer(
        dataclasses.replace(config, prompt_names=(), prompt_length=0)
    )
    assert expected(theirs) == expected(ours)

    def logits(network, **options):
        inputs = TOKENS, TARGETS, TARGETS
        return network.apply({"params": params}, *inputs, enable_dropout=False, **options)

    @quick_jit
    def compared():
        given = np.array([1, -1])
        return (
            (logits(theirs), logits(ours, prompt_ids=np.array([0, 0]))),
            (logits(theirs, prompt_ids=given), logits(ours, prompt_ids=given)),
            (logits(bare), logits(ours)),
        )

    pairs = compared()
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    assert np.abs(pairs[0][0] - pairs[2][0]).max() > 1e-3
    with pytest.raises(UserError, match=r"unpacked rows; set DatasetConfig.pack = False"):
        logits(theirs, encoder_segment_ids=np.ones_like(TOKENS))


def test_rows_of_a_beam_get_the_prompt_too():
    model = tiny.model(prompt_names=("a",), prompt_length=3)
    variables = {"params": drawn(model)}
    network = starting_point.PromptedTransformer(model.network.config)

    @quick_jit
    def compared():
        encoded = network.apply(variables, TOKENS, enable_dropout=False, method=network.encode)
        assert encoded.shape[1] == 3 + TOKENS.shape[1]
        twice = [jnp.repeat(a, 2, axis=0) for a in (encoded, TOKENS, TARGETS, TARGETS)]
        logits = network.apply(variables, *twice, enable_dropout=False, method=network.decode)
        whole = network.apply(variables, TOKENS, TARGETS, TARGETS, enable_dropout=False)
        return logits[::2], whole

    np.testing.assert_allclose(*compared(), atol=1e-6)


def test_the_checkpoint_tells_the_network(folders):
    made = starting_point.network(
        folders["prompted"], "rte", dropout_rate=0.1, dtype="bfloat16", remat="full"
    ).config
    known = tiny.model(prompt_names=("rte",), prompt_length=3, dropout_rate=0.1).network.config
    assert made == dataclasses.replace(known, dtype="bfloat16", remat="full")
    new = starting_point.network(folders["bare"], "new", 7).config
    assert (new.prompt_names, new.prompt_length) == (("new",), 7)
    bare = starting_point.network(folders["prompted"]).config
    assert (bare.prompt_names, bare.prompt_length, bare.dropout_rate) == ((), 0, 0.0)


@pytest.mark.parametrize(
    ("path", "prompt_name", "length", "complaint"),
    [
        (None, None, None, "no checkpoint to start from; give --gin.INITIAL_CHECKPOINT_PATH"),
        ("", None, None, "no checkpoint to start from"),
        ("nowhere", None, None, "nowhere: no such file or folder"),
        ("prompted", "rte", 5, r"PROMPT_LENGTH = 5, but 'rte' in .*prompted has 3 rows; give "),
        ("prompted", "snli", None, r"has no prompt 'snli' \(it has rte\); give a checkpoint of"),
        ("bare", "rte", None, r"has no prompt 'rte' \(it has none\)"),
        ("bare", "rte", 0, "PROMPT_LENGTH = 0; give 1 or more"),
    ],
)
def test_a_network_that_cannot_be(folders, path, prompt_name, length, complaint):
    with pytest.raises(UserError, match=complaint) as raised:
        starting_point.network(folders.get(path, path), prompt_name, length)
    assert "\n" not in str(raised.value)


def test_other_kinds_of_models_are_refused(tmp_path):
    sizes = {"num_heads": 2, "num_kv_heads": 2, "head_dim": 4, "mlp_dim": 8, "num_layers": 1}
    config = decoder.DecoderConfig(vocab_size=32, emb_dim=8, **sizes)
    network = decoder.Transformer(config)
    adapted = tiny.model().with_lora(Lora(".*query/kernel", 2, 4.0))
    for name, model in [("gpt", models.DecoderOnlyModel(network, None)), ("lora", adapted)]:
        pretrained.save(tmp_path / name, model, drawn(model), {})
    with pytest.raises(UserError, match="gpt is a decoder-only model"):
        starting_point.network(str(tmp_path / "gpt"))
    with pytest.raises(UserError, match=r"lora has adapters.* --merge_lora"):
        starting_point.network(str(tmp_path / "lora"))


# --- parameters ---


@pytest.fixture(autouse=True)
def warnings_are_logged():
    """Commands that ran before in this process may have silenced absl."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    yield
    logging.set_verbosity(before)


def test_only_what_is_missing_is_initialised(folders, caplog):
    shapes = expected(starting_point.network(folders["bare"], "rte", 3))
    options = {"prompt_init": prompt.sampled_vocabulary, "rng": jax.random.key(3)}
    params = trees.flatten(starting_point.load(folders["bare"], shapes, **options))
    made = params.pop(PROMPT)
    assert "encoder/prompt/rte/prompt is not in" in caplog.text
    rows = {row.tobytes() for row in np.asarray(params["token_embedder/embedding"])}
    assert {row.tobytes() for row in np.asarray(made)} <= rows
    stored = read(folders["bare"])
    assert params.keys() == stored.keys()
    assert all((params[path] == stored[path]).all() for path in stored)
    with pytest.raises(UserError, match=r"has no prompt 'rte' \(it has none\)"):
        starting_point.load(folders["bare"], shapes)


def test_a_prompt_that_is_there_is_read(folders, caplog):
    shapes = expected(starting_point.network(folders["prompted"], "rte"))
    options = {"prompt_init": prompt.sampled_vocabulary, "rng": jax.random.key(3)}
    params = starting_point.load(folders["prompted"], shapes, **options)
    assert (params["encoder"]["prompt"]["rte"]["prompt"] == read(folders["prompted"])[PROMPT]).all()
    assert caplog.text == ""


def test_a_prompt_that_is_not_attached_is_left_out(folders, caplog):
    shapes = expected(starting_point.network(folders["prompted"]))
    params = starting_point.load(folders["prompted"], shapes)
    assert not trees.prompts_of(params)
    assert trees.count(params) == trees.count(shapes)
    assert f"{PROMPT} of {folders['prompted']} is left out" in caplog.text


def test_parameters_of_another_model_are_refused(folders):
    shapes = expected(tiny.model(emb_dim=8).network)
    with pytest.raises(UserError, match=r"is another model: .* has shape"):
        starting_point.load(folders["bare"], shapes)


# --- vocabulary ---


def _register(name, vocabulary):
    features = dict.fromkeys(("inputs", "targets"), seqio.Feature(vocabulary=vocabulary))
    source = seqio.TaskRegistry.get("mini_rte").source
    seqio.TaskRegistry.add(name, source, features, mini.PREPROCESSORS, metric_fns=[])


@pytest.fixture
def registered():
    """Tasks of bytes, alone and in mixtures; removed afterwards."""
    own = seqio.ByteVocabulary()
    for name in ("bytes_a", "bytes_b"):
        _register(name, own)
    seqio.MixtureRegistry.add("bytes_both", [("bytes_a", 1.0), ("bytes_b", 3.0)])
    seqio.MixtureRegistry.add("bytes_nested", [("bytes_both", 2.0)])
    yield own
    for name in ("bytes_nested", "bytes_both"):
        seqio.MixtureRegistry.remove(name)
    for name in ("bytes_a", "bytes_b"):
        seqio.TaskRegistry.remove(name)


def test_tasks_take_the_vocabulary_of_the_checkpoint(folders, registered):
    found = starting_point.vocabulary(folders["ours"], "bytes_nested")
    own = mini.vocabulary()
    assert (found.vocab_size, found.encode("rome")) == (own.vocab_size, own.encode("rome"))
    for name in ("bytes_a", "bytes_b", "bytes_both", "bytes_nested"):
        features = seqio.get_mixture_or_task(name).output_features
        assert [feature.vocabulary == found for feature in features.values()] == [True, True]
    both = seqio.MixtureRegistry.get("bytes_both")
    assert both.rate_per_task_name == {"bytes_a": 1.0, "bytes_b": 3.0}
    lengths = {"inputs": 64, "targets": 4}
    row = next(both.get_dataset(lengths, "train", shuffle=False).as_numpy_iterator())
    assert found.decode(row["targets"].tolist()) in ("True", "False")


def test_a_checkpoint_without_vocabulary_takes_that_of_the_task(folders, registered):
    assert starting_point.vocabulary(folders["bare"], "bytes_a") is registered
    assert starting_point.vocabulary(folders["bare"], "bytes_both") is registered


def test_a_file_is_the_vocabulary(folders, registered):
    path = str(mini.mini_vocabulary.MODEL_PATH)
    found = starting_point.vocabulary(folders["bare"], "bytes_a", path=path)
    assert found != registered
    assert found == seqio.TaskRegistry.get("bytes_a").output_features["targets"].vocabulary


def test_vocabularies_that_cannot_be(folders, registered):
    with pytest.raises(UserError, match=r"MIXTURE_OR_TASK_MODULE = 'no.such': No module named"):
        starting_point.vocabulary(folders["bare"], "bytes_a", "no.such")
    with pytest.raises(UserError, match="'bytes_c'; did you mean"):
        starting_point.vocabulary(folders["bare"], "bytes_c", "promot_jax.tasks.mini")
    _register("bytes_more", seqio.ByteVocabulary(extra_ids=2000))
    try:
        with pytest.raises(UserError, match=r"'bytes_more' has 2259 tokens, .* embeds 1280"):
            starting_point.vocabulary(folders["bare"], "bytes_more")
    finally:
        seqio.TaskRegistry.remove("bytes_more")


# --- steps and folders ---


def test_steps_of_pretraining_are_not_counted():
    path = "gs://bucket/t5_1_1_small/checkpoint_1000000"
    assert starting_point.step_of(path) == starting_point.step_of(path + "/") == 1_000_000
    assert starting_point.step_of("models/mine") == 0
    with pytest.raises(UserError, match=r"begins at step 0; give --gin.TRAIN_STEPS=5000"):
        starting_point.check_steps(path, 1_005_000)
    starting_point.check_steps(path, 5000)
    starting_point.check_steps("runs/stage1/checkpoint_3000", 5000)


def test_a_folder_of_another_stage_is_refused(tmp_path):
    leaves = {"a/kernel": np.ones((2, 3)), "b/scale": np.ones(2)}
    WRITERS["t5x_orbax"](tmp_path / "run", leaves, step=4)
    state = {"target": trees.unflatten(leaves), "state": t5x.t5x_orbax.t5x_state.fresh({}, 4)}
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    state["state"] = t5x.t5x_orbax.t5x_state.fresh(shapes, 4)
    starting_point.check_continues(str(tmp_path / "run"), state)
    starting_point.check_continues(str(tmp_path / "new"), state)
    state["state"]["param_states"].pop("b")
    with pytest.raises(UserError, match=r"run has checkpoints of another stage .*unexpected"):
        starting_point.check_continues(str(tmp_path / "run"), state)
    with pytest.raises(UserError, match=r"'runs/x' is relative, .*give '/"):
        starting_point.check_continues("runs/x", state)


# --- errors ---


def test_bad_input_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    uncaught.explain_bad_input()
    for error, line in [
        (UserError("the culprit\n  In call to configurable"), "error: the culprit\n"),
        (
            ValueError("MODEL_DIR/macro.value set to `%gin.REQUIRED` but not"),
            "error: MODEL_DIR has no value; give --gin.MODEL_DIR=VALUE\n",
        ),
    ]:
        sys.excepthook(type(error), error, None)
        assert capsys.readouterr().err == line
    sys.excepthook(ValueError, ValueError("a fault of the program"), None)
    assert capsys.readouterr().err == "ValueError: a fault of the program\n"

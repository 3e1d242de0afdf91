"""T5X's own programs run our recipes, on the CPU with the miniature; skipped without T5X."""

import glob
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promot_jax import checkpoints, configuration
from promot_jax.base import partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import known
from promot_jax.data import batching
from promot_jax.experiment import evaluation
from promot_jax.experiment.stage_folder import StageFolder
from promot_jax.integrations import starting_point
from promot_jax.models import decoding
from promot_jax.models.attached import BARE, Attached
from promot_jax.tasks import mini
from promot_jax.training import optimizers, stages, train
from tests.checkpoints.t5x_writers import WRITERS

pytestmark = pytest.mark.long

REASON = (
    "T5X is not installed; it is not on PyPI: "
    "pip install git+https://github.com/google-research/t5x (docs/t5x.md tells what else it needs)"
)
t5x_trainer = pytest.importorskip("t5x.trainer", reason=REASON)
t5x_adafactor = pytest.importorskip("t5x.adafactor", reason=REASON)
t5x_models = pytest.importorskip("t5x.models", reason=REASON)
t5x_partitioning = pytest.importorskip("t5x.partitioning", reason=REASON)

ROOT = configuration.PACKAGE.parent
PROMPT = "encoder/prompt/rte/prompt"
LENGTHS = {"inputs": 40, "targets": 4}
PROMPT_ONLY = ("encoder/prompt/.*",)
MODEL_ONLY = ("(?!encoder/prompt/).*",)
COMMON = {
    "MIXTURE_OR_TASK_NAME": "mini_rte",
    "MIXTURE_OR_TASK_MODULE": "promot_jax.tasks.mini",
    "TASK_FEATURE_LENGTHS": LENGTHS,
    "PROMPT": "rte",
    "BATCH_SIZE": 8,
    "ACTIVATION_DTYPE": "float32",
}
TRAINING = {"EVAL_PERIOD": 2, "EVAL_STEPS": 1, "EVALUATOR_NUM_EXAMPLES": 8, "NUM_DECODES": 1}


def run(program, recipe, **macros):
    flags = [f"--gin.{name}={value!r}" for name, value in macros.items()]
    file = configuration.GIN_FOLDER / "t5x" / f"{recipe}.gin"
    return subprocess.run(
        [sys.executable, "-m", f"t5x.{program}", f"--gin_file={file}", *flags],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )


def finished(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def leaves(path):
    source = known.open_checkpoint(str(path))
    return {leaf: np.asarray(source.read(leaf)) for leaf in source.leaves}


def changed(before, after):
    assert before
    assert before.keys() == after.keys()
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The miniature as T5X has its public checkpoints, with a million steps behind it."""
    folder = tmp_path_factory.mktemp("start") / "checkpoint_1000000"
    WRITERS["t5x"](folder, leaves(checkpoints.bundled()))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, start):
    """Both stages, the first one in two halves; the logs are beside the folders."""
    folder = tmp_path_factory.mktemp("trained")
    one = COMMON | TRAINING | {"MODEL_DIR": str(folder / "one"), "PROMPT_LENGTH": 5}
    one["INITIAL_CHECKPOINT_PATH"] = str(start)
    (folder / "one.log").write_text(finished(run("train", "promot_stage1", **one, TRAIN_STEPS=2)))
    finished(run("train", "promot_stage1", **one, TRAIN_STEPS=4))
    two = COMMON | TRAINING | {"MODEL_DIR": str(folder / "two"), "BEST_OF": str(folder / "one")}
    (folder / "two.log").write_text(finished(run("train", "promot_stage2", **two, TRAIN_STEPS=2)))
    return folder


def test_stage_1_trains_the_prompt_alone_and_continues(trained, start):
    first = leaves(trained / "one/checkpoint_0")
    prompt = first.pop(PROMPT)
    assert changed(leaves(start), first) == set()
    rows = {row.tobytes() for row in first["token_embedder/embedding"]}
    assert prompt.shape == (5, 128)
    assert {row.tobytes() for row in prompt} <= rows
    log = (trained / "one.log").read_text()
    assert log.count("initialised") == 1
    assert f"{PROMPT} is not in {start}: initialised" in log
    states = [leaves(trained / f"one/checkpoint_{step}") for step in (0, 2, 4)]
    for before, after in itertools.pairwise(states):
        assert changed(before, after) == {PROMPT}


def test_stage_2_starts_at_step_0_from_the_best_and_trains_the_model_alone(trained):
    scores = {}
    for line in (trained / "one/inference_eval/mini_rte-metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        scores[row["step"]] = row["accuracy"]
    assert set(scores) == {2, 4}
    best = max(scores, key=lambda step: (scores[step], step))
    before = leaves(trained / "two/checkpoint_0")
    assert changed(leaves(trained / f"one/checkpoint_{best}"), before) == set()
    assert "initialised" not in (trained / "two.log").read_text()
    after = leaves(trained / "two/checkpoint_2")
    assert changed(before, after) == set(before) - {PROMPT}
    assert len(before) > 50


# --- both engines ---


# Few rows would leave most relus of the trained miniature shut.
ROWS = 64


def batches(count):
    stream = batching.train_batches("mini_rte", LENGTHS, batching.FixedBatches(ROWS), seed=1)
    return list(itertools.islice(stream, count))


def t5x_losses(checkpoint, patterns, adafactor, rate, rows):
    """Trains with T5X from a checkpoint; returns the loss before each step and after the last."""
    from promot_jax.integrations import t5x

    rows = [{k: jnp.asarray(v) for k, v in r.items() if k != "encoder_segment_ids"} for r in rows]
    optimizer = t5x.TrainOnly(patterns, adafactor)
    vocabulary = mini.vocabulary()
    network = starting_point.network(str(checkpoint), "rte")
    model = t5x_models.EncoderDecoderModel(
        network, vocabulary, vocabulary, optimizer, label_smoothing=0.1
    )
    rules = [("prompt", None), ("prompt_embed", None)]
    partitioner = t5x_partitioning.PjitPartitioner(
        num_partitions=1,
        logical_axis_rules=t5x_partitioning.standard_logical_axis_rules(additional_rules=rules),
    )
    state = t5x.StageInitializer(
        optimizer,
        model.get_initial_variables,
        {name: values.shape for name, values in rows[0].items()},
        partitioner,
        checkpoint=str(checkpoint),
        model_dir="/nowhere",
        total_steps=len(rows),
    ).from_scratch(jax.random.key(0))
    assert int(state.step) == 0

    @jax.jit
    def step(state, batch):
        return t5x_trainer.train_with_lr(
            state, batch, learning_rate=rate, dropout_rng=None, model=model, num_microbatches=None
        )[0]

    @jax.jit
    def mean_loss(params, batch):
        return model.loss_fn(params, batch, None)[0] / batch["decoder_loss_weights"].sum()

    found = []
    for i, batch in enumerate(rows):
        found.append(float(mean_loss(state.params, batch)))
        state = step(state, batch) if i + 1 < len(rows) else state
    return np.array(found), trees.flatten(state.state_dict()["target"])


def our_losses(checkpoint, patterns, optimizer, rows, folder):
    """The same with the native engine; returns its model and parameters too."""
    model, source = pretrained.open_model(str(checkpoint))
    mesh = partitioning.make_mesh()
    stage = stages.Stage(
        name="stage",
        trainable=patterns,
        mixture="mini_rte",
        task_feature_lengths=LENGTHS,
        steps=len(rows) - 1,
        batches=batching.FixedBatches(ROWS),
        optimizer=optimizer,
        prompt="rte",
        prompt_length=5,
        label_smoothing=0.1,
        eval_period=1,
    )
    seen = []

    def evaluate(params):
        seen.append(jax.device_get(params))
        return {"validation/score": float(len(seen)), "validation/loss": 0.0}

    stage_run = train.StageRun(stage, StageFolder(folder), seed=1, label="stage", evaluate=evaluate)
    train.train_stage(stage_run, pretrained.load(source, model, mesh), model.with_prompts({}), mesh)

    @jax.jit
    def mean_loss(params, batch):
        loss = model.loss_fn(params, batch, None, label_smoothing=0.1)
        return loss.total / loss.weight

    prompted = [row | {"prompt_ids": np.zeros(ROWS, np.int32)} for row in rows]
    found = [float(mean_loss(*pair)) for pair in zip(seen, prompted, strict=True)]
    return np.array(found), model, seen[-1]


PROMPT_TUNING = {"factored": False, "multiply_by_parameter_scale": False, "weight_decay_rate": 1e-5}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The miniature before its pretraining, with a prompt.

    Training shuts relus. Adafactor takes a full step wherever a gradient is not zero, so one that
    opens by rounding sets two engines apart; here all of them are open.
    """
    model, _ = pretrained.open_model(str(checkpoints.bundled()))
    params = trees.flatten(model.init(jax.random.key(0)))
    params |= {PROMPT: jax.random.normal(jax.random.key(1), (5, 128))}
    folder = tmp_path_factory.mktemp("untrained") / "checkpoint_0"
    WRITERS["t5x"](folder, {path: np.asarray(leaf) for path, leaf in params.items()})
    return folder


@pytest.mark.parametrize(
    ("patterns", "settings", "rate", "optimizer"),
    [
        (PROMPT_ONLY, PROMPT_TUNING, 0.2, optimizers.prompt_adafactor),
        (MODEL_ONLY, {}, 0.001, optimizers.model_adafactor),
    ],
    ids=["prompt", "model"],
)
def test_both_engines_make_the_same_updates(
    untrained, tmp_path, patterns, settings, rate, optimizer
):
    rows = batches(4)
    ours, _, params = our_losses(untrained, patterns, optimizer, rows, tmp_path)
    adafactor = t5x_adafactor.Adafactor(**settings)
    theirs, target = t5x_losses(untrained, patterns, adafactor, rate, rows)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert np.ptp(ours) > 0.01
    before = leaves(untrained)
    moved = set()
    for path, leaf in trees.flatten(params).items():
        way = np.abs(leaf - before[path]).max()
        np.testing.assert_allclose(target[path], leaf, rtol=0, atol=1e-3 * way, err_msg=path)
        moved |= {path} if way else set()
    assert moved == ({PROMPT} if patterns == PROMPT_ONLY else set(before) - {PROMPT})


@pytest.mark.parametrize("layout", ["native", "t5x", "t5x_orbax"])
def test_t5x_continues_what_the_native_engine_trained(trained, tmp_path, layout):
    rows = batches(4)
    start = trained / "one/checkpoint_2"
    ours, model, params = our_losses(
        start, MODEL_ONLY, optimizers.model_adafactor, rows, tmp_path / "run"
    )
    if layout == "native":
        pretrained.save(tmp_path / "model", model, params, {})
    else:
        WRITERS[layout](tmp_path / "model", trees.flatten(params))
    adafactor = t5x_adafactor.Adafactor()
    theirs, _ = t5x_losses(tmp_path / "model", MODEL_ONLY, adafactor, 0.001, rows[3:])
    np.testing.assert_allclose(theirs[0], ours[3], atol=1e-4)


# --- answers ---


@pytest.fixture(scope="module")
def answers(trained, tmp_path_factory):
    """Answers of T5X's beam search to the test rows, with the prompt and without."""
    folder = tmp_path_factory.mktemp("answers")
    found = {}
    for prompt in ("rte", None):
        macros = COMMON | {"PROMPT": prompt, "INFER_OUTPUT_DIR": str(folder / str(prompt))}
        finished(run("infer", "infer", **macros, BEST_OF=str(trained / "two")))
        (file,) = glob.glob(f"{folder}/{prompt}/mini_rte-predict.jsonl-00000-of-00001")
        lines = pathlib.Path(file).read_text().splitlines()
        found[prompt] = [json.loads(line)["prediction"] for line in lines]
    return found


def test_answers_without_the_prompt_differ(answers):
    with_prompt, without = answers["rte"], answers[None]
    assert len(with_prompt) == len(without) == 400
    differing = sum(a != b for a, b in zip(with_prompt, without, strict=True))
    assert differing > 100


@pytest.mark.parametrize("prompt", ["rte", None])
def test_the_native_search_gives_the_same_answers(trained, answers, prompt):
    model, source = pretrained.open_model(
        str(trained / "two/checkpoint_2"), str(mini.mini_vocabulary.MODEL_PATH)
    )
    mesh = partitioning.make_mesh()
    params = pretrained.load(source, model, mesh)
    evaluator = evaluation.Evaluator(model.with_prompts({}), mesh, decoding.Beam(4), 40, ())
    task = evaluation.EvalTask("mini_rte", "RTE", "accuracy", LENGTHS)
    attached = Attached(prompt, None) if prompt else BARE
    found = evaluator.evaluate(params, task, split="test", limit=None, attached=attached)
    assert list(found.predictions) == answers[prompt]


def test_evaluation_writes_scores(trained, start, tmp_path):
    macros = COMMON | {"EVAL_OUTPUT_DIR": str(tmp_path), "CHECKPOINT_PATH": str(start)}
    macros |= {"PROMPT": None, "seqio.Evaluator.num_examples": 8}
    finished(run("eval", "eval", **macros))
    (line,) = (tmp_path / "inference_eval/mini_rte-metrics.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == {"step", "accuracy"}
    assert json.loads(line)["step"] == 1_000_000


# --- bad input ---


@pytest.mark.parametrize(
    ("macros", "complaint"),
    [
        ({"TRAINABLE": ("encoder/prmpt/.*",)}, "pattern 'encoder/prmpt/.*' matches no parameter"),
        ({"INITIAL_CHECKPOINT_PATH": None}, "no checkpoint to start from; give --gin.INITIAL"),
        ({"MODEL_DIR": "runs/one"}, "MODEL_DIR = 'runs/one' is relative"),
    ],
    ids=["pattern", "checkpoint", "folder"],
)
def test_bad_input_is_one_line(start, tmp_path, macros, complaint):
    good = {"MODEL_DIR": str(tmp_path), "INITIAL_CHECKPOINT_PATH": str(start)}
    done = run("train", "promot_stage1", **COMMON | TRAINING | good | macros)
    assert done.returncode
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {complaint}")


def test_another_stages_folder_is_refused(trained):
    from promot_jax.integrations import t5x

    rows = batches(1)
    optimizer = t5x.TrainOnly(MODEL_ONLY, t5x_adafactor.Adafactor())
    network = starting_point.network(str(trained / "one/checkpoint_2"), "rte")
    vocabulary = mini.vocabulary()
    model = t5x_models.EncoderDecoderModel(network, vocabulary, vocabulary, optimizer)
    rules = [("prompt", None), ("prompt_embed", None)]
    partitioner = t5x_partitioning.PjitPartitioner(
        num_partitions=1,
        logical_axis_rules=t5x_partitioning.standard_logical_axis_rules(additional_rules=rules),
    )
    shapes = {k: v.shape for k, v in rows[0].items() if k != "encoder_segment_ids"}
    options = {"checkpoint": str(trained / "one/checkpoint_2"), "total_steps": 1}
    arguments = optimizer, model.get_initial_variables, shapes, partitioner
    t5x.StageInitializer(*arguments, model_dir=str(trained / "two"), **options)
    with pytest.raises(UserError, match="one has checkpoints of another stage or model"):
        t5x.StageInitializer(*arguments, model_dir=str(trained / "one"), **options)


# --- recipes ---

PARSE = """
import sys
import gin
from t5x import eval as evaluation, gin_utils, infer, train

main = sys.modules["__main__"]
programs = {"train": train.train, "evaluate": evaluation.evaluate, "infer": infer.infer}
for name, function in programs.items():
    setattr(main, name, function)
for file in sys.argv[2:]:
    gin.clear_config()
    for function in programs.values():
        gin.register(function, "__main__")
    gin_utils.parse_gin_flags([sys.argv[1]], [file], ["MODEL_DIR = '/runs/x'"], finalize_config=0)
    text = gin.config_str()
    assert "promot_jax.integrations" in text and "EncoderDecoderModel" in text, text
    print(file)
"""


def test_t5x_parses_every_recipe():
    folder = configuration.GIN_FOLDER / "t5x"
    recipes = ("eval", "finetune", "infer", "promot_stage1", "promot_stage2")
    files = [str(folder / f"{name}.gin") for name in recipes]
    import t5x

    root = str(pathlib.Path(t5x.__path__[0]).parent)
    done = subprocess.run(
        [sys.executable, "-c", PARSE, root, *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == files

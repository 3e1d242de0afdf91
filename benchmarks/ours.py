"""promot_jax as a contender: what `promot run` does, without its loop."""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import random
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks import shapes
from benchmarks.shapes import Shape
from benchmarks.workers import Subject
from promot_jax.base import partitioning, trees
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import huggingface
from promot_jax.data import batching, windows
from promot_jax.models import architectures, decoding
from promot_jax.training import optimizers, stages, train, train_state
from promot_jax.training.train_step import make_train_step

PROMPT = "task"
TRAINABLE = {
    "prompt": (trees.PROMPT.pattern,),
    "model": (f"(?!{trees.PROMPT.pattern}$).*",),
    "fine_tuning": (".*",),
}


class _Vocabulary:
    # Its ids fit any model.
    eos_id, vocab_size = shapes.END, 0


def write_weights(shape: dict, folder: str) -> Subject:
    """Writes a random network as a folder that transformers loads, before anything is run."""
    shape = Shape(**shape)
    model = architectures.build(shape.family, _tuples(shape.config), None)
    partitioning.use_cpu_cores(0)
    leaves = trees.flatten(jax.jit(model.init)(jax.random.key(0)))
    leaves = {path: np.array(leaf) for path, leaf in leaves.items()}
    # Of usual sizes: logits further apart give probabilities below the smallest normal float32,
    # with which torch computes ten times slower.
    if model.network.config.logits_via_embedding:
        leaves["token_embedder/embedding"] *= 0.05
        leaves["token_embedder/embedding"][shapes.END] = 0
    else:
        # Never among the best, so that all searches go to the full length.
        leaves["decoder/logits_dense/kernel"][:, shapes.END] = 0
    huggingface.write(
        folder,
        leaves,
        shape.family,
        _tuples(shape.config),
        token_ids={"pad": shapes.PAD, "eos": shapes.END, "decoder_start": shapes.PAD},
    )
    device = jax.devices()[0]
    facts = {"platform": device.platform, "kind": device.device_kind, "number": len(jax.devices())}
    return Subject(lambda count: {}, lambda: facts)


def _tuples(config) -> dict:
    """Returns a configuration whose lists, which JSON makes of tuples, are tuples again."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}


def _open(folder: str, dtype: str, **changes):
    """Returns our model, its parameters and the mesh they lie on, as `promot run` prepares them."""
    partitioning.keep_compiled(pathlib.Path(folder, "compiled"))
    model, source = pretrained.open_model(folder, dtype=dtype, dropout_rate=0.0, **changes)
    model = dataclasses.replace(model, vocabulary=_Vocabulary())
    partitioning.use_cpu_cores(trees.count(model.shapes_and_axes()[0]))
    mesh = partitioning.make_mesh()
    return model, pretrained.load(source, model, mesh), mesh


def train_step(shape: dict, folder: str, dtype: str, stage: str, rows: str = "full") -> Subject:
    """Runs training steps.

    Args:
      shape: fields of a `Shape`.
      folder: of the weights.
      dtype: of activations.
      stage: a key of `TRAINABLE`.
      rows: "full"; "padded" or "packed" are `shapes.uneven_rows`, each step takes another batch.
    """
    shape = Shape(**shape)
    layers = {"scan_layers": True, "remat": "minimal"} if shape.scanned else {}
    model, params, mesh = _open(folder, dtype, **layers)
    prompt = None if stage == "fine_tuning" else PROMPT
    if prompt is not None:
        params = trees.add_prompt(params, prompt, jax.numpy.asarray(shapes.prompt(shape)))
    settings = stages.Stage(
        name=stage,
        trainable=TRAINABLE[stage],
        mixture="none",
        task_feature_lengths={"inputs": shape.inputs, "targets": shape.targets},
        steps=1,
        batches=batching.FixedBatches(shape.rows),
        optimizer=optimizers.model_adafactor,
        prompt=prompt,
        prompt_length=shape.prompt,
    )
    state = train_state.sharded_state(settings, params, model, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    model = model.with_prompts(trees.prompts_of(params))
    del params
    step = make_train_step(model, settings, settings.optimizer(), mesh, shardings)
    batches, placed = _endless(shape, rows, model, mesh, prompt), None
    key = jax.device_put(jax.random.key(0), partitioning.replicated(mesh))

    def run(count):
        nonlocal state, placed
        losses = []
        for batch in itertools.islice(batches, count):
            placed = partitioning.shard_batch(mesh, batch)
            state, metrics = step(state, placed, key)
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        return {"losses": [float(loss) for loss in losses]}

    def about():
        with partitioning.activate(mesh):
            arguments = (state.moving, state.frozen, state.reference, placed, key)
            compiled = step.compiled.lower(*arguments).compile()
        return _memory() | {"temporary_mb": compiled.memory_analysis().temp_size_in_bytes // 2**20}

    return Subject(run, about)


def _endless(shape: Shape, rows: str, model, mesh, prompt) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of training steps; see `train_step`."""

    def batch(rows):
        attached = {} if prompt is None else {"prompt_ids": np.zeros(shape.rows, np.int32)}
        return shapes.batch(shape, rows) | attached

    batches = itertools.cycle(map(batch, shapes.step_rows(shape, rows != "full")))
    if rows != "packed":
        return batches
    # As many rows as a stage chooses its packed shapes by.
    numbers = range(train.SAMPLE // shape.rows)
    sample = [batch(shapes.uneven_rows(shape, number)) for number in numbers]
    return map(model.packer(sample, partitioning.row_parts(mesh)), batches)


def decode(shape: dict, folder: str, dtype: str, beams: int) -> Subject:
    """Decodes the batch with the beam search of transformers' rules."""
    shape = Shape(**shape)
    model, params, mesh = _open(folder, dtype)
    batch = partitioning.shard_batch(mesh, shapes.batch(shape, shapes.full_rows(shape)))
    decoder = decoding.huggingface_beam(beams)

    @functools.partial(jax.jit, out_shardings=partitioning.replicated(mesh))
    def predict(params, batch):
        return model.predict_batch(params, batch, decoder, shape.targets)

    def run(count):
        with partitioning.activate(mesh):
            for _ in range(count):
                tokens = predict(params, batch).block_until_ready()
        return {"tokens": np.asarray(tokens).tolist()}

    return Subject(run, _memory)


def _memory() -> dict:
    """Returns the peak of the accelerator's memory, nothing on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" not in statistics:
        return {}
    return {"device_mb": statistics["peak_bytes_in_use"] // 2**20}


def _stream(task: str, rows: int, inputs: int, targets: int, file: str | None):
    """Returns what opens training batches at a step; see `batches`."""
    from promot_jax.tasks import files, mini

    if file is not None:
        task = files.task(file, file, "{text}", "{label}")
    return functools.partial(
        batching.train_batches,
        task,
        {"inputs": inputs, "targets": targets},
        batching.FixedBatches(rows),
        seed=0,
        vocabulary=mini.vocabulary(),
    )


def batches(
    task: str,
    rows: int,
    inputs: int,
    targets: int,
    file: str | None = None,
    processes: int = 0,
    first_epoch: bool = True,
) -> Subject:
    """Reads training batches; `file` holds rows of a person's own, {"text", "label"} a line.

    Args:
      task: a task of the miniature, whatever its name where `file` is given.
      rows: of a batch.
      inputs: longest inputs, in tokens.
      targets: longest targets.
      file: a .jsonl file.
      processes: that read and tokenise; 0 is a thread.
      first_epoch: every row is tokenised, as if it had not been read before.
    """
    if first_epoch:
        windows.MOST = 0
    stream = _stream(task, rows, inputs, targets, file)(workers=processes)

    def run(count):
        tokens = 0
        for _ in range(count):
            batch = next(stream)
            tokens += int(np.count_nonzero(batch["encoder_segment_ids"]))
            tokens += int(np.count_nonzero(batch["decoder_loss_weights"]))
        return {"rows": rows * count, "tokens": tokens}

    return Subject(run)


def first_batch(step: int, file: str, task: str, rows: int, inputs: int, targets: int) -> Subject:
    """Opens a stream of batches at a step and reads one; see `batches`."""
    opened = _stream(task, rows, inputs, targets, file)

    def run(count):
        for _ in range(count):
            with contextlib.closing(opened(first_step=step)) as stream:
                next(stream)
        return {}

    return Subject(run)


def write_many_rows(file: str, count: int) -> Subject:
    """Writes so many different rows, {"text", "label"} a line."""
    from promot_jax.tasks import mini_rows

    made = mini_rows.zero_shot_splits("rte")["train"]
    with open(file, "w", encoding="utf-8") as lines:
        for number in range(count):
            text, label = made[number % len(made)]
            lines.write(json.dumps({"text": f"{number} {text}", "label": label}) + "\n")
    return Subject(lambda count: {})


def write_articles(file: str, count: int, words: int) -> Subject:
    """Writes so many rows of so many words of the miniature, {"text", "label"} a line."""
    from promot_jax.tasks import mini_rows

    made = mini_rows.zero_shot_splits("rte")["train"]
    drawn = random.Random(0)
    known = " ".join(text for text, _ in made).split()
    with open(file, "w", encoding="utf-8") as lines:
        for _ in range(count):
            row = {"text": " ".join(drawn.choices(known, k=words)), "label": drawn.choice(made)[1]}
            lines.write(json.dumps(row) + "\n")
    return Subject(lambda count: {})


def write_rows(file: str) -> Subject:
    """Writes the training rows of the miniature's RTE, {"text", "label"} a line."""
    from promot_jax.tasks import mini_rows, mini_vocabulary

    rows = mini_rows.zero_shot_splits("rte")["train"]
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    pathlib.Path(file).write_text("".join(lines))
    return Subject(lambda count: {}, lambda: {"tokenizer": str(mini_vocabulary.MODEL_PATH)})

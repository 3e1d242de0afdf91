"""Training steps of both stages against transformers on torch, with the same network and batch.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --emb_dim 512 --mlp_dim 1024 --layers 8 --heads 6 --vocab 250112

Each round times a few steps of every contender in turn, so that a machine whose speed drifts
favours none; the medians over rounds and their ratio are printed. The defaults are the miniature's
shape. Needs the `test` extra.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import torch
import transformers

from promot_jax import data, models, optimizers, partitioning, stages, train, trees
from promot_jax.networks import prompt, t5
from promot_jax.train_step import make_train_step


def batch_of(shape) -> dict[str, np.ndarray]:
    """Returns random full rows: inputs [B, T], targets [B, U]."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(3, shape.vocab, (shape.batch, shape.inputs), dtype=np.int32)
    targets = rng.integers(3, shape.vocab, (shape.batch, shape.targets), dtype=np.int32)
    return {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_loss_weights": np.ones_like(targets),
    }


def network_of(shape) -> models.EncoderDecoderModel:
    """Returns our model of a shape."""
    config = t5.T5Config(
        vocab_size=shape.vocab,
        emb_dim=shape.emb_dim,
        num_heads=shape.heads,
        head_dim=shape.head_dim,
        mlp_dim=shape.mlp_dim,
        num_encoder_layers=shape.layers,
        num_decoder_layers=shape.layers,
        mlp_activations=("relu",),
    )
    return models.EncoderDecoderModel(t5.Transformer(config), vocabulary=None)


def ours(shape, trainable: str, prompt_rows: int):
    """Returns a function that runs `n` steps of a stage and waits for them."""
    model = network_of(shape)
    params = model.init(jax.random.key(0))
    batch, name = batch_of(shape), None
    if prompt_rows:
        name = "task"
        embedding = params["token_embedder"]["embedding"]
        rows = prompt.sampled_vocabulary(embedding, prompt_rows, jax.random.key(1))
        params = models.add_prompt(params, name, rows)
        batch["prompt_ids"] = np.zeros(shape.batch, np.int32)
    stage = stages.Stage(
        name="stage",
        trainable=(trainable,),
        mixture="",
        task_feature_lengths={},
        steps=1,
        batches=data.FixedBatches(shape.batch),
        optimizer=optimizers.model_adafactor,
        prompt=name,
        prompt_length=prompt_rows,
    )
    mesh = partitioning.make_mesh()
    state = train.sharded_state(stage, params, model, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    model = model.with_prompts(models.prompts_of(params))
    step = make_train_step(model, stage, stage.optimizer(), mesh, shardings)
    placed, key = partitioning.shard_batch(mesh, batch), jax.random.key(0)

    def run(count):
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, placed, key)
        jax.block_until_ready((state, metrics))

    return run


def torchs(shape, prompt_rows: int, tune_model: bool):
    """The same in torch; a prompt is prepended to `inputs_embeds` as PEFT does."""
    config = transformers.T5Config(
        vocab_size=shape.vocab,
        d_model=shape.emb_dim,
        d_kv=shape.head_dim,
        num_heads=shape.heads,
        d_ff=shape.mlp_dim,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers,
        feed_forward_proj="relu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config).train()
    rows = torch.nn.Parameter(torch.randn(prompt_rows, shape.emb_dim), requires_grad=not tune_model)
    model.requires_grad_(tune_model)
    trained = model.parameters() if tune_model else [rows]
    optimizer = transformers.Adafactor(
        trained, lr=0.001, relative_step=False, scale_parameter=True, warmup_init=False
    )
    batch = batch_of(shape)
    inputs = torch.tensor(batch["encoder_input_tokens"], dtype=torch.long)
    labels = torch.tensor(batch["decoder_target_tokens"], dtype=torch.long)

    def run(count):
        for _ in range(count):
            embedded = model.get_input_embeddings()(inputs)
            embedded = torch.cat([rows.expand(len(inputs), -1, -1), embedded], dim=1)
            model(inputs_embeds=embedded, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def main() -> None:
    """Parses the shape, times the contenders in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shape = {
        "emb_dim": 128,
        "heads": 4,
        "head_dim": 32,
        "mlp_dim": 512,
        "layers": 3,
        "vocab": 1280,
        "batch": 32,
        "inputs": 40,
        "targets": 4,
        "prompt": 16,
        "rounds": 7,
        "steps": 5,
    }
    for name, value in shape.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    shape = parser.parse_args()
    partitioning.use_cpu_cores(trees.count(network_of(shape).shapes_and_axes()[0]))
    contenders = {
        "stage 1, prompt": (
            ours(shape, "encoder/prompt/.*", shape.prompt),
            torchs(shape, shape.prompt, tune_model=False),
        ),
        "stage 2, model": (
            ours(shape, "(?!encoder/prompt/).*", shape.prompt),
            torchs(shape, shape.prompt, tune_model=True),
        ),
        "fine-tuning": (ours(shape, ".*", 0), torchs(shape, 0, tune_model=True)),
    }
    print(f"{'':18}{'promot_jax':>14}{'torch':>14}{'torch / ours':>14}")
    for name, pair in contenders.items():
        times = []
        for run in pair:
            run(2)
        for _ in range(shape.rounds):
            row = []
            for run in pair:
                started = time.perf_counter()
                run(shape.steps)
                row.append((time.perf_counter() - started) / shape.steps * 1000)
            times.append(row)
        mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{name:18}{mine:11.1f} ms{theirs:11.1f} ms{ratio:14.2f}")


if __name__ == "__main__":
    main()

"""What promot_jax is compared with: transformers and PEFT on torch.

As a program, this file does the first step of prompt tuning: the shortest way to do with these
packages what `promot run` does until then.
"""

import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Sequence

import numpy as np
import torch
import transformers

from benchmarks import shapes
from benchmarks.shapes import Row, Shape
from benchmarks.workers import Subject

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _open(shape: Shape, folder: str):
    """Returns the model of transformers with the weights of a folder."""
    kinds = {
        "t5": transformers.AutoModelForSeq2SeqLM,
        "decoder": transformers.AutoModelForCausalLM,
    }
    changes = {"dropout_rate": 0.0} if shape.family == "t5" else {}
    model = kinds[shape.family].from_pretrained(folder, dtype=torch.float32, **changes)
    return model.to(DEVICE)


def _precision(dtype: str):
    """Computes in bfloat16, with parameters in float32, where `dtype` says so."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, getattr(torch, dtype))


def _tuned_prompt(model, shape: Shape):
    """Returns the model within PEFT's prompt tuning."""
    # Not for those that need none: it takes a second to import.
    import peft

    config = peft.PromptTuningConfig(
        task_type={"t5": "SEQ_2_SEQ_LM", "decoder": "CAUSAL_LM"}[shape.family],
        num_virtual_tokens=shape.prompt,
        # The encoder's input alone has a prompt.
        num_transformer_submodules=1,
    )
    return peft.get_peft_model(model, config)


def _start_stage(model, shape: Shape, stage: str):
    """Returns the model with the benchmark's prompt; either the prompt trains or all else."""
    model = _tuned_prompt(model, shape)
    with torch.no_grad():
        rows = torch.from_numpy(shapes.prompt(shape))
        model.prompt_encoder["default"].embedding.weight.copy_(rows)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("prompt_encoder.") == (stage == "prompt"))
    return model


def _optimizer(model) -> torch.optim.Optimizer:
    return transformers.Adafactor(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=0.001,
        relative_step=False,
        scale_parameter=True,
        warmup_init=False,
    )


def train_step(shape: dict, folder: str, dtype: str, stage: str, rows: str = "full") -> Subject:
    """Runs training steps; see `ours.train_step`.

    Here, `rows` is "full", "padded" to the longest of the batch, or "flattened" to one line.
    """
    shape = Shape(**shape)
    model = _open(shape, folder)
    if stage != "fine_tuning":
        model = _start_stage(model, shape, stage)
    optimizer = _optimizer(model.train())
    collate = _flattened if rows == "flattened" else functools.partial(_padded, shape.family)
    batches = itertools.cycle(shapes.step_rows(shape, rows != "full"))

    def run(count):
        losses = []
        for batch in itertools.islice(batches, count):
            with _precision(dtype):
                loss = model(**collate(batch), use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return {"losses": [loss.item() for loss in losses]}

    return Subject(run, _memory)


def _padded(family: str, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Returns the batch of rows, each followed by padding up to the longest."""
    if family == "decoder":
        ids, labels = zip(*map(_line, rows), strict=True)
    else:
        ids, labels = zip(*rows, strict=True)
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    ids, labels = ([torch.from_numpy(row).long() for row in side] for side in (ids, labels))
    mask = [torch.ones_like(row) for row in ids]
    batch = {
        "input_ids": pad(ids, padding_value=shapes.PAD),
        "attention_mask": pad(mask),
        "labels": pad(labels, padding_value=-100),
    }
    return {name: tensor.to(DEVICE) for name, tensor in batch.items()}


def _flattened(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Returns the batch of rows one behind the other, as `DataCollatorWithFlattening` does.

    Transformers sees by the positions where a row begins, as long as it keeps no cache.
    """
    ids, labels = zip(*map(_line, rows), strict=True)
    places = [np.arange(len(row)) for row in ids]
    parts = {"input_ids": ids, "labels": labels, "position_ids": places}
    return {
        name: torch.from_numpy(np.concatenate(part)).long()[None].to(DEVICE)
        for name, part in parts.items()
    }


def _line(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of a row of a decoder-only model, and its labels."""
    inputs, targets = row
    return np.concatenate(row), np.concatenate([np.full(len(inputs), -100), targets])


def decode(shape: dict, folder: str, dtype: str, beams: int) -> Subject:
    """Decodes the batch with `generate`."""
    shape = Shape(**shape)
    model = _open(shape, folder).eval()
    inputs = torch.tensor(shapes.words(shape)[0], dtype=torch.long).to(DEVICE)
    first = 1 if shape.family == "t5" else shape.inputs

    def run(count):
        for _ in range(count):
            with _precision(dtype):
                tokens = model.generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    num_beams=beams,
                    max_new_tokens=shape.targets,
                    do_sample=False,
                    length_penalty=1.0,
                    early_stopping=False,
                    pad_token_id=shapes.PAD,
                    eos_token_id=shapes.END,
                )
        return {"tokens": tokens[:, first:].tolist()}

    return Subject(run, _memory)


def _memory() -> dict:
    """Returns the peak of the accelerator's memory, nothing on a CPU."""
    if DEVICE == "cpu":
        return {}
    return {"device_mb": torch.cuda.max_memory_allocated() // 2**20}


class _Rows(torch.utils.data.Dataset):
    """Rows of a .jsonl file, tokenised when they are asked for."""

    def __init__(self, file: str, tokenizer: str, inputs: int, targets: int):
        with open(file, encoding="utf-8") as lines:
            self._rows = [json.loads(line) for line in lines]
        self._tokenizer, self._longest = tokenizer, (inputs, targets)
        self._processor = None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number):
        import sentencepiece

        # Opened in the process that uses it.
        self._processor = self._processor or sentencepiece.SentencePieceProcessor(self._tokenizer)
        texts = self._rows[number]["text"], self._rows[number]["label"]
        return [
            [*self._processor.encode(text)[: most - 1], shapes.END]
            for text, most in zip(texts, self._longest, strict=True)
        ]


def _collate(rows, inputs: int, targets: int):
    """Pads rows to [B, T] and [B, U]."""
    arrays = []
    for part, length in enumerate((inputs, targets)):
        array = np.zeros((len(rows), length), np.int64)
        for line, row in zip(array, rows, strict=True):
            line[: len(row[part])] = row[part]
        arrays.append(torch.from_numpy(array))
    return arrays


def _loader(file: str, tokenizer: str, rows: int, inputs: int, targets: int, processes: int):
    return torch.utils.data.DataLoader(
        _Rows(file, tokenizer, inputs, targets),
        batch_size=rows,
        shuffle=True,
        drop_last=True,
        num_workers=processes,
        persistent_workers=processes > 0,
        collate_fn=functools.partial(_collate, inputs=inputs, targets=targets),
    )


def batches(
    file: str, tokenizer: str, rows: int, inputs: int, targets: int, processes: int
) -> Subject:
    """Reads training batches with torch's DataLoader and sentencepiece; see `ours.batches`."""
    loader = _loader(file, tokenizer, rows, inputs, targets, processes)

    def endless():
        while True:
            yield from loader

    stream = endless()

    def run(count):
        tokens = 0
        for _ in range(count):
            tokens += sum(int(part.count_nonzero()) for part in next(stream))
        return {"rows": rows * count, "tokens": tokens}

    return Subject(run)


def main() -> None:
    """Tunes a prompt for one step and says so."""
    folder, file, tokenizer, prompt, rows, inputs, targets = sys.argv[1:]
    sizes = {"rows": int(rows), "inputs": int(inputs), "targets": int(targets)}
    shape = Shape("t5", {}, prompt=int(prompt), **sizes)
    model = _tuned_prompt(_open(shape, folder), shape).train()
    loader = _loader(file, tokenizer, processes=0, **sizes)
    inputs, targets = (part.to(DEVICE) for part in next(iter(loader)))
    batch = {"input_ids": inputs, "attention_mask": inputs != shapes.PAD}
    model(**batch, labels=targets.masked_fill(targets == shapes.PAD, -100)).loss.backward()
    _optimizer(model).step()
    print("step 1/1", flush=True)


if __name__ == "__main__":
    main()

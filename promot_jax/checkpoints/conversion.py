"""What a checkpoint is, and the way from one format to another: inspect, import, export."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from promot_jax import models
from promot_jax.base import files, partitioning, trees
from promot_jax.base.errors import UserError
from promot_jax.base.trees import Tree
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import FORMATS, delta, known, peft
from promot_jax.checkpoints.formats import source as sources
from promot_jax.checkpoints.formats.source import Source
from promot_jax.models.networks import lora
from promot_jax.models.networks.parallel import Parallel
from promot_jax.models.networks.prompt import nearest_tokens, read_file

KINDS = {"t5": "t5 (encoder-decoder)", "decoder": "decoder (decoder-only)"}
SIZES = pretrained.SIZES
# What does not belong to the checkpoint but to how it was last used.
RUNTIME = ("dropout_rate", "dtype", "prompt_names", "prompt_length", "scan_layers", "remat")
# Share of changed entries from which on a delta takes more room than a model.
DENSE = 0.5
# Name of the low-rank adapter among the names of soft prompts.
LORA = "lora"


def inspect(path: str, *, vocabulary: str | None, leaves: bool, nearest: int) -> Iterator[str]:
    """Yields lines that say what is at `path`.

    Args:
      path: a checkpoint of any format, or an adapter.
      vocabulary: file of a vocabulary, for a checkpoint that has none.
      leaves: whether to list every leaf.
      nearest: how many nearest tokens of each prompt row to show.

    Raises:
      UserError: nothing there that is known, or a damaged file.
    """
    if delta.is_format(path) or peft.is_format(path) or path.endswith(".npy"):
        yield from _table(_adapter_facts(path))
        return
    source = known.open_checkpoint(path)
    yield from _table(_source_facts(source))
    if leaves:
        yield ""
        rows = [
            (leaf_path, str(tuple(leaf.shape)), str(leaf.dtype), source.where.get(leaf_path, ""))
            for leaf_path, leaf in source.leaves.items()
        ]
        yield from _columns(("leaf", "shape", "dtype", "in the file"), rows)
    if nearest:
        yield from _nearest_lines(source, vocabulary, nearest)


def import_model(
    path: str,
    out: pathlib.Path,
    *,
    vocabulary: str | None = None,
    adapters: Sequence[str] = (),
    merge_deltas: str | None = None,
    may_miss: Sequence[str] = (),
    may_skip: Sequence[str] = (),
    dry_run: bool = False,
) -> Iterator[str]:
    """Writes a checkpoint of any format as a model folder; yields lines that say what happens.

    Args:
      path: the checkpoint.
      out: new folder.
      vocabulary: file of a vocabulary, for a checkpoint that has none.
      adapters: `[NAME=]PATH` each, see `pretrained.attach`.
      merge_deltas: how those of them that are deltas are merged, see `delta.merged`; None adds up.
      may_miss, may_skip: patterns, see `pretrained.load`.
      dry_run: only say it.

    Raises:
      UserError: a checkpoint or adapter that does not fit, or an `out` that exists.
    """
    deltas, adapters, by = with_deltas_apart(adapters, merge_deltas)
    model, source = pretrained.open_model(path, vocabulary)
    expected = pretrained.expected_leaves(model, None)
    matched = sources.match(source, expected, may_miss=may_miss, may_skip=may_skip)
    yield f"{path} ({source.format}) -> {out} (promot_jax)"
    shapes = trees.flatten(expected)
    reasons = {**dict.fromkeys(matched.skipped, "no place in the model"), **source.ignored}
    yield from _columns(
        ("", "leaves", "parameters", "memory", ""),
        [
            _row("loaded", {path: shapes[path] for path in matched.loaded}),
            _row("initialised", {path: shapes[path] for path in matched.initialised}),
            ("skipped", str(len(matched.skipped)), "", "", _some(_reasons(reasons))),
        ],
    )
    files.check_new(out)
    if dry_run:
        return
    params = pretrained.load(
        source, model, partitioning.make_mesh(), may_miss=may_miss, may_skip=may_skip
    )
    params = pretrained.with_deltas(model, params, deltas, by)
    for adapter in adapters:
        model, params = pretrained.attach(model, params, *named(adapter))
    origin = {"checkpoint": path, "format": source.format}
    beside = pretrained.beside(source, model.vocabulary)
    pretrained.save(out, model, params, origin, beside, source.dtype)
    yield f"wrote {out}"


def with_deltas_apart(
    adapters: Sequence[str], merge_deltas: str | None
) -> tuple[list[str], list[str], str]:
    """Returns those of `[NAME=]PATH` that are deltas, as paths, all others, and how to merge.

    Raises:
      UserError: no such way to merge, or nothing that could be.
    """
    deltas = [path for each in adapters if delta.is_format(path := named(each)[1])]
    others = [each for each in adapters if not delta.is_format(named(each)[1])]
    by = delta.SUM if merge_deltas is None else merge_deltas
    # One delta alone can be trimmed, the others leave it as it is.
    several = 1 if delta.merging(by)[0] == delta.TIES else 2
    if merge_deltas is not None and len(deltas) < several:
        raise UserError(
            f"--merge_deltas {by} goes with {several} --adapter DELTA or more; leave it out"
        )
    return deltas, others, by


def named(adapter: str) -> tuple[str, str]:
    """Splits `NAME=PATH`; without a name it is that of the file or folder."""
    name, equals, path = adapter.partition("=")
    return (name, path) if equals and "/" not in name else (pathlib.Path(adapter).stem, adapter)


def export_model(
    model: models.Model,
    params: Tree,
    out: pathlib.Path,
    *,
    format_name: str,
    prompt: str | None = None,
    merge_lora: bool = False,
    origin: Mapping[str, Any],
    beside: Mapping[str, bytes] | None = None,
    dtype: str = "float32",
    dry_run: bool = False,
) -> Iterator[str]:
    """Writes a model in one of the formats; yields lines that say what happens.

    Soft prompts and a low-rank adapter go where `Format.adapters` says: among the leaves, each into
    a PEFT folder inside `out`, or one of them alone as `out`.

    Args:
      model: the model of `params`, its prompts and adapter included.
      params: parameters; in a dry run their shapes do.
      out: new folder.
      format_name: one of `formats.WRITTEN`.
      prompt: the prompt that `peft` writes; needed when there are several adapters.
      merge_lora: adds the low-rank adapter to the kernels first.
      origin: where the model comes from.
      beside: files that came with its weights, see `pretrained.beside`.
      dtype: of the weights that `huggingface` writes; the other formats have float32.
      dry_run: only say it.

    Raises:
      UserError: a model that the format cannot express, or an `out` that exists.
    """
    if model.stacked:
        model, params = model.unstacked(), trees.unstack_layers(params)
    if merge_lora:
        model, params = _merged(model, params, dry_run)
    if getattr(model.network.config.lora, "init", None) is not None:
        model, params = _without_begin(model, params, dry_run)
    kind, adapters = FORMATS[format_name].adapters, {}
    if kind != "inside" and isinstance(model.network.config.lora, Parallel):
        yield _left_out(params, format_name, kind)
        model, params = model.with_lora(None), lora.remove(params)
    written = pretrained.content(model, params, origin, beside, dtype)
    leaves = written.leaves
    names = [*trees.prompts_of(params), *([LORA] if model.network.config.lora else [])]
    if kind == "alone":
        prompt = _one_adapter(names, prompt)
        leaves, adapters = {}, {".": _adapter_leaves(params, prompt)}
    elif kind == "beside":
        leaves = trees.flatten(lora.remove(trees.keep_prompts(params, ())))
        adapters = {name: _adapter_leaves(params, name) for name in names}
    faults = {name: reason for name in adapters if (reason := peft.fault(adapters[name]))}
    if faults and kind == "alone":
        raise UserError(f"--prompt {prompt}: {faults['.']}; give another --format")
    if kind == "prompts" and LORA in names:
        raise UserError(f"--format {format_name} has no place for an adapter; give --merge_lora")
    yield f"{_origin_text(origin)} -> {out} ({format_name})"
    rows = [_row("written", leaves)] if leaves else []
    adapters = {name: adapter for name, adapter in adapters.items() if name not in faults}
    rows += [_row(f"PEFT folder {name}", adapter) for name, adapter in adapters.items()]
    yield from _columns(("", "leaves", "parameters", "memory", ""), rows)
    for name, reason in faults.items():
        yield f"prompt {name} stays behind: {reason}"
    if format_name == "huggingface" and dtype != "float32":
        yield f"weights are written as {dtype}; --dtype float32 keeps them as they were trained"
    files.check_new(out)
    if dry_run:
        return
    if leaves:
        known.save(format_name, out, dataclasses.replace(written, leaves=leaves))
    base = str(out) if leaves else origin.get("checkpoint")
    for name, adapter in adapters.items():
        known.save("peft", out / name, dataclasses.replace(written, leaves=adapter, base=base))
    yield f"wrote {out}"


def export_delta(
    start: Tree, end: Tree, out: pathlib.Path, *, origin: Mapping[str, Any], dry_run: bool = False
) -> Iterator[str]:
    """Writes what leads from one model to another; yields lines that say what happens.

    Prompts and adapters are no part of it.

    Args:
      start: parameters that training began with.
      end: what it made of them.
      out: new folder.
      origin: where the model comes from.
      dry_run: only say it.

    Raises:
      UserError: nothing has changed, or an `out` that exists.
    """
    begun, ended = (
        trees.flatten(lora.remove(trees.keep_prompts(trees.unstack_layers(tree), ())))
        for tree in (start, end)
    )
    found = {path: delta.between(begun[path], ended[path]) for path in begun.keys() & ended.keys()}
    changes = {path: found[path] for path in sorted(found) if found[path] is not None}
    if not changes:
        raise UserError(
            "--format delta: training has changed no leaf of the model; --format peft writes "
            "prompts and low-rank adapters"
        )
    yield f"{_origin_text(origin)} -> {out} (delta)"
    count = sum(len(change.places) for change in changes.values())
    size = sum(change.places.nbytes + change.values.nbytes for change in changes.values())
    share = count / _count(begun)
    entries = f"{count:,} changed entries ({share:.2%})"
    yield f"{entries} of {len(changes)} leaves, {size / 2**20:.1f} MiB"
    if share > DENSE:
        yield "most entries have changed: another format takes less room"
    files.check_new(out)
    if not dry_run:
        delta.save(out, changes, origin)
        yield f"wrote {out}"


def _left_out(params: Tree, format_name: str, kind: str) -> str:
    """Returns the line that tells of parallel adapters that a format has no place for."""
    why = f"{format_name} has no place for parallel adapters, and no kernel takes them up"
    if kind == "alone" and not trees.prompts_of(params):
        raise UserError(f"--format {why}; --format native keeps them")
    return f"{why}: the model is written without them; --format native keeps them"


def _without_begin(model: models.Model, params: Tree, dry_run: bool) -> tuple[models.Model, Tree]:
    """Returns the adapters as ones that begin with a product of zero."""
    adapter = model.network.config.lora
    _, plain = lora.without_begin({}, adapter)

    def leaves(small):
        return lora.without_begin(small, adapter)[0]

    small = lora.adapters(params)
    small = jax.eval_shape(leaves, small) if dry_run else leaves(small)
    return model.with_lora(plain), trees.combine(lora.remove(params), small)


def _merged(model: models.Model, params: Tree, dry_run: bool) -> tuple[models.Model, Tree]:
    adapter = model.network.config.lora
    if adapter is None:
        raise UserError("--merge_lora: the model has no low-rank adapter")
    if isinstance(adapter, Parallel):
        raise UserError(
            "--merge_lora: parallel adapters are no change of a kernel; --format native keeps them"
        )
    merged = lora.remove(params) if dry_run else lora.merge(params, adapter)
    return model.with_lora(None), merged


def _one_adapter(names: Sequence[str], prompt: str | None) -> str:
    """Returns the only name, or the one that was asked for."""
    if prompt is None and len(names) == 1:
        return names[0]
    if prompt not in names:
        raise UserError(
            f"--prompt {prompt}: --format peft writes one of {', '.join(names)}; choose one"
            if names
            else "--format peft writes a soft prompt or a low-rank adapter; this model has none"
        )
    return prompt


def _adapter_leaves(params: Tree, name: str) -> dict[str, Any]:
    if name == LORA:
        return trees.flatten(lora.adapters(params))
    return {
        path: leaf
        for path, leaf in trees.flatten(params).items()
        if (match := trees.PROMPT.fullmatch(path)) and match[2] == name
    }


def _origin_text(origin: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in origin.items())


def _adapter_facts(path: str) -> dict[str, str]:
    if path.endswith(".npy"):
        length, width = read_file(path).shape
        return {"format": "soft prompt", "length": str(length), "embedding dimension": str(width)}
    if delta.is_format(path):
        changes = delta.read(path)
        count = sum(len(change.places) for change in changes.values())
        return {"format": "delta", "changed": f"{count:,} entries of {len(changes)} leaves"}
    return {
        "format": "PEFT adapter",
        **{name: str(value) for name, value in peft.describe(path).items()},
    }


def _source_facts(source: Source) -> dict[str, str]:
    prompts = trees.prompts_of(trees.unflatten(dict(source.leaves)))
    facts = {
        "format": source.format,
        "family": KINDS.get(source.family, "not told by the checkpoint"),
        "sizes": ", ".join(
            f"{name} {value}" for name, value in source.config.items() if name in SIZES
        ),
        "settings": ", ".join(
            f"{name} {value}"
            for name, value in source.config.items()
            if name not in (*SIZES, *RUNTIME) and value is not None
        ),
        "parameters": f"{_count(source.leaves):,} in {len(source.leaves)} leaves, "
        f"{_memory(source.leaves)}",
        "soft prompts": ", ".join(f"{name} ({rows} rows)" for name, rows in prompts.items()),
        "vocabulary": _vocabulary_text(source.vocabulary),
        "not used": _some(_reasons(source.ignored)),
        "unexpected": _some(source.unexpected),
        "fingerprint": trees.fingerprint(
            (path, np.asarray(source.read(path))) for path in sorted(source.leaves)
        ),
    }
    return {name: text for name, text in facts.items() if text}


def _vocabulary_text(vocabulary: Mapping[str, Any] | None) -> str:
    if vocabulary is None:
        return "none; give --vocabulary to generate"
    if "unread" in vocabulary:
        return f"{vocabulary['unread']}; give the tokenizer.json by --vocabulary to generate"
    if vocabulary["kind"] == "bytes":
        return "bytes, as ByT5's; it needs no file"
    return f"{vocabulary['kind']}, {vocabulary.get('file', 'inside the file')}"


def _nearest_lines(source: Source, vocabulary: str | None, count: int) -> Iterator[str]:
    matches = {path: trees.PROMPT.fullmatch(path) for path in source.leaves}
    prompts = [path for path, match in matches.items() if match and match[3] == "prompt"]
    if not prompts:
        raise UserError(f"--nearest: {source.path} has no soft prompt")
    words = pretrained.find_vocabulary(source, vocabulary)
    embedding = source.read("token_embedder/embedding")
    for path in prompts:
        ids, similarity = nearest_tokens(source.read(path), embedding, count)
        rows = [
            (
                str(row),
                "  ".join(
                    f"{words.decode([int(i)]) if words else int(i)} {cosine:.2f}"
                    for i, cosine in zip(ids[row], similarity[row], strict=True)
                ),
            )
            for row in range(len(ids))
        ]
        yield ""
        yield from _columns((trees.PROMPT.fullmatch(path)[2], "nearest tokens, cosine"), rows)


def _row(name: str, leaves: Mapping[str, Any]) -> tuple[str, ...]:
    some = "" if name != "initialised" else _some(list(leaves))
    return name, str(len(leaves)), f"{_count(leaves):,}", _memory(leaves), some


def _count(leaves: Mapping[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves.values())


def _memory(leaves: Mapping[str, Any]) -> str:
    size = float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves.values()))
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _reasons(names: Mapping[str, str]) -> list[str]:
    """Groups names by reason: `encoder.embed_tokens.weight and 1 more (copy of …)`."""
    groups: dict[str, list[str]] = {}
    for name, reason in names.items():
        groups.setdefault(reason, []).append(name)
    return [
        f"{found[0]}{f' and {len(found) - 1} more' if found[1:] else ''} ({reason})"
        for reason, found in groups.items()
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _table(facts: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, facts))
    for name, text in facts.items():
        yield f"{name:{width}}  {text}"


def _columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    rows = [header, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    numeric = [header[i] in ("leaves", "parameters", "memory") for i in range(len(header))]
    for row in rows:
        cells = zip(row, widths, numeric, strict=True)
        yield "  ".join(
            f"{text:>{width}}" if right else f"{text:{width}}" for text, width, right in cells
        ).rstrip()

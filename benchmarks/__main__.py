"""promot_jax against its peers: ratios of one run on this machine.

    python -m benchmarks
    python -m benchmarks --only train,decode --shape mt5_small --rounds 7 --json figures.json

docs/benchmarks.md says what is compared and how to read the table.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import decoding, first_step, input_pipeline, train_step, workers
from benchmarks.shapes import SHAPES, Shape
from benchmarks.train_step import OURS

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "peft", "t5x", "seqio")
KINDS = ("train", "uneven", "decode", "input", "start")
NETWORKS = KINDS[:3]
# Fields of a shape that have a flag.
SIZES = ("rows", "inputs", "targets", "prompt")


def main() -> None:
    """Parses flags, runs the benchmarks, prints the table and writes the JSON file."""
    arguments = _arguments()
    about = {"command": " ".join(["python -m benchmarks", *sys.argv[1:]]), **_machine()}
    results = []
    print(f"{about['date']}  {about['processor']}, {about['cores']} cores  load {about['load']}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            for kind, shape, result in _results(arguments, pathlib.Path(folder), about):
                results.append({"kind": kind, "shape": shape, **result})
                print("\n".join(_lines(results[-1])), flush=True)
    except RuntimeError as error:
        sys.exit(f"benchmarks: {error}")
    about["load_after"] = _load()
    if arguments.json:
        content = json.dumps({**about, "results": results}, indent=1) + "\n"
        pathlib.Path(arguments.json).write_text(content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=_names(KINDS), default=KINDS, help=", ".join(KINDS))
    parser.add_argument(
        "--shape",
        type=_names(SHAPES),
        default=("mini", "mt5_small", "smollm2"),
        help=f"of {', '.join(NETWORKS)}: {', '.join(SHAPES)}",
    )
    parser.add_argument("--dtype", choices=train_step.TOLERANCE, help="bfloat16 on a GPU")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed in turn")
    parser.add_argument("--times", type=int, default=2, help="steps of one timing")
    parser.add_argument("--beams", type=int, default=4)
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, help="in place of the shape's")
    parser.add_argument("--json", metavar="FILE", help="where to write all figures")
    return parser.parse_args()


def _names(known) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r} is none of {', '.join(known)}; separate several by commas"
            )
        return chosen

    return names


def _machine() -> dict[str, Any]:
    """Returns the date, what this machine is, how busy it is, and versions."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30,
        "load": _load(),
        "environment": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("JAX_", "XLA_", "OMP_", "MKL_", "GLIBC_", "MALLOC_"))
        },
        "versions": versions,
    }


def _processor() -> str:
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load() -> float:
    """Returns how many processes wanted a core in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def _results(
    arguments, folder: pathlib.Path, about: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields (kind, shape, result), and adds the accelerator to `about`."""
    networks = [kind for kind in NETWORKS if kind in arguments.only]
    others = [kind for kind in arguments.only if kind not in NETWORKS]
    sizes = {name: getattr(arguments, name) for name in SIZES}
    changes = {name: size for name, size in sizes.items() if size is not None}
    for name in arguments.shape if networks else ():
        shape = dataclasses.replace(SHAPES[name], **changes)
        weights, about["device"] = _write_weights(shape, folder / name)
        dtype = arguments.dtype or ("bfloat16" if _on_gpu(about) else "float32")
        common = (shape, weights, dtype, arguments.rounds, arguments.times)
        print(f"\n{name}: {_sizes(shape)}, {dtype}")
        if "train" in networks:
            yield from (("train", name, result) for result in train_step.measure(*common))
        if "uneven" in networks and shape.family == "decoder":
            found = train_step.measure_uneven(*common)
            yield from (("uneven", name, result) for result in found)
        if "decode" in networks:
            found = decoding.measure(*common, arguments.beams)
            yield from (("decode", name, result) for result in found)
    if others:
        file = str(folder / "rows.jsonl")
        tokenizer = _once("benchmarks.ours:write_rows", file=file)["tokenizer"]
        print("\nrows of the miniature's RTE")
    if "input" in others:
        found = input_pipeline.measure(file, tokenizer, arguments.rounds)
        yield from (("input", "mini", result) for result in found)
    if "start" in others:
        weights, about["device"] = _write_weights(SHAPES["mini"], folder / "start")
        found = first_step.measure(weights, file, tokenizer, arguments.rounds)
        yield from (("start", "mini", result) for result in found)


def _write_weights(shape: Shape, folder: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """Writes random weights; returns their folder and what device jax computes on."""
    given = {"shape": dataclasses.asdict(shape), "folder": str(folder)}
    device = _once("benchmarks.ours:write_weights", **given)
    return str(folder), {name: device[name] for name in ("platform", "kind")}


def _once(target: str, **arguments: Any) -> dict[str, Any]:
    """Returns what a contender's function tells about itself."""
    worker = workers.Worker(target, arguments)
    try:
        return worker.about()
    finally:
        worker.close()


def _on_gpu(about) -> bool:
    return about["device"]["platform"] == "gpu"


def _sizes(shape: Shape) -> str:
    return (
        f"{shape.rows} rows of {shape.inputs} + {shape.targets} tokens, prompt of {shape.prompt}, "
        f"vocabulary of {shape.config['vocab_size']}"
    )


def _lines(result: dict[str, Any]) -> list[str]:
    """Returns the rows of the table for one result."""
    name = result["name"] + "".join(
        f", {text} {result[key]:.2g}"
        for key, text in (("loss_difference", "losses differ by"), ("equal_rows", "equal rows"))
        if key in result
    )
    heads = ("ms", "ratio", "min - max", "CPU ms", "first s", "peak MB", "device MB", "tokens/s")
    rows = [(name, heads)]
    for label, row in result["contenders"].items():
        ratio = result["ratio"].get(label, {} if label != OURS else {"median": 1.0})
        cells = {
            "ms": _number(row["seconds"]["median"] * 1000),
            "ratio": f"{ratio['median']:.2f}" if ratio else None,
            "min - max": f"{ratio['min']:.2f} - {ratio['max']:.2f}" if "min" in ratio else None,
            "CPU ms": "cpu_seconds" in row and _number(row["cpu_seconds"]["median"] * 1000),
            "first s": "first_seconds" in row and f"{row['first_seconds']:.1f}",
            "peak MB": row.get("peak_mb"),
            "device MB": row.get("facts", {}).get("device_mb"),
            "tokens/s": "tokens_per_second" in row and f"{row['tokens_per_second']:,.0f}",
        }
        rows.append((f"  {label}", tuple(str(cells[head] or "") for head in heads)))
    used = [i for i in range(len(heads)) if any(cells[i] for _, cells in rows[1:])]
    return [
        f"  {first:44}" + "".join(f"{cells[i]:>{16 if i == 2 else 10}}" for i in used)
        for first, cells in rows
    ]


def _number(milliseconds: float) -> str:
    return f"{milliseconds:,.{1 if milliseconds < 100 else 0}f}"


if __name__ == "__main__":
    main()

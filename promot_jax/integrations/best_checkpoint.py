"""The best checkpoint of a folder that T5X trained in, chosen from the scores that T5X wrote.

python -m promot_jax.integrations.best_checkpoint MODEL_DIR [METRIC]
"""

import argparse
import json
import math
import sys

from etils import epath

from promot_jax.base.errors import UserError

# {metric: {step: score}} of one task.
Scores = dict[str, dict[int, float]]


def best_checkpoint(model_dir: str | None, metric: str | None = None) -> str:
    """Returns the path of the checkpoint with the highest score.

    Of checkpoints with equal scores it is the last, so that a prompt of a few steps is not chosen
    for an equal score. All tasks of a mixture count the same; one that has a single score counts
    with that.

    Args:
      model_dir: MODEL_DIR of a training with T5X, local or `gs://`.
      metric: name of the score; None where the tasks have only one.

    Raises:
      UserError: no such folder, no scores in it, or no checkpoint of a step that has a score.
    """
    if not model_dir:
        raise UserError(
            "no checkpoint to start from; name it (--gin.INITIAL_CHECKPOINT_PATH to train, "
            "--gin.CHECKPOINT_PATH to evaluate), or give --gin.BEST_OF=\"'MODEL_DIR'\" for the "
            "best one of a folder that T5X trained in"
        )
    folder = epath.Path(model_dir)
    tasks = {
        file.name.removesuffix("-metrics.jsonl"): _read(file)
        for file in sorted(folder.glob("inference_eval/*-metrics.jsonl"))
    }
    if not tasks:
        raise UserError(
            f"{folder}/inference_eval has no scores of T5X (*-metrics.jsonl); give the MODEL_DIR "
            "of a training that evaluated, or name a checkpoint"
        )
    if metric is not None and not any(metric in found for found in tasks.values()):
        names = ", ".join(sorted(set().union(*tasks.values()))) or "none"
        raise UserError(f"{folder} has no metric {metric!r}; it has {names}")
    scores = [_of_metric(found, metric, task, folder) for task, found in tasks.items()]
    means = {
        step: sum(found[step] for found in scores) / len(scores)
        for step in set.intersection(*map(set, scores))
        if (folder / f"checkpoint_{step}").exists()
    }
    if not means:
        raise UserError(
            f"{folder} keeps no checkpoint of a step that has a score; name a checkpoint"
        )
    return str(folder / f"checkpoint_{max(means, key=lambda step: (means[step], step))}")


def _read(file: epath.Path) -> Scores:
    """Reads one line for each evaluation; the last one of a step counts."""
    found: Scores = {}
    for number, line in enumerate(file.read_text().strip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}, line {number}: no scores of T5X; remove it") from error
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, {})[step] = float(value)
    return found


def _of_metric(
    found: Scores, metric: str | None, task: str, folder: epath.Path
) -> dict[int, float]:
    if metric not in found and len(found) != 1:
        names = ", ".join(found) or "none"
        raise UserError(
            f"{folder}: choose a metric of {task} (it has {names}); give it as --gin.BEST_METRIC"
        )
    return found[metric] if metric in found else next(iter(found.values()))


def main(arguments: list[str] | None = None) -> int:
    """Prints the path of the best checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m promot_jax.integrations.best_checkpoint",
        description="Print the best checkpoint of a folder that T5X trained in.",
    )
    parser.add_argument("model_dir", metavar="MODEL_DIR", help="of a training with T5X")
    parser.add_argument("metric", metavar="METRIC", nargs="?", help="needed if there are several")
    given = parser.parse_args(arguments)
    try:
        print(best_checkpoint(given.model_dir, given.metric))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

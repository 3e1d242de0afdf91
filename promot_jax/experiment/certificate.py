"""What a comparison says, as facts that a file keeps: what was measured, on what, how sure."""

import datetime
from typing import Any

import promot_jax
from promot_jax.experiment.comparison import Comparison, OfTask, Rows

SCHEMA = 1
COVERS = (
    "Greedy answers to these rows, the model as it is asked here. It says nothing of other "
    "abilities, languages, longer texts or other ways of asking."
)


def facts(
    comparison: Comparison,
    rows: Rows,
    models: dict[str, dict[str, Any]],
    confidence: float,
    promise: float | None,
) -> dict[str, Any]:
    """Returns the facts of a comparison, for JSON.

    Args:
      comparison: of the start and a model.
      rows: that both were asked.
      models: what is known of `start` and `model`, such as path and checksum.
      confidence: of each bound, in per cent.
      promise: the share that is to be kept, in per cent; None promises nothing.
    """
    kept = comparison.kept
    return {
        "schema": SCHEMA,
        "promot_jax": promot_jax.__version__,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **models,
        "promise": promise,
        "confidence": confidence,
        "verdict": None if promise is None else kept.verdict(promise),
        "kept": _share(kept),
        "agreement": round(comparison.agreement, 2),
        "split": rows.split,
        "tasks": [_of_task(found) for found in comparison.of_tasks],
        "covers": COVERS,
    }


def _share(kept) -> dict[str, Any] | None:
    if kept is None:
        return None
    numbers = {name: round(getattr(kept, name), 2) for name in ("share", "low", "high")}
    return numbers | {"rows": kept.rows}


def _of_task(found: OfTask) -> dict[str, Any]:
    start, model = found.pair.whole
    return {
        "task": found.task.name,
        "label": found.task.label,
        "metric": found.task.metric,
        "rows": len(found.pair),
        "start": round(start, 2),
        "model": round(model, 2),
        "kept": _share(found.kept),
        "agreement": round(found.pair.agreement, 2),
        "most_said": found.most_said,
        "said": {"start": round(found.said[0], 2), "model": round(found.said[1], 2)},
    }

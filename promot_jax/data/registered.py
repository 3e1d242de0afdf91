"""What is registered: tasks and mixtures, and their first rows."""

import os
from collections.abc import Sequence

import seqio

from promot_jax.base.errors import UserError, first_line
from promot_jax.data import batching, oracle, scoring

# Rows of a task that is not a person's own whose oracle is asked.
ORACLE_ROWS = 500
# What the miniature's tasks stand for.
STANDS_FOR = {
    "mini_pretrain": "pretraining",
    "mini_rte": "RTE",
    "mini_cb": "CB",
    "mini_wic": "WiC",
    "mini_triviaqa": "TriviaQA",
    "mini_web_questions": "web_questions",
    "mini_wmt_enfr": "WMT14 En-Fr",
    "mini_wmt_ende": "WMT16 En-De",
    "mini_wmt_enro": "WMT16 En-Ro",
    "mini_xsum": "XSum",
    "mini_wikilingua": "WikiLingua",
}


def listed() -> list[str]:
    """Returns a line for each registered task: name, where its rows are from, splits, metric."""
    rows = [("NAME", "ROWS FROM", "SPLITS", "METRIC")]
    for name in sorted(seqio.TaskRegistry.names()):
        task = seqio.TaskRegistry.get(name)
        metrics = ", ".join(getattr(fn, "__name__", str(fn)) for fn in task.predict_metric_fns)
        rows.append((name, _origin(task), ", ".join(task.splits), metrics))
    for name in sorted(seqio.MixtureRegistry.names()):
        mixture = seqio.MixtureRegistry.get(name)
        parts = " and ".join(part.name for part in mixture.tasks)
        # A mixture keeps its splits as a set.
        splits = dict.fromkeys(split for part in mixture.tasks for split in part.splits)
        rows.append((name, f"mixture of {parts}", ", ".join(splits), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def shown(task: str, split: str | None, count: int, vocabulary: seqio.Vocabulary | None):
    """Yields lines on the first rows of a task: texts, pieces and ids, accepted answers.

    Args:
      task: registered name.
      split: its split; None takes validation, else test, else train.
      count: rows.
      vocabulary: splits texts into pieces; None takes the task's own.

    Raises:
      UserError: an unknown task or split, or rows or a vocabulary that are not on this machine.
    """
    found = batching.with_vocabulary(task, vocabulary)
    if isinstance(found, seqio.Mixture):
        names = ", ".join(part.name for part in found.tasks)
        raise UserError(f"{task} is a mixture; show one of its tasks: {names}")
    split = split or next(s for s in ("validation", "test", *found.splits) if s in found.splits)
    if split not in found.splits:
        raise UserError(f"task {task!r} has no split {split!r}; it has {', '.join(found.splits)}")
    _check_fetched(found)
    words = found.output_features["targets"].vocabulary
    try:
        _ = words.vocab_size
    except UserError:
        raise
    except Exception as error:  # of file systems, local and remote
        raise UserError(
            f"the vocabulary of {task} cannot be read ({first_line(error)}); give one by "
            "--vocabulary or --checkpoint"
        ) from None
    for row in examples(task, split, count, vocabulary):
        yield f"{task}, {split}"
        for feature in scoring.FEATURES:
            text = scoring.text(row, feature, words.decode)
            ids = found.output_features[feature].vocabulary.encode(text)
            yield f"  {feature}: {text}"
            yield f"    {len(ids)} pieces: {' '.join(_pieces(words, ids))}"
            yield f"    ids: {' '.join(map(str, ids))}"
        right = found.postprocess_fn(text, example=row, is_target=True)
        accepted = [right] if isinstance(right, str) else list(map(str, right))
        yield f"  accepted: {' | '.join(accepted)}"
    if found.predict_metric_fns:
        asked = oracle.ask(task, None, examples(task, split, ORACLE_ROWS, vocabulary), vocabulary)
        yield f"{task}, {split}: oracle {asked.score:.1f}"
        yield from (f"warning: {reason}" for reason in asked.reasons)


def examples(task: str, split: str, limit: int, vocabulary: seqio.Vocabulary | None) -> list[dict]:
    """Returns rows as `data.examples` does.

    Raises:
      UserError: they are of a data set that is not on this machine.
    """
    _check_fetched(batching.with_vocabulary(task, None))
    return batching.examples(task, split, limit, vocabulary)


def _check_fetched(task: seqio.Task | seqio.Mixture) -> None:
    """Raises UserError for a data set of tfds that is not on this machine.

    Nothing here starts a download, which can be gigabytes.
    """
    if (dataset := getattr(getattr(task, "source", None), "tfds_dataset", None)) is None:
        return
    folder = dataset.data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = os.path.expanduser(folder or os.path.join("~", "tensorflow_datasets"))
    about = os.path.join(folder, dataset.name.replace(":", "/"), "dataset_info.json")
    if "://" not in folder and not os.path.isfile(about):
        raise UserError(
            f"task {task.name}: data set {dataset.name} is not in {folder}; "
            f"fetch it with `tfds build {dataset.name} --data_dir {folder}`"
        )


def _origin(task: seqio.Task) -> str:
    if dataset := getattr(task.source, "tfds_dataset", None):
        return f"tfds {dataset.name}"
    name = task.name.removesuffix("_1shot").removesuffix("_randomized")
    if name in STANDS_FOR:
        return f"the miniature, for {STANDS_FOR[name]}"
    return "a function" if isinstance(task.source, seqio.FunctionDataSource) else "files"


def _pieces(vocabulary: seqio.Vocabulary, ids: Sequence[int]) -> list[str]:
    # SentencePiece and the tokenizers library agree on little but this.
    tokenizer = getattr(vocabulary, "tokenizer", None)
    named = getattr(tokenizer, "id_to_piece", None) or getattr(tokenizer, "id_to_token", None)
    return [str(named(i)) if named else vocabulary.decode([i]) for i in ids]

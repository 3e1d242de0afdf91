"""What is registered: tasks and mixtures, and their first rows."""

from collections.abc import Iterator, Sequence

from promot_jax.base.errors import UserError, first_line
from promot_jax.data import batching, oracle, scoring, tasks
from promot_jax.data.continuation import continuing
from promot_jax.data.tasks import Mixture
from promot_jax.data.vocabularies import SentencePieceVocabulary, Tokenizer, Vocabulary

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
    rows, mixtures = [("NAME", "ROWS FROM", "SPLITS", "METRIC")], []
    for name in tasks.known():
        found = tasks.get(name)
        if isinstance(found, Mixture):
            # A mixture has the splits of its tasks.
            splits = dict.fromkeys(s for part in found.rates for s in tasks.task(part).splits)
            mixtures.append(
                (name, f"mixture of {' and '.join(found.rates)}", ", ".join(splits), "")
            )
        else:
            metrics = ", ".join(getattr(fn, "__name__", str(fn)) for fn in found.metric_fns)
            rows.append((name, _origin(found), ", ".join(found.splits), metrics))
    rows += mixtures
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def shown(name: str, split: str | None, count: int, vocabulary: Vocabulary | None) -> Iterator[str]:
    """Yields lines on the first rows of a task: texts, pieces and ids, accepted answers.

    Args:
      name: of the task.
      split: its split; None takes validation, else test, else train.
      count: rows.
      vocabulary: splits texts into pieces; None takes the task's own.

    Raises:
      UserError: an unknown task or split, or rows or a vocabulary that are not on this machine.
    """
    task = tasks.task(name, vocabulary)
    split = split or next(s for s in ("validation", "test", *task.splits) if s in task.splits)
    rows = batching.first_rows(task.rows(split), count)
    words = vocabulary or task.vocabulary()
    try:
        _ = words.vocab_size
    except UserError as error:
        raise UserError(
            f"the vocabulary of {name} cannot be read ({first_line(error)}); give one by "
            "--vocabulary or --checkpoint"
        ) from None
    goes_on = {"inputs": words, "targets": continuing(words)}
    for row in rows:
        yield f"{name}, {split}"
        for feature in scoring.FEATURES:
            ids = goes_on[feature].encode(row[feature])
            yield f"  {feature}: {row[feature]}"
            yield f"    {len(ids)} pieces: {' '.join(_pieces(words, ids))}"
            yield f"    ids: {' '.join(map(str, ids))}"
        right = task.postprocess(row["targets"], example=row, is_target=True)
        accepted = [right] if isinstance(right, str) else list(map(str, right))
        yield f"  accepted: {' | '.join(accepted)}"
    if task.metric_fns:
        asked = oracle.ask(name, None, batching.examples(name, split, ORACLE_ROWS), vocabulary)
        yield f"{name}, {split}: oracle {asked.score:.1f}"
        yield from (f"warning: {reason}" for reason in asked.reasons)


def _origin(task: tasks.Task) -> str:
    name = task.name.removesuffix("_1shot").removesuffix("_randomized")
    return f"the miniature, for {STANDS_FOR[name]}" if name in STANDS_FOR else task.source.origin


def _pieces(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    if isinstance(vocabulary, Tokenizer):
        return [str(vocabulary.tokenizer.id_to_token(i)) for i in ids]
    if isinstance(vocabulary, SentencePieceVocabulary):
        return vocabulary.tokenizer.id_to_piece(list(ids))
    return [vocabulary.decode([i]) for i in ids]

"""A few readable rows of each tfds data set of the paper, served offline with its true features."""

import contextlib
import os
import random
import re
import tempfile
import threading
from collections.abc import Iterator
from unittest import mock

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from promot_jax.tasks import dataset, tfds_rows

PAIRS = [
    ("A dog runs.", "An animal moves."),
    ("It rains in Lima.", "Lima is dry."),
    ("Ana reads a book.", "Ana has a book."),
    ("The shop is open.", "Nobody can shop."),
    ("Two men eat.", "People eat."),
    ("He sleeps.", "He is in Rome."),
]
WORDS = ["bank", "plant", "light", "spring", "match", "bat"]
QUESTIONS = ["who wrote hamlet", "what do cows drink", "where is lima"]
QUESTIONS += ["when do bats sleep", "who painted guernica", "what is salt"]
SENTENCES = ["good morning", "the box is red", "my house", "two birds", "we eat", "no rain"]
ARTICLES = ["rain fell on rome", "a cat was found", "prices rose again"]
ARTICLES += ["the team won", "a bridge opened", "the mayor left"]


def translations(language: str) -> dict[str, list[dict]]:
    def row(sentence):
        return {"en": sentence, language: f"{sentence} ({language})"}

    return {"train": [row(s) for s in SENTENCES], "test": [row("it snows")]}


def entailment(label_of_test: str, *labels: str, **other: int) -> dict[str, list[dict]]:
    def row(pair, label):
        return {"premise": pair[0], "hypothesis": pair[1], "label": label} | other

    train = [row(pair, labels[i % len(labels)]) for i, pair in enumerate(PAIRS)]
    unlabelled = row(("No", "label."), -1)
    test = [unlabelled, row(("A cat sleeps.", "A cat runs."), label_of_test)]
    return {"train": [*train, unlabelled], "test": test}


def word_in_context(word: str, label: str) -> dict:
    sentences = {f"sentence{i}": f"The {word} {verb}." for i, verb in ((1, "fell"), (2, "rose"))}
    places = dict.fromkeys(("start1", "end1", "start2", "end2", "idx"), 0)
    return sentences | places | {"word": word, "label": label}


def multiple_choice(stem: str, answer: str) -> dict:
    choices = {f"choice_{letter}": f"{letter.lower()} {stem.split()[-1]}" for letter in "ABCD"}
    facts = {"fact1": "", "humanScore": 1.0, "clarity": 1.0, "turkIdAnonymized": ""}
    return {"question": {"stem": stem} | choices, "answerKey": answer} | facts


def trivia(question: str, value: str, *aliases: str) -> dict:
    names = ("normalized_value", "matched_wiki_entity_name", "normalized_matched_wiki_entity_name")
    answer = dict.fromkeys((*names, "type"), "") | {"value": value, "aliases": aliases}
    answer["normalized_aliases"] = [alias.lower().replace("-", " ") for alias in aliases]
    texts = {"question": question, "question_id": "", "question_source": ""}
    return texts | {"entity_pages": [], "search_results": [], "answer": answer}


def how_to(article: str, summary: str) -> dict:
    aligned = {"source_aligned": {"en": article}, "target_aligned": {"en": summary}}
    names = {"gem_id": "", "gem_parent_id": "", "references": [summary]}
    return {"source": article, "target": summary} | aligned | names


ROWS = {
    "super_glue/rte/1.0.2": entailment("not_entailment", "entailment", "not_entailment", idx=0),
    "super_glue/cb/1.0.2": entailment(
        "contradiction", "entailment", "contradiction", "neutral", idx=0
    ),
    "super_glue/wic/1.0.2": {
        "train": [word_in_context(word, str(i % 2 == 0)) for i, word in enumerate(WORDS)],
        "test": [word_in_context("palm", "True")],
    },
    "snli/1.1.0": entailment("neutral", "entailment", "contradiction", "neutral"),
    "openbookqa/0.1.0": {
        "train": [multiple_choice(q, "ABCD"[i % 4]) for i, q in enumerate(QUESTIONS)],
        "test": [multiple_choice("what is ice", "C")],
    },
    "wmt14_translate/fr-en/1.0.0": translations("fr"),
    "wmt16_translate/de-en/1.0.0": translations("de"),
    "wmt16_translate/ro-en/1.0.0": translations("ro"),
    "trivia_qa/rc.nocontext/1.1.0": {
        "train": [trivia(question, f"Answer {i}") for i, question in enumerate(QUESTIONS)],
        "test": [trivia("who was sartre", "Jean-Paul Sartre", "J-P Sartre", "Sartre")],
    },
    "web_questions/1.0.0": {
        "train": [
            {"url": "", "question": question, "answers": [f"Answer {i}", "Other"]}
            for i, question in enumerate(QUESTIONS)
        ],
        "test": [{"url": "", "question": "where is rome", "answers": ["Italy", "Europe"]}],
    },
    "xsum/1.1.0": {
        "train": [{"document": a, "summary": a.split()[-1]} for a in ARTICLES],
        "test": [{"document": "a ship sank off malta", "summary": "a ship sank"}],
    },
    "gem/wiki_lingua_english_en/1.1.0": {
        "train": [how_to(article, article.split()[-1]) for article in ARTICLES],
        "test": [how_to("boil the water first", "boil water")],
    },
}


def rows_of(builder: tfds.core.DatasetBuilder, split: str) -> list[dict]:
    """Returns the rows of a split; the validation split of a data set is its test split."""
    name, first, last = re.fullmatch(r"(\w+)(?:\[(\d*)%?:(\d*)%?\])?", split).groups()
    rows = ROWS[builder.info.full_name]["train" if name == "train" else "test"]
    bounds = [int(int(part) / 100 * len(rows)) if part else None for part in (first, last)]
    return rows[slice(*bounds)]


def as_dataset(builder, split, decoders=None, read_config=None, shuffle_files=False):
    """Stands for `_as_dataset` of a builder: rows go through the serialisation of its features."""
    del decoders
    features = builder.info.features
    rows = [features.serialize_example(features.encode_example(r)) for r in rows_of(builder, split)]
    if shuffle_files:
        random.Random(read_config.shuffle_seed).shuffle(rows)
    return tf.data.Dataset.from_tensor_slices(rows).map(features.deserialize_example)


def forget() -> None:
    """Forgets what was read."""
    for read in (tfds_rows.read, tfds_rows._opened, dataset._pool):
        read.cache_clear()


def _one_thread_at_a_time() -> contextlib.AbstractContextManager:
    """Rows are read ahead by threads; the mock moves the whole file system, and cannot twice."""
    read, lock = tfds.core.DatasetBuilder.as_dataset, threading.RLock()

    def locked(*arguments, **options):
        with lock:
            return read(*arguments, **options)

    return mock.patch.object(tfds.core.DatasetBuilder, "as_dataset", locked)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Makes `tfds` serve `ROWS`, to our reading and to seqio's."""
    forget()
    with (
        tempfile.TemporaryDirectory() as folder,
        tfds.testing.mock_data(as_dataset_fn=as_dataset),
        _one_thread_at_a_time(),
        mock.patch.object(seqio.utils.LazyTfdsLoader, "_MEMOIZED_BUILDERS", {}),
        mock.patch.object(tfds_rows, "folder_of", return_value=None),
        mock.patch.dict(os.environ, {"PROMOT_CACHE": folder}),
    ):
        yield
    forget()

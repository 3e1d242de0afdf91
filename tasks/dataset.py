"""A data set of tfds as seqio tasks: its rows as texts, 0-shot or few-shot, plain or span form."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from promot_jax.tasks import few_shot

# mT5's; a model that is evaluated brings its own. The file is read on first use, not here.
VOCABULARY = seqio.SentencePieceVocabulary(
    "gs://t5-data/vocabs/mc4.250000.100extra/sentencepiece.model"
)
OUTPUT_FEATURES = {
    "inputs": seqio.Feature(vocabulary=VOCABULARY),
    "targets": seqio.Feature(vocabulary=VOCABULARY),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that the paper uses.

    Attributes:
      tfds_name: data set, configuration and version.
      text: makes the scalar strings `inputs` and `targets` of a raw row; further features, such as
        `answers` [answers], reach the post-processing.
      sizes: rows of each split of tfds in the paper's Table 5 (SNLI and OpenbookQA, which it leaves
        out: in tfds), also of splits that are not offered because they have no labels.
      evaluated_on: the split of the final evaluation.
      metric_fn: the paper's metric.
      postprocess_fn: seqio post-processing.
      splits: splits of the task and where they are in tfds.
      label: the class label of a raw row, None where targets are free text. `text` is given its
        word, and rows without a label (-1) are dropped.
      words: the word for each class of `label`, by the names of tfds.
      cut: articles are cut to the length of inputs.
    """

    tfds_name: str
    text: Callable[[few_shot.Row], few_shot.Row]
    sizes: Mapping[str, int]
    evaluated_on: str
    metric_fn: Callable[..., dict[str, float]]
    postprocess_fn: Callable[..., Any]
    splits: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {split: split for split in ("train", "validation", "test")}
    )
    label: str | None = None
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cut: bool = False

    @functools.cached_property
    def source(self) -> seqio.TfdsDataSource:
        """The raw rows."""
        return seqio.TfdsDataSource(self.tfds_name, splits=dict(self.splits))

    def task(self, *, shots: int = 0, span: bool = False) -> dict[str, Any]:
        """Returns the arguments of `seqio.TaskRegistry.add` after the name.

        Args:
          shots: exemplars in front of each input.
          span: the span form, see `few_shot.join`.
        """
        steps = [self.texts]
        if shots:
            steps.append(
                functools.partial(few_shot.choose_exemplars, train=self._train, shots=shots)
            )
        if self.cut:
            steps.append(functools.partial(few_shot.cut_articles, span=span))
        steps.append(functools.partial(few_shot.join, span=span))
        return {
            "source": self.source,
            "preprocessors": [
                *steps,
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos_after_trim,
            ],
            "output_features": OUTPUT_FEATURES,
            "postprocess_fn": self.postprocess_fn,
            "metric_fns": [self.metric_fn],
        }

    def texts(self, rows: tf.data.Dataset) -> tf.data.Dataset:
        """Converts raw rows to `inputs`, `targets` and what else `text` gives."""
        if self.label is not None:
            names = self.source.tfds_dataset.info.features[self.label].names
            words = tf.constant([self.words[name] for name in names])
            rows = rows.filter(lambda row: row[self.label] >= 0)
            rows = rows.map(lambda row: row | {self.label: tf.gather(words, row[self.label])})
        return rows.map(self.text, num_parallel_calls=tf.data.AUTOTUNE)

    def _train(self) -> tf.data.Dataset:
        """Reads the train split in its fixed order."""
        return self.texts(self.source.get_dataset("train", shuffle=False))

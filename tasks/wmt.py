"""WMT14 English-French and WMT16 English-German and English-Romanian, all from English."""

import functools
from collections.abc import Mapping

from promot_jax.data import metrics
from promot_jax.data.tasks import Row
from promot_jax.tasks import dataset, templates

_LANGUAGES = {"fr": "French", "de": "German", "ro": "Romanian"}


def _text(row: Row, language: str) -> Row:
    inputs = templates.format_translation("English", _LANGUAGES[language], row["en"])
    return {"inputs": inputs, "targets": row[language]}


def _dataset(tfds_name: str, language: str, sizes: Mapping[str, int]) -> dataset.Dataset:
    return dataset.Dataset(
        tfds_name,
        functools.partial(_text, language=language),
        fields=("en", language),
        sizes=sizes,
        evaluated_on="test",
        metric_fn=metrics.t5.bleu,
        postprocess_fn=templates.postprocess_text,
    )


ENFR = _dataset(
    "wmt14_translate/fr-en:1.0.0",
    "fr",
    {"train": 15_786_979, "validation": 3_000, "test": 3_003},
)
ENDE = _dataset(
    "wmt16_translate/de-en:1.0.0", "de", {"train": 4_548_885, "validation": 2_169, "test": 2_999}
)
ENRO = _dataset(
    "wmt16_translate/ro-en:1.0.0", "ro", {"train": 610_320, "validation": 1_999, "test": 1_999}
)

"""Inputs in tf.data: templates filled, exemplars chosen and put in front, the span form.

A row's exemplars depend on its own text, the train split and a fixed seed, on nothing else: they
are the same for every model, seed, order of reading and shard, and a row never is its own exemplar.
`seqio.experimental.FewshotDataSource` does not give that: it pairs rows with a shuffled stream of
train rows by position, so another seed or shard has other exemplars, now and then the row itself.
"""

import string
from collections.abc import Callable

import seqio
import tensorflow as tf

from promot_jax.tasks import templates

# Exemplars are drawn from so many first rows of the train split; tfds has mixed those once for all.
POOL_SIZE = 4096
EXEMPLAR_SEED = 20_240_507
# The stable hash of a text that, with EXEMPLAR_SEED, seeds its draw is below this.
_HASHES = 2**31 - 1

Row = dict[str, tf.Tensor]


def fill(template: str, **fields: tf.Tensor) -> tf.Tensor:
    """Returns a template of `templates` with its fields filled in, as a scalar string tensor."""
    pieces = []
    for literal, field, _, _ in string.Formatter().parse(template):
        pieces.append(literal)
        if field is not None:
            pieces.append(fields[field])
    return tf.strings.join(pieces)


def choose_exemplars(
    rows: tf.data.Dataset, train: Callable[[], tf.data.Dataset], shots: int
) -> tf.data.Dataset:
    """Draws exemplars for each row, those of fewer shots being the first of those of more.

    Args:
      rows: rows with scalar strings `inputs` and `targets`.
      train: reads the train split in its fixed order, as rows of the same form; all of its first
        `POOL_SIZE` rows that differ from a row in `inputs` can become its exemplars, and there must
        be at least `shots` of them.
      shots: exemplars of each row.

    Returns:
      The rows with strings `exemplar_inputs` and `exemplar_targets` of shape [shots].
    """

    def choose(row: Row, pool: Row) -> Row:
        others = tf.where(pool["inputs"] != row["inputs"])[:, 0]
        text_hash = tf.strings.to_hash_bucket_fast(row["inputs"], _HASHES)
        draw = tf.random.stateless_uniform(
            tf.shape(others), seed=[EXEMPLAR_SEED, text_hash], alg="philox"
        )
        chosen = tf.gather(others, tf.math.top_k(draw, shots).indices)
        exemplars = {f"exemplar_{name}": tf.gather(pool[name], chosen) for name in pool}
        return row | exemplars

    pool = train().map(lambda row: {name: row[name] for name in ("inputs", "targets")})
    pool = pool.take(POOL_SIZE).batch(POOL_SIZE).cache().repeat()
    return tf.data.Dataset.zip(rows, pool).map(choose, num_parallel_calls=tf.data.AUTOTUNE)


def join(rows: tf.data.Dataset, span: bool) -> tf.data.Dataset:
    """Puts exemplars in front as `templates.few_shot` does, and makes the span form.

    Args:
      rows: rows with `inputs` and `targets` and, if they have exemplars, `exemplar_inputs` and
        `exemplar_targets`, which are dropped.
      span: write the missing answer as span corruption does: the input ends with the sentinel
        `<extra_id_0>`, the target stands between it and `<extra_id_1>`. Exemplars stay as they are.
    """

    def write(row: Row) -> Row:
        texts = {"inputs": _written(row, span)}
        if span:
            texts["targets"] = tf.strings.join(
                [templates.SPAN_START, row["targets"], templates.SPAN_END], " "
            )
        others = row.keys() - {"exemplar_inputs", "exemplar_targets"}
        return {name: row[name] for name in others} | texts

    return rows.map(write, num_parallel_calls=tf.data.AUTOTUNE)


def cut_articles(
    rows: tf.data.Dataset,
    span: bool,
    sequence_length: dict[str, int] | None,
    output_features: dict[str, seqio.Feature],
) -> tf.data.Dataset:
    """Shortens articles so that the written input fits its length and still ends with its cue.

    Cutting the finished input would cut off the question itself. Here the longest articles are cut
    to one length, shorter ones stay as they are.

    Args:
      rows: rows as `join` takes them, of the template `templates.SUMMARIZATION`.
      span: as in `join`.
      sequence_length: its `inputs` is the length in tokens, end of sequence included; None cuts
        nothing.
      output_features: its `inputs` knows the vocabulary.
    """
    if sequence_length is None:
        return rows
    vocabulary = output_features["inputs"].vocabulary
    cue = templates.SUMMARIZATION.rpartition("{article}")[2]

    def tokens(text: tf.Tensor) -> tf.Tensor:
        return tf.reshape(vocabulary.encode_tf(text), [-1])

    def cut_row(row: Row) -> Row:
        exemplars = row.get("exemplar_inputs", tf.constant([], tf.string))
        texts = tf.concat([exemplars, [row["inputs"]]], 0)
        ends = tf.strings.length(texts) - len(cue)
        articles = tf.strings.substr(texts, tf.zeros_like(ends), ends)
        cues = {name: tf.fill(tf.shape(row[name]), cue) for name in row if name.endswith("inputs")}
        # The end of sequence, and for each article a token more where a word is cut in two.
        spare = 1 + tf.size(texts)
        free = sequence_length["inputs"] - spare - tf.size(tokens(_written(row | cues, span)))
        lengths = tf.map_fn(
            lambda article: tf.size(tokens(article)), articles, fn_output_signature=tf.int32
        )
        longest = _common_length(lengths, free)

        def cut(article: tf.Tensor) -> tf.Tensor:
            ids = tokens(article)
            shorter = vocabulary.decode_tf(ids[:longest])
            return tf.strings.join([tf.where(tf.size(ids) <= longest, article, shorter), cue])

        texts = tf.map_fn(cut, articles)
        shorter = {"inputs": texts[-1], "exemplar_inputs": texts[:-1]}
        return row | {name: shorter[name] for name in cues}

    return rows.map(cut_row, num_parallel_calls=tf.data.AUTOTUNE)


def _common_length(lengths: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """Returns the greatest length to which texts can be cut so that they fit into `total`.

    Short texts leave more to the others: that is the best of giving the k shortest all they want
    and sharing out the rest equally.
    """
    count = tf.size(lengths)
    shortest = tf.cumsum(tf.sort(lengths), exclusive=True)
    return tf.maximum(tf.reduce_max((total - shortest) // tf.range(count, 0, -1)), 0)


def _written(row: Row, span: bool) -> tf.Tensor:
    """Returns the finished input of a row with or without exemplars."""
    text = row["inputs"]
    if "exemplar_inputs" in row:
        blocks = tf.strings.join([row["exemplar_inputs"], row["exemplar_targets"]], " ")
        text = tf.strings.reduce_join(
            tf.concat([blocks, [text]], 0), separator=templates.BLANK_LINE
        )
    return tf.strings.join([text, templates.SPAN_START], " ") if span else text

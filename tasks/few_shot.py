"""Inputs with exemplars in front, the span form, and articles that are cut.

A row's exemplars depend on its own text, the train split and a fixed seed, on nothing else: they
are the same for every model, seed, order of reading and process, and a row never is its own
exemplar.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.data.tasks import Lengths, Row, Tokens
from promot_jax.data.vocabularies import Vocabulary
from promot_jax.tasks import templates

# Exemplars are drawn from so many first rows of the train split; tfds has mixed those once for all.
POOL_SIZE = 4096
EXEMPLAR_SEED = 20_240_507

# An input and the answer to it.
Pair = tuple[str, str]


def order(key: str, count: int) -> Iterator[int]:
    """Yields the numbers below `count` in an order that looks random and that the key decides.

    It is the same in every release of every library. Only as much as is taken is worked out.
    """
    seed = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()
    moved: dict[int, int] = {}
    for place in range(count):
        digest = hashlib.blake2b(place.to_bytes(8, "big"), key=seed, digest_size=8).digest()
        chosen = place + int.from_bytes(digest, "big") % (count - place)
        yield moved.get(chosen, chosen)
        moved[chosen] = moved.get(place, place)


def choose(inputs: str, pool: Sequence[Pair], shots: int) -> list[Pair]:
    """Draws exemplars for a row, those of fewer shots being the first of those of more.

    Args:
      inputs: of the row, without exemplars.
      pool: the first rows of the train split, `POOL_SIZE` at most; those that differ from the row
        in their inputs can become its exemplars.
      shots: how many.

    Raises:
      UserError: there are too few.
    """
    drawn = (pool[number] for number in order(f"{EXEMPLAR_SEED} {inputs}", len(pool)))
    chosen = list(itertools.islice((pair for pair in drawn if pair[0] != inputs), shots))
    if len(chosen) < shots:
        raise UserError(
            f"the split train has {len(chosen)} rows that can stand before {inputs[:60]!r}, "
            f"{shots} are wanted; add rows, or take a task with fewer exemplars"
        )
    return chosen


def join(row: Row, exemplars: Sequence[Pair], span: bool) -> Row:
    """Puts exemplars in front as `templates.few_shot` does, and makes the span form.

    Args:
      row: its `inputs`, `targets` and other fields, which stay.
      exemplars: stand before the inputs.
      span: write the missing answer as span corruption does: the input ends with the sentinel
        `<extra_id_0>`, the target stands between it and `<extra_id_1>`. Exemplars stay as they are.
    """
    texts = {"inputs": templates.few_shot(exemplars, row["inputs"])}
    if span:
        texts["inputs"] += f" {templates.SPAN_START}"
        texts["targets"] = f"{templates.SPAN_START} {row['targets']} {templates.SPAN_END}"
    return {**row, **texts}


@dataclasses.dataclass(frozen=True)
class CutArticles:
    """Encodes rows of `templates.SUMMARIZATION` whose articles are cut, so that inputs fit.

    Cutting the finished input would cut off the question itself. Here the longest articles are cut
    to one length, shorter ones stay as they are, and the input still ends with its cue. Rows are
    those of `with_parts`.

    Attributes:
      span: as in `join`.
    """

    span: bool = False

    def __call__(
        self, rows: Sequence[Row], vocabulary: Vocabulary, lengths: Lengths
    ) -> list[Tokens]:
        """See `tasks.Encode`."""
        cut = [self.shortened(row, vocabulary, lengths) for row in rows]
        return tasks.encode_texts(cut, vocabulary, lengths)

    def shortened(self, row: Row, vocabulary: Vocabulary, lengths: Lengths) -> Row:
        """Returns a row whose `inputs` fit.

        Args:
          row: of `with_parts`.
          vocabulary: counts tokens.
          lengths: its `inputs` is the length in tokens, end of sequence included.
        """
        cue = templates.SUMMARIZATION.rpartition("{article}")[2]
        texts = [*row["exemplar_inputs"], row["own_inputs"]]
        articles = [text.removesuffix(cue) for text in texts]
        ids = [vocabulary.encode(article) for article in articles]
        bare = self._written(row, [cue] * len(texts))
        # The end of sequence, and for each article a token more where a word is cut in two.
        free = lengths["inputs"] - 1 - len(texts) - len(vocabulary.encode(bare))
        longest = common_length([len(found) for found in ids], free)
        shorter = [
            article if len(found) <= longest else vocabulary.decode(found[:longest])
            for article, found in zip(articles, ids, strict=True)
        ]
        return {**row, "inputs": self._written(row, [article + cue for article in shorter])}

    def _written(self, row: Row, texts: Sequence[str]) -> str:
        exemplars = list(zip(texts[:-1], row["exemplar_targets"], strict=True))
        return join({"inputs": texts[-1], "targets": ""}, exemplars, self.span)["inputs"]


def with_parts(row: Row, exemplars: Sequence[Pair], span: bool) -> Row:
    """Returns the row of `join` with what `CutArticles` puts together anew beside it."""
    return {
        **join(row, exemplars, span),
        "own_inputs": row["inputs"],
        "exemplar_inputs": [inputs for inputs, _ in exemplars],
        "exemplar_targets": [target for _, target in exemplars],
    }


# The fields of `with_parts`, and whether each is a list.
PARTS = {"own_inputs": False, "exemplar_inputs": True, "exemplar_targets": True}


def common_length(lengths: Sequence[int], total: int) -> int:
    """Returns the greatest length to which texts can be cut so that they fit into `total`.

    Short texts leave more to the others: that is the best of giving the k shortest all they want
    and sharing out the rest equally.
    """
    used = [0, *itertools.accumulate(sorted(lengths))]
    shares = ((total - used[k]) // (len(lengths) - k) for k in range(len(lengths)))
    return max(0, *shares)

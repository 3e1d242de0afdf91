"""Lists: to copy, turn round, sort, count and pick from, in five languages."""

from collections.abc import Iterator

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.items import Draw, Item, three
from promot_jax.tasks.bank.lexicon import words
from promot_jax.tasks.bank.rules import Equal, Number, Words

# Items of each kind: in English, and in each of the other languages.
ENGLISH, ELSEWHERE = 36, 15
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_ASKED = {
    "en": {
        "copy": "Copy this list: {}",
        "reverse": "Write this list in reverse order: {}",
        "first": "What is the first word of this list? {}",
        "last": "What is the last word of this list? {}",
        "count": "How many words are in this list? {}",
        "sort": "Sort these words alphabetically: {}",
        "numbers": "Sort these numbers from smallest to largest: {}",
    },
    "de": {
        "copy": "Schreibe diese Liste ab: {}",
        "reverse": "Schreibe diese Liste in umgekehrter Reihenfolge: {}",
        "first": "Welches ist das erste Wort dieser Liste? {}",
        "last": "Welches ist das letzte Wort dieser Liste? {}",
        "count": "Wie viele Wörter hat diese Liste? {}",
        "sort": "Sortiere diese Wörter nach dem Alphabet: {}",
        "numbers": "Sortiere diese Zahlen von der kleinsten zur größten: {}",
    },
    "fr": {
        "copy": "Copie cette liste : {}",
        "reverse": "Écris cette liste dans l'ordre inverse : {}",
        "first": "Quel est le premier mot de cette liste ? {}",
        "last": "Quel est le dernier mot de cette liste ? {}",
        "count": "Combien de mots y a-t-il dans cette liste ? {}",
        "sort": "Trie ces mots par ordre alphabétique : {}",
        "numbers": "Trie ces nombres du plus petit au plus grand : {}",
    },
    "es": {
        "copy": "Copia esta lista: {}",
        "reverse": "Escribe esta lista en orden inverso: {}",
        "first": "¿Cuál es la primera palabra de esta lista? {}",
        "last": "¿Cuál es la última palabra de esta lista? {}",
        "count": "¿Cuántas palabras hay en esta lista? {}",
        "sort": "Ordena estas palabras alfabéticamente: {}",
        "numbers": "Ordena estos números de menor a mayor: {}",
    },
    "it": {
        "copy": "Copia questa lista: {}",
        "reverse": "Scrivi questa lista in ordine inverso: {}",
        "first": "Qual è la prima parola di questa lista? {}",
        "last": "Qual è l'ultima parola di questa lista? {}",
        "count": "Quante parole ci sono in questa lista? {}",
        "sort": "Metti queste parole in ordine alfabetico: {}",
        "numbers": "Ordina questi numeri dal più piccolo al più grande: {}",
    },
}
_COUNTED = {
    "en": ("words",),
    "de": ("wörter",),
    "fr": ("mots",),
    "es": ("palabras",),
    "it": ("parole",),
}


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language in facts.LANGUAGES:
        many = ENGLISH if language == "en" else ELSEWHERE
        yield from _orders(language, many)
        yield from _picks(language, many)
        yield from _counts(language, many)
    yield from _english()


def listed(kind: str, language: str, asked: str, right: list[str]) -> Item:
    """Returns an item whose answer is a list; one that lacks, doubles or swaps words is wrong."""
    swapped = [right[1], right[0], *right[2:]]
    wrong = (right[:-1], [*right, right[0]], swapped)
    return Item(
        kind,
        language,
        asked,
        ", ".join(right),
        three(*map(", ".join, wrong)),
        Words(tuple(right), language),
    )


def _orders(language: str, many: int) -> Iterator[Item]:
    asked, pool = _ASKED[language], words(language)
    for number in range(many):
        draw = Draw("orders", language, number)
        found = draw.some(pool, draw.number(3, 5))
        yield listed("copy", language, asked["copy"].format(", ".join(found)), found)
        found = draw.some(pool, draw.number(3, 4))
        turned = found[::-1]
        yield listed("reverse", language, asked["reverse"].format(", ".join(found)), turned)
        # Where words begin with plain letters, every alphabet has them in one order.
        plain = [word for word in pool if word[0].isascii()]
        found = list({word[0].casefold(): word for word in draw.some(plain, 4)}.values())
        if len(found) >= 3 and found != (ordered := sorted(found, key=str.casefold)):
            yield listed("sort", language, asked["sort"].format(", ".join(found)), ordered)
        values = draw.some(range(1, 100), draw.number(3, 5))
        if values != (ordered := sorted(values)):
            shown, right = [list(map(str, each)) for each in (values, ordered)]
            yield listed("numbers", language, asked["numbers"].format(", ".join(shown)), right)


def _picks(language: str, many: int) -> Iterator[Item]:
    for number in range(many):
        draw = Draw("picks", language, number)
        for kind, place in (("first", 0), ("last", -1)):
            found = draw.some(words(language), draw.number(3, 6))
            asked = _ASKED[language][kind].format(", ".join(found))
            yield picked(kind, language, asked, found[place], found)


def picked(kind: str, language: str, asked: str, right: str, options: list[str]) -> Item:
    """Returns an item whose answer is one word of a list; others, or several, are wrong."""
    left = [word for word in options if word != right]
    wrong = three(left[0], left[-1], f"{right}, {left[0]}", ", ".join(options))
    return Item(kind, language, asked, right, wrong, Equal((right,), language))


def _counts(language: str, many: int) -> Iterator[Item]:
    for number in range(many):
        draw = Draw("counts", language, number)
        found = draw.some(words(language), draw.number(2, 8))
        asked = _ASKED[language]["count"].format(", ".join(found))
        count = len(found)
        wrong = (str(count + 1), str(count - 1), f"{count} or {count + 1}")
        rule = Number(count, _COUNTED[language], facts.numeral(count, language))
        yield Item("count", language, asked, str(count), wrong, rule)


def _english() -> Iterator[Item]:
    for number in range(ENGLISH):
        draw = Draw("english", number)
        found = draw.some(words("en"), 5)
        text = ", ".join(found)
        place = draw.number(1, 3)
        asked = f"What is the {_ORDINALS[place]} word of this list? {text}"
        yield picked("nth", "en", asked, found[place], found)
        place = draw.number(0, 3)
        asked = f'Which word comes right after "{found[place]}" in this list? {text}'
        yield picked("after", "en", asked, found[place + 1], found)
        gone = draw.one(found[1:])
        left = [word for word in found if word != gone]
        yield listed("without", "en", f'Write this list without "{gone}": {text}', left)
        twice = draw.one(found)
        doubled = [*found, twice] if found[-1] != twice else [twice, *found]
        asked = f"Which word stands twice in this list? {', '.join(doubled)}"
        yield picked("twice", "en", asked, twice, found)
        alone = draw.one([word for word in words("en") if word not in found])
        with_it = [*found[:3], alone]
        asked = f'Add "{alone}" to the end of this list: {", ".join(found[:3])}'
        yield listed("add", "en", asked, with_it)

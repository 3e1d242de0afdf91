"""Instructions whose form can be checked: case, signs, repeating, spelling, so many words."""

from collections.abc import Iterator

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.items import Draw, Item
from promot_jax.tasks.bank.lexicon import PEOPLE, words
from promot_jax.tasks.bank.rules import Equal, Exact, Several

# Items of each kind: in English, and in each of the other languages.
ENGLISH, ELSEWHERE = 40, 16
_ASKED = {
    "en": {
        "capitals": 'Write the word "{}" in capital letters.',
        "repeat": 'Write the word "{}" {} times, with spaces between.',
        "commas": "Write these words with commas between them: {}",
        "spell": 'Spell the word "{}" with hyphens between its letters.',
        "letter": 'What is the first letter of the word "{}"?',
        "exclaim": 'Write the word "{}" with an exclamation mark behind it.',
    },
    "de": {
        "capitals": "Schreibe das Wort „{}“ in Großbuchstaben.",
        "repeat": "Schreibe das Wort „{}“ {}-mal, mit Leerzeichen dazwischen.",
        "commas": "Schreibe diese Wörter mit Kommas dazwischen: {}",
        "spell": "Buchstabiere das Wort „{}“ mit Bindestrichen zwischen den Buchstaben.",
        "letter": "Was ist der erste Buchstabe des Wortes „{}“?",
        "exclaim": "Schreibe das Wort „{}“ mit einem Ausrufezeichen dahinter.",
    },
    "fr": {
        "capitals": "Écris le mot « {} » en majuscules.",
        "repeat": "Écris le mot « {} » {} fois, avec des espaces.",
        "commas": "Écris ces mots avec des virgules entre eux : {}",
        "spell": "Épelle le mot « {} » avec des traits d'union entre les lettres.",
        "letter": "Quelle est la première lettre du mot « {} » ?",
        "exclaim": "Écris le mot « {} » suivi d'un point d'exclamation.",
    },
    "es": {
        "capitals": "Escribe la palabra «{}» en mayúsculas.",
        "repeat": "Escribe la palabra «{}» {} veces, con espacios.",
        "commas": "Escribe estas palabras con comas entre ellas: {}",
        "spell": "Deletrea la palabra «{}» con guiones entre las letras.",
        "letter": "¿Cuál es la primera letra de la palabra «{}»?",
        "exclaim": "Escribe la palabra «{}» seguida de un signo de exclamación.",
    },
    "it": {
        "capitals": "Scrivi la parola «{}» in maiuscolo.",
        "repeat": "Scrivi la parola «{}» {} volte, con spazi.",
        "commas": "Scrivi queste parole separate da virgole: {}",
        "spell": "Scrivi la parola «{}» lettera per lettera, con trattini tra le lettere.",
        "letter": "Qual è la prima lettera della parola «{}»?",
        "exclaim": "Scrivi la parola «{}» seguita da un punto esclamativo.",
    },
}
# Words to begin with a letter, which an exemplar may show: each letter has five at least.
_BEGINNING = {
    "b": "ball bear bird bread bell",
    "c": "cat cup coat cake corn",
    "d": "dog door desk duck drum",
    "f": "fish fire fork flag frog",
    "g": "goat gate glass grape glove",
    "h": "hat horse house hand hill",
    "l": "leaf lamp lion lake lock",
    "m": "moon milk mouse map mirror",
    "n": "nose nest night nail net",
    "p": "pen pear plate pig pot",
    "r": "rain rose river ring rock",
    "s": "sun sand snow ship stone",
    "t": "tree table tent tiger train",
    "w": "water wolf wind wall wheel",
}
_NUMBERS = ("zero", "one", "two", "three", "four", "five")


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language in facts.LANGUAGES:
        asked = _ASKED[language]
        # Words of plain letters have one spelling in capitals, and one first letter.
        pool = [word for word in words(language) if word.isascii()]
        for number in range(ENGLISH if language == "en" else ELSEWHERE):
            draw = Draw("forms", language, number)
            yield _capitals(language, asked["capitals"], draw.one(pool))
            yield _repeated(language, asked["repeat"], draw.one(pool), draw.number(2, 5))
            yield _commas(language, asked["commas"], draw.some(pool, 3))
            short = draw.one([word for word in pool if len(word) <= 6])
            yield _spelt(language, asked["spell"], short)
            yield _letter(language, asked["letter"], draw.one(pool))
            yield _exclaimed(language, asked["exclaim"], draw.one(pool))
    yield from _beginning()
    yield from _sentences()


def _capitals(language: str, asked: str, word: str) -> Item:
    upper, lower = word.upper(), word.lower()
    wrong = (lower, upper[0].lower() + upper[1:], f"{upper} {lower}")
    return Item("capitals", language, asked.format(word), upper, wrong, Exact((upper,)))


def _repeated(language: str, asked: str, word: str, times: int) -> Item:
    right, more, fewer = (" ".join([word] * count) for count in (times, times + 1, times - 1))
    wrong = (more, fewer, ", ".join([word] * times))
    return Item("repeat", language, asked.format(word, times), right, wrong, Equal((right,)))


def _commas(language: str, asked: str, found: list[str]) -> Item:
    bare, right = " ".join(found), ", ".join(found)
    wrong = (bare, ", ".join(found[:2]), ", ".join(found[::-1]))
    rule = Equal((right, ",".join(found)))
    return Item("commas", language, asked.format(bare), right, wrong, rule)


def _spelt(language: str, asked: str, word: str) -> Item:
    right = "-".join(word)
    wrong = (word, "-".join(word[:-1]), f"{right}-{word[0]}")
    rule = Equal((right, " - ".join(word)))
    return Item("spell", language, asked.format(word), right, wrong, rule)


def _letter(language: str, asked: str, word: str) -> Item:
    first = word[0]
    other = next(letter for letter in f"{word}xy" if letter.casefold() != first.casefold())
    wrong = (word, other, f"{first}, {other}")
    return Item("letter", language, asked.format(word), first, wrong, Equal((first,)))


def _exclaimed(language: str, asked: str, word: str) -> Item:
    right = f"{word}!"
    # In French a space stands before the mark.
    accepted = (right, f"{word} !") if language == "fr" else (right,)
    wrong = (word, f"!{word}", f"{word}?")
    return Item("exclaim", language, asked.format(word), right, wrong, Exact(accepted))


def _beginning() -> Iterator[Item]:
    for number in range(ENGLISH):
        draw = Draw("beginning", number)
        letter = draw.one(list(_BEGINNING))
        count = draw.number(2, 4)
        good = draw.some(_BEGINNING[letter].split(), count + 1)
        other = draw.one([each for each in _BEGINNING if each != letter])
        foreign = draw.some(_BEGINNING[other].split(), count)
        asked = f'Write {_NUMBERS[count]} different words that start with the letter "{letter}".'
        wrong = (" ".join(good), ", ".join(foreign), ", ".join([good[0]] * count))
        right = ", ".join(good[:count])
        yield Item("start", "en", asked, right, wrong, Several(count, letter))


def _sentences() -> Iterator[Item]:
    things = words("en")
    for number in range(ENGLISH):
        draw = Draw("sentences", number)
        one, other = draw.some(PEOPLE, 2)
        thing, instead = draw.some(things, 2)
        place = draw.one(("garden", "kitchen", "station", "market", "office"))
        told = f"{one} saw the {thing} in the {place}."
        right = told.replace(one, other)
        asked = f'Write this sentence with "{other}" in place of "{one}": {told}'
        wrong = (told, right.replace(thing, instead), f"{other} saw the {thing}.")
        yield Item("replace", "en", asked, right, wrong, Equal((right,)))
        found = draw.some(things, 3)
        right = "".join(word[0].upper() for word in found)
        listed = ", ".join(found)
        asked = f"Write the first letters of these words as one word in capitals: {listed}"
        wrong = (right.lower(), right[:2], f"{right}S")
        yield Item("initials", "en", asked, right, wrong, Exact((right,)))
        right = f"[{instead}]"
        asked = f'Write the word "{instead}" between square brackets.'
        wrong = (instead, f"({instead})", f"[{instead}")
        yield Item("brackets", "en", asked, right, wrong, Exact((right,)))

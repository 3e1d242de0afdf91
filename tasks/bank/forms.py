"""Instructions whose form can be checked: case, signs, repeating, spelling, so many words."""

from collections.abc import Iterator

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.items import Draw, Item, three
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
        yield from _of_words(language, ENGLISH if language == "en" else ELSEWHERE)
    yield from _beginning()
    yield from _sentences()


def _exact(kind: str, language: str, asked: str, right: str, *wrong: str) -> Item:
    return Item(kind, language, asked, right, three(*wrong), Exact((right,)))


def _of_words(language: str, many: int) -> Iterator[Item]:
    asked = _ASKED[language]
    # Words of plain letters have one spelling in capitals, and one first letter.
    pool = [word for word in words(language) if word.isascii()]
    for number in range(many):
        draw = Draw("words", language, number)
        one, two, three_ = draw.some(pool, 3)
        upper = one.upper()
        yield _exact(
            *("capitals", language, asked["capitals"].format(one), upper),
            *(one.lower(), upper[0].lower() + upper[1:], upper + " " + one.lower()),
        )
        times = draw.number(2, 5)
        text = asked["repeat"].format(two, times)
        several = [" ".join([two] * count) for count in (times, times + 1, times - 1)]
        rule = Equal((several[0],))
        wrong = (several[1], several[2], ", ".join([two] * times))
        yield Item("repeat", language, text, several[0], wrong, rule)
        found = draw.some(pool, 3)
        joined = ", ".join(found)
        yield Item(
            *("commas", language, asked["commas"].format(" ".join(found)), joined),
            (" ".join(found), ", ".join(found[:2]), ", ".join(found[::-1])),
            Equal((joined, ",".join(found))),
        )
        short = draw.one([word for word in pool if len(word) <= 6])
        spelt = "-".join(short)
        yield Item(
            *("spell", language, asked["spell"].format(short), spelt),
            (short, "-".join(short[:-1]), f"{spelt}-{short[0]}"),
            Equal((spelt, " - ".join(short))),
        )
        first = three_[0]
        yield Item(
            *("letter", language, asked["letter"].format(three_), first),
            (three_, three_[1] if three_[1] != first else "x", f"{first}, {three_[1]}"),
            Equal((first,)),
        )
        loud = draw.one(pool)
        yield Item(
            *("exclaim", language, asked["exclaim"].format(loud), f"{loud}!"),
            (loud, f"!{loud}", f"{loud}?"),
            # In French a space stands before the mark.
            Exact((f"{loud}!", f"{loud} !") if language == "fr" else (f"{loud}!",)),
        )


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
        sentence = f"{one} saw the {thing} in the {place}."
        changed = sentence.replace(one, other)
        yield Item(
            *(
                "replace",
                "en",
                f'Write this sentence with "{other}" in place of "{one}": {sentence}',
            ),
            changed,
            (sentence, changed.replace(thing, instead), f"{other} saw the {thing}."),
            Equal((changed,)),
        )
        initials = draw.some(things, 3)
        letters = "".join(word[0].upper() for word in initials)
        asked = (
            f"Write the first letters of these words as one word in capitals: {', '.join(initials)}"
        )
        yield _exact("initials", "en", asked, letters, letters.lower(), letters[:2], letters + "S")
        quoted = f'Write the word "{instead}" between square brackets.'
        right = f"[{instead}]"
        yield _exact("brackets", "en", quoted, right, instead, f"({instead})", f"[{instead}")

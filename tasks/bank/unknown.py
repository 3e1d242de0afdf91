"""Questions that a text answers, or that cannot be known: to refuse is right for half of them."""

from collections.abc import Iterator, Sequence

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.facts import said
from promot_jax.tasks.bank.inference_texts import GOODS
from promot_jax.tasks.bank.items import Draw, Item, others, three
from promot_jax.tasks.bank.lexicon import PEOPLE, begun, elided
from promot_jax.tasks.bank.rules import Equal, Refuses
from promot_jax.tasks.bank.structured import TOWNS

# Rounds of each text, in English and in each of the other languages; each asks twice.
ENGLISH, ELSEWHERE = 34, 16
KNOWN, UNKNOWN = "known", "unknown"
REFUSAL = {
    "en": "unknown",
    "de": "unbekannt",
    "fr": "inconnu",
    "es": "desconocido",
    "it": "sconosciuto",
}
_ELSE = {
    "en": 'If the text does not say it, answer "unknown".',
    "de": "Wenn der Text es nicht sagt, antworte „unbekannt“.",
    "fr": "Si le texte ne le dit pas, réponds « inconnu ».",
    "es": "Si el texto no lo dice, responde «desconocido».",
    "it": "Se il testo non lo dice, rispondi «sconosciuto».",
}
# Each text, questions that it answers and by which field, and questions that it does not answer,
# each with what an inventor may say.
_TEXTS = {
    "en": (
        (
            "bought",
            "{a} bought {x} in {t} on {d}.",
            (("What did {a} buy?", "x"), ("In which city did {a} shop?", "t")),
            (("How much did {a} pay?", "12 euros"), ("Who went shopping with {a}?", "{b}")),
        ),
        (
            "meeting",
            "{a} meets {b} at {h} o'clock in {t}.",
            (("Whom does {a} meet?", "b"), ("In which city do they meet?", "t")),
            (("On which day do they meet?", "{d}"), ("How old is {b}?", "42")),
        ),
        (
            "letter",
            "On {d} {a} wrote a letter to {b}.",
            (("Who wrote the letter?", "a"), ("On which day was it written?", "d")),
            (("In which city does {b} live?", "{t}"), ("How long is the letter?", "3 pages")),
        ),
    ),
    "de": (
        (
            "bought",
            "{a} hat am {d} in {t} {x} gekauft.",
            (("Was hat {a} gekauft?", "x"), ("In welcher Stadt war {a} einkaufen?", "t")),
            (("Wie viel hat {a} bezahlt?", "12 Euro"), ("Wer war mit {a} einkaufen?", "{b}")),
        ),
        (
            "meeting",
            "{a} trifft {b} um {h} Uhr in {t}.",
            (("Wen trifft {a}?", "b"), ("In welcher Stadt treffen sie sich?", "t")),
            (("An welchem Tag treffen sie sich?", "{d}"), ("Wie alt ist {b}?", "42")),
        ),
        (
            "letter",
            "Am {d} hat {a} einen Brief an {b} geschrieben.",
            (("Wer hat den Brief geschrieben?", "a"), ("An welchem Tag war das?", "d")),
            (("In welcher Stadt wohnt {b}?", "{t}"), ("Wie lang ist der Brief?", "3 Seiten")),
        ),
    ),
    "fr": (
        (
            "bought",
            "{a} a acheté {x} à {t} {d}.",
            (
                ("Qu'est-ce que {a} a acheté ?", "x"),
                ("Dans quelle ville {a} a fait ses courses ?", "t"),
            ),
            (
                ("Combien {a} a payé ?", "12 euros"),
                ("Qui a fait les courses avec {a} ?", "{b}"),
            ),
        ),
        (
            "meeting",
            "{a} retrouve {b} à {h} heures à {t}.",
            (("Qui est-ce que {a} retrouve ?", "b"), ("Dans quelle ville est-ce ?", "t")),
            (("Quel jour est-ce ?", "{d}"), ("Quel âge a {b} ?", "42 ans")),
        ),
        (
            "letter",
            "{d}, {a} a écrit une lettre à {b}.",
            (("Qui a écrit la lettre ?", "a"), ("Quel jour était-ce ?", "d")),
            (
                ("Dans quelle ville habite {b} ?", "{t}"),
                ("Combien de pages a la lettre ?", "3 pages"),
            ),
        ),
    ),
    "es": (
        (
            "bought",
            "{a} compró {x} en {t} el {d}.",
            (("¿Qué compró {a}?", "x"), ("¿En qué ciudad fue de compras {a}?", "t")),
            (("¿Cuánto pagó {a}?", "12 euros"), ("¿Quién fue de compras con {a}?", "{b}")),
        ),
        (
            "meeting",
            "{a} se encuentra con {b} a las {h} en {t}.",
            (("¿Con quién se encuentra {a}?", "b"), ("¿En qué ciudad se encuentran?", "t")),
            (("¿Qué día se encuentran?", "{d}"), ("¿Cuántos años tiene {b}?", "42")),
        ),
        (
            "letter",
            "El {d} {a} escribió una carta a {b}.",
            (("¿Quién escribió la carta?", "a"), ("¿Qué día fue?", "d")),
            (
                ("¿En qué ciudad vive {b}?", "{t}"),
                ("¿Cuántas páginas tiene la carta?", "3 páginas"),
            ),
        ),
    ),
    "it": (
        (
            "bought",
            "{a} ha comprato {x} a {t} {d}.",
            (("Che cosa ha comprato {a}?", "x"), ("In quale città ha fatto la spesa {a}?", "t")),
            (("Quanto ha pagato {a}?", "12 euro"), ("Chi ha fatto la spesa con {a}?", "{b}")),
        ),
        (
            "meeting",
            "{a} incontra {b} alle {h} a {t}.",
            (("Chi incontra {a}?", "b"), ("In quale città si incontrano?", "t")),
            (("In quale giorno si incontrano?", "{d}"), ("Quanti anni ha {b}?", "42")),
        ),
        (
            "letter",
            "{d} {a} ha scritto una lettera a {b}.",
            (("Chi ha scritto la lettera?", "a"), ("In quale giorno è stata scritta?", "d")),
            (
                ("In quale città abita {b}?", "{t}"),
                ("Quante pagine ha la lettera?", "3 pagine"),
            ),
        ),
    ),
}
# In English alone: what nobody was told, beside the same told.
_SECRETS = (
    (
        "There is a number on my {thing}, which I keep to myself. Which number is it?",
        "There is the number {it} on my {thing}. Which number is it?",
        tuple(map(str, range(2, 40))),
    ),
    (
        "I have not told you the colour of my {thing}. Which colour is it?",
        "My {thing} is {it}. Which colour is it?",
        ("red", "blue", "green", "white", "black", "yellow"),
    ),
    (
        "My {thing} is in one of the rooms. In which room is it?",
        "My {thing} is in the {it}. In which room is it?",
        ("kitchen", "cellar", "bathroom", "bedroom", "hall", "attic"),
    ),
    (
        "My {thing} was stolen last night by somebody whom nobody saw. Who was it?",
        "My {thing} was stolen last night by {it}, whom I saw. Who was it?",
        PEOPLE,
    ),
)
_OWNED = (
    *("bike", "coat", "bag", "phone", "lamp", "scarf", "tent", "kite", "guitar", "watch", "drum"),
    *("camera", "suitcase", "ladder", "umbrella", "wallet", "violin", "hat", "jacket", "clock"),
)


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language, texts in _TEXTS.items():
        for number in range(ENGLISH if language == "en" else ELSEWHERE):
            for kind, text, answered, open_ in texts:
                draw = Draw("unknown", language, kind, number)
                yield _known(kind, language, draw, text, draw.one(answered))
                yield _unknown(kind, language, draw, text, draw.one(open_))
    yield from _secrets()


def _fields(language: str, draw: Draw) -> dict[str, str]:
    day = said(draw.one(facts.DAYS[language].split()))[0]
    a, b = draw.some(PEOPLE, 2)
    fields = {"a": a, "b": b, "d": day, "t": draw.one(TOWNS), "x": draw.one(GOODS[language])}
    return fields | {"h": str(draw.number(2, 11))}


def _asked(language: str, text: str, question: str) -> str:
    return f"{elided(f'{begun(text)} {question}', language)} {_ELSE[language]}"


def _known(kind: str, language: str, draw: Draw, text: str, question: Sequence[str]) -> Item:
    template, field = question
    fields = _fields(language, draw)
    right = fields[field]
    asked = _asked(language, text.format(**fields), template.format(**fields))
    other = {name: value for name, value in fields.items() if name != field}
    wrong = three(REFUSAL[language], other["a" if field != "a" else "b"], f"{right} / {other['h']}")
    return Item(kind, language, asked, right, wrong, Equal((right,), language), KNOWN)


def _unknown(kind: str, language: str, draw: Draw, text: str, question: Sequence[str]) -> Item:
    template, invented = question
    fields = _fields(language, draw)
    asked = _asked(language, text.format(**fields), template.format(**fields))
    return _refused(kind, language, asked, invented.format(**fields), fields["a"])


def _refused(kind: str, language: str, asked: str, invented: str, other: str) -> Item:
    right = REFUSAL[language]
    wrong = three(invented, other, f"{right}, {invented}")
    return Item(kind, language, asked, right, wrong, Refuses(language), UNKNOWN)


def _secrets() -> Iterator[Item]:
    for thing in _OWNED:
        for open_, told, answers in _SECRETS:
            draw = Draw("secret", open_, thing)
            right = draw.one(answers)
            first, second = others(draw, answers, [right], 2)
            asked = f"{told.format(thing=thing, it=right)} {_ELSE['en']}"
            wrong = three(REFUSAL["en"], first, f"{right} or {second}")
            yield Item("secret", "en", asked, right, wrong, Equal((right,), "en"), KNOWN)
            asked = f"{open_.format(thing=thing)} {_ELSE['en']}"
            yield _refused("secret", "en", asked, right, first)

"""Summaries of made-up notes: what matters must be named, in few words, and nothing else."""

from collections.abc import Iterator

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.facts import said
from promot_jax.tasks.bank.items import Draw, Item, three
from promot_jax.tasks.bank.lexicon import PEOPLE, begun, wares
from promot_jax.tasks.bank.rules import Mentions
from promot_jax.tasks.bank.structured import TOWNS

# Items of each kind: in English, and in each of the other languages.
ENGLISH, ELSEWHERE = 48, 22
# Words of a summary at most.
MOST = 12
# Kinds; each is the task, the note, a summary, the fields that it must name, and those that are
# over or beside the point.
_NOTES = {
    "en": {
        "moved": (
            "Say in at most 12 words when the class is now.",
            "The class was planned for {d} at {h}. The teacher is ill on that day."
            " It will now be on {e} at {i}. Please bring a pen.",
            "The class is now on {e} at {i}.",
        ),
        "trip": (
            "Say in at most 12 words who went where.",
            "{a} wanted to go to {t}. There were no tickets left. So {a} went to {u}."
            " The weather was good.",
            "{a} went to {u}.",
        ),
        "price": (
            "Say in at most 12 words what costs how much now.",
            "The market has sold this for years: {x}. Last year one had to pay {m} euros."
            " Now it costs {n} euros. People still buy it.",
            "Now it costs {n} euros: {x}.",
        ),
        "found": (
            "Say in at most 12 words what was found and by whom.",
            "{a} lost something yesterday and looked for it all day: {x}."
            " In the evening {b} found it. Now all is well.",
            "{b} found it: {x}.",
        ),
    },
    "de": {
        "moved": (
            "Sage in höchstens 12 Wörtern, wann der Kurs jetzt ist.",
            "Der Kurs war für {d} um {h} Uhr geplant. Die Lehrerin ist an dem Tag krank."
            " Er ist jetzt am {e} um {i} Uhr. Bitte einen Stift mitbringen.",
            "Der Kurs ist jetzt am {e} um {i} Uhr.",
        ),
        "trip": (
            "Sage in höchstens 12 Wörtern, wer wohin gefahren ist.",
            "{a} wollte nach {t} fahren. Es gab keine Karten mehr. Also ist {a} nach {u}"
            " gefahren. Das Wetter war gut.",
            "{a} ist nach {u} gefahren.",
        ),
        "price": (
            "Sage in höchstens 12 Wörtern, was jetzt wie viel kostet.",
            "Auf dem Markt gibt es das seit Jahren: {x}. Letztes Jahr war der Preis {m} Euro."
            " Jetzt ist er {n} Euro. Die Leute kaufen trotzdem.",
            "{x}: Der Preis ist jetzt {n} Euro.",
        ),
        "found": (
            "Sage in höchstens 12 Wörtern, was gefunden wurde und von wem.",
            "{a} hat gestern etwas verloren und den ganzen Tag gesucht: {x}."
            " Am Abend hat {b} es gefunden. Jetzt ist alles gut.",
            "{b} hat es gefunden: {x}.",
        ),
    },
    "fr": {
        "moved": (
            "Dis en 12 mots au plus quand le cours a lieu maintenant.",
            "Le cours était prévu {d} à {h} heures. Le professeur est malade ce jour-là."
            " Il aura lieu {e} à {i} heures. Apportez un stylo.",
            "Le cours aura lieu {e} à {i} heures.",
        ),
        "trip": (
            "Dis en 12 mots au plus qui est allé où.",
            "{a} voulait aller à {t}. Il n'y avait plus de billets. Finalement, {a} est en"
            " voyage à {u}. Il fait beau.",
            "{a} est en voyage à {u}.",
        ),
        "price": (
            "Dis en 12 mots au plus ce qui coûte combien maintenant.",
            "Le marché vend ceci depuis des années : {x}. L'an dernier, le prix était de {m}"
            " euros. Maintenant, il est de {n} euros. Les gens en achètent encore.",
            "{x} : le prix est maintenant de {n} euros.",
        ),
        "found": (
            "Dis en 12 mots au plus ce qui a été retrouvé et par qui.",
            "{a} a perdu quelque chose hier et l'a cherché toute la journée : {x}."
            " Le soir, {b} l'a retrouvé. Maintenant, tout va bien.",
            "{b} a retrouvé ceci : {x}.",
        ),
    },
    "es": {
        "moved": (
            "Di en 12 palabras como máximo cuándo es la clase ahora.",
            "La clase era el {d} a las {h}. La profesora está enferma ese día."
            " Ahora será el {e} a las {i}. Traigan un bolígrafo.",
            "La clase será el {e} a las {i}.",
        ),
        "trip": (
            "Di en 12 palabras como máximo quién fue adónde.",
            "{a} quería ir a {t}. Ya no había billetes. Así que {a} fue a {u}. Hizo buen tiempo.",
            "{a} fue a {u}.",
        ),
        "price": (
            "Di en 12 palabras como máximo qué cuesta cuánto ahora.",
            "El mercado vende esto desde hace años: {x}. El año pasado costaba {m} euros."
            " Ahora cuesta {n} euros. La gente lo sigue comprando.",
            "Ahora cuesta {n} euros: {x}.",
        ),
        "found": (
            "Di en 12 palabras como máximo qué se encontró y quién lo encontró.",
            "{a} perdió algo ayer y lo buscó todo el día: {x}."
            " Por la tarde lo encontró {b}. Ahora todo está bien.",
            "{b} lo encontró: {x}.",
        ),
    },
    "it": {
        "moved": (
            "Di' in non più di 12 parole quando è adesso il corso.",
            "Il corso era previsto per {d} alle {h}. L'insegnante quel giorno è malata."
            " Sarà invece {e} alle {i}. Portate una penna.",
            "Il corso sarà {e} alle {i}.",
        ),
        "trip": (
            "Di' in non più di 12 parole chi è in viaggio e dove.",
            "{a} voleva andare a {t}. Non c'erano più biglietti. Così {a} è in viaggio a {u}."
            " Il tempo è bello.",
            "{a} è in viaggio a {u}.",
        ),
        "price": (
            "Di' in non più di 12 parole che cosa costa quanto adesso.",
            "Il mercato vende questo da anni: {x}. L'anno scorso costava {m} euro."
            " Adesso costa {n} euro. La gente lo compra ancora.",
            "Adesso costa {n} euro: {x}.",
        ),
        "found": (
            "Di' in non più di 12 parole che cosa è stato trovato e da chi.",
            "Ieri {a} ha perso qualcosa e lo ha cercato tutto il giorno: {x}."
            " La sera {b} lo ha trovato. Adesso va tutto bene.",
            "{b} lo ha trovato: {x}.",
        ),
    },
}
# What would name two for one, besides the English word.
_OR = {"en": (), "de": ("oder",), "fr": ("ou",), "es": ("o", "u"), "it": ("o",)}
# Of each kind: fields that a summary must name, and fields that it must not.
_POINTS = {"moved": ("ei", "dh"), "trip": ("au", "t"), "price": ("xn", "m"), "found": ("xb", "")}


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language, kinds in _NOTES.items():
        for number in range(ENGLISH if language == "en" else ELSEWHERE):
            for kind, (task, note, summary) in kinds.items():
                draw = Draw("summary", language, kind, number)
                yield _item(kind, language, task, note, summary, _fields(language, draw))


def _fields(language: str, draw: Draw) -> dict[str, tuple[str, ...]]:
    """Returns what stands for each letter, synonyms included, the usual one first."""
    d, e = (said(day) for day in draw.some(facts.DAYS[language].split(), 2))
    h, i = draw.some(range(2, 12), 2)
    a, b = draw.some(PEOPLE, 2)
    t, u = draw.some(TOWNS, 2)
    m, n = draw.some(range(12, 60), 2)
    thing = draw.one(wares(language)).said
    singles = {"h": h, "i": i, "a": a, "b": b, "t": t, "u": u, "m": m, "n": n}
    return {"d": d, "e": e, "x": thing} | {key: (str(value),) for key, value in singles.items()}


def _others(language: str, fine: set[str]) -> list[str]:
    """Returns days, people, towns and goods that are none of those that may be named."""
    known = [day for days in facts.DAYS[language].split() for day in said(days)]
    known += [*PEOPLE, *TOWNS, *(word for ware in wares(language) for word in ware.said)]
    return [word for word in known if word not in fine]


def _item(
    kind: str, language: str, task: str, note: str, summary: str, fields: dict[str, tuple[str, ...]]
) -> Item:
    usual = {key: values[0] for key, values in fields.items()}
    needed, forbidden = _POINTS[kind]
    text, right = (begun(each.format(**usual)) for each in (note, summary))
    told = [key for key in fields if f"{{{key}}}" in note and key not in forbidden]
    fine = {word for key in told for word in fields[key]}
    wanted = tuple(fields[key] for key in needed)
    rule = Mentions(wanted, ("or", *_OR[language], *_others(language, fine)), MOST)
    # The last of what must be named is replaced by what is beside the point, or left out.
    beside = dict(usual) | {needed[-1]: usual[forbidden[-1]] if forbidden else usual["a"]}
    lacking = dict(usual) | {needed[0]: "…"}
    wrong = three(*(begun(summary.format(**each)) for each in (beside, lacking)), text)
    return Item(kind, language, f"{task} {text}", right, wrong, rule)

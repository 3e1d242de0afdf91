"""Closed questions: facts that are known by heart, in five languages."""

from collections.abc import Iterator, Sequence

from promot_jax.tasks.bank import facts, word_facts
from promot_jax.tasks.bank.facts import said
from promot_jax.tasks.bank.items import Draw, Item, others, three
from promot_jax.tasks.bank.rules import Equal, Exact, Number

_CAPITAL = {
    "en": "What is the capital of {}?",
    "de": "Was ist die Hauptstadt von {}?",
    "fr": "Quelle est la capitale {} ?",
    "es": "¿Cuál es la capital de {}?",
    "it": "Qual è la capitale {}?",
}
# The other way round in some languages: there are many items of this kind.
_COUNTRY = {
    "en": "Which country has the capital {}?",
    "fr": "Quel pays a pour capitale {} ?",
    "it": "Quale paese ha come capitale {}?",
}
_OPPOSITE = {
    "en": 'What is the opposite of "{}"?',
    "de": "Was ist das Gegenteil von „{}“?",
    "fr": "Quel est le contraire de « {} » ?",
    "es": "¿Cuál es lo contrario de «{}»?",
    "it": "Qual è il contrario di «{}»?",
}
# What comes before and after a month or a day.
_AFTER = {
    "en": ("Which month comes after {}?", "Which day comes after {}?"),
    "de": ("Welcher Monat kommt nach dem {}?", "Welcher Tag kommt nach {}?"),
    "fr": ("Quel mois vient après {} ?", "Quel jour vient après {} ?"),
    "es": ("¿Qué mes viene después de {}?", "¿Qué día viene después del {}?"),
    "it": ("Quale mese viene dopo {}?", "Quale giorno viene dopo {}?"),
}
_BEFORE = {
    "en": ("Which month comes before {}?", "Which day comes before {}?"),
    "de": ("Welcher Monat kommt vor dem {}?", "Welcher Tag kommt vor {}?"),
    "fr": ("Quel mois vient avant {} ?", "Quel jour vient avant {} ?"),
    "es": ("¿Qué mes viene antes de {}?", "¿Qué día viene antes del {}?"),
    "it": ("Quale mese viene prima di {}?", "Quale giorno viene prima di {}?"),
}
_FRENCH = {"le ": "du ", "la ": "de la ", "l'": "de l'", "les ": "des "}
_ITALIAN = {"il ": "del ", "la ": "della ", "l'": "dell'", "lo ": "dello "}
_PREPOSITIONS = {"fr": (_FRENCH, "de "), "it": (_ITALIAN, "di ")}


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    yield from _capitals()
    yield from _elements()
    yield from _opposites()
    yield from _series()
    yield from _english()


def of_country(name: str, language: str) -> str:
    """Returns a country's name behind the French or Italian word for "of"; else the name."""
    if language not in _PREPOSITIONS:
        return name
    joined, bare = _PREPOSITIONS[language]
    for article, preposition in joined.items():
        if name.startswith(article):
            return preposition + name.removeprefix(article)
    return bare + name


def _fact(kind: str, language: str, asked: str, right: Sequence[str], wrong: Sequence[str]) -> Item:
    """Returns an item whose answer is one of some texts; two answers at once are wrong."""
    draw = Draw("fact", kind, asked)
    found = others(draw, wrong, right, 2)
    return Item(
        kind,
        language,
        asked,
        right[0],
        three(*found, f"{right[0]} / {found[0]}"),
        Equal(tuple(right), language),
    )


def _capitals() -> Iterator[Item]:
    countries = facts.countries()
    for language in facts.LANGUAGES:
        known = [one for one in countries if language in one.names]
        names = [said(one.names[language])[0] for one in known]
        capitals = [said(one.capitals[language])[0] for one in known]
        for one, name, capital in zip(known, names, capitals, strict=True):
            asked = _CAPITAL[language].format(of_country(name, language))
            yield _fact("capital", language, asked, said(one.capitals[language]), capitals)
            if language in _COUNTRY:
                asked = _COUNTRY[language].format(capital)
                yield _fact("country", language, asked, said(one.names[language]), names)
    continents = list(dict.fromkeys(c.continent for c in countries if c.continent != "-"))
    for one in countries:
        if one.continent != "-":
            asked = f"On which continent is {said(one.names['en'])[0]}?"
            yield _fact("continent", "en", asked, [one.continent], continents)


def _elements() -> Iterator[Item]:
    symbols = [row[1] for row in facts.ELEMENTS]
    asking = {
        "en": (0, "What is the chemical symbol of {}?", "Which element has the symbol {}?"),
        "de": (2, "Welches chemische Symbol hat {}?", "Welches Element hat das Symbol {}?"),
        "fr": (
            3,
            "Quel est le symbole chimique de l'élément « {} » ?",
            "Quel élément chimique a pour symbole {} ?",
        ),
    }
    for language, (column, of_name, of_symbol) in asking.items():
        names = [said(row[column])[0] for row in facts.ELEMENTS]
        for row, name in zip(facts.ELEMENTS, names, strict=True):
            symbol, asked = row[1], of_name.format(name)
            wrong = others(Draw("symbol", asked), symbols, [symbol], 2)
            shouted = symbol.swapcase()
            yield Item("symbol", language, asked, symbol, three(*wrong, shouted), Exact((symbol,)))
            asked = of_symbol.format(symbol)
            yield _fact("element", language, asked, said(row[column]), names)


def _opposites() -> Iterator[Item]:
    for language, pairs in word_facts.OPPOSITES.items():
        every = [said(cell)[0] for pair in pairs for cell in pair]
        for one, other in pairs:
            for asked, right in ((one, other), (other, one)):
                word = said(asked)[0]
                text = _OPPOSITE[language].format(word)
                found = others(Draw("opposite", text), every, [*said(right), word], 2)
                # The word itself is no opposite.
                wrong = three(word, *found)
                rule = Equal(said(right), language)
                yield Item("opposite", language, text, said(right)[0], wrong, rule)


def _series() -> Iterator[Item]:
    for language in facts.LANGUAGES:
        months = [said(word) for word in facts.MONTHS[language].split()]
        days = [said(word) for word in facts.DAYS[language].split()]
        for place, (kind, series) in enumerate((("month", months), ("day", days))):
            every = [names[0] for names in series]
            for i, names in enumerate(series):
                after, before = series[(i + 1) % len(series)], series[i - 1]
                asked = _AFTER[language][place].format(names[0])
                yield _fact(kind, language, asked, after, [*every, *before])
                asked = _BEFORE[language][place].format(names[0])
                yield _fact(kind, language, asked, before, [*every, *after])


def _english() -> Iterator[Item]:
    tables = (
        ("young", word_facts.YOUNG, "What is the young of this animal called: {}?"),
        ("plural", word_facts.PLURALS, 'What is the plural of "{}"?'),
        ("past", word_facts.PASTS, 'What is the simple past of the verb "{}"?'),
        ("currency", facts.CURRENCIES, "Which currency is used in {}?"),
        ("spoken", facts.SPOKEN, "Which language do most people speak in {}?"),
    )
    for kind, rows, template in tables:
        answers = [said(row[1])[0] for row in rows]
        for row in rows:
            yield _fact(kind, "en", template.format(said(row[0])[0]), said(row[1]), answers)
    for asked, right in facts.UNITS:
        value = int(right)
        wrong = three(str(value + 1), str(value * 2), f"{value} or {value + 1}")
        # The unit that is counted may stand behind the number.
        unit = asked.split()[2]
        yield Item(
            "unit", "en", asked, right, wrong, Number(value, (unit,), facts.numeral(value, "en"))
        )

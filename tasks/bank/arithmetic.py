"""Arithmetic: sums, products, series and small stories, numbers in digits and in words."""

import dataclasses
from collections.abc import Iterator

from promot_jax.tasks.bank import facts
from promot_jax.tasks.bank.items import Draw, Item, others, three
from promot_jax.tasks.bank.lexicon import PEOPLE, elided
from promot_jax.tasks.bank.rules import Equal, Number

# Items of each kind that are drawn.
MANY, SOME, FEW = 44, 28, 22
# Two people, what one has and what the other gives or takes.
_STORIES = {
    "en": (
        "{a} has {x} apples. {b} gives {a} {y} more. How many apples does {a} have now?",
        "{a} has {x} apples and gives {b} {y} of them. How many apples does {a} have left?",
        "{a} buys {x} bags with {y} apples each. How many apples are that?",
    ),
    "de": (
        "{a} hat {x} Äpfel. {b} gibt {a} noch {y} dazu. Wie viele Äpfel hat {a} jetzt?",
        "{a} hat {x} Äpfel und gibt {b} {y} davon. Wie viele Äpfel hat {a} noch?",
        "{a} kauft {x} Tüten mit je {y} Äpfeln. Wie viele Äpfel sind das?",
    ),
    "fr": (
        "{a} a {x} pommes. {b} lui en donne encore {y}. Combien de pommes cela fait-il ?",
        "{a} a {x} pommes et en donne {y} à {b}. Combien de pommes reste-t-il à {a} ?",
        "{a} achète {x} sacs de {y} pommes chacun. Combien de pommes cela fait-il ?",
    ),
    "es": (
        "{a} tiene {x} manzanas. {b} le da {y} más. ¿Cuántas manzanas tiene {a} ahora?",
        "{a} tiene {x} manzanas y le da {y} a {b}. ¿Cuántas manzanas le quedan a {a}?",
        "{a} compra {x} bolsas con {y} manzanas cada una. ¿Cuántas manzanas son?",
    ),
    "it": (
        "{a} ha {x} mele. {b} gliene dà altre {y}. Quante mele ha adesso {a}?",
        "{a} ha {x} mele e ne dà {y} a {b}. Quante mele restano a {a}?",
        "{a} compra {x} sacchetti con {y} mele ciascuno. Quante mele sono?",
    ),
}
_APPLES = {
    "en": ("apples",),
    "de": ("äpfel",),
    "fr": ("pommes",),
    "es": ("manzanas",),
    "it": ("mele",),
}
_WRITE = {
    "en": ("Write the number {} as a word.", "Write this number in digits: {}."),
    "de": ("Schreibe die Zahl {} als Wort.", "Schreibe diese Zahl in Ziffern: {}."),
    "fr": ("Écris le nombre {} en lettres.", "Écris ce nombre en chiffres : {}."),
    "es": ("Escribe el número {} con letras.", "Escribe este número con cifras: {}."),
    "it": ("Scrivi il numero {} in lettere.", "Scrivi questo numero in cifre: {}."),
}


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    yield from _sums()
    yield from _larger()
    yield from _series()
    yield from _stories()
    yield from _numerals()


def numeric(kind: str, language: str, asked: str, value: int) -> Item:
    """Returns an item whose answer is a number; near numbers and two at once are wrong."""
    step = Draw("near", asked).one((1, 2, 10))
    near = value + step
    wrong = (str(near), f"{value} or {near}", str(value - step if value > step else near + 1))
    return Item(kind, language, asked, str(value), wrong, Number(value))


def _sums() -> Iterator[Item]:
    draw = Draw("sums")
    for _ in range(MANY):
        a, b = draw.number(11, 89), draw.number(11, 89)
        yield numeric("add", "en", f"What is {a} + {b}?", a + b)
        a, b = draw.number(2, 9), draw.number(2, 9)
        yield numeric("add", "en", f"What is {a} + {b}?", a + b)
        low, high = sorted((draw.number(11, 60), draw.number(61, 99)))
        yield numeric("subtract", "en", f"What is {high} - {low}?", high - low)
        a, b = draw.number(2, 12), draw.number(2, 12)
        yield numeric("multiply", "en", f"What is {a} * {b}?", a * b)
        a, b = draw.number(2, 9), draw.number(2, 12)
        yield numeric("divide", "en", f"What is {a * b} / {a}?", b)
    for _ in range(SOME):
        a, b, c = (draw.number(1, 9) for _ in range(3))
        yield numeric("three", "en", f"What is {a} + {b} + {c}?", a + b + c)
        a, b = draw.number(2, 30), draw.number(2, 30)
        yield numeric("missing", "en", f"{a} + ? = {a + b}. Which number is missing?", b)
        a = draw.number(11, 60)
        yield numeric("double", "en", f"What is twice {a}?", 2 * a)
        yield numeric("half", "en", f"What is half of {2 * a}?", a)


def _larger() -> Iterator[Item]:
    draw = Draw("larger")
    templates = {
        "en": ("Which number is larger, {} or {}?", "Which number is smaller, {} or {}?"),
        "de": ("Welche Zahl ist größer, {} oder {}?", "Welche Zahl ist kleiner, {} oder {}?"),
        "fr": (
            "Quel nombre est le plus grand, {} ou {} ?",
            "Quel nombre est le plus petit, {} ou {} ?",
        ),
        "es": (
            "De los números {} y {}, ¿cuál es el mayor?",
            "De los números {} y {}, ¿cuál es el menor?",
        ),
        "it": ("Quale numero è maggiore, {} o {}?", "Quale numero è minore, {} o {}?"),
    }
    for language, asking in templates.items():
        for _ in range(FEW // 2):
            for choose, template in zip((max, min), asking, strict=True):
                a, b = draw.some(range(10, 1000), 2)
                item = numeric("larger", language, template.format(a, b), choose(a, b))
                other = a + b - choose(a, b)
                wrong = three(str(other), f"{a}, {b}", str(a + b))
                yield dataclasses.replace(item, wrong=wrong)


def _series() -> Iterator[Item]:
    draw = Draw("series")
    for _ in range(SOME):
        first, step = draw.number(1, 20), draw.number(2, 10)
        terms = [first + step * i for i in range(5)]
        shown = ", ".join(map(str, terms[:4]))
        yield numeric("series", "en", f"Which number comes next: {shown}?", terms[4])
        down = ", ".join(map(str, terms[:0:-1]))
        yield numeric("series", "en", f"Which number comes next: {down}?", terms[0])


def _stories() -> Iterator[Item]:
    for language, templates in _STORIES.items():
        draw = Draw("stories", language)
        for _ in range(FEW // 2):
            a, b = draw.some(PEOPLE, 2)
            x, y = draw.number(6, 20), draw.number(2, 5)
            for template, value in zip(templates, (x + y, x - y, x * y), strict=True):
                asked = elided(template.format(a=a, b=b, x=x, y=y), language)
                item = numeric("story", language, asked, value)
                rule = Number(value, _APPLES[language], facts.numeral(value, language))
                yield dataclasses.replace(item, rule=rule)


def _numerals() -> Iterator[Item]:
    for language, (to_word, to_digits) in _WRITE.items():
        every = [facts.numeral(value, language)[0] for value in facts.NUMBERS]
        # Nought and one have too many names.
        for value in facts.NUMBERS[2:]:
            names = facts.numeral(value, language)
            asked = to_word.format(value)
            wrong = three(*others(Draw("word", asked), every, names, 2), str(value))
            yield Item("numeral", language, asked, names[0], wrong, Equal(names))
            yield numeric("digits", language, to_digits.format(names[0]), value)

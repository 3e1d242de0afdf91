"""JSON from a sentence and back: keys and values, in five languages."""

import json
from collections.abc import Iterator

from promot_jax.tasks.bank.items import Draw, Item, three
from promot_jax.tasks.bank.lexicon import PEOPLE, wares, words
from promot_jax.tasks.bank.rules import Equal, Json, Number, Words

# Items of each kind: in English, and in each of the other languages.
ENGLISH, ELSEWHERE = 50, 20
# Towns that are called the same in all of the languages.
TOWNS = (
    *("Madrid", "Oslo", "Lima", "Budapest", "Helsinki", "Quito", "Dakar", "Toronto", "Nairobi"),
    *("Caracas", "Rabat"),
)
# Keys for name, age and town; a person and a thing that is sold, as sentences; what is asked.
_TEXTS = {
    "en": {
        "keys": ("name", "age", "city"),
        "goods": ("item", "price"),
        "person": "{} is {} years old and lives in {}.",
        "sold": "The {} costs {} euros.",
        "write": "Write this as JSON with the keys {}: {}",
        "value": 'What is the value of "{}" in this JSON? {}',
        "names": "List the keys of this JSON: {}",
        "change": 'Write this JSON with "{}" changed to {}: {}',
    },
    "de": {
        "keys": ("name", "alter", "stadt"),
        "goods": ("ware", "preis"),
        "person": "{} ist {} Jahre alt und wohnt in {}.",
        "sold": "Ware: {}. Der Preis ist {} Euro.",
        "write": "Schreibe das als JSON mit den Schlüsseln {}: {}",
        "value": "Welchen Wert hat „{}“ in diesem JSON? {}",
        "names": "Nenne die Schlüssel dieses JSON: {}",
        "change": "Schreibe dieses JSON, aber „{}“ soll {} sein: {}",
    },
    "fr": {
        "keys": ("nom", "âge", "ville"),
        "goods": ("article", "prix"),
        "person": "{} a {} ans et habite à {}.",
        "sold": "Article : {}. Le prix est de {} euros.",
        "write": "Écris ceci en JSON avec les clés {} : {}",
        "value": "Quelle est la valeur de « {} » dans ce JSON ? {}",
        "names": "Donne les clés de ce JSON : {}",
        "change": "Écris ce JSON avec « {} » changé en {} : {}",
    },
    "es": {
        "keys": ("nombre", "edad", "ciudad"),
        "goods": ("artículo", "precio"),
        "person": "{} tiene {} años y vive en {}.",
        "sold": "Artículo: {}. El precio es de {} euros.",
        "write": "Escribe esto como JSON con las claves {}: {}",
        "value": "¿Cuál es el valor de «{}» en este JSON? {}",
        "names": "Di las claves de este JSON: {}",
        "change": "Escribe este JSON con «{}» cambiado a {}: {}",
    },
    "it": {
        "keys": ("nome", "età", "città"),
        "goods": ("articolo", "prezzo"),
        "person": "{} ha {} anni e abita a {}.",
        "sold": "Articolo: {}. Il prezzo è di {} euro.",
        "write": "Scrivi questo come JSON con le chiavi {}: {}",
        "value": "Qual è il valore di «{}» in questo JSON? {}",
        "names": "Elenca le chiavi di questo JSON: {}",
        "change": "Scrivi questo JSON con «{}» cambiato in {}: {}",
    },
}


def items() -> Iterator[Item]:
    """Yields the family's items, exemplars first within each kind."""
    for language in _TEXTS:
        for number in range(ENGLISH if language == "en" else ELSEWHERE):
            draw = Draw("structured", language, number)
            yield from _people(language, draw)
            yield from _goods(language, draw)
    yield from _nested()


def written(value: object) -> str:
    """Returns a value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


def as_json(kind: str, language: str, asked: str, right: dict, *wrong: dict) -> Item:
    """Returns an item whose answer is JSON; other values, and what is cut off, are wrong."""
    text = written(right)
    return Item(kind, language, asked, text, three(*map(written, wrong), text[:-1]), Json(text))


def _people(language: str, draw: Draw) -> Iterator[Item]:
    texts = _TEXTS[language]
    name, age, town = draw.one(PEOPLE), draw.number(18, 90), draw.one(TOWNS)
    keys = texts["keys"]
    person = dict(zip(keys, (name, age, town), strict=True))
    sentence = texts["person"].format(name, age, town)
    asked = texts["write"].format(", ".join(keys), sentence)
    older = person | {keys[1]: age + 1}
    yield as_json("person", language, asked, person, older, {keys[0]: name, keys[1]: age})

    other = dict(zip(keys, (draw.one(PEOPLE), draw.number(18, 90), draw.one(TOWNS)), strict=True))
    shown = written(other)
    yield _value(language, texts["value"], draw.one(keys), other)
    yield _names(language, draw, other)

    key, new = keys[1], draw.number(18, 90)
    new += new == other[key]
    asked = texts["change"].format(key, new, shown)
    changed = other | {key: new}
    yield as_json("change", language, asked, changed, other, {key: new})


def _names(language: str, draw: Draw, person: dict) -> Item:
    texts = _TEXTS[language]
    thing = draw.one(wares(language)).said[0]
    goods = dict(zip(texts["goods"], (thing, draw.number(2, 99)), strict=True))
    known = person | goods
    keys = draw.some(list(known), 3)
    shown = {key: known[key] for key in keys}
    asked = texts["names"].format(written(shown))
    wrong = (", ".join(map(str, shown.values())), ", ".join(keys[:2]), ", ".join([*keys, "id"]))
    rule = Words(tuple(keys), language)
    return Item("names", language, asked, ", ".join(keys), wrong, rule)


def _value(language: str, template: str, key: str, shown: dict) -> Item:
    value = shown[key]
    asked = template.format(key, written(shown))
    rest = [str(other) for other in shown.values() if other != value]
    rule = Number(value) if isinstance(value, int) else Equal((value,))
    wrong = three(*rest[:2], f"{value}, {rest[0]}", key)
    return Item("value", language, asked, str(value), wrong, rule)


def _goods(language: str, draw: Draw) -> Iterator[Item]:
    texts = _TEXTS[language]
    thing, price = draw.one(wares(language)).said[0], draw.number(2, 99)
    key, cost = texts["goods"]
    asked = texts["write"].format(f"{key}, {cost}", texts["sold"].format(thing, price))
    right = {key: thing, cost: price}
    yield as_json("goods", language, asked, right, {key: thing}, right | {cost: price + 1})
    other = draw.one(wares(language)).said[0]
    shown = {key: other, cost: draw.number(2, 99), "id": draw.number(100, 999)}
    yield _value(language, texts["value"], draw.one((key, cost)), shown)


def _nested() -> Iterator[Item]:
    for number in range(ENGLISH):
        draw = Draw("nested", number)
        things = draw.some(words("en"), 3)
        asked = f"Write these words as a JSON list of strings: {', '.join(things)}"
        text = written(things)
        wrong = (written(things[:2]), written(things[::-1]), ", ".join(things))
        yield Item("array", "en", asked, text, wrong, Json(text))
        yield _inside(draw)
        yield _truth(draw)


def _inside(draw: Draw) -> Item:
    one, other = draw.some(PEOPLE, 2)
    shown = written({"owner": {"name": one}, "driver": {"name": other}})
    who, right, left = draw.one((("owner", one, other), ("driver", other, one)))
    asked = f"What is the name of the {who} in this JSON? {shown}"
    return Item("inside", "en", asked, right, (left, who, f"{one} and {other}"), Equal((right,)))


def _truth(draw: Draw) -> Item:
    is_open = draw.one((True, False))
    place = draw.one(("door", "window", "shop", "gate", "bank", "school", "office"))
    town = draw.one(TOWNS)
    asked = (
        'Write this as JSON with the keys "place", "city" and "open" (true or false):'
        f" The {place} in {town} is {'open' if is_open else 'closed'}."
    )
    right = {"place": place, "city": town, "open": is_open}
    wrong = (right | {"open": not is_open}, right | {"open": int(is_open)})
    return as_json("truth", "en", asked, right, *wrong)

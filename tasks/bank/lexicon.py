"""Words of the bank in five languages: concrete nouns with their genders, adjectives, names."""

import functools
import re
from typing import NamedTuple

from promot_jax.tasks.bank.facts import LANGUAGES, said, table

# English, German, French, Spanish, Italian; behind the colon the gender, m, f or n.
_NOUNS = """
dog|Hund:m|chien:m|perro:m|cane:m
cat|Katze:f|chat:m|gato:m|gatto:m
horse|Pferd:n|cheval:m|caballo:m|cavallo:m
cow|Kuh:f|vache:f|vaca:f|mucca/vacca:f
bird|Vogel:m|oiseau:m|pájaro/ave:m|uccello:m
fish|Fisch:m|poisson:m|pez/pescado:m|pesce:m
mouse|Maus:f|souris:f|ratón:m|topo:m
wolf|Wolf:m|loup:m|lobo:m|lupo:m
bear|Bär:m|ours:m|oso:m|orso:m
lion|Löwe:m|lion:m|león:m|leone:m
bee|Biene:f|abeille:f|abeja:f|ape:f
house/home|Haus:n|maison:f|casa:f|casa:f
door|Tür:f|porte:f|puerta:f|porta:f
window|Fenster:n|fenêtre:f|ventana:f|finestra:f
table|Tisch:m|table:f|mesa:f|tavolo/tavola:m
chair|Stuhl:m|chaise:f|silla:f|sedia:f
bed|Bett:n|lit:m|cama:f|letto:m
lamp|Lampe:f|lampe:f|lámpara:f|lampada:f
key|Schlüssel:m|clé/clef:f|llave:f|chiave:f
book|Buch:n|livre:m|libro:m|libro:m
school|Schule:f|école:f|escuela/colegio:f|scuola:f
church|Kirche:f|église:f|iglesia:f|chiesa:f
bridge|Brücke:f|pont:m|puente:m|ponte:m
street/road|Straße:f|rue:f|calle:f|strada/via:f
city/town|Stadt:f|ville:f|ciudad:f|città:f
village|Dorf:n|village:m|pueblo/aldea:m|villaggio/paese:m
tree|Baum:m|arbre:m|árbol:m|albero:m
flower|Blume:f|fleur:f|flor:f|fiore:m
forest/woods/wood|Wald:m|forêt:f|bosque:m|foresta/bosco:f
mountain|Berg:m|montagne:f|montaña:f|montagna:f
river|Fluss:m|rivière/fleuve:f|río:m|fiume:m
island|Insel:f|île:f|isla:f|isola:f
sun|Sonne:f|soleil:m|sol:m|sole:m
moon|Mond:m|lune:f|luna:f|luna:f
star|Stern:m|étoile:f|estrella:f|stella:f
rain|Regen:m|pluie:f|lluvia:f|pioggia:f
snow|Schnee:m|neige:f|nieve:f|neve:f
wind|Wind:m|vent:m|viento:m|vento:m
fire|Feuer:n|feu:m|fuego:m|fuoco:m
water|Wasser:n|eau:f|agua:f|acqua:f
bread|Brot:n|pain:m|pan:m|pane:m
cheese|Käse:m|fromage:m|queso:m|formaggio:m
milk|Milch:f|lait:m|leche:f|latte:m
egg|Ei:n|œuf/oeuf:m|huevo:m|uovo:m
apple|Apfel:m|pomme:f|manzana:f|mela:f
salt|Salz:n|sel:m|sal:f|sale:m
sugar|Zucker:m|sucre:m|azúcar:m|zucchero:m
butter|Butter:f|beurre:m|mantequilla:f|burro:m
wine|Wein:m|vin:m|vino:m|vino:m
hand|Hand:f|main:f|mano:f|mano:f
foot|Fuß:m|pied:m|pie:m|piede:m
head|Kopf:m|tête:f|cabeza:f|testa:f
eye|Auge:n|œil/oeil:m|ojo:m|occhio:m
ear|Ohr:n|oreille:f|oreja/oído:f|orecchio:m
nose|Nase:f|nez:m|nariz:f|naso:m
mouth|Mund:m|bouche:f|boca:f|bocca:f
heart|Herz:n|cœur/coeur:m|corazón:m|cuore:m
man|Mann:m|homme:m|hombre:m|uomo:m
woman|Frau:f|femme:f|mujer:f|donna:f
brother|Bruder:m|frère:m|hermano:m|fratello:m
sister|Schwester:f|sœur/soeur:f|hermana:f|sorella:f
mother|Mutter:f|mère:f|madre:f|madre:f
father|Vater:m|père:m|padre:m|padre:m
king|König:m|roi:m|rey:m|re:m
queen|Königin:f|reine:f|reina:f|regina:f
day|Tag:m|jour/journée:m|día:m|giorno:m
night|Nacht:f|nuit:f|noche:f|notte:f
week|Woche:f|semaine:f|semana:f|settimana:f
year|Jahr:n|an/année:m|año:m|anno:m
winter|Winter:m|hiver:m|invierno:m|inverno:m
summer|Sommer:m|été:m|verano:m|estate:f
train|Zug:m|train:m|tren:m|treno:m
ship/boat|Schiff:n|bateau/navire:m|barco/buque:m|nave:f
shoe|Schuh:m|chaussure/soulier:f|zapato:m|scarpa:f
hat|Hut:m|chapeau:m|sombrero:m|cappello:m
shirt|Hemd:n|chemise:f|camisa:f|camicia:f
knife|Messer:n|couteau:m|cuchillo:m|coltello:m
spoon|Löffel:m|cuillère/cuiller:f|cuchara:f|cucchiaio:m
bottle|Flasche:f|bouteille:f|botella:f|bottiglia:f
garden|Garten:m|jardin:m|jardín:m|giardino:m
gold|Gold:n|or:m|oro:m|oro:m
stone/rock|Stein:m|pierre:f|piedra:f|pietra:f
paper|Papier:n|papier:m|papel:m|carta:f
"""
# What an English reader may say besides for a word of one of the other languages.
ALSO = {
    ("de", "Mann"): ("husband",),
    ("de", "Frau"): ("wife", "mrs"),
    ("de", "Hut"): ("cap",),
    ("de", "Zug"): ("procession",),
    ("fr", "femme"): ("wife",),
    ("fr", "bateau"): ("boat",),
    ("fr", "lit"): ("reads",),
    ("es", "mujer"): ("wife",),
    ("es", "pie"): ("standing",),
    ("it", "carta"): ("card", "map"),
    ("it", "donna"): ("lady",),
}
# Nouns of which colour and size can be said.
THINGS = (
    *("dog", "cat", "horse", "bird", "house", "door", "table", "chair", "bed", "key", "book"),
    *("bridge", "ship", "shoe", "hat", "shirt", "knife", "bottle", "garden", "stone", "mouse"),
)
# Nouns for what is bought, lost and found.
WARES = (
    *("table", "chair", "bed", "lamp", "key", "book", "bread", "cheese", "egg", "apple"),
    *("sugar", "butter", "wine", "shoe", "hat", "shirt", "knife", "spoon", "bottle", "flower"),
)
# English, German, then masculine and feminine of French, Spanish, Italian.
ADJECTIVES = table("""
old|alt|vieux|vieille|viejo|vieja|vecchio|vecchia
big/large|groß|grand|grande|grande|grande|grande|grande
small/little|klein|petit|petite|pequeño|pequeña|piccolo|piccola
new|neu|neuf/nouveau|neuve/nouvelle|nuevo|nueva|nuovo|nuova
white|weiß|blanc|blanche|blanco|blanca|bianco|bianca
black|schwarz|noir|noire|negro|negra|nero|nera
red|rot|rouge|rouge|rojo|roja|rosso|rossa
green|grün|vert|verte|verde|verde|verde|verde
blue|blau|bleu|bleue|azul|azul|blu|blu
yellow|gelb|jaune|jaune|amarillo|amarilla|giallo|gialla
""")

PEOPLE = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas"),
    *("Karin", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Simon", "Tina", "Viktor"),
)


AND = {"en": "and", "de": "und", "fr": "et", "es": "y", "it": "e"}
_BEFORE_VOWEL = re.compile(r"\b(qu|Qu|d)e (?=[AEIO])")


class Word(NamedTuple):
    """A noun of a language: how it is said, the usual one first, and its gender."""

    said: tuple[str, ...]
    gender: str


@functools.cache
def nouns() -> list[dict[str, Word]]:
    """Returns the nouns, each by language; English has no gender."""
    found = []
    for row in table(_NOUNS):
        words = {}
        for language, cell in zip(LANGUAGES, row, strict=True):
            name, _, gender = cell.partition(":")
            words[language] = Word(said(name), gender)
        found.append(words)
    return found


@functools.cache
def words(language: str) -> tuple[str, ...]:
    """Returns single nouns of a language, each once, for lists and forms."""
    return tuple(dict.fromkeys(entry[language].said[0] for entry in nouns()))


@functools.cache
def wares(language: str) -> tuple[Word, ...]:
    """Returns the nouns of a language for what is bought, lost and found."""
    return tuple(entry[language] for entry in nouns() if entry["en"].said[0] in WARES)


def begun(text: str) -> str:
    """Returns a text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def joined(one: str, other: str, language: str) -> str:
    """Returns two words with "and" between them; Spanish has another one before an i."""
    if language == "es" and other.startswith(("i", "hi")):
        return f"{one} e {other}"
    return f"{one} {AND[language]} {other}"


def elided(text: str, language: str) -> str:
    """Returns a text in which French words have lost their e before a name with a vowel."""
    return _BEFORE_VOWEL.sub(r"\1'", text) if language == "fr" else text


def adjective(row: list[str], language: str, gender: str) -> tuple[str, ...]:
    """Returns how an adjective is said of a noun, predicatively."""
    if language in ("en", "de"):
        return said(row[LANGUAGES.index(language)])
    place = 2 * LANGUAGES.index(language) - 2 + (gender == "f")
    return said(row[place])


def with_article(word: str, language: str, gender: str) -> str:
    """Returns a noun behind its definite article."""
    # Each of the French nouns with an h has a silent one.
    vowel = word[0] in ("aeiouéèêâîôœh" if language == "fr" else "aeiou")
    if language == "en":
        return f"the {word}"
    if language == "de":
        return {"m": "der", "f": "die", "n": "das"}[gender] + f" {word}"
    if language == "fr":
        return f"l'{word}" if vowel else {"m": "le", "f": "la"}[gender] + f" {word}"
    if language == "es":
        return {"m": "el", "f": "la"}[gender] + f" {word}"
    if vowel:
        return f"l'{word}"
    hard = word.startswith(("z", "gn", "ps")) or (word[0] == "s" and word[1] not in "aeiou")
    return {"m": "lo" if hard else "il", "f": "la"}[gender] + f" {word}"

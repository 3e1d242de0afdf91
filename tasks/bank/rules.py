"""What an answer must be to be right: small rules that read what a language model writes.

They forgive what carries no meaning: white space, quotes or markup around the answer, a full stop
at its end, and by rule also case or an article in front. They never forgive more: an answer that
holds the right one among others is wrong, and so is an empty one.
"""

import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Protocol

_AROUND = (('"', '"'), ("'", "'"), ("`", "`"), ("**", "**"), ("*", "*"))
_AROUND += (("“", "”"), ("„", "“"), ("«", "»"), ("‘", "’"))
_ARTICLES = {
    "en": re.compile(r"(?:the|an?)\s+"),
    "de": re.compile(r"(?:der|die|das|den|dem|eine?[nm]?)\s+"),
    "fr": re.compile(r"(?:l'|d'|(?:les?|la|une?|du|des|de la|de)\s+|de l')"),
    "es": re.compile(r"(?:el|la|los|las|una?|unos|unas)\s+"),
    "it": re.compile(r"(?:l'|un'|(?:il|lo|la|i|gli|le|uno|una?)\s+)"),
}
_WORD, _NOUGHTS = re.compile(r"\w+"), re.compile(r"(?<=\d)[.:,]00\b")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_AND = {"en": ("and",), "de": ("und",), "fr": ("et",), "es": ("y", "e"), "it": ("e", "ed")}


class Rule(Protocol):
    """Says which answers are right."""

    def accepts(self, answer: str) -> bool:
        """Returns whether an answer, one line, is right."""


def forms(answer: str) -> Iterator[str]:
    """Yields an answer as it stands, and without what stands around it."""
    text = " ".join(unicodedata.normalize("NFC", answer).replace("’", "'").split())
    while text:
        yield text
        shorter = text
        for opening, closing in _AROUND:
            inside = text[len(opening) : len(text) - len(closing)]
            around = text.startswith(opening) and text.endswith(closing)
            if around and inside and opening not in inside and closing not in inside:
                shorter = inside.strip()
                break
        else:
            shorter = text[:-1].rstrip() if text.endswith(".") else text
        if shorter == text:
            return
        text = shorter


def plain(text: str) -> str:
    """Returns a text as `Equal` compares it."""
    return list(forms(text))[-1].casefold() if text.strip(". ") else ""


@dataclasses.dataclass(frozen=True)
class Exact:
    """One of some texts, letter by letter: for instructions about case and signs."""

    accepted: tuple[str, ...]

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        return any(form in self.accepted for form in forms(answer))


@dataclasses.dataclass(frozen=True)
class Equal:
    """One of some texts, whatever their case.

    Attributes:
      accepted: the texts.
      language: whose articles may stand in front; none where it is empty.
    """

    accepted: tuple[str, ...]
    language: str = ""

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self._bare(plain(text)) for text in self.accepted)

    def _bare(self, text: str) -> str:
        article = _ARTICLES.get(self.language)
        found = article.match(text) if article else None
        return text[found.end() :] or text if found else text

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        return any(self._bare(form.casefold()) in self._known for form in forms(answer))


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in digits, thousands with or without commas.

    Attributes:
      value: the number.
      units: words that may follow it, such as the name of what is counted.
      words: the number in words, where these are right, too.
    """

    value: int
    units: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        return any(self._is_it(form.replace("−", "-")) for form in forms(answer))

    def _is_it(self, form: str) -> bool:
        found = _NUMBER.match(form)
        if found is None:
            first, _, rest = form.casefold().partition(" ")
            return first in self.words and (not rest or rest in self.units)
        rest = form[found.end() :].strip().casefold()
        equal = float(found[0].replace(",", "")) == self.value
        return equal and (not rest or rest in self.units)


@dataclasses.dataclass(frozen=True)
class Words:
    """Some words in their order, by commas, semicolons or spaces, an "and" before the last.

    Attributes:
      words: in order.
      language: whose "and" it is.
    """

    words: tuple[str, ...]
    language: str = "en"

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        wanted = [word.casefold() for word in self.words]
        return any(self._parts(form.casefold()) == wanted for form in forms(answer))

    def _parts(self, form: str) -> list[str]:
        parts = re.split(r"\s*[,;]\s*|\s+", form)
        if len(parts) == len(self.words) + 1 and parts[-2] in _AND[self.language]:
            del parts[-2]
        elif (
            len(parts) == len(self.words) + 2
            and parts[-3] == ""
            and parts[-2] in _AND[self.language]
        ):
            del parts[-3:-1]
        return parts


@dataclasses.dataclass(frozen=True)
class Several:
    """Any words of a form, so many of them and each another.

    No dictionary is asked whether they are words: each has two letters at least and a vowel.

    Attributes:
      count: how many.
      start: what each begins with.
    """

    count: int
    start: str = ""

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        return any(self._are_they(form.casefold()) for form in forms(answer))

    def _are_they(self, form: str) -> bool:
        words = re.split(r"\s*,\s*|\s+", form)
        good = [word for word in words if re.fullmatch(r"[^\W\d_]{2,}", word)]
        bare = (unicodedata.normalize("NFD", word) for word in good)
        spoken = [text for text in bare if re.search("[aeiouyœæ]", text)]
        begun = all(word.startswith(self.start) for word in good)
        return len(words) == len(good) == len(spoken) == len(set(words)) == self.count and begun


@dataclasses.dataclass(frozen=True)
class Json:
    """A JSON text of one value: spaces and the order of keys are free.

    Attributes:
      text: one such text.
    """

    text: str

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        wanted = _canonical(self.text)
        # A full stop, or the marks of code in Markdown, may stand around it.
        return (
            _canonical(answer.strip().removesuffix(".").strip("`").removeprefix("json")) == wanted
        )


def _canonical(text: str) -> str | None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        return json.dumps(json.loads(text, object_pairs_hook=once), sort_keys=True)
    except (ValueError, RecursionError):
        return None


@dataclasses.dataclass(frozen=True)
class Mentions:
    """A short text that names all that matters and nothing that is not so.

    A number that is not needed is not so, but for the noughts of 6:00.

    Attributes:
      needed: of each group of words one must stand there.
      forbidden: none of these words may.
      most: its words at most.
    """

    needed: tuple[tuple[str, ...], ...]
    forbidden: tuple[str, ...]
    most: int

    @functools.cached_property
    def _groups(self) -> tuple[list[set[str]], set[str]]:
        needed = [{word.casefold() for word in group} for group in self.needed]
        return needed, {word.casefold() for word in self.forbidden}

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        text = unicodedata.normalize("NFC", answer).casefold()
        said = set(_WORD.findall(_NOUGHTS.sub("", text)))
        needed, forbidden = self._groups
        beside = said.difference(*needed)
        return (
            2 <= len(text.split()) <= self.most
            and all(said & group for group in needed)
            and not beside & forbidden
            and not any(map(str.isdigit, beside))
        )


def stands_in(word: str, text: str) -> bool:
    """Returns whether a word, or several, stand in a case-folded text, as whole words."""
    return re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text) is not None


# What says that something cannot be known, in the words of each language.
_REFUSING = {
    "en": r"(?:(?:it|this|that) is |it's )?(?:unknown|not (?:known|stated|said|given|mentioned"
    r"|specified|clear|possible to (?:know|say|tell))|unclear)"
    r"|(?:i|we) (?:don't|do not|can't|cannot|can not) (?:know|tell|say)(?: that| this| it)?"
    r"|(?:the text|the note|it) (?:does not|doesn't) (?:say|state|mention|tell)(?: that| it)?"
    r"|(?:it |this |that )?(?:cannot|can't|can not) be (?:known|determined|told|said)"
    r"|(?:there is )?(?:no|not enough) information|not in the text|no one knows|nobody knows",
    "de": r"(?:das ist |es ist |ist )?(?:unbekannt|nicht bekannt|unklar|nicht angegeben)"
    r"|(?:das )?(?:weiß ich nicht|ich weiß (?:es |das )?nicht|weiß man nicht)"
    r"|(?:das )?steht nicht im text|keine angabe",
    "fr": r"(?:c'est )?(?:inconnue?|pas connu|pas précisé|non précisé|non connu)"
    r"|(?:je )?ne sais pas|je ne (?:le )?sais pas|on ne (?:le )?sait pas|le texte ne le dit pas"
    r"|ce n'est pas (?:dit|précisé|connu)",
    "es": r"(?:es )?(?:desconocid[oa]|no conocido)|(?:yo )?no lo sé|no sé|no se sabe|no se dice"
    r"|el texto no lo dice|no se puede saber",
    "it": r"(?:è )?(?:sconosciut[oa]|ignot[oa]|non noto)|non lo so|non so|non si sa|non è detto"
    r"|il testo non lo dice|non si può sapere",
}


@dataclasses.dataclass(frozen=True)
class Refuses:
    """A phrase that says that it cannot be known, and nothing besides.

    Attributes:
      language: of the phrase; the English ones are right in all.
    """

    language: str = "en"

    def accepts(self, answer: str) -> bool:
        """See `Rule`."""
        patterns = {_REFUSING["en"], _REFUSING[self.language]}
        return any(
            re.fullmatch(pattern, form.casefold()) for form in forms(answer) for pattern in patterns
        )

"""The form in which `exact_match` compares answers.

It follows TriviaQA (Joshi et al., 2017): no case, punctuation is a space, no English articles. What
changes the meaning of an answer stays, which that clean-up drops: signs, points and units of
numbers, operators, C++ and C#, grades such as A-, and an answer that is nothing but punctuation or
an article.
"""

import dataclasses
import re
import unicodedata

from promot_jax.data.metrics import scripts

_ARTICLES = {"a", "an", "the"}
_QUOTES = "‘’‚‛′`´ʼʻ“”„‟«»″"
_PLAIN = str.maketrans(
    dict.fromkeys(_QUOTES, "'")
    # Hyphens, en dash and minus are one sign; a longer dash is punctuation alone.
    | dict.fromkeys("‐‑‒–−", "-")
    | dict.fromkeys("—―", " ")
    | dict.fromkeys("⁄∕", "/")
    | {"٪": "%"}
    # Direction marks, soft hyphens and the like; variants of an emoji.
    | dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF])
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xFE00, 0xFE10)])
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_FRACTION_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅟↉])")
# U.S.A. and J. R. R. Tolkien are as good without points.
_INITIALS = re.compile(r"(?<!\w)[^\W\d_](?:\.\s?[^\W\d_])+(?!\w)\.?")
_NUMBER = re.compile(r"\d+(?:[.,:٫٬]\d+)*(?:e[-+]?\d+(?!\w))?")
_LEADING_POINT = re.compile(r"(?<![\w.])\.\d+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_OPERATORS = set("-*/&@\\")
# After these a hyphen in front of a number joins or separates, and is no sign.
_CLOSING = set(")]}%")


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str  # number, word or sign
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def normalize_answer(text: str) -> str:
    """Returns the form of an answer in which `exact_match` compares it.

    Unicode's NFKC form without case, English articles, extra white space and punctuation. Kept are
    symbols (Unicode's categories S), per cent, the signs, decimal points and separators of numbers,
    `/`, `*` and `-` between numbers or single letters, `+`, `-`, `#` and `*` at the end of a word.
    Thousands may have commas, initials points. What would leave nothing of an answer is not done.
    """
    text = _plain(text)
    tokens = _tokens(text)
    kept = [found for i in range(len(tokens)) if (found := _kept(text, tokens, i)) is not None]
    if not kept:
        bare = text.replace("'", "").replace('"', "").strip()
        return " ".join((bare.rstrip(".,;") or bare or text).split())
    joined = ""
    for word in _without_articles(kept):
        together = joined and scripts.script(joined[-1]) and scripts.script(word[0])
        joined += word if together or not joined else f" {word}"
    return joined


def _plain(text: str) -> str:
    """Returns a text without case and without variants of one character."""

    def raised(found: re.Match) -> str:
        digits = unicodedata.normalize("NFKC", found[0])
        # Ions are written with and without raised signs, powers are not.
        return f"^{digits}" if any(map(str.isdigit, digits)) else digits

    text = _FRACTION_AFTER_DIGIT.sub(" ", text.translate(_PLAIN))
    text = unicodedata.normalize("NFKC", _SUPERSCRIPT.sub(raised, text)).casefold()
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    return _INITIALS.sub(lambda found: re.sub(r"[.\s]", "", found[0]), text)


def _tokens(text: str) -> list[_Token]:
    """Divides a text into numbers, words and runs of one other character."""
    tokens, place = [], 0
    while place < len(text):
        character = text[place]
        if found := _NUMBER.match(text, place) or _LEADING_POINT.match(text, place):
            token = _Token("number", found[0], place)
        elif character.isspace():
            place += 1
            continue
        elif scripts.in_word(character):
            token = _Token("word", _word(text, place), place)
        else:
            end = place + 1
            while end < len(text) and text[end] == character:
                end += 1
            token = _Token("sign", text[place:end], place)
        tokens.append(token)
        place = token.end
    return tokens


def _word(text: str, start: int) -> str:
    """Returns the word that begins here; it ends where a script without spaces begins or ends."""
    spaceless, end = bool(scripts.script(text[start])), start + 1
    while end < len(text) and scripts.in_word(text[end]):
        mark = unicodedata.category(text[end])[0] == "M"
        if not mark and bool(scripts.script(text[end])) != spaceless:
            break
        end += 1
    return text[start:end]


def _kept(text: str, tokens: list[_Token], i: int) -> str | None:
    """Returns how a token is compared, None where it is punctuation."""
    token = tokens[i]
    if token.kind == "word":
        return token.text
    if token.kind == "number":
        sign = "-" if i and _is_sign_of(text, tokens, i - 1, i) else ""
        return sign + _number(token.text)
    # Symbols of currency may stand between a sign and its number.
    if token.text == "-" and i + 1 < len(tokens) and _is_sign_of(text, tokens, i, i + 1):
        return None
    if unicodedata.category(token.text[0])[0] == "S":
        return token.text
    return token.text if _means_something(text, tokens, i) else None


def _is_sign_of(text: str, tokens: list[_Token], i: int, number: int) -> bool:
    """Whether a token is the minus of the number that another token is."""
    sign, following = tokens[i], tokens[number]
    if sign.text != "-" or following.kind != "number":
        return False
    if sign.end < following.start:
        return i == 0
    before = text[sign.start - 1] if sign.start else " "
    joins = scripts.in_word(before) and not scripts.script(before)
    return not (joins or before in _CLOSING)


def _number(text: str) -> str:
    if _THOUSANDS.fullmatch(text):
        return text.replace(",", "")
    if text.count(",") > 1:  # a list
        return text.replace(",", " ")
    return f"0{text}" if text.startswith(".") else text


def _means_something(text: str, tokens: list[_Token], i: int) -> bool:
    """Whether punctuation is part of the meaning, by what stands beside it."""
    sign = tokens[i].text
    before = text[tokens[i].start - 1] if tokens[i].start else " "
    after = text[tokens[i].end] if tokens[i].end < len(text) else " "
    if sign in {"%", "‰", "‱"}:
        return True
    if sign in {"#", "-", "*"} and scripts.in_word(before) and not scripts.in_word(after):
        word = tokens[i - 1]
        # The grade A*, not emphasis.
        return sign != "*" or (len(word.text) == 1 and text[: word.start][-1:] != "*")
    # != := -> <-
    if after in "=<>" and sign[0] in _OPERATORS | {"!", ":"}:
        return True
    if sign[0] == "-" and (before in "<>" or _is_currency(after)):
        return True
    beside = [tokens[j] for j in (i - 1, i + 1) if 0 <= j < len(tokens)]
    if sign[0] not in _OPERATORS or len(beside) < 2 or not all(map(_is_operand, beside)):
        return False
    # F-16 is F 16, but 5-3 is not 5 3.
    alike = len({token.kind == "word" for token in beside}) == 1
    return sign != "-" or alike or before.isspace()


def _is_operand(token: _Token) -> bool:
    single = token.kind == "word" and len(token.text) == 1
    return single or token.kind == "number" or token.text == "%"


def _is_currency(character: str) -> bool:
    return unicodedata.category(character) == "Sc"


def _without_articles(words: list[str]) -> list[str]:
    """Drops articles, which stand before a word: A alone, vitamin A, A, B and a < b have none."""
    return [
        word
        for word, after in zip(words, [*words[1:], ""], strict=True)
        if word not in _ARTICLES or not after or (word == "a" and not _has_article(after))
    ]


def _has_article(word: str) -> bool:
    if len(word) == 1:
        return word.isdigit() or _is_currency(word)
    return scripts.in_word(word[-1])

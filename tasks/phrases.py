"""Sentences of programs and their translations, from the message catalogues of PyPI packages.

A catalogue is a GNU .mo file. Messages with placeholders, markup or line breaks are left out.
"""

import re
import struct
from collections.abc import Iterator

from promot_jax.base.errors import UserError
from promot_jax.tasks import package_files, templates
from promot_jax.tasks.package_rows import Row

# Read in this order; of a message that several have, the first translation counts.
PACKAGES = (
    package_files.Package("django", "pip install --no-deps django==5.2.19"),
    package_files.Package("wagtail", "pip install --no-deps wagtail==8.0.1"),
    package_files.Package("pretix", "pip install --no-deps pretix==2026.8.0"),
)
LANGUAGES = {"fr": "French", "de": "German", "ro": "Romanian"}
# Words of the English side. BLEU counts sequences of four words.
SHORTEST, LONGEST = 4, 25
_MARKUP = re.compile(r"[%{}<>&_|@*#`\\\n\t]|https?:")
_MAGIC = 0x950412DE


def translations(language: str) -> list[Row]:
    """Returns English sentences to translate; a group is a sentence without case and punctuation.

    It is the same for all languages, so no sentence is a training row of one and a test row of
    another.

    Args:
      language: one of `LANGUAGES`.

    Raises:
      UserError: a package is not installed, or a catalogue is damaged.
    """
    pairs: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted(package.folder().rglob(f"locale/{language}/LC_MESSAGES/*.mo")):
            for english, translated in _messages(path):
                if _usable(english, translated):
                    pairs.setdefault(english, translated)
    return [
        Row(
            templates.format_translation("English", LANGUAGES[language], english),
            translated,
            re.sub(r"\W+", "", english.casefold()),
        )
        for english, translated in pairs.items()
    ]


def _usable(english: str, translated: str) -> bool:
    words = len(english.split())
    distinct = translated and translated != english
    return bool(distinct and SHORTEST <= words <= LONGEST) and not _MARKUP.search(
        english + translated
    )


def _messages(path) -> Iterator[tuple[str, str]]:
    """Yields message and translation, without context; of plurals, none."""
    content = path.read_bytes()
    try:
        order = "<" if struct.unpack_from("<I", content)[0] == _MAGIC else ">"
        count, sources, targets = struct.unpack_from(f"{order}3I", content, 8)
        for number in range(count):
            texts = []
            for table in (sources, targets):
                length, start = struct.unpack_from(f"{order}2I", content, table + 8 * number)
                texts.append(content[start : start + length].decode())
            message = texts[0].rpartition("\4")[2]
            if "\0" not in message:
                yield message.strip(), texts[1].strip()
    except (struct.error, UnicodeDecodeError):
        raise UserError(f"{path} is no message catalogue; install its package again") from None

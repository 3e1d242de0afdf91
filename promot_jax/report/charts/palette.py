"""One colour, marker and dash pattern per method, the same on the page and in every figure.

The colours are those of Okabe and Ito (colour-blind safe), darkened on light paper and lightened
on dark paper for contrast; markers and dashes repeat the distinction without colour.
"""

import dataclasses
from collections.abc import Sequence

from promot_jax.report.numbers import frontier
from promot_jax.report.records.records import Records


@dataclasses.dataclass(frozen=True)
class Style:
    """How a method is drawn: hex colours on light and dark paper, a marker, a dash pattern."""

    light: str
    dark: str
    marker: str
    dashes: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Paper:
    """Background, text, muted text and rule colours of a figure."""

    background: str
    ink: str
    muted: str
    rule: str


LIGHT = Paper("#ffffff", "#1d2026", "#626873", "#e3e5e9")
DARK = Paper("#171a1f", "#e8eaed", "#9aa1ac", "#2e333b")

# In place of a method's name: all that do not stand out.
MUTED = ""
_MUTED = Style("#b4b9c1", "#5a616c", "o", ())
_PRETRAINED = Style("#6f7580", "#a3aab5", "D", (1, 1.5))
# Blue for ProMoT and vermilion for fine-tuning, the pair that the report is about.
_KNOWN = {
    "promot": Style("#0067a8", "#5cb3f0", "o", ()),
    "fine_tuning": Style("#c84e00", "#ff8f4d", "s", (6, 2)),
    "prompt_tuning": Style("#00805d", "#3ecfa4", "^", (2.5, 1.5)),
}
_OTHERS = (
    Style("#a8487e", "#e694c0", "v", (5, 1.5, 1, 1.5)),
    Style("#96690a", "#eab544", "P", (8, 2)),
    Style("#5b5bc4", "#a9a9f5", "X", (3, 1, 1, 1, 1, 1)),
    Style("#7a6a5a", "#c9b8a6", "p", (1.5, 1)),
    Style("#2f7f95", "#8ed4e6", "h", (10, 3)),
    Style("#9b2335", "#ff9da7", "<", (4, 1, 1, 1)),
    Style("#4f7a1c", "#b2d977", ">", (7, 1.5, 2, 1.5)),
    Style("#7f3fa0", "#d5a6f0", "*", (3, 3)),
    Style("#3d4b63", "#c3cde0", "d", (9, 1.5, 1, 1.5)),
)


def styles(records: Records) -> dict[str, Style]:
    """Returns method name → style; methods without a style of their own take the rest in turn."""
    chosen: dict[str, Style] = {}
    taken = 0
    order = records.methods
    if frontier.many(records):
        # Those that are drawn by themselves get the colours that can be told apart.
        first = frontier.standing_out(records)
        order = [*first, *(method for method in records.methods if method not in first)]
        chosen[MUTED] = _MUTED
    for method in order:
        known = _PRETRAINED if method.untouched else _KNOWN.get(method.kind)
        if known is None or known in chosen.values():
            known = _other(taken)
            taken += 1
        chosen[method.name] = known
    return chosen


def by_name(methods: Sequence[str]) -> dict[str, Style]:
    """Returns method name → style, where no records say more of the methods."""
    others = [name for name in dict.fromkeys(methods) if name not in _KNOWN]
    return _KNOWN | {name: _other(place) for place, name in enumerate(others)}


def _other(place: int) -> Style:
    """Returns a style by its place; beyond the list colours return with other markers."""
    round_, index = divmod(place, len(_OTHERS))
    style = _OTHERS[index]
    if not round_:
        return style
    marker = _OTHERS[(index + 2 * round_ + 1) % len(_OTHERS)].marker
    return dataclasses.replace(style, marker=marker)

"""One colour, marker and dash pattern per method, the same on the page and in every figure.

The colours are those of Okabe and Ito (colour-blind safe), darkened on light paper and lightened
on dark paper for contrast; markers and dashes repeat the distinction without colour.
"""

import dataclasses

from promot_jax.report.records import Records


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
    Style("#3b8ea5", "#8ed4e6", "h", (10, 3)),
)


def styles(records: Records) -> dict[str, Style]:
    """Returns method name → style; names without a style of their own take the rest in turn."""
    chosen, taken = {}, 0
    for method in records.methods:
        if method is records.pretrained:
            chosen[method.name] = _PRETRAINED
        elif method.name in _KNOWN:
            chosen[method.name] = _KNOWN[method.name]
        else:
            chosen[method.name] = _OTHERS[taken % len(_OTHERS)]
            taken += 1
    return chosen

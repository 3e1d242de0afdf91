"""All tasks of the paper; importing this module registers them (docs/tasks.md lists them)."""

import seqio

from promot_jax.tasks import (
    cb,
    openbookqa,
    rte,
    snli,
    triviaqa,
    web_questions,
    wic,
    wikilingua,
    wmt,
    xsum,
)

TARGETS = {
    "rte": rte.RTE,
    "wmt14_enfr": wmt.ENFR,
    "snli": snli.SNLI,
    "openbookqa": openbookqa.OPENBOOKQA,
}
UNSEEN = {
    "cb": cb.CB,
    "wic": wic.WIC,
    "triviaqa": triviaqa.TRIVIAQA,
    "web_questions": web_questions.WEB_QUESTIONS,
    "wmt16_ende": wmt.ENDE,
    "wmt16_enro": wmt.ENRO,
    "xsum": xsum.XSUM,
    "wikilingua": wikilingua.WIKILINGUA,
}
DATASETS = TARGETS | UNSEEN
SUFFIXES = ("", "_1shot", "_4shot", "_span", "_span_1shot", "_span_4shot")
NAMES = (
    *(name + suffix for name in DATASETS for suffix in SUFFIXES),
    "rte_randomized",
    "rte_randomized_span",
)

# Multi-task training (section 5.4) draws both targets at equal rates.
seqio.MixtureRegistry.add("rte_wmt14_enfr", ["rte", "wmt14_enfr"], default_rate=1.0)
seqio.MixtureRegistry.add(
    "rte_wmt14_enfr_1shot", ["rte_1shot", "wmt14_enfr_1shot"], default_rate=1.0
)
seqio.MixtureRegistry.add("rte_wmt14_enfr_span", ["rte_span", "wmt14_enfr_span"], default_rate=1.0)
seqio.MixtureRegistry.add(
    "rte_wmt14_enfr_span_1shot", ["rte_span_1shot", "wmt14_enfr_span_1shot"], default_rate=1.0
)

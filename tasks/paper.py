"""All tasks of the paper; importing this module registers them (docs/tasks.md lists them)."""

from promot_jax.data import tasks
from promot_jax.data.tasks import Mixture
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
# What follows the name of a data set, and the arguments of `Dataset.task`.
FORMS = {
    "": {},
    "_1shot": {"shots": 1},
    "_4shot": {"shots": 4},
    "_span": {"span": True},
    "_span_1shot": {"shots": 1, "span": True},
    "_span_4shot": {"shots": 4, "span": True},
}
RANDOMIZED = {"rte_randomized" + suffix: FORMS[suffix] for suffix in ("", "_span")}
NAMES = (*(name + suffix for name in DATASETS for suffix in FORMS), *RANDOMIZED)

for name, used in DATASETS.items():
    for suffix, form in FORMS.items():
        tasks.add(used.task(name + suffix, **form))
for name, form in RANDOMIZED.items():
    tasks.add(rte.RTE.task(name, randomized=True, **form))
# Multi-task training (section 5.4) draws both targets at equal rates.
for suffix in ("", "_1shot", "_span", "_span_1shot"):
    parts = [f"rte{suffix}", f"wmt14_enfr{suffix}"]
    tasks.add(Mixture(f"rte_wmt14_enfr{suffix}", dict.fromkeys(parts, 1.0)))

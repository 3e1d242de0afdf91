"""Rows of five BIG-bench tasks (Srivastava et al. 2022), read from the package bigbench 1.0.0.

Their authors ask that rows appear in no other text, so that no model is trained on them unawares:
nothing of them is kept in this repository.
"""

import json
import re

from promot_jax.base.errors import UserError
from promot_jax.tasks import package_files, templates
from promot_jax.tasks.package_rows import Row

BIGBENCH = package_files.Package(
    "bigbench", "pip download --no-deps bigbench==1.0.0", "PROMOT_BIGBENCH"
)
# Of VitaminC, in characters: two of five rows are shorter, and steps on them cost little.
LONGEST_PAIR = 180
# In characters; a few rows of the summarization tasks hold next to nothing.
SHORTEST_ARTICLE = 200
_GARBLED = "\N{REPLACEMENT CHARACTER}"
_LABELS = {"entailment": "True", "contradiction": "False", "neutral": "Neither"}
_SENTENCES = re.compile(r"Sentence 1:(.*)\nSentence 2:(.*)\n\nThe answer is:\s*", re.DOTALL)


def vitaminc() -> list[Row]:
    """Returns claims behind a passage of Wikipedia (VitaminC, Schuster et al. 2021).

    Passages are those that BIG-bench shows, behind the title of their page; a group is a page.
    """
    rows = []
    for example in _examples("vitaminc_fact_verification"):
        evidence, _, claim = example["input"].partition("\nClaim: ")
        title, separator, _ = evidence.partition(": ")
        long = len(evidence) + len(claim) > LONGEST_PAIR
        if not separator or not claim or long or _GARBLED in evidence + claim:
            continue
        inputs = templates.format_cb(_detokenized(evidence), _detokenized(claim))
        rows.append(Row(inputs, _chosen(example), title))
    return rows


def presuppositions() -> list[Row]:
    """Returns sentences and what they may presuppose (presuppositions_as_nli).

    Rows come in pairs that differ by a word or two; a group begins with the same six words.
    """
    rows = []
    for example in _examples("presuppositions_as_nli"):
        found = _SENTENCES.fullmatch(example["input"])
        if found is None:
            continue
        premise, hypothesis = (text.strip() for text in found.groups())
        group = " ".join(re.findall(r"\w+", premise.lower())[:6])
        target = _LABELS[_chosen(example)]
        rows.append(Row(templates.format_cb(premise, hypothesis), target, group))
    return rows


def qa_wikidata() -> list[Row]:
    """Returns facts to complete ("The capital of X is") with every accepted answer."""
    rows = []
    for example in _examples("qa_wikidata"):
        accepted = example["target"]
        answers = (accepted,) if isinstance(accepted, str) else tuple(accepted)
        question = example["input"].strip()
        rows.append(Row(templates.format_qa(question), answers[0], question, answers))
    return rows


def xsum() -> list[Row]:
    """Returns the articles of XSum's test split that BIG-bench has, with their summaries."""
    return _summaries("gem/xsum")


def wikilingua() -> list[Row]:
    """Returns the English articles of WikiLingua that BIG-bench has, with their summaries."""
    return _summaries("gem/wikilingua_en")


def _summaries(task: str) -> list[Row]:
    rows = []
    for example in _examples(task):
        # An input of the few-shot form ends at a blank line, and an article has none to spare.
        article = " ".join(example["input"].split())
        if len(article) < SHORTEST_ARTICLE:
            continue
        inputs = templates.format_summarization(article)
        rows.append(Row(inputs, " ".join(example["target"].split()), article))
    return rows


def _examples(task: str) -> list[dict]:
    path = BIGBENCH.file(f"benchmark_tasks/{task}/task.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))["examples"]
    except (ValueError, KeyError):
        raise UserError(f"{path} is no task of BIG-bench; unpack the package again") from None


def _chosen(example: dict) -> str:
    return max(example["target_scores"], key=example["target_scores"].get)


def _detokenized(text: str) -> str:
    """Takes back how VitaminC writes brackets and quotes, and its spaces before punctuation."""
    for written, meant in {"-LRB-": "(", "-RRB-": ")", "``": '"', "''": '"'}.items():
        text = text.replace(written, meant)
    text = re.sub(r"\s+([,.;:?!)])", r"\1", text)
    return re.sub(r"\(\s+", "(", text).strip()

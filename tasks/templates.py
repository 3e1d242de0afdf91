"""The input templates of the paper's Table 4, its few-shot form and its output clean-up (A.2.2).

Each template is the paper's literal string, its bracketed slots as format fields. The spelling is
the paper's too: WiC asks "true or False", with one capital.
"""

import re
from collections.abc import Mapping, Sequence

RTE = "{premise} question: {hypothesis} Is it true or false? answer:"
CB = "{premise} question: {hypothesis} Is it true or false or neither? answer:"
SNLI = CB
WIC = (
    "{sentence1} {sentence2} question: The word {word} is used in the same way in the two"
    " sentences. Is it true or False? answer:"
)
OPENBOOKQA = "Q: {question} A) {option_a} B) {option_b} C) {option_c} D) {option_d} A:"
QA = "Q: {question} A:"
TRANSLATION = "Translate {source_language} to {target_language}: {sentence}"
SUMMARIZATION = "Article: {article} One sentence summary:"

RTE_LABELS = ("True", "False")
CB_LABELS = ("True", "False", "Neither")
SNLI_LABELS = CB_LABELS
WIC_LABELS = ("True", "False")
OPENBOOKQA_LABELS = ("A", "B", "C", "D")

# What opens an input of the generative templates; a model that goes on after its answer goes on
# with one of these.
PREFIX_TOKENS = ("Q:", "Translate", "Article:")

BLANK_LINE = "\n\n"
# The sentinels of span corruption: what stands between them fills the first gap of the input.
SPAN_START, SPAN_END = "<extra_id_0>", "<extra_id_1>"

_SPAN = re.compile(rf"{SPAN_START}(.*?)(?:{SPAN_END}|\Z)", re.DOTALL)
_NEXT_PREFIX = re.compile(r"(?<!\S)(?:Q:|Translate\b|Article:)")


def format_rte(premise: str, hypothesis: str) -> str:
    """Returns the RTE input; the target is one of `RTE_LABELS`."""
    return RTE.format(premise=premise, hypothesis=hypothesis)


def format_cb(premise: str, hypothesis: str) -> str:
    """Returns the CB input; the target is one of `CB_LABELS`."""
    return CB.format(premise=premise, hypothesis=hypothesis)


def format_snli(premise: str, hypothesis: str) -> str:
    """Returns the SNLI input; the target is one of `SNLI_LABELS`."""
    return SNLI.format(premise=premise, hypothesis=hypothesis)


def format_wic(sentence1: str, sentence2: str, word: str) -> str:
    """Returns the WiC input; the target is one of `WIC_LABELS`."""
    return WIC.format(sentence1=sentence1, sentence2=sentence2, word=word)


def format_openbookqa(question: str, options: Sequence[str]) -> str:
    """Returns the OpenbookQA input; the target is one of `OPENBOOKQA_LABELS`.

    Raises:
      ValueError: unless there are four options.
    """
    if len(options) != 4:
        raise ValueError(f"OpenbookQA takes 4 options, got {len(options)}: {list(options)}.")
    option_a, option_b, option_c, option_d = options
    return OPENBOOKQA.format(
        question=question,
        option_a=option_a,
        option_b=option_b,
        option_c=option_c,
        option_d=option_d,
    )


def format_qa(question: str) -> str:
    """Returns the closed-book question answering input (TriviaQA, web_questions)."""
    return QA.format(question=question)


def format_translation(source_language: str, target_language: str, sentence: str) -> str:
    """Returns the translation input; languages are English names, for instance "German"."""
    return TRANSLATION.format(
        source_language=source_language, target_language=target_language, sentence=sentence
    )


def format_summarization(article: str) -> str:
    """Returns the summarization input (XSum, WikiLingua)."""
    return SUMMARIZATION.format(article=article)


def few_shot(exemplars: Sequence[tuple[str, str]], inputs: str) -> str:
    """Puts answered exemplars in front of an input (section 5.1: 1-shot and 4-shot prompts).

    Args:
      exemplars: `(inputs, targets)` pairs, formatted by the same template as `inputs`; none makes
        the 0-shot input.
      inputs: the input to answer.

    Returns:
      "<input> <target>" blocks and the input, joined by blank lines.
    """
    blocks = [f"{exemplar} {target}" for exemplar, target in exemplars]
    return BLANK_LINE.join([*blocks, inputs])


def extract_span(output: str) -> str:
    """Returns what stands between <extra_id_0> and <extra_id_1> (or the end), else all of it."""
    span = _SPAN.search(output)
    return (span.group(1) if span else output).strip()


def extract_answer(output: str) -> str:
    """Cuts a decoded output down to its answer (the paper's A.2.2).

    Takes the span between the sentinels where there is one, then drops everything from the second
    prefix token on. The prompt holds the first prefix token, so the second one is the first that
    the output itself contains.
    """
    text = extract_span(output)
    following = _NEXT_PREFIX.search(text)
    return (text[: following.start()] if following else text).strip()


def first_line(output: str) -> str:
    """Returns the first line of a decoded output's answer.

    A model that was not tuned on a task seldom ends its answer; it goes on with further lines.
    """
    return extract_answer(output).partition("\n")[0].strip()


def first_label(output: str) -> str:
    """Returns the first word of a decoded output without trailing punctuation (A.2.2).

    "True. The premise says so" counts as "True", "A) a cat" as "A"; an output without a word gives
    "".
    """
    words = extract_answer(output).split()
    return words[0].rstrip(".,:;!?)") if words else ""


def postprocess_text(output: str, *, is_target: bool = False, **_unused: object) -> str:
    """The postprocessor of generative tasks: `extract_answer` of predictions.

    Targets only lose their sentinels, since a reference may hold a prefix token as ordinary text.
    """
    return extract_span(output) if is_target else extract_answer(output)


def postprocess_label(output: str, *, is_target: bool = False, **_unused: object) -> str:
    """The postprocessor of classification tasks: `first_label` of predictions."""
    return extract_span(output) if is_target else first_label(output)


def postprocess_answers(
    output: str, *, example: Mapping[str, Sequence[str]], is_target: bool = False
) -> str | list[str]:
    """The postprocessor of tasks with several accepted answers.

    Returns:
      Of a target the example's `answers`, of a prediction `extract_answer`.
    """
    if is_target:
        return list(example["answers"])
    return extract_answer(output)

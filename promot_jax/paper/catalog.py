"""The paper's tables and figures, and which runs each needs.

A run is an experiment `paper/MODEL/RUN`, such as paper/mt5_xxl/rte: one model and one target. All
methods of it lie in one folder, so that a prompt that was trained for one table serves the others.
"""

import dataclasses
import difflib
import pathlib

from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.paper import numbers

RUNS_FOLDER = pathlib.Path("runs/paper")

MODELS = {
    "mini": "the miniature",
    "mt5_small": "mT5 small",
    "mt5_base": "mT5 base",
    "mt5_xl": "mT5 XL",
    "mt5_xxl": "mT5 XXL",
    "t5_1_1_xxl": "T5.1.1 XXL",
    "palm_8b": "PaLM 8B",
}
# What a model's experiments do not know by themselves: no checkpoint of it is public.
REQUIRED = {"palm_8b": ("INITIAL_CHECKPOINT_PATH", "VOCABULARY")}
# Where a model has no run of its own for long training, the ordinary one stands in.
STAND_INS = {"enfr_long": "enfr"}

TARGETS = {
    "rte": "RTE",
    "wmt14_enfr": "WMT14 En-Fr",
    "snli": "SNLI",
    "openbookqa": "OpenbookQA",
}
UNSEEN = {
    "cb": "CB",
    "wic": "WiC",
    "triviaqa": "TriviaQA",
    "web_questions": "web_questions",
    "wmt16_ende": "WMT16 En-De",
    "wmt16_enro": "WMT16 En-Ro",
    "xsum": "XSum",
    "wikilingua": "WikiLingua/en",
}
RUNS = {
    "rte": "RTE",
    "enfr": "WMT14 En-Fr",
    "enfr_long": "WMT14 En-Fr, 20,000 steps",
    "snli": "SNLI",
    "openbookqa": "OpenbookQA",
    "multitask": "RTE and WMT14 En-Fr",
}
METHODS = {
    "pretrained": "Pretrained",
    "fine_tuning": "Standard fine-tuning",
    "prompt_tuning": "Prompt tuning",
    "promot": "ProMoT",
    "fine_tuning_1shot": "Fine-tuning + 1-shot",
    "prompt_tuning_1shot": "Prompt tuning + 1-shot",
    "promot_1shot": "ProMoT + 1-shot",
    "joint": "Joint fine-tuning",
    "random_prompt": "Fine-tuning with random prompt",
    "promot_lora_r2": "ProMoT with LoRA (r=2)",
    "promot_lora_r4": "ProMoT with LoRA (r=4)",
    "multi_task_fine_tuning": "Multi-task fine-tuning",
    "multi_promot": "Multi-task ProMoT",
    "multi_task_fine_tuning_1shot": "Multi-task fine-tuning + 1-shot",
    "multi_promot_1shot": "Multi-task ProMoT + 1-shot",
}


@dataclasses.dataclass(frozen=True)
class Item:
    """A table or figure.

    Attributes:
      id: its name on the command line.
      title: what it shows.
      model: the paper's model, as a folder of experiments; empty where nothing is run.
      runs: run → methods, in the paper's order.
      shown: where to look when nothing is compared with numbers: a file or a section of the run's
        report, or another command.
      remarks: where the paper's own figures disagree.
    """

    id: str
    title: str
    model: str = ""
    runs: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shown: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[numbers.Column, ...]:
        """The paper's figures, empty for a figure."""
        return numbers.TABLES.get(self.id, ())


def _table(name: str, title: str, model: str = "mt5_xxl", remarks: tuple[str, ...] = ()) -> Item:
    """Returns a table of numbers, which needs what its columns name."""
    runs: dict[str, tuple[str, ...]] = {}
    for column in numbers.TABLES[name]:
        runs[column.run] = (*runs.get(column.run, ()), column.method)
    return Item(name, title, model, runs, remarks=remarks)


_LEAK = "fine-tuning on RTE"
_SAMPLES = "Outputs"
ITEMS = (
    Item(
        "figure-1",
        f"Scores of 1-shot QA fall during {_LEAK}",
        "mt5_xxl",
        {"rte": ("fine_tuning",)},
        "figures/unseen_score.png",
    ),
    Item(
        "figure-2",
        f"Share of True/False answers to TriviaQA during {_LEAK}",
        "mt5_xxl",
        {"rte": ("fine_tuning",)},
        "figures/label_share.png",
    ),
    Item(
        "figure-3",
        f"Cosine of full and format gradient during {_LEAK}",
        "mt5_xxl",
        {"rte": ("fine_tuning",)},
        "figures/gradient_cosine.png",
    ),
    Item(
        "figure-5",
        "Trade-off of En-Fr and classification over checkpoints, 20,000 steps",
        "mt5_xxl",
        {"enfr_long": ("fine_tuning", "promot")},
        "figures/trade_off_checkpoints.png",
    ),
    Item(
        "figure-6",
        "Trade-off of En-Fr and other translation over checkpoints, 20,000 steps",
        "mt5_xxl",
        {"enfr_long": ("fine_tuning", "promot")},
        "figures/trade_off_checkpoints.png",
    ),
    Item(
        "figure-7",
        f"Cosine of full and format gradient, every 100 steps of {_LEAK}",
        "mt5_xxl",
        {"rte": ("fine_tuning",)},
        "figures/gradient_cosine.png",
    ),
    Item(
        "table-1",
        "Answers to 1-shot summarization after fine-tuning on RTE",
        "mt5_xxl",
        {"rte": ("pretrained", "fine_tuning", "promot")},
        _SAMPLES,
    ),
    _table("table-5.2", "Scores on the targets, 0-shot"),
    _table("table-5.2-rte", "Fine-tuning on RTE: unseen tasks, 1 and 4 shots"),
    _table("table-5.3", "Fine-tuning on WMT14 En-Fr: unseen tasks, 1 and 4 shots"),
    _table("table-2", "Multi-task training on RTE and WMT14 En-Fr"),
    _table("table-3", "Ablations on RTE"),
    Item("table-4", "Input templates", shown="promot tasks"),
    Item("table-5", "Versions and sizes of the data sets", shown="promot tasks"),
    _table("table-6", "Targets, trained and scored with one exemplar in the input"),
    _table(
        "table-7",
        "Fine-tuning on SNLI and on OpenbookQA",
        remarks=(
            "The eight scores of fine-tuning on OpenbookQA have the mean 0.006; "
            "the paper prints 0.00.",
        ),
    ),
    _table("table-8", "Fine-tuning T5.1.1 XXL on RTE", "t5_1_1_xxl"),
    _table("table-9", "Fine-tuning mT5 XL on WMT14 En-Fr", "mt5_xl"),
    _table(
        "table-10",
        "Fine-tuning PaLM 8B on WMT14 En-Fr",
        "palm_8b",
        (
            "The eight scores of fine-tuning have the mean 17.93; the paper prints 17.80 and takes "
            "its difference to pretrained, −8.29, from that.",
        ),
    ),
    _table(
        "table-11",
        "LoRA in place of the soft prompt in ProMoT's first stage",
        remarks=(
            "For ProMoT on WMT14 En-Fr the paper prints 41.19 here and 41.30 in sections 5.2 and "
            "5.3, where 41.19 is ProMoT + 1-shot; the other scores of the column are ProMoT's.",
            "For standard fine-tuning six of the eight unseen scores are not those of section 5.3 "
            "(TriviaQA: 0.03 here, 3.20 there).",
        ),
    ),
    Item(
        "examples-a.3.8",
        "Answers to unseen tasks after fine-tuning on WMT14 En-Fr",
        "mt5_xxl",
        {"enfr": ("pretrained", "fine_tuning", "promot")},
        _SAMPLES,
    ),
)


def item(name: str) -> Item:
    """Returns a table or figure by its id.

    Raises:
      UserError: there is none.
    """
    known = {each.id: each for each in ITEMS}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or ["table-3"]
        raise UserError(
            f"the paper has no {name!r}; did you mean {near[0]!r}? There are: {', '.join(known)}"
        )
    return known[name]


def models() -> dict[str, list[str]]:
    """Returns model → its runs, of the experiments that come with the package."""
    found: dict[str, list[str]] = {}
    for name in configuration.experiments():
        if name.startswith("paper/"):
            _, model, run = name.split("/")
            found.setdefault(model, []).append(run)
    return found


def model_label(model: str) -> str:
    """Returns a model's name as it is printed."""
    return MODELS.get(model, model)


def runs_of(wanted: Item, model: str) -> dict[str, tuple[str, ...]]:
    """Returns run → methods of what a model has of a table or figure, in the paper's order.

    Raises:
      UserError: nothing is run for it, the model is unknown or has none of its runs.
    """
    known = models()
    if not wanted.runs:
        raise UserError(f"{wanted.id} needs no run: see `{wanted.shown}`")
    if model not in known:
        near = difflib.get_close_matches(model, known, 1) or [wanted.model]
        raise UserError(
            f"--model {model!r} is unknown; did you mean {near[0]!r}? "
            f"There are: {', '.join(sorted(known))}"
        )
    names = {run: run if run in known[model] else STAND_INS.get(run, run) for run in wanted.runs}
    found = {names[run]: methods for run, methods in wanted.runs.items()}
    found = {run: methods for run, methods in found.items() if run in known[model]}
    if not found:
        others = [m for m in sorted(known) if set(wanted.runs) & set(known[m])]
        raise UserError(
            f"{wanted.id} needs {', '.join(wanted.runs)}, which {model} does not have; "
            f"models that do: {', '.join(others)}"
        )
    return found

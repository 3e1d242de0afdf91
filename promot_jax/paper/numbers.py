"""The figures of the paper's tables, as printed; nothing here is corrected.

Wang et al. 2024, "Two-stage LLM Fine-tuning with Less Specialization and More Generalization".
Scores are accuracy, exact match, BLEU or ROUGE-2, all 0 to 100. Tables of sections 5.2 and 5.3 have
no number in the paper; they are named after their sections here.
"""

import dataclasses
from collections.abc import Mapping

# The order in which every table lists the unseen tasks.
UNSEEN = (
    "cb",
    "wic",
    "triviaqa",
    "web_questions",
    "wmt16_ende",
    "wmt16_enro",
    "xsum",
    "wikilingua",
)


@dataclasses.dataclass(frozen=True)
class Column:
    """What a table says of one method.

    Attributes:
      run: target or targets that the method was trained on, as our experiments are called.
      method: its name in our experiments.
      targets: target task → score, 0-shot; None where the paper has a dash.
      unseen: exemplars in the input (shots) → the eight scores, in the order of `UNSEEN`.
      averages: shots → "Norm. Avg." as printed; empty where the table has no such row.
      changes: shots → difference to the pretrained model's average, as printed.
    """

    run: str
    method: str
    targets: Mapping[str, float | None]
    unseen: Mapping[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    averages: Mapping[int, float] = dataclasses.field(default_factory=dict)
    changes: Mapping[int, float] = dataclasses.field(default_factory=dict)


TABLES: dict[str, tuple[Column, ...]] = {
    "table-5.2": (
        Column("rte", "prompt_tuning", {"rte": 91.34}),
        Column("rte", "fine_tuning", {"rte": 92.06}),
        Column("rte", "promot", {"rte": 92.78}),
        Column("enfr", "prompt_tuning", {"wmt14_enfr": 39.28}),
        Column("enfr", "fine_tuning", {"wmt14_enfr": 41.80}),
        Column("enfr", "promot", {"wmt14_enfr": 41.30}),
        Column("snli", "prompt_tuning", {"snli": 88.53}),
        Column("snli", "fine_tuning", {"snli": 88.91}),
        Column("snli", "promot", {"snli": 89.62}),
        Column("openbookqa", "prompt_tuning", {"openbookqa": 73.60}),
        Column("openbookqa", "fine_tuning", {"openbookqa": 77.2}),
        Column("openbookqa", "promot", {"openbookqa": 81.6}),
    ),
    "table-5.2-rte": (
        Column(
            "rte",
            "pretrained",
            {"rte": 47.653},
            {
                1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59),
                4: (51.79, 49.69, 19.02, 13.04, 8.83, 3.92, 2.35, 1.33),
            },
            {1: 17.52, 4: 18.75},
        ),
        Column(
            "rte",
            "fine_tuning",
            {"rte": 92.06},
            {
                1: (73.21, 50.00, 0.15, 0.05, 0.00, 0.00, 0.00, 0.00),
                4: (82.14, 50.16, 0.11, 0.05, 0.00, 0.00, 0.00, 0.00),
            },
            {1: 15.43, 4: 16.56},
            {1: -2.10, 4: -2.19},
        ),
        Column(
            "rte",
            "promot",
            {"rte": 92.78},
            {
                1: (66.07, 51.41, 17.64, 11.07, 2.02, 0.70, 7.02, 4.84),
                4: (67.86, 53.61, 18.66, 13.19, 3.69, 0.96, 7.01, 4.90),
            },
            {1: 20.10, 4: 21.24},
            {1: 2.58, 4: 2.49},
        ),
        Column(
            "rte",
            "promot_1shot",
            {"rte": 93.86},
            {
                1: (83.93, 51.25, 17.82, 10.14, 2.26, 0.87, 6.94, 4.87),
                4: (82.14, 50.63, 19.62, 12.11, 4.89, 1.87, 3.93, 3.43),
            },
            {1: 22.26, 4: 22.33},
            {1: 4.74, 4: 3.58},
        ),
    ),
    "table-5.3": (
        Column(
            "enfr",
            "pretrained",
            {"wmt14_enfr": 1.98},
            {
                1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59),
                4: (51.79, 49.69, 19.02, 13.04, 8.83, 3.92, 2.35, 1.33),
            },
            {1: 17.52, 4: 18.75},
        ),
        Column(
            "enfr",
            "fine_tuning",
            {"wmt14_enfr": 41.80},
            {
                1: (16.07, 50.63, 3.20, 0.89, 0.81, 1.53, 0.05, 0.03),
                4: (32.14, 49.06, 3.15, 6.15, 0.18, 0.42, 1.86, 0.43),
            },
            {1: 9.15, 4: 11.67},
            {1: -8.37, 4: -7.07},
        ),
        Column(
            "enfr",
            "promot",
            {"wmt14_enfr": 41.30},
            {
                1: (41.07, 50.16, 13.63, 9.40, 15.52, 18.54, 1.49, 1.14),
                4: (57.14, 50.31, 15.20, 7.92, 15.55, 17.80, 0.65, 0.52),
            },
            {1: 18.87, 4: 20.64},
            {1: 1.35, 4: 1.89},
        ),
        Column(
            "enfr",
            "promot_1shot",
            {"wmt14_enfr": 41.19},
            {
                1: (41.07, 49.84, 16.93, 10.14, 16.14, 17.57, 3.41, 4.22),
                4: (53.57, 50.63, 18.19, 12.01, 15.63, 16.81, 4.36, 4.73),
            },
            {1: 19.91, 4: 21.99},
            {1: 2.39, 4: 3.24},
        ),
    ),
    "table-2": (
        Column(
            "multitask",
            "pretrained",
            {"rte": 47.65, "wmt14_enfr": 1.982},
            {1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59)},
            {1: 17.52},
        ),
        Column(
            "multitask",
            "multi_task_fine_tuning",
            {"rte": 90.25, "wmt14_enfr": 41.34},
            {1: (80.36, 51.10, 15.76, 9.70, 0.88, 1.52, 0.44, 0.72)},
            {1: 20.06},
            {1: 2.54},
        ),
        Column(
            "multitask",
            "multi_promot",
            {"rte": 91.34, "wmt14_enfr": 40.73},
            {1: (83.93, 51.41, 16.99, 10.04, 18.83, 18.41, 4.50, 2.89)},
            {1: 25.88},
            {1: 8.35},
        ),
        Column(
            "multitask",
            "multi_task_fine_tuning_1shot",
            {"rte": 91.70, "wmt14_enfr": 40.87},
            {1: (87.50, 53.29, 16.53, 9.40, 2.50, 5.62, 1.82, 4.33)},
            {1: 22.62},
            {1: 5.10},
        ),
        Column(
            "multitask",
            "multi_promot_1shot",
            {"rte": 93.14, "wmt14_enfr": 40.55},
            {1: (85.71, 52.04, 17.18, 10.38, 17.57, 18.57, 4.32, 3.56)},
            {1: 26.17},
            {1: 8.65},
        ),
    ),
    "table-3": (
        Column(
            "rte",
            "joint",
            {"rte": 90.97},
            {1: (83.93, 50.47, 0.75, 0.64, 0.00, 0.00, 0.00, 0.00)},
        ),
        Column(
            "rte",
            "fine_tuning_1shot",
            {"rte": 90.97},
            {1: (78.57, 51.41, 0.03, 0.00, 0.00, 0.00, 0.00, 0.00)},
        ),
        Column(
            "rte",
            "random_prompt",
            {"rte": 92.06},
            {1: (83.93, 51.72, 0.83, 0.30, 0.00, 0.00, 0.00, 0.00)},
        ),
        Column(
            "rte",
            "promot_1shot",
            {"rte": 93.86},
            {1: (83.93, 51.25, 17.82, 10.14, 2.26, 0.87, 6.94, 4.87)},
        ),
    ),
    "table-6": (
        Column("rte", "prompt_tuning_1shot", {"rte": 92.78}),
        Column("rte", "promot_1shot", {"rte": 93.86}),
        Column("enfr", "prompt_tuning_1shot", {"wmt14_enfr": 39.41}),
        Column("enfr", "promot_1shot", {"wmt14_enfr": 41.19}),
    ),
    "table-7": (
        Column(
            "snli",
            "pretrained",
            {"snli": 1.32},
            {1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59)},
            {1: 17.52},
        ),
        Column(
            "snli",
            "prompt_tuning",
            {"snli": 88.53},
            {1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59)},
            {1: 17.52},
        ),
        Column(
            "snli",
            "fine_tuning",
            {"snli": 88.91},
            {1: (69.64, 53.29, 4.54, 2.12, 0.00, 0.00, 0.00, 0.00)},
            {1: 16.20},
            {1: -1.32},
        ),
        Column(
            "snli",
            "promot",
            {"snli": 89.62},
            {1: (62.5, 51.25, 20.56, 9.94, 2.48, 0.90, 6.58, 4.39)},
            {1: 19.83},
            {1: 2.31},
        ),
        Column(
            "openbookqa",
            "pretrained",
            {"openbookqa": 0.00},
            {1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59)},
            {1: 17.52},
        ),
        Column(
            "openbookqa",
            "prompt_tuning",
            {"openbookqa": 73.60},
            {1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59)},
            {1: 17.52},
        ),
        Column(
            "openbookqa",
            "fine_tuning",
            {"openbookqa": 77.2},
            {1: (0.00, 0.00, 0.05, 0.00, 0.00, 0.00, 0.00, 0.00)},
            {1: 0.00},
            {1: -17.52},
        ),
        Column(
            "openbookqa",
            "promot",
            {"openbookqa": 81.6},
            {1: (41.07, 50.0, 21.10, 10.53, 2.80, 1.04, 7.48, 5.20)},
            {1: 17.40},
            {1: -0.12},
        ),
    ),
    "table-8": (
        Column(
            "rte",
            "pretrained",
            {"rte": None},
            {1: (55.36, 49.84, 34.15, 16.04, 0.13, 0.06, 1.26, 1.12)},
            {1: 19.75},
        ),
        Column(
            "rte",
            "prompt_tuning",
            {"rte": 91.7},
            {1: (55.36, 49.84, 34.15, 16.04, 0.13, 0.06, 1.26, 1.12)},
            {1: 19.75},
        ),
        Column(
            "rte",
            "fine_tuning",
            {"rte": 93.5},
            {1: (62.50, 50.00, 0.02, 0.00, 0.00, 0.00, 0.00, 0.00)},
            {1: 14.07},
            {1: -5.68},
        ),
        Column(
            "rte",
            "promot",
            {"rte": 93.14},
            {1: (73.21, 50.78, 33.86, 15.95, 0.02, 0.01, 1.79, 2.25)},
            {1: 22.23},
            {1: 2.49},
        ),
    ),
    "table-9": (
        Column(
            "enfr",
            "pretrained",
            {"wmt14_enfr": None},
            {1: (26.79, 50.0, 12.13, 6.59, 2.56, 1.52, 4.26, 4.88)},
            {1: 13.59},
        ),
        Column(
            "enfr",
            "prompt_tuning",
            {"wmt14_enfr": 32.47},
            {1: (26.79, 50.0, 12.13, 6.59, 2.56, 1.52, 4.26, 4.88)},
            {1: 13.59},
        ),
        Column(
            "enfr",
            "fine_tuning",
            {"wmt14_enfr": 35.84},
            {1: (21.43, 44.20, 0.83, 0.44, 0.63, 1.20, 0.05, 0.06)},
            {1: 8.61},
            {1: -4.98},
        ),
        Column(
            "enfr",
            "promot",
            {"wmt14_enfr": 36.46},
            {1: (28.57, 51.10, 8.81, 5.31, 7.69, 10.40, 1.37, 1.94)},
            {1: 14.40},
            {1: 0.81},
        ),
    ),
    "table-10": (
        Column(
            "enfr",
            "pretrained",
            {"wmt14_enfr": None},
            {1: (46.43, 49.69, 44.69, 13.02, 23.85, 19.89, 5.57, 5.59)},
            {1: 26.09},
        ),
        Column(
            "enfr",
            "prompt_tuning",
            {"wmt14_enfr": 13.62},
            {1: (46.43, 49.69, 44.69, 13.02, 23.85, 19.89, 5.57, 5.59)},
            {1: 26.09},
        ),
        Column(
            "enfr",
            "fine_tuning",
            {"wmt14_enfr": 33.04},
            {1: (32.14, 49.06, 37.09, 11.91, 3.77, 4.02, 2.29, 3.14)},
            {1: 17.80},
            {1: -8.29},
        ),
        Column(
            "enfr",
            "promot",
            {"wmt14_enfr": 32.02},
            {1: (33.93, 49.69, 42.11, 13.01, 19.33, 13.18, 2.9, 4.77)},
            {1: 22.37},
            {1: -3.72},
        ),
    ),
    "table-11": (
        Column(
            "enfr",
            "pretrained",
            {"wmt14_enfr": None},
            {1: (46.43, 49.69, 17.58, 9.70, 3.97, 1.82, 6.41, 4.59)},
        ),
        Column(
            "enfr",
            "fine_tuning",
            {"wmt14_enfr": 41.80},
            {1: (16.07, 50.63, 0.03, 0.05, 0.67, 0.91, 0.030, 0.05)},
        ),
        Column(
            "enfr",
            "promot_lora_r2",
            {"wmt14_enfr": 39.09},
            {1: (26.78, 53.13, 4.98, 3.30, 1.23, 2.06, 0.17, 0.64)},
        ),
        Column(
            "enfr",
            "promot_lora_r4",
            {"wmt14_enfr": 39.97},
            {1: (23.21, 53.25, 5.19, 3.84, 1.87, 2.89, 0.35, 0.57)},
        ),
        Column(
            "enfr",
            "promot",
            {"wmt14_enfr": 41.19},
            {1: (41.07, 50.16, 13.63, 9.40, 15.52, 18.54, 1.49, 1.14)},
        ),
    ),
}


def average(column: Column, shots: int) -> float:
    """Returns a column's "Norm. Avg.": as printed, else the plain mean of its eight scores."""
    printed = column.averages.get(shots)
    return sum(column.unseen[shots]) / len(UNSEEN) if printed is None else printed

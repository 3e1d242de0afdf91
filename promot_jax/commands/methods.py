"""`promot methods`: the methods and parts that experiments can name, and what they cost."""

import re
from collections.abc import Iterable, Sequence

from promot_jax import configuration
from promot_jax.base.errors import UserError
from promot_jax.commands import flags

# It sets what every method asks for, but one: methods for one target name its prompt.
EVERY = ("paper/mini/multitask", ["--gin.PROMPT='prompt'"])
REFERENCE = "fine_tuning"
# What stands in the path of a leaf that is none of the model's.
KINDS = {
    "/prompt/.*/(keys|values)": "prefix",
    "/prompt/.*/offset_": "offsets",
    "/prompt/": "prompt",
    "/(lora|adapter)_": "adapters",
}


def add(commands) -> None:
    """Adds the command and its flags."""
    methods = flags.command(
        commands,
        "methods",
        _methods,
        "List the methods of the catalogue, and the parts that can be added to them.",
        "The cost is training's, in units of standard fine-tuning. A step has three equal parts:\n"
        "the forward pass, the backward pass through the activations, and the gradients of the\n"
        "weights. Of the last it has the share of the model that trains: a stage that trains a\n"
        "prompt or adapters takes two thirds of a step. The cost is the sum over the stages of\n"
        "steps x (2 + share) / 3, divided by that of fine_tuning. Batches count as equally large,\n"
        "and every stage counts in full, though one that two methods begin with trains once.\n"
        "A part that compares with the start model adds a forward pass: a third of a step. So\n"
        "does a part whose teacher has a prompt, and one that samples answers in each step.\n\n"
        "A part is added to a method by +, such as promot+kl, and changes its last stage. Alone\n"
        "it is added to fine_tuning. Its cost is that of fine_tuning with it.\n\n"
        "Without EXPERIMENT the steps are the paper's, and the model is the miniature.\n"
        "Both are defined in gin/methods/, or in a gin file of your own.\n\n"
        "examples:\n"
        "  promot methods\n"
        "  promot methods mini\n"
        "  promot methods mini --gin.PROMPT_TRAIN_STEPS=1000",
    )
    methods.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="list the methods that this one has, with its model and steps; * marks those that "
        "run unless --methods says otherwise",
    )
    flags.add_gin_files(
        methods, "a further .gin file, such as one with a method of your own; may be repeated"
    )
    flags.add_gin_values(
        methods, "change one value of the experiment, such as --gin.TRAIN_STEPS=800"
    )


def _methods(arguments, overrides) -> None:
    name, given = (arguments.experiment, []) if arguments.experiment else EVERY
    changes = [*arguments.gin_file, *overrides]
    if changes and arguments.experiment is None:
        raise UserError(f"{changes[0]}: name the EXPERIMENT that it changes")
    files = [configuration.experiment_file(name), *arguments.gin_file]
    configuration.parse(files, [*overrides, *given])
    configuration.check_all_used(files, overrides)
    configuration.check_values(overrides)
    experiment = configuration.built()[0]
    costs = {method.name: _cost(method, experiment.model) for method in experiment.methods}
    unit = costs.get(REFERENCE)
    marked = {method.name for method in experiment.selected} if arguments.experiment else ()
    rows = [("method", "label", "cost", "trains", "stages and their steps", "source")]
    rows += [
        (
            method.name + " *" * (method.name in marked),
            method.label,
            f"{costs[method.name] / unit:.2f}" if unit else "-",
            ", ".join(trains(stage, experiment.model) for stage in method.stages) or "nothing",
            ", ".join(f"{stage.name} {stage.steps}" for stage in method.stages) or "-",
            method.source,
        )
        for method in experiment.methods
    ]
    print("\n".join(_aligned(rows)))
    if unit and experiment.parts:
        print()
        print("\n".join(_aligned(_parts(experiment, unit))))


def _parts(experiment, unit: float) -> list[tuple[str, ...]]:
    """Returns the table of the parts; `unit` is the cost of standard fine-tuning."""
    rows = [("part", "adds", "cost", "source")]
    for part in experiment.parts:
        cost = _cost(experiment.method(f"{REFERENCE}+{part.name}"), experiment.model)
        rows.append((part.name, part.label, f"{cost / unit:.2f}", part.source))
    return rows


def _cost(method, model) -> float:
    """Returns the work of a method's training, in steps that train all of the model."""
    return sum(stage.steps * _thirds(stage, model) / 3 for stage in method.stages)


def _thirds(stage, model) -> float:
    """Returns what a step of a stage costs, in thirds of one that trains all of the model."""
    asked = [any(each.asks_reference for each in stage.objective)]
    asked += [any(each.asks_teacher for each in stage.objective)]
    asked += [any(each.samples for each in stage.objective)]
    # Rows beside those of the stage pass as these do, and pass the start model.
    rows = sum(each.size for each in stage.objective if each.rows)
    beside = rows / getattr(stage.batches, "size", rows or 1)
    return 2 + share(stage, model) + sum(asked) + (3 + share(stage, model)) * beside


def share(stage, model) -> float:
    """Returns the part of a bare model's parameters that a stage trains, from 0 to 1."""
    sizes, chosen = _leaves(stage, model)
    own = [path for path in sizes if _kind(path) == "model"]
    return sum(sizes[path] for path in own if path in chosen) / sum(sizes[path] for path in own)


def trains(stage, model) -> str:
    """Returns what a stage trains in words, such as `prompt` or `40% of model`."""
    _, chosen = _leaves(stage, model)
    kinds = sorted({_kind(path) for path in chosen}, key=["model", *KINDS.values()].index)
    part = share(stage, model)
    words = [f"{part:.0%} of model" if kind == "model" and part < 1 else kind for kind in kinds]
    return " and ".join(words)


def _leaves(stage, model) -> tuple[dict[str, int], set[str]]:
    """Returns {path: size} of the model with what a stage attaches, and the paths that train."""
    from promot_jax.base import trees

    leaves = trees.flatten(stage.model(model).shapes_and_axes()[0])
    sizes = {path: trees.count({path: leaf}) for path, leaf in leaves.items()}
    return sizes, trees.select(sizes, stage.trainable)


def _kind(path: str) -> str:
    return next((kind for part, kind in KINDS.items() if re.search(part, path)), "model")


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yields lines whose columns line up; the third is of numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, label, cost, *rest in rows:
        cells = [name.ljust(widths[0]), label.ljust(widths[1]), cost.rjust(widths[2])]
        cells += [cell.ljust(width) for cell, width in zip(rest, widths[3:], strict=True)]
        yield "  ".join(cells).rstrip()

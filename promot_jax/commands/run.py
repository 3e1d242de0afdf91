"""`promot run`: an experiment from its configuration to its report."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promot_jax import configuration
from promot_jax.base import distributed, files, progress, values
from promot_jax.base.errors import UserError
from promot_jax.commands import flags, report
from promot_jax.data import metrics
from promot_jax.experiment.run_folder import RunFolder

# Flags that set a macro: (flag, macro, help). `your_data` has them all.
MACROS = (
    (
        "train",
        "TRAIN_FILE",
        "rows to train on: .jsonl, .json, .csv, .tsv, .parquet, FOLDER[:SPLIT] or hf://datasets/…",
    ),
    (
        "eval",
        "EVAL_FILE",
        "file of rows dealt alternately, in a fixed random order, to validation (chooses the "
        "checkpoint) and test (read once, at the end)",
    ),
    ("test", "TEST_FILE", "file of test rows; --eval is then the validation split as a whole"),
    ("template", "TEMPLATE", "input of a row, its fields in braces: '{premise} {hypothesis}'"),
    ("target", "TARGET_TEMPLATE", "answer of a row, likewise: '{label}'"),
    (
        "chat_turns",
        "CHAT_TURNS",
        "of rows of chat, which need no --template: answers that are learnt, all or last",
    ),
    ("system", "CHAT_SYSTEM", "stands before conversations without a message of the system"),
    ("chat_template", "CHAT_TEMPLATE", "file with a chat template in Jinja, for a model without"),
    ("metric", "METRIC", f"{', '.join(metrics.PLAIN)}, or BLEU of a tokenizer: bleu-zh"),
    ("checkpoint", "INITIAL_CHECKPOINT_PATH", "model to start from: " + flags.ANY_CHECKPOINT),
)
# Flags that set how stages train: (flag, macro, what reads it, help).
TRAINING = (
    (
        "epochs",
        "EPOCHS",
        flags.number(float, values.Positive),
        "passes over the rows in place of steps: of the model's stage",
    ),
    (
        "prompt_epochs",
        "PROMPT_EPOCHS",
        flags.number(float, values.Positive),
        "of the prompt's stage",
    ),
    (
        "batch_size",
        "BATCH_SIZE",
        flags.number(int, values.Count),
        "rows of a step on all devices together",
    ),
    (
        "learning_rate",
        "LEARNING_RATE",
        flags.number(float, values.Positive),
        "of the model's stage: the highest rate",
    ),
    (
        "prompt_learning_rate",
        "PROMPT_LEARNING_RATE",
        flags.number(float, values.Positive),
        "of the prompt's stage",
    ),
    (
        "lr_schedule",
        "LR_SCHEDULE",
        flags.number(str, values.ScheduleName),
        "constant, linear or cosine: the rate stays or falls to 0",
    ),
    (
        "warmup",
        "WARMUP",
        flags.number(flags.whole_or_float, values.Warmup),
        "steps in which the rate rises from 0, or a share of all steps such as 0.05",
    ),
    (
        "optimizer",
        "OPTIMIZER",
        flags.number(str, values.OptimizerName),
        "adafactor or adamw, which wants rates of its own; LoRA always trains by AdamW",
    ),
    (
        "weight_decay",
        "WEIGHT_DECAY",
        flags.number(float, values.Weight),
        "of the model's stage: share of a parameter that a step takes off, times the rate",
    ),
    (
        "gradient_clip",
        "GRADIENT_CLIP",
        flags.number(float, values.Positive),
        "largest norm of a step's gradients",
    ),
    (
        "patience",
        "PATIENCE",
        flags.number(int, values.Count),
        "evaluations without a better validation score after which a stage ends",
    ),
    (
        "keep",
        "KEEP",
        flags.number(float, values.Percent),
        "per cent of the start's scores on unseen tasks that a checkpoint must surely keep to be "
        "chosen; if none does, the one that keeps most",
    ),
)
# These are paths, and are kept as absolute ones: a run opens from any folder.
PATHS = ("train", "eval", "test", "checkpoint", "chat_template")


def add(commands) -> None:
    """Adds the command and its flags."""
    run = flags.command(
        commands,
        "run",
        _run,
        "Run an experiment: train its stages, evaluate its methods, write the report.",
        "A run that was interrupted continues when the same command is given again.\n\n"
        "examples:\n"
        "  promot run mini --seeds 0\n"
        "  promot run mini --gin.MODEL_DIR=\"'runs/gentle'\" --gin.LEARNING_RATE=0.0005\n"
        "  promot run mini '--gin.LEARNING_RATE=@optimizers.warmup_cosine()' \\\n"
        "    --gin.optimizers.warmup_cosine.peak=0.001\n"
        "  promot run your_data --train train.jsonl --eval dev.jsonl \\\n"
        '    --template "question: {text}, is it a colour? answer:" --target "{label}"',
    )
    run.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        help=f"one of {', '.join(configuration.experiments())}, or the path of a .gin file",
    )
    run.add_argument(
        "--seeds",
        type=flags.seeds,
        help="seeds to run, such as 0,1,2; the same as --gin.SEEDS=(0,1,2)",
    )
    run.add_argument(
        "--methods", type=flags.names, help="methods to run now, such as promot,fine_tuning"
    )
    run.add_argument(
        "--curve",
        type=flags.curve,
        default="auto",
        metavar="POINTS",
        help="also score what lies between start and end of each method that trains the model, "
        "without training: at none, or at points such as 0.3,0.5,0.7 (0 is the start, 1 the end); "
        "auto: at as many as take a tenth of the time that its training took (default: auto)",
    )
    run.add_argument(
        "--preview",
        action="store_true",
        help="say what the target's rows are (number, examples, classes, lengths), then stop",
    )
    add_rows(run)
    add_training(run)
    _add_processes(run)
    flags.add_gin_files(run, "a further .gin file; may be repeated")
    run.add_argument(
        "--gin_search_paths",
        default="",
        help="folders, separated by commas, in which .gin files are looked up",
    )
    flags.add_gin_values(
        run, "change one value of the configuration, such as --gin.TRAIN_STEPS=800"
    )


def add_rows(run) -> None:
    """Adds flags of `opened`."""
    own = run.add_argument_group("rows of your own", "with the experiment your_data")
    for flag, macro, meaning in MACROS:
        read = flags.path if flag in PATHS else str
        own.add_argument(
            f"--{flag}", type=read, help=f"{meaning} (gin: {macro})".replace("%", "%%")
        )
    own.add_argument(
        "--unseen",
        metavar="[METRIC=]FILE",
        action="append",
        type=flags.path,
        help="rows with the fields input and target, or of chat, which the model should go on "
        "answering, in place of the experiment's unseen tasks; may be repeated (default metric: "
        "exact_match)",
    )


def add_training(run) -> None:
    """Adds flags of `opened`."""
    group = run.add_argument_group(
        "training", "both stages, unless it says one; --gin.PROMPT_MACRO is for the prompt's alone"
    )
    for flag, macro, read, meaning in TRAINING:
        group.add_argument(f"--{flag}", type=read, help=f"{meaning} (gin: {macro})")
    group.add_argument(
        "--replay",
        metavar="FILE[:SHARE]",
        type=flags.path,
        help="general rows, with the fields input and target or of chat, for this share of a batch "
        "(default 0.1), which the model's stage reads without a prompt; also a registered task, or "
        "self[@FILE]: what the start model writes, after inputs of the file (gin: REPLAY)",
    )


def _add_processes(run) -> None:
    group = run.add_argument_group(
        "several processes", "the same command on each host of a pod or cluster: docs/processes.md"
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the others by what Cloud TPU, Kubernetes, SLURM or Open MPI tell each process",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 waits for them")
    group.add_argument(
        "--num_processes",
        metavar="N",
        type=flags.number(int, values.Count),
        help="number of processes",
    )
    group.add_argument(
        "--process_id",
        metavar="I",
        type=flags.number(int, values.Whole),
        help="number of this one, from 0",
    )


def words(
    experiment: str,
    seeds: int | Sequence[int] | None,
    methods: str | Sequence[str] | None,
    bindings: Sequence[str],
    settings: Mapping[str, Any],
) -> list[str]:
    """Returns the command line of a call from Python, see `promot_jax.run`."""
    found = ["run", experiment]
    settings = dict(settings)
    listed = {"seeds": seeds, "methods": methods, "curve": settings.pop("curve", None)}
    for flag, chosen in listed.items():
        if chosen is not None:
            several = chosen if isinstance(chosen, list | tuple) else [chosen]
            found.append(f"--{flag}={','.join(map(str, several))}")
    for name, value in settings.items():
        value = str(value) if isinstance(value, os.PathLike) else value
        if "." in name or name != name.lower():
            found.append(f"--gin.{name}={value!r}")
        elif isinstance(value, bool):
            found += [f"--{name}"] * value
        else:
            several = value if isinstance(value, list | tuple) else [value]
            found += [f"--{name}={one}" for one in several]
    return found + [f"--gin.{binding}" for binding in bindings]


def _run(arguments, overrides) -> pathlib.Path | None:
    processes = ("distributed", "coordinator", "num_processes", "process_id")
    with distributed.joined(*(getattr(arguments, name) for name in processes)):
        if not distributed.is_main():
            progress.be_quiet()
        return _run_experiment(arguments, overrides)


def _run_experiment(arguments, overrides) -> pathlib.Path | None:
    """Returns the run folder, None after a preview."""
    with opened(arguments, overrides) as found:
        if found is None:
            return None
        experiment, model_dir = found
        from promot_jax.experiment.runner import Runner

        Runner(experiment, model_dir).run(" ".join(arguments.typed), arguments.curve)
        distributed.by_main(report.write, model_dir)
    return model_dir


@contextlib.contextmanager
def opened(
    arguments, overrides: Sequence[str], further: Sequence[str] = ()
) -> Iterator[tuple[Any, pathlib.Path] | None]:
    """Gives the experiment that the flags of `promot run` describe, and its folder, held for it.

    Args:
      arguments: of the flags.
      overrides: gin values.
      further: files of `gin/` that are read after the experiment's own.

    Yields:
      The experiment and its folder; None after a preview.

    Raises:
      UserError: bad input.
    """
    given = [configuration.experiment_file(arguments.experiment), *arguments.gin_file]
    read = [given[0], *(str(configuration.GIN_FOLDER / file) for file in further), *given[1:]]
    if arguments.checkpoint is not None and arguments.experiment == "your_data":
        # The network and vocabulary of the checkpoint take the place of the miniature's.
        read.insert(1, str(configuration.GIN_FOLDER / "models" / "checkpoint.gin"))
    if arguments.unseen:
        read.insert(1, str(configuration.GIN_FOLDER / "tasks" / "unseen_files.gin"))
    searched = [files.home(folder) for folder in arguments.gin_search_paths.split(",") if folder]
    own, chosen = _own(arguments), _chosen(arguments)
    if arguments.replay or any(flag.startswith("--gin.REPLAY=") for flag in overrides):
        read.insert(1, str(configuration.GIN_FOLDER / "tasks" / "replay.gin"))
    overrides = [*chosen.values(), *own.values(), *overrides]
    for file in given:
        # What another run kept may be run again.
        RunFolder(pathlib.Path(file).parent).check()
    usual = configuration.parse(read, overrides, searched)
    for flag, binding in own.items():
        _check_takes(arguments.experiment, flag, binding, OWN)
    for flag, binding in chosen.items():
        _check_takes(arguments.experiment, flag, binding, "leave it out")
    if arguments.unseen:
        # The macro alone is always used; these files must also be the experiment's unseen tasks.
        _check_takes(arguments.experiment, "unseen", "--gin.unseen_files.tasks.files=()", OWN)
    configuration.check_all_used(given, overrides)
    configuration.check_values(overrides)
    configuration.check_methods_read(overrides, usual)
    if not arguments.preview and distributed.is_main():
        _check_places()
    experiment, model_dir, config = configuration.built()
    configuration.check_tasks(experiment)
    settled = _settled(experiment, arguments.preview)
    if arguments.preview:
        yield None
        return
    if settled:
        configuration.parse(read, [*overrides, *settled], searched)
        experiment, model_dir, config = configuration.built()
    with _held(model_dir, config):
        from promot_jax.base import partitioning, trees

        # Hosts may differ in their cores, but must agree on the number of devices.
        if not distributed.several():
            partitioning.use_cpu_cores(trees.count(experiment.model.shapes_and_axes()[0]))
            partitioning.keep_compiled()
        else:
            # Hosts share the run folder, but not the home folder.
            partitioning.keep_compiled(RunFolder(model_dir).compiled)
        yield experiment, model_dir


def _settled(experiment, previewing: bool) -> list[str]:
    """Says what there is to say of an experiment's rows; returns flags for what follows from them.

    Raises:
      UserError: rows that cannot be read, or epochs that come to no number of steps.
    """
    from promot_jax.experiment import epochs, preview

    looked = None
    if previewing or preview.needed(experiment):
        looked = preview.Preview(experiment)
        progress.say("\n".join(looked.lines()))
    passes = epochs.settle(configuration.passes())
    for line in passes.lines:
        progress.say(line)
    if previewing:
        progress.say("\n".join(looked.bundled()))
        return []
    found = passes.values | (looked.settled() if looked else {})
    return [f"--gin.{name}={value!r}" for name, value in found.items()]


@contextlib.contextmanager
def _held(folder: pathlib.Path, config: str) -> Iterator[None]:
    """Holds a run folder for this run alone and keeps its configuration there.

    Raises:
      UserError: another run holds it, it belongs to another configuration, or the processes of
        this one differ in their folder or configuration.
    """
    with RunFolder(folder).locked() if distributed.is_main() else contextlib.nullcontext():
        distributed.by_main(configuration.keep, folder, config)
        distributed.check_same(config)
        distributed.check_shared(folder)
        yield


def _check_places() -> None:
    """Raises UserError for folders that the run could not write, or not take stages from."""
    files.check_writable(configuration.model_dir(), "MODEL_DIR")
    RunFolder(configuration.model_dir()).check()
    for reused in configuration.reused():
        folder = RunFolder(pathlib.Path(reused))
        if not folder.begun:
            what = "is no run folder" if folder.path.is_dir() else "is no folder"
            raise UserError(f"REUSE {reused!r} {what}; name folders of earlier runs")
        folder.check()


def _chosen(arguments) -> dict[str, str]:
    """Returns the gin flags that --seeds, --methods, --replay and `TRAINING` stand for."""
    chosen = {}
    if arguments.seeds is not None:
        chosen["seeds"] = f"--gin.SEEDS=({arguments.seeds},)"
    if arguments.methods is not None:
        chosen["methods"] = f"--gin.METHODS={tuple(arguments.methods.split(','))!r}"
    if arguments.replay is not None:
        chosen["replay"] = f"--gin.REPLAY={arguments.replay!r}"
    for flag, macro, *_ in TRAINING:
        if (value := getattr(arguments, flag)) is not None:
            chosen[flag] = f"--gin.{macro}={value!r}"
    return chosen


def _own(arguments) -> dict[str, str]:
    """Returns the gin flag of each flag of `MACROS` that was given."""
    given = {}
    for flag, macro, _ in MACROS:
        value = getattr(arguments, flag)
        if value is not None:
            if flag in PATHS and os.path.exists(value):
                value = os.path.abspath(value)
            given[flag] = f"--gin.{macro}={value!r}"
    if arguments.unseen:
        given["unseen"] = f"--gin.UNSEEN_FILES={tuple(arguments.unseen)!r}"
    return given


OWN = "`promot run your_data` takes rows of your own"


def _check_takes(experiment: str, flag: str, binding: str, mend: str) -> None:
    """Raises UserError for a flag whose macro an experiment does not use."""
    try:
        configuration.check_all_used([], [binding])
    except UserError:
        macro = binding.removeprefix("--gin.").split("=")[0]
        raise UserError(
            f"--{flag}: the experiment {experiment} does not use {macro}; {mend}"
        ) from None

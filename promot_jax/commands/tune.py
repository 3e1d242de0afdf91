"""`promot tune`: fine-tune under a promise of what is kept."""

import dataclasses
import importlib
import pathlib
import shutil
from typing import Any

from promot_jax.base import files, values
from promot_jax.base.errors import UserError
from promot_jax.commands import check, convert, flags, models, run

# Files of a finished search, in the folder of its run.
MODEL, CERTIFICATE, PAGE = "model", "certificate.json", "tune.md"


def add(commands) -> None:
    """Adds the command and its flags."""
    tune = flags.command(
        commands,
        "tune",
        _tune,
        "Fine-tune on your rows, and keep a promised share of what the model could do before.",
        "It tries methods and points between start and end, takes the one with the best target of "
        "those that\nkeep the promise, and measures that one again on rows that chose nothing. "
        "Exit code 3: not kept.\nA search that was cut off continues with the same command.\n\n"
        "examples:\n"
        "  promot tune --checkpoint SmolLM2-135M.gguf --train chat.jsonl --eval dev.jsonl \\\n"
        "    --keep 98\n"
        "  promot tune --train train.jsonl --eval dev.jsonl --template '{text} answer:' \\\n"
        "    --target '{label}' --unseen facts.jsonl --keep 95 --budget 60",
    )
    tune.add_argument(
        "--methods",
        type=flags.names,
        help="candidates, cheap ones first (default: gentle_fine_tuning, lora_fine_tuning, "
        "fine_tuning, promot_lora, promot)",
    )
    tune.add_argument(
        "--budget",
        type=flags.number(float, values.Positive),
        metavar="MINUTES",
        help="after which no further candidate is begun (default: no limit)",
    )
    tune.add_argument(
        "--limit",
        type=flags.number(int, values.Count),
        help="rows of each unseen task that steer, and as many that certify (default: all)",
    )
    tune.add_argument(
        "--confidence",
        type=flags.number(float, values.Percent),
        default=95.0,
        help="of what is kept at least, in per cent (default: 95)",
    )
    tune.add_argument("--seed", type=flags.number(int, values.Seed), default=0)
    run.add_rows(tune)
    run.add_training(tune)
    flags.add_gin_files(tune, "a further .gin file; may be repeated")
    flags.add_gin_values(tune, "change one value of the configuration")


def _tune(arguments, overrides) -> None:
    if arguments.keep is None:
        raise UserError("promot tune needs --keep, the per cent of the start's scores to keep")
    own = {"experiment": "your_data", "preview": False, "gin_search_paths": "", "curve": ()}
    for name, value in (own | {"seeds": str(arguments.seed)}).items():
        setattr(arguments, name, value)
    further = ["tasks/tune.gin", "tasks/halves.gin" if arguments.unseen else "tasks/bank.gin"]
    with run.opened(arguments, overrides, further) as (experiment, folder):
        models.checkpoint_tools()
        from promot_jax.experiment import comparison
        from promot_jax.experiment.runner import Runner
        from promot_jax.experiment.search import STEERING, Search

        rows = comparison.Rows(experiment.tasks, STEERING, arguments.limit)
        runner = Runner(experiment, folder)
        search = Search(runner, rows, arguments.keep, arguments.confidence)
        search.run(None if arguments.budget is None else 60 * arguments.budget)
        chosen = search.best()
        if not search.trials:
            raise UserError("--budget: no candidate was measured in it; give more minutes")
        _finish(search, chosen, runner, rows, arguments, folder)


def _finish(search, chosen, runner, rows, arguments, folder: pathlib.Path) -> None:
    """Certifies the chosen candidate, or the nearest, and writes it down.

    Raises:
      NotKept: it does not keep the promise.
    """
    from promot_jax.experiment import certificate
    from promot_jax.experiment.search import CERTIFYING

    rows = dataclasses.replace(rows, split=CERTIFYING)
    trial = chosen or search.nearest()
    found, target = search.certified(trial, rows)
    model = search.model(trial)
    known = {
        "start": check.described(runner.experiment.initial_checkpoint, search.start()),
        "model": check.described(MODEL, model),
    }
    facts = certificate.facts(found, rows, known, arguments.confidence, arguments.keep)
    facts |= {"chosen": dataclasses.asdict(trial), "target": round(target, 2)}
    facts["looks"] = _looks(folder / CERTIFICATE, facts)
    _write(search, trial, facts, runner, folder)
    print("\n".join(check.table(found)))
    print(f"target, test rows: {target:.1f} ({trial.label} at {trial.at:g})")
    print(f"model: {folder / MODEL}, page: {folder / PAGE}, certificate: {folder / CERTIFICATE}")
    if chosen is None:
        kept = found.kept
        raise check.NotKept(
            f"no candidate surely keeps {arguments.keep:g} %; {trial.label} at {trial.at:g} keeps "
            f"most, {kept.share:.1f} %, at least {kept.low:.1f} %"
        )
    check.judge(found.kept, arguments)


def _looks(file: pathlib.Path, facts: dict[str, Any]) -> int:
    """Returns how many candidates these certifying rows have judged, this one included."""
    if not file.exists():
        return 1
    before = files.read_json(file)
    same = before.get("model") == facts["model"] and before.get("promise") == facts["promise"]
    return before.get("looks", 1) + (not same)


def _write(search, trial, facts: dict[str, Any], runner, folder: pathlib.Path) -> None:
    """Writes certificate, page and model."""
    promise = importlib.import_module("promot_jax.report.pages.promise")
    files.write_json(folder / CERTIFICATE, facts)
    promise.write(folder, PAGE, facts, [dataclasses.asdict(one) for one in search.trials])
    experiment = runner.experiment
    method = experiment.method(trial.method)
    at = None if trial.at == 1 else trial.at
    trained = runner.trained(method, experiment.seeds[0], at)
    origin = {"method": method.name, "seed": experiment.seeds[0], "at": trial.at}
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    # Adapters that are in use for every task are part of the model that was measured.
    merged = method.unseen.adapters is not None
    convert.write_huggingface(runner, trained, origin, folder / MODEL, merged)
    (folder / MODEL / "README.md").write_text(promise.card(facts))

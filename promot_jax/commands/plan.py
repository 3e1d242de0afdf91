"""`promot plan`: what an experiment takes on a slice, before anyone has the slice."""

import dataclasses
import functools
import pathlib
import sys

from promot_jax import configuration
from promot_jax.base import files, values
from promot_jax.base.errors import UserError
from promot_jax.commands import flags
from promot_jax.experiment.run_folder import RunFolder


def add(commands) -> None:
    """Adds the command and its flags."""
    plan = flags.command(
        commands,
        "plan",
        _plan,
        "Compile an experiment for a TPU slice that you need not have: memory, work, time.",
        "Nothing is downloaded and nothing runs. TPU slices need TPU's compiler, which runs\n"
        "anywhere: pip install 'promot_jax[tpu]'.\n\n"
        "examples:\n"
        "  promot plan --experiment paper/mt5_xxl/rte --topology v4-128 --stage prompt-model\n"
        "  promot plan --experiment paper/mt5_small/rte --topology v5e-4 --decode\n"
        "  promot plan --experiment mini --topology cpu:8 --stage prompt --search",
    )
    plan.add_argument("--experiment", required=True, help="name, or the path of a .gin file")
    plan.add_argument(
        "--topology",
        required=True,
        help="v4-N, v5p-N (TensorCores), v5e-N, v6e-N (chips), v4:4x4x4, cpu:N or gpu",
    )
    plan.add_argument("--stage", help="only this one, such as prompt or prompt-model")
    plan.add_argument(
        "--methods", type=flags.names, help="only the stages of these, such as promot,fine_tuning"
    )
    plan.add_argument(
        "--mesh",
        metavar="AXES",
        help="sizes of axes, such as fsdp=4,model=16; data takes the rest (default: the "
        "experiment's); with --search, the axes that are settled",
    )
    plan.add_argument(
        "--microbatches", type=flags.number(int, values.Count), help="in place of the stage's own"
    )
    plan.add_argument("--buckets", action="store_true", help="every length bucket")
    plan.add_argument("--decode", action="store_true", help="the evaluation's searches, too")
    plan.add_argument(
        "--search",
        action="store_true",
        help="compile one stage for several meshes, with more microbatches where it does not fit",
    )
    plan.add_argument("--json", type=flags.folder, metavar="FILE", help="write the figures there")
    flags.add_gin_values(
        plan, "change one value of the configuration, such as --gin.BATCH_SIZE=128"
    )


def _plan(arguments, overrides) -> None:
    if arguments.search:
        flags.refuse(arguments, ("buckets", "decode", "microbatches"), "is not for --search")
    if arguments.json is not None:
        _check_json(arguments.json)
    from promot_jax.plan import topology

    slice_ = topology.parse(arguments.topology)
    topology.prepare(slice_)
    experiment = _experiment(arguments, overrides)
    with configuration.quiet_native_logs():
        devices = topology.devices(slice_)
    from promot_jax.plan import programs, search, tables

    axes = search.axes_of(arguments.mesh)
    methods = experiment.selected
    if arguments.methods is not None:
        methods = [experiment.method(name) for name in arguments.methods.split(",")]

    def training(microbatches=arguments.microbatches):
        return programs.training(
            experiment, methods, arguments.stage, arguments.buckets, microbatches
        )

    chosen = training()
    if arguments.decode:
        chosen += programs.decoding(experiment, methods)
    if arguments.search and len(chosen) > 1:
        names = ", ".join(program.name for program in chosen)
        raise UserError(f"--search takes one stage; choose it by --stage from {names}")
    count = f"{devices.size} x {slice_.chip.name}"
    print(f"{arguments.experiment} on {arguments.topology} ({count}), figures of one device")
    measure = functools.partial(_measure, usable=slice_.chip.usable)
    if arguments.search:
        found = _search(lambda parts: training(parts)[0], devices, axes, slice_.chip, measure)
    else:
        found = _each(chosen, search.mesh_of(devices, axes, experiment), slice_.chip, measure)
    if slice_.chip.flops is not None:
        from promot_jax.plan import roofline

        print(f"\n{roofline.assumptions(slice_.chip)}")
    if arguments.json is not None:
        described = {"experiment": arguments.experiment, "topology": arguments.topology}
        described["chip"] = dataclasses.asdict(slice_.chip)
        values = [tables.plain(measured, slice_.chip) for measured in found]
        files.write_json(arguments.json, {**described, "programs": values})


def _check_json(file: pathlib.Path) -> None:
    """Raises UserError for a file that cannot be written."""
    files.check_local(file, "--json")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--json {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise UserError(f"--json {file} is a folder; name a file")
    files.check_writable(file.parent, "--json: the folder")


def _experiment(arguments, overrides):
    """Builds the experiment; what it would start from need not be there."""
    file = configuration.experiment_file(arguments.experiment)
    absent = []
    if arguments.experiment.startswith("paper/"):
        with configuration.quiet_native_logs():
            from promot_jax.paper import schedule

        model = arguments.experiment.split("/")[1]
        absent = [f"--gin.{name}='PATH'" for name in schedule.missing(model, overrides)]
    # A run may be planned by what it kept.
    RunFolder(pathlib.Path(file).parent).check()
    configuration.parse([file], [*overrides, *absent])
    configuration.check_all_used([file], overrides)
    configuration.check_values(overrides)
    return configuration.built()[0]


def _measure(program, mesh, usable):
    from promot_jax.plan import measure

    axes = ",".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    parts = f", {program.microbatches} microbatches" if program.microbatches > 1 else ""
    print(f"compiling {program.name} for {axes}{parts} …", file=sys.stderr, flush=True)
    with configuration.quiet_native_logs():
        return measure.measure(program, mesh, usable)


def _each(chosen, mesh, chip, measure) -> list:
    from promot_jax.plan import tables

    found = []
    for program in chosen:
        found.append(measure(program, mesh))
        print("\n" + "\n".join(tables.lines(found[-1], chip)), flush=True)
    return found


def _search(make, devices, axes, chip, measure) -> list:
    from promot_jax.plan import search, tables

    found = []
    for measured in search.search(make, devices, axes, chip, measure):
        found.append(measured)
        # Minutes pass between two: what is known may be enough.
        print("  " + tables.table([measured], chip)[1], file=sys.stderr, flush=True)
    print("\n" + "\n".join(tables.table(found, chip)))
    return found

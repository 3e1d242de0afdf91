"""The rooms of docs/architecture.md: who may import whom, read from the code itself."""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Lower rooms first; a module imports from lower rooms, or from modules of its own.
ROOMS = [
    *("base", "data", "models", "checkpoints", "training", "integrations", "experiment"),
    *("configuration", "report", "plan", "paper", "commands", "cli"),
]
# What a person calls from Python stands above them all.
ORDER = [*ROOMS, "__init__"]
# The same within a room: modules and folders, lower ones first.
INSIDE = {
    "checkpoints": ["formats", "pretrained", "chat_templates", "conversion"],
    "report": ["records", "numbers", "charts", "pages", "build"],
}
# Packages that only some modules and rooms may use.
ONLY = {
    "gin": {"configuration"},
    "t5x": {"integrations"},
    "lm_eval": {"integrations"},
    "libtpu": {"plan"},
    "matplotlib": {"report.charts"},
    "orbax": {"training.stage_checkpoints", "checkpoints.formats"},
    "tensorflow": {"data.host_tensorflow", "integrations"},
    "tensorflow_text": set(),
    "tensorflow_datasets": {"tasks.tfds_rows"},
    "seqio": {"data.seqio_tasks", "data.seqio_vocabularies", "data.foreign", "integrations"},
    "clu": set(),
    "tensorboard": {"base.metric_writers"},
    "gguf": {"checkpoints.formats"},
    "jinja2": {"data.chat_template"},
    "pyarrow": {"tasks"},
    "datasets": {"tasks.row_sets"},
    "huggingface_hub": {"checkpoints.formats"},
    "tensorstore": {"checkpoints.formats"},
    "tokenizers": {"data", "checkpoints.formats"},
    "sentencepiece": {"data.sentencepiece_bpe", "data.vocabularies.sentencepiece", "tasks"},
}
# What tasks import of the package, besides each other.
FOR_TASKS = {
    *("base.collector", "base.errors", "base.values"),
    *("data.metrics", "data.tasks", "data.vocabularies", "data.written"),
    *("data.row_store", "data.host_tensorflow", "data.generated"),
    *("data.chat", "data.chat_rows", "data.chat_template"),
}
# What must be there for modules of persons who wrote theirs for seqio.
SEQIO_AT_CALL = {("tasks.mini", "data.seqio_tasks")}
WITHOUT_JAX = {
    *("base.errors", "base.progress", "base.metric_writers", "base.files", "base.jsonl"),
    *("base.values", "experiment.run_folder", "experiment.stage_folder"),
    *("data", "configuration", "report", "paper", "commands", "cli", "tasks"),
}


def modules() -> dict[str, set[str]]:
    """Returns the names that each module imports, by the module's name without the package's."""
    found = {}
    for file in sorted([*(ROOT / "promot_jax").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]):
        parts = file.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "tasks" else parts[1:]
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[".".join(parts).removesuffix(".__init__")] = names
    return found


MODULES = modules()


def module_of(name: str) -> str | None:
    """Returns the module of ours that an imported name lies in."""
    package, _, rest = name.partition(".")
    while package == "promot_jax" and rest:
        if rest in MODULES:
            return rest
        rest = rest.rpartition(".")[0]
    return None


def within(module: str, places) -> bool:
    return any(f"{module}.".startswith(f"{place}.") for place in places)


OURS = {
    module: {found for name in names if (found := module_of(name))} - {module}
    for module, names in MODULES.items()
}


def test_every_room_is_on_the_map():
    rooms = {module.partition(".")[0] for module in MODULES}
    assert len(MODULES) > 100
    assert rooms - {"tasks", "__init__"} == set(ROOMS)
    assert len(ROOMS) <= 13


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module):
    room, _, rest = module.partition(".")
    for other in OURS[module]:
        target, _, inside = other.partition(".")
        if room == "tasks":
            allowed = {*FOR_TASKS, "tasks"}
            assert within(other, allowed) or (module, other) in SEQIO_AT_CALL, other
        elif target != room:
            assert ORDER.index(target) < ORDER.index(room), other
            assert not within(module, {"checkpoints.formats"}) or target != "models", other
        elif order := INSIDE.get(room):
            places = [part.partition(".")[0] for part in (inside, rest) if part]
            assert sorted(places, key=order.index) == places, other
    for name in MODULES[module]:
        package = name.partition(".")[0]
        assert package not in ONLY or within(module, ONLY[package]), name
        if package in {"jax", "flax", "optax"}:
            assert not within(module, WITHOUT_JAX), name


def test_imports_have_no_circle():
    assert list(graphlib.TopologicalSorter(OURS).static_order())


def test_files_and_functions_stay_short():
    for file in [*(ROOT / "promot_jax").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]:
        text = file.read_text()
        assert len(text.splitlines()) <= 450, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 80, f"{file}: {node.name}"


def test_gin_folder_hides_nothing():
    assert not list((ROOT / "gin").rglob("*.py"))

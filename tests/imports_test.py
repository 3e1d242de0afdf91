"""The rooms of docs/architecture.md: who may import whom, read from the code itself."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Lower layers first; a module imports from lower layers, or from modules of its own room.
LAYERS = [
    {"errors", "metrics", "progress", "context"},
    {"distributed", "files", "sentencepiece_bpe", "values"},
    {"trees", "losses", "chunked_loss", "decoding", "metric_writers", "vocabularies"},
    {"continuation"},
    {"written"},
    {"networks", "train_state", "adafactor", "data", "packing", "interop", "settings"},
    {"models", "partitioning", "checkpoints", "optimizers", "scoring"},
    {"architectures", "attached"},
    {"stages"},
    {"lineage"},
    {"stage_folder"},
    {"train_step", "evaluation", "pretrained"},
    {"conversion"},
    {"train", "run_facts", "probes", "integrations"},
    {"experiment"},
    {"runner", "plan", "bindings"},
    {"report", "configuration", "oracle"},
    {"registered"},
    {"preview"},
    {"paper"},
    {"commands"},
    {"cli"},
]
# Packages that only some rooms may use.
ONLY = {
    "gin": {"bindings", "configuration"},
    "t5x": {"integrations"},
    "libtpu": {"plan"},
    "matplotlib": {"report"},
    "orbax": {"checkpoints", "interop"},
    "tensorflow": {"data", "tasks", "vocabularies"},
    "seqio": {
        *("architectures", "continuation", "data", "integrations", "models", "oracle", "preview"),
        *("registered", "scoring", "settings", "tasks", "vocabularies"),
    },
    "clu": {"metric_writers"},
    "gguf": {"interop"},
    "pyarrow": {"tasks"},
    "huggingface_hub": {"interop"},
    "tensorstore": {"interop"},
    "tokenizers": {"continuation", "interop", "sentencepiece_bpe", "vocabularies"},
    "sentencepiece": {"sentencepiece_bpe", "tasks"},
}
WITHOUT_JAX = {
    *("errors", "metrics", "progress", "context", "metric_writers", "files"),
    *("vocabularies", "continuation", "written", "scoring", "sentencepiece_bpe", "values"),
    "bindings",
    *("report", "tasks", "configuration", "paper", "commands", "cli"),
}


def modules():
    """Yields (room, file, imported module names)."""
    files = [*(ROOT / "promot_jax").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]
    for file in sorted(files):
        parts = file.relative_to(ROOT).parts
        room = "tasks" if parts[0] == "tasks" else parts[1].removesuffix(".py")
        names = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        yield room, file.relative_to(ROOT), names


MODULES = [m for m in modules() if m[0] != "__init__"]


def test_every_room_is_on_the_map():
    rooms = {room for room, _, _ in MODULES}
    assert len(MODULES) > 30
    assert rooms - {"tasks"} <= set().union(*LAYERS)


@pytest.mark.parametrize(("room", "file", "names"), MODULES, ids=[str(m[1]) for m in MODULES])
def test_imports_point_downward(room, file, names):
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    for name in names:
        package, _, rest = name.partition(".")
        if package == "promot_jax" and rest:
            other = rest.split(".")[0]
            if other == "__version__":
                continue
            if room == "tasks":
                assert other in {"metrics", "errors", "tasks"}, f"{file} imports {name}"
            elif other != room:
                assert other != "tasks", f"{file} imports {name}"
                assert level[other] < level[room], f"{file} imports {name}"
        elif package in ONLY:
            assert room in ONLY[package], f"{file} imports {name}"
        elif package in {"jax", "flax", "optax"}:
            assert room not in WITHOUT_JAX, f"{file} imports {name}"


def test_gin_folder_hides_nothing():
    assert not list((ROOT / "gin").rglob("*.py"))

"""The recipes for T5X as text, where T5X need not be installed; `t5x_train_test` runs them."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re

import pytest

from gin import config_parser
from promot_jax import configuration

pytestmark = pytest.mark.long

FOLDER = configuration.GIN_FOLDER / "t5x"
RECIPES = ("promot_stage1", "promot_stage2", "finetune", "eval", "infer")
SHARED = ("model", "train", "model_tuning", "best")
# T5X's own files that ours include, and the macros that they set.
THEIRS = {
    "t5x/configs/runs/finetune.gin": {
        *("MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "MIXTURE_OR_TASK_MODULE"),
        *("TRAIN_STEPS", "TRAIN_STEPS_RELATIVE", "INITIAL_CHECKPOINT_PATH", "DROPOUT_RATE"),
        *("USE_CACHED_TASKS", "BATCH_SIZE", "EVAL_STEPS", "EVAL_PERIOD", "RANDOM_SEED"),
        *("EVALUATOR_USE_MEMORY_CACHE", "EVALUATOR_NUM_EXAMPLES", "JSON_WRITE_N_RESULTS"),
        "USE_HARDWARE_RNG",
    },
    "t5x/configs/runs/eval.gin": {
        *("MIXTURE_OR_TASK_NAME", "CHECKPOINT_PATH", "EVAL_OUTPUT_DIR", "TASK_FEATURE_LENGTHS"),
        "MIXTURE_OR_TASK_MODULE",
    },
    "t5x/configs/runs/infer.gin": {
        *("MIXTURE_OR_TASK_NAME", "CHECKPOINT_PATH", "INFER_OUTPUT_DIR", "TASK_FEATURE_LENGTHS"),
        "MIXTURE_OR_TASK_MODULE",
    },
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """`%NAME` or `@name` of a gin file."""

    name: str
    is_macro: bool


class Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(scoped_configurable_name, is_macro=False)

    def macro(self, scoped_macro_name):
        return Reference(scoped_macro_name, is_macro=True)


def statements(file, kind):
    with open(file) as opened:
        parser = config_parser.ConfigParser(opened, Delegate())
        return [statement for statement in parser if isinstance(statement, kind)]


def bindings(file):
    return statements(file, config_parser.BindingStatement)


def with_includes(name):
    """Yields a recipe and what it includes, in the order in which gin reads them."""
    file = FOLDER / f"{name}.gin"
    for statement in statements(file, config_parser.IncludeStatement):
        if statement.filename in THEIRS:
            yield statement.filename
        else:
            yield from with_includes(pathlib.Path(statement.filename).stem)
    yield file


def settings(name):
    """Returns {macro or scope/selector.parameter: value} of a recipe; later ones count."""
    found = {}
    for file in with_includes(name):
        if file in THEIRS:
            found |= dict.fromkeys(THEIRS[file])
            continue
        for binding in bindings(file):
            key = binding.selector
            if binding.arg_name:
                key = f"{binding.scope}/{key}.{binding.arg_name}".lstrip("/")
            found[key] = binding.value
    return found


def resolved(name, key):
    found = settings(name)
    value = found[key]
    while isinstance(value, Reference) and value.is_macro:
        value = found[value.name]
    return value


def native(file):
    text = (configuration.GIN_FOLDER / "stages" / file).read_text()
    return {
        name: ast.literal_eval(value)
        for name, value in re.findall(r"^([A-Z_]+) = ([\d.]+)$", text, re.MULTILINE)
    }


def references(value):
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        yield from references([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references(inner)


def test_there_is_a_file_for_each_recipe():
    assert {file.stem for file in FOLDER.iterdir()} == {*RECIPES, *SHARED}


@pytest.mark.parametrize("name", RECIPES + SHARED)
def test_headers_tell_what_is_required_and_provided(name):
    text = (FOLDER / f"{name}.gin").read_text()
    header = text[: text.index("\n\n")] if name in RECIPES else text.split("\nfrom ")[0]
    for word in ("# Requires: ", "# Provides: "):
        assert word in header
    if name in RECIPES:
        program = {"eval": "eval", "infer": "infer"}.get(name, "train")
        assert f"python -m t5x.{program} --gin_file=gin/t5x/{name}.gin" in header
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_import_lets_gin_find_the_files_that_follow(name):
    kinds = (config_parser.ImportStatement, config_parser.IncludeStatement)
    ours = [
        getattr(found, "module", None) == "promot_jax.integrations.t5x"
        for found in statements(FOLDER / f"{name}.gin", kinds)
    ]
    includes = [
        isinstance(found, config_parser.IncludeStatement)
        for found in statements(FOLDER / f"{name}.gin", kinds)
    ]
    assert any(ours)
    assert any(includes)
    assert ours.index(True) < includes.index(True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_macro_has_a_value_somewhere(name):
    found = settings(name)
    used = {ref.name for value in found.values() for ref in references(value) if ref.is_macro}
    assert len(used) > 15
    assert used <= found.keys()


def parameters(module, attribute):
    """Returns the parameters of something of ours; without importing what imports T5X."""
    if module != "promot_jax.integrations.t5x":
        called = getattr(importlib.import_module(module), attribute)
        return set(inspect.signature(called).parameters)
    tree = ast.parse((configuration.PACKAGE / "integrations/t5x.py").read_text())
    (found,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute
    ]
    if isinstance(found, ast.ClassDef):
        (found,) = [
            node
            for node in found.body
            if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        ]
    return {argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)}


@pytest.mark.parametrize("name", RECIPES + SHARED)
def test_what_is_ours_exists_and_takes_what_it_is_given(name):
    file = FOLDER / f"{name}.gin"
    modules = {
        found.bound_name(): found.module
        for found in statements(file, config_parser.ImportStatement)
        if not found.module.startswith("__gin__")
    }
    checked = 0
    for binding in bindings(file):
        mentioned = [ref.name for ref in references(binding.value) if not ref.is_macro]
        if binding.arg_name:
            mentioned.append(binding.selector)
        for selector in mentioned:
            alias, _, attribute = selector.rpartition("/")[2].rpartition(".")
            module = modules[alias]
            if module.startswith("promot_jax"):
                names = parameters(module, attribute)
                checked += 1
                if selector == binding.selector and binding.arg_name:
                    assert binding.arg_name in names
            else:
                assert module.split(".")[0] in {"t5x", "__main__", "seqio"}
    assert checked or name in {"promot_stage2", "finetune", "model_tuning"}


# --- hyper-parameters ---


def test_stage_1_has_the_papers_settings():
    paper = native("prompt.gin")
    assert paper["PROMPT_LEARNING_RATE"] == 0.2
    for key, value in [
        ("utils.create_learning_rate_scheduler.base_learning_rate", paper["PROMPT_LEARNING_RATE"]),
        ("utils.create_learning_rate_scheduler.factors", "constant"),
        ("starting_point.network.prompt_length", paper["PROMPT_LENGTH"]),
        ("promot.StageInitializer.total_steps", paper["PROMPT_TRAIN_STEPS"]),
        ("utils.SaveCheckpointConfig.period", paper["PROMPT_EVAL_PERIOD"]),
        ("EVAL_PERIOD", paper["PROMPT_EVAL_PERIOD"]),
        ("promot.TrainOnly.trainable", ("encoder/prompt/.*",)),
        ("promot.StageInitializer.prompt_init", Reference("prompt.sampled_vocabulary", False)),
        ("adafactor.Adafactor.factored", False),
        ("adafactor.Adafactor.multiply_by_parameter_scale", False),
        ("adafactor.Adafactor.decay_rate", 0.8),
        ("adafactor.Adafactor.clipping_threshold", 1.0),
        ("adafactor.Adafactor.weight_decay_rate", 1e-5),
        ("BATCH_SIZE", 64),
        ("DROPOUT_RATE", paper["PROMPT_DROPOUT_RATE"]),
        ("LABEL_SMOOTHING", native("model.gin")["LABEL_SMOOTHING"]),
        ("train/utils.DatasetConfig.pack", False),
    ]:
        assert resolved("promot_stage1", key) == value, key


@pytest.mark.parametrize("name", ["promot_stage2", "finetune"])
def test_model_tuning_has_the_papers_settings(name):
    paper = native("model.gin")
    for key, value in [
        ("utils.create_learning_rate_scheduler.base_learning_rate", paper["LEARNING_RATE"]),
        ("utils.create_learning_rate_scheduler.factors", "constant"),
        ("promot.StageInitializer.total_steps", paper["TRAIN_STEPS"]),
        ("utils.SaveCheckpointConfig.period", paper["EVAL_PERIOD"]),
        ("EVAL_PERIOD", paper["EVAL_PERIOD"]),
        ("starting_point.network.dropout_rate", paper["DROPOUT_RATE"]),
        ("models.EncoderDecoderModel.label_smoothing", paper["LABEL_SMOOTHING"]),
        ("models.EncoderDecoderModel.z_loss", 0.0),
        ("BATCH_SIZE", paper["BATCH_SIZE"]),
        ("promot.TrainOnly.trainable", ("(?!encoder/prompt/).*",)),
        ("adafactor.Adafactor.factored", True),
        ("adafactor.Adafactor.multiply_by_parameter_scale", True),
        ("adafactor.Adafactor.decay_rate", 0.8),
        ("promot.StageInitializer.prompt_init", None),
        ("train/utils.DatasetConfig.pack", False),
        ("train_eval/utils.DatasetConfig.pack", False),
    ]:
        assert resolved(name, key) == value, key
    assert paper == {**paper, "LEARNING_RATE": 0.001, "TRAIN_STEPS": 1000, "BATCH_SIZE": 64}


def test_the_prompt_is_attached_unless_it_is_taken_off():
    attached = {name: resolved(name, "starting_point.network.prompt") for name in RECIPES}
    assert attached == dict.fromkeys(RECIPES, "prompt") | {"finetune": None}
    best = Reference("best_checkpoint.best_checkpoint", is_macro=False)
    for name in ("promot_stage2", "eval", "infer"):
        assert resolved(name, "starting_point.network.checkpoint") == best
        assert resolved(name, "models.DecoderParams.num_decodes") == 4


# --- the guide ---

GUIDE = configuration.PACKAGE.parent / "docs/t5x.md"


def test_the_guides_commands_set_what_their_recipes_have():
    commands = re.findall(
        r"^python -m t5x\.(\w+) --gin_file=gin/t5x/(\w+)\.gin((?:.*\\\n)*.*)$",
        GUIDE.read_text(),
        re.MULTILINE,
    )
    assert {recipe for _, recipe, _ in commands} == set(RECIPES)
    for program, recipe, flags in commands:
        assert program == {"eval": "eval", "infer": "infer"}.get(recipe, "train")
        given = dict(re.findall(r'--gin\.([A-Z_]+)=("[^"]*"|\S+)', flags))
        assert {"MIXTURE_OR_TASK_NAME"} < given.keys() <= settings(recipe).keys()
        for value in given.values():
            ast.literal_eval(ast.literal_eval(value) if value.startswith('"') else value)
        if "MODEL_DIR" in given:
            assert given["MODEL_DIR"].startswith("\"'/")


def test_the_guide_lists_every_macro():
    table = set(re.findall(r"`([A-Z][A-Z_]+)`", GUIDE.read_text()))
    inner = {"MODEL", "CHECKPOINT", "OPTIMIZER", "ADAFACTOR", "BEST_CHECKPOINT"}
    macros = {key for name in RECIPES for key in settings(name) if re.fullmatch("[A-Z_]+", key)}
    assert macros - inner <= table | {"EVALUATOR_USE_MEMORY_CACHE"}
    assert len(macros) > 35

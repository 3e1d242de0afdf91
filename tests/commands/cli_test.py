"""The command line: bad input is one line and a bad exit code; a whole run by its commands."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import promot_jax
from promot_jax import cli, configuration
from promot_jax.base import trees
from promot_jax.experiment.run_folder import RunFolder
from promot_jax.tasks import mini_entailment, mini_pretrain

pytestmark = pytest.mark.long

# The miniature's experiment, shrunk to a run of a few steps of a tiny model.
SHRINK = [
    f"--gin.{binding}"
    for binding in (
        "t5.T5Config.emb_dim=16",
        "t5.T5Config.mlp_dim=32",
        "t5.T5Config.num_encoder_layers=1",
        "t5.T5Config.num_decoder_layers=1",
        "TRAIN_STEPS=2",
        "BATCH_SIZE=8",
        # Its random numbers take more than half of the time to compile a step.
        "DROPOUT_RATE=0.0",
        "EVAL_PERIOD=1",
        "EVAL_EXAMPLES=4",
        "VALIDATION_EXAMPLES=4",
        "experiment.Experiment.eval_batch_size=4",
        "experiment.Experiment.unseen_examples=2",
        "experiment.Experiment.decoder=@decoding.Greedy()",
    )
]
# Of the miniature's unseen tasks one with classes and one that writes: programs have fewer shapes.
FEW = "TASKS=[@cb/evaluation.EvalTask(), @triviaqa/evaluation.EvalTask()]"
MINI = [
    *SHRINK,
    "--gin.INITIAL_CHECKPOINT_PATH=None",
    "--gin.PROMPT_TRAIN_STEPS=2",
    "--gin.PROMPT_EVAL_PERIOD=1",
    "--seeds=0",
]
OURS = [*MINI, f"--gin.{FEW}"]


def at(folder):
    return f"--gin.MODEL_DIR='{folder}'"


def fails(capsys, *arguments):
    """Runs a command line that must fail; returns its one line."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("promot: ")
    return lines[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mini"
    assert cli.main(["run", "mini", at(folder), *OURS, "--curve=0.5"]) == 0
    return folder


def test_a_run_leaves_report_and_configuration(run):
    assert (run / "report.html").stat().st_size > 10_000
    assert "Standard fine-tuning" in (run / "report.md").read_text()
    assert "TRAIN_STEPS = 2" in (run / "config.gin").read_text()
    assert list((run / "seed_0/prompt-model").glob("events.out.tfevents*"))
    assert json.loads((run / "run.json").read_text())["finished"]


@pytest.mark.usefixtures("undrawn")
def test_a_finished_run_answers_and_exports(run, tmp_path, capsys):
    question = "Q: what is the capital of mali? A:"
    for prompt in ("rte", "none"):
        assert cli.main(["generate", str(run), "--prompt", prompt, question, question]) == 0
        answers = capsys.readouterr().out.splitlines()
        assert len(answers) == 2
        assert answers[0] == answers[1]
    assert cli.main(["export", str(run), str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "rte.npy").exists()
    # Also after a call that was for another method.
    shutil.copytree(run, tmp_path / "run")
    again = ["run", "mini", at(tmp_path / "run"), *OURS, "--methods", "fine_tuning"]
    assert cli.main(again) == 0
    assert cli.main(["generate", str(tmp_path / "run"), "--prompt", "rte", question]) == 0
    capsys.readouterr()
    initial = f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/model'"
    # A prompt that comes with the model is the one that is attached.
    longer = [*OURS, initial, "--gin.PROMPT_LENGTH=5"]
    line = fails(capsys, "run", "mini", at(tmp_path / "next"), *longer, "--methods", "promot")
    assert "prompt 'rte' has 16 rows, stage 'prompt' asks for 5" in line
    assert cli.main(["export", str(run), str(tmp_path / "tuned"), "--method", "fine_tuning"]) == 0
    initial = f"--gin.INITIAL_CHECKPOINT_PATH='{tmp_path}/tuned'"
    third = ["run", "mini", at(tmp_path / "third"), *OURS, initial, "--methods", "pretrained"]
    assert cli.main(third) == 0


def test_a_point_of_a_curve_answers_and_exports(run, tmp_path, capsys):
    assert "Between start and end" in (run / "report.md").read_text()
    assert cli.main(["generate", str(run), "--at", "0.5", "--prompt", "rte", "x"]) == 0
    assert cli.main(["export", str(run), str(tmp_path / "half"), "--at", "0.5"]) == 0
    half, end = (promot_jax.load(run, at=at).params for at in (0.5, None))
    saved = promot_jax.load(tmp_path / "half").params
    for path in ("encoder/encoder_norm/scale", "decoder/layers_0/mlp/wo/kernel"):
        saved_leaf, half_leaf, end_leaf = (trees.flatten(t)[path] for t in (saved, half, end))
        assert (saved_leaf == half_leaf).all()
        assert (half_leaf != end_leaf).any()
    capsys.readouterr()
    line = fails(capsys, "generate", str(run), "--at=0.5", "--method=prompt_tuning", "x")
    assert line == (
        "promot: --at 0.5: method 'prompt_tuning' trains nothing of the model; leave it out"
    )
    exported = str(tmp_path / "half")
    line = fails(capsys, "generate", "--checkpoint", exported, "--at", "0.5", "x")
    assert "--at goes with a run, not with --checkpoint" in line


@pytest.mark.usefixtures("undrawn")
def test_the_report_is_rebuilt(run, capsys):
    (run / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    assert "Norm. Avg." in capsys.readouterr().out


def test_bad_requests_of_a_run_name_the_mend(run, tmp_path, capsys):
    assert "use rte, none" in fails(capsys, "generate", str(run), "--prompt", "rtee", "x")
    assert "it has pretrained, fine_tuning" in fails(
        capsys, "generate", str(run), "--method", "promt", "x"
    )
    assert "seed 7 is not finished" in fails(capsys, "generate", str(run), "--seed", "7", "x")
    assert "no run folder" in fails(capsys, "generate", str(tmp_path), "x")
    assert str(tmp_path) in fails(capsys, "report", str(tmp_path))


def test_a_folder_of_another_configuration_is_refused(run, capsys):
    line = fails(capsys, "run", "mini", at(run), *OURS, "--gin.LEARNING_RATE=0.5")
    assert "another configuration (first difference: LEARNING_RATE = 0.5)" in line


def test_one_process_at_a_time(run, capsys):
    with RunFolder(run).locked():
        assert "another process is running" in fails(capsys, "run", "mini", at(run), *OURS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "minni"], "no experiment 'minni'; did you mean 'mini'?"),
        (["run", "nowhere/mine.gin"], "nowhere/mine.gin"),
        (["run", "mini", "--gin.TRAIN_STEP=5"], "uses TRAIN_STEP; did you mean TRAIN_STEPS?"),
        (["run", "mini", "--gin.stages.Stage.step=5"], "no parameter step; did you mean steps?"),
        (["run", "mini", "--gin.t5.T5Confg.emb_dim=5"], "no T5Confg; did you mean T5Config?"),
        (["run", "mini", "--gin.LABELS=('yes',"], "--gin.LABELS=('yes',: not a Python literal"),
        (
            ["run", "mini", "--gin.optimizers.warmup_cosine.peak=5.0"],
            "nothing in this experiment calls",
        ),
        (["run", "mini", "--gin.MODEL_DIR=runs/x"], "quote texts twice"),
        (["run", "mini", "--gin_file=lost.gin"], "lost.gin"),
        (["run", "mini", "--steps=5"], "unknown argument '--steps=5'"),
        (["run", "mini", "--seeds=a"], "expected numbers such as 0,1,2"),
        (
            ["run", "mini", "--gin.TRAIN_STEPS=0"],
            "TRAIN_STEPS = 0: expected a whole number of at least 1",
        ),
        (["run", "mini", "--curve=0.5,half"], "expected none, auto, or numbers of at least 0 such"),
        (["run", "mini", "--curve=0.5,1"], "1 is what a method ends with, which is scored anyway"),
        (["run", "mini", "--curve=0.5,0.5"], "names a point twice; give each of them once"),
        (["generate", "runs/mini", "--at=0", "x"], "--at = 0: expected a number above 0"),
        (["report", "runs/nowhere"], "runs/nowhere"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, *arguments)
    assert not list(tmp_path.rglob("checkpoints"))


def test_bad_values_in_a_run_are_one_line(tmp_path, capsys):
    def mini(*bindings):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return fails(capsys, "run", "mini", at(folder), *OURS, *bindings)

    nothing = "--gin.fine_tuning/stages.Stage.trainable=('encoder/layer_9/.*',)"
    assert "pattern 'encoder/layer_9/.*' matches no parameter" in mini(nothing)
    assert "'mini_rtte'; did you mean 'mini_rte" in mini("--gin.MIXTURE_OR_TASK_NAME='mini_rtte'")
    assert "/nowhere: no such" in mini("--gin.INITIAL_CHECKPOINT_PATH='/nowhere'")
    assert "lower the learning rate" in mini("--gin.LEARNING_RATE=1e30", "--gin.EVAL_PERIOD=2")


def test_an_unwritable_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file" in fails(capsys, "run", "mini", at(tmp_path / "file" / "run"), *OURS)


def test_every_experiment_but_the_papers_is_tested():
    # `run` is `mini`; those of real data have a test of their own.
    names = {name for name in configuration.experiments() if not name.startswith("paper/")}
    real = {"smollm2/vitaminc", "smollm2/enfr"}
    assert names == {"cpu_smoke", "mini", "mini_pretrain", "your_data", *real}


@pytest.mark.slow
def test_pretraining_runs_a_few_steps(tmp_path, monkeypatch):
    cached = (mini_pretrain.rows, mini_entailment.rows, mini_entailment.entailment_rows)
    for mixture in (mini_pretrain, mini_entailment):
        monkeypatch.setitem(mixture.SPLIT_SIZES, "train", 2_000)
        monkeypatch.setitem(mixture.SPLIT_SIZES, "validation", 20)
    for rows in cached:
        rows.cache_clear()
    dropped = ("_EXAMPLES", "BATCH_SIZE", "DROPOUT_RATE", "TRAIN_STEPS")
    shrink = [flag for flag in SHRINK if not any(name in flag for name in dropped)]
    shrink += [
        "--gin.FIRST_STEPS=2",
        "--gin.SECOND_STEPS=2",
        "--gin.WARMUP_STEPS=1",
        "--gin.BATCH_TOKENS=512",
        "--gin.experiment.Experiment.eval_examples=4",
        "--gin.experiment.Experiment.validation_examples=4",
    ]
    try:
        assert cli.main(["run", "mini_pretrain", at(tmp_path / "run"), *shrink]) == 0
    finally:
        for rows in cached:
            rows.cache_clear()
    assert "Pretraining" in (tmp_path / "run" / "report.md").read_text()


SMALL = ["EMB_DIM=16", "NUM_HEADS=2", "NUM_LAYERS=1", "MLP_DIM=32", "BATCH_SIZE=8"]
SHORT = ["TRAIN_STEPS=2", "PROMPT_TRAIN_STEPS=2", "EVAL_PERIOD=2", "PROMPT_EVAL_PERIOD=2"]
SHORT += ["DROPOUT_RATE=0.0"]


@pytest.mark.parametrize(
    ("experiment", "settings"),
    [
        ("cpu_smoke", ["VOCAB_SIZE=1280", "SCAN_LAYERS=True"]),
        (
            "mini",
            [
                *("INITIAL_CHECKPOINT_PATH=None", "HEAD_DIM=8", "SEEDS=(0,)"),
                "experiment.Experiment.methods=[@promot/stages.Method()]",
                "METHODS=None",
                "experiment.Experiment.decoder=@decoding.Greedy()",
                "experiment.Experiment.eval_batch_size=4",
                *("EVAL_EXAMPLES=4", "VALIDATION_EXAMPLES=4", FEW),
                "experiment.Experiment.unseen_examples=2",
            ],
        ),
    ],
    ids=["cpu_smoke", "decoder_only"],
)
@pytest.mark.usefixtures("undrawn")
def test_other_models_run_both_stages(tmp_path, capsys, experiment, settings):
    flags = [f"--gin.{binding}" for binding in (*SMALL, *SHORT, *settings)]
    if experiment == "mini":
        flags.append("--gin_file=models/palm/tiny.gin")
    folder = tmp_path / "run"
    assert cli.main(["run", experiment, at(folder), *flags]) == 0
    side = "decoder" if experiment == "mini" else "encoder"
    for stage, trained in [("prompt", True), ("prompt-model", False)]:
        saved = next((folder / "seed_0" / stage / "checkpoints").glob("*/state/_METADATA"))
        paths = json.loads(saved.read_text())["tree_metadata"]
        prompt = [path for path in paths if "'trainable'" in path and "'prompt', 'rte'" in path]
        assert bool(prompt) == trained
        assert all(f"'{side}'" in path for path in prompt)
    assert cli.main(["generate", str(folder), "--prompt", "rte", "x", "--max_length", "2"]) == 0
    # Scanned or not, a model that leaves has a place for each layer.
    assert cli.main(["export", str(folder), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "out"), "--leaves"]) == 0
    assert "decoder/layers_0/self_attention/query/kernel" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        [],
        *(["run"], ["report"], ["paper"], ["tasks"], ["methods"]),
        *(["generate"], ["inspect"], ["import"], ["export"]),
    ],
)
def test_help_imports_nothing_heavy(command):
    program = (
        "import sys\n"
        "from promot_jax import cli\n"
        "try:\n"
        f"    cli.main({[*command, '--help']})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'jax', 'tensorflow', 'seqio', 'flax', 'orbax', 'gin', 'numpy', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: promot" in done.stdout


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "promot_jax.cli", "run", "minni"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("promot: no experiment 'minni'")


def test_who_closes_the_output_gets_no_complaint():
    command = [sys.executable, "-m", "promot_jax.cli", "tasks"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141

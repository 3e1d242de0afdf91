"""`promot inspect`, `import`, `export` and `generate --checkpoint`, on a tiny model of our own."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import transformers

from promot_jax import cli, models
from promot_jax.base import trees
from promot_jax.base.errors import UserError
from promot_jax.checkpoints import conversion, pretrained
from promot_jax.checkpoints.formats import known
from promot_jax.models.networks import decoder, lora
from promot_jax.models.networks.lora_inits import MiLoRA
from promot_jax.models.networks.parallel import Parallel
from promot_jax.tasks import mini
from tests import tiny
from tests.commands.cli_test import fails

pytestmark = pytest.mark.long

LORA = lora.Lora(r".*attention/(query|value)/kernel", rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 with the prompt `rte`, written as a model folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    params = tiny.model().init(jax.random.key(0))
    params = trees.add_prompt(params, "rte", jax.random.normal(jax.random.key(1), (3, 16)))
    model = tiny.model().with_prompts(trees.prompts_of(params))
    pretrained.save(folder, model, params, {"made": "here"})
    return folder


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A decoder-only model with a low-rank adapter, written as a model folder."""
    folder = tmp_path_factory.mktemp("models") / "adapted"
    config = decoder.DecoderConfig(
        vocab_size=1280,
        emb_dim=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=32,
        num_layers=2,
        lora=LORA,
    )
    model = models.DecoderOnlyModel(decoder.Transformer(config), mini.vocabulary())
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(0)))
    pretrained.save(folder, model, params, {"made": "here"})
    return folder


def run(capsys, *arguments):
    """Runs a command line that must succeed; returns what it printed."""
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def fingerprint(path):
    source = known.open_checkpoint(str(path))
    return trees.fingerprint((name, source.read(name)) for name in sorted(source.leaves))


def test_a_model_goes_through_every_format_and_back(folder, tmp_path, capsys):
    for name in ("huggingface", "t5x", "t5x_orbax"):
        out = tmp_path / name
        assert "written" in run(capsys, "export", folder, out, "--format", name)
        # T5X's has no vocabulary; Hugging Face's has the prompt beside it, as a folder of PEFT.
        words = ["--vocabulary", folder / "spiece.model"]
        if name == "huggingface":
            assert fingerprint(out) != fingerprint(folder)
            words = ["--adapter", out / "rte"]
        run(capsys, "import", out, tmp_path / f"from_{name}", *words)
        assert fingerprint(tmp_path / f"from_{name}") == fingerprint(folder)
    assert set(trees.prompts_of(load(tmp_path / "from_t5x")[1])) == {"rte"}
    again, _ = load(tmp_path / "from_huggingface")
    assert again.vocabulary.vocab_size == mini.vocabulary().vocab_size
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "huggingface")
    text = "Q: what is the capital of mali?"
    assert tokenizer(text)["input_ids"] == [*mini.vocabulary().encode(text), tokenizer.eos_token_id]


def load(path):
    model, source = pretrained.open_model(str(path))
    return model, pretrained.load(source, model, pretrained.partitioning.make_mesh())


def test_an_adapter_is_exported_beside_the_model_or_merged(adapted, tmp_path, capsys):
    run(capsys, "export", adapted, tmp_path / "hf", "--format", "huggingface")
    again = tmp_path / "again"
    run(capsys, "import", tmp_path / "hf", again, "--adapter", tmp_path / "hf" / "lora")
    assert fingerprint(again) == fingerprint(adapted)
    found, expected = load(again)[0].network.config, load(adapted)[0].network.config
    assert (found.lora.rank, found.lora.alpha) == (2, 4.0)
    # An export has to name some length of rows, where nothing tells it.
    found = dataclasses.replace(found, lora=None, max_positions=None)
    assert found == dataclasses.replace(expected, lora=None)

    merged = tmp_path / "merged"
    run(capsys, "export", adapted, merged, "--format", "huggingface", "--merge_lora")
    assert not (merged / "lora").exists()
    original = lora.merge(load(adapted)[1], LORA)
    for path, leaf in trees.flatten(load(merged)[1]).items():
        np.testing.assert_allclose(leaf, trees.flatten(original)[path], atol=1e-6)


def test_peft_writes_one_adapter(folder, adapted, tmp_path, capsys):
    run(capsys, "export", folder, tmp_path / "prompt", "--format", "peft")
    assert "PROMPT_TUNING" in run(capsys, "inspect", tmp_path / "prompt")
    run(capsys, "export", adapted, tmp_path / "lora", "--format", "peft")
    assert "LORA" in run(capsys, "inspect", tmp_path / "lora")
    assert "3" in run(capsys, "inspect", folder / "rte.npy")


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder, tmp_path, capsys):
    bare = tmp_path / "bare"
    run(capsys, "export", folder, bare, "--format", "huggingface")
    before = sorted(tmp_path.rglob("*"))
    printed = run(capsys, "import", bare, tmp_path / "new", "--dry-run")
    count = len(known.open_checkpoint(str(bare)).leaves)
    assert [line.split()[:2] for line in printed.splitlines()[2:]] == [
        ["loaded", str(count)],
        ["initialised", "0"],
        ["skipped", "0"],
    ]
    printed = run(
        capsys, "export", folder, tmp_path / "new", "--format", "huggingface", "--dry-run"
    )
    assert "PEFT folder rte" in printed
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_leaves_are_initialised_and_unknown_ones_skipped_by_pattern(
    folder, tmp_path, capsys
):
    model, params = load(folder)
    leaves = trees.flatten(params)
    norm = leaves.pop("encoder/encoder_norm/scale")
    leaves["encoder/extra/kernel"] = norm
    pretrained.save(tmp_path / "odd", model, trees.unflatten(leaves), {})
    line = fails(capsys, "import", str(tmp_path / "odd"), str(tmp_path / "new"))
    assert "missing encoder/encoder_norm/scale (16,); unexpected encoder/extra/kernel" in line
    patterns = ["--may_miss", ".*_norm/scale", "--may_skip", "encoder/extra/.*"]
    printed = run(capsys, "import", tmp_path / "odd", tmp_path / "new", *patterns)
    assert "encoder/extra/kernel (no place in the model)" in printed
    np.testing.assert_array_equal(
        trees.flatten(load(tmp_path / "new")[1])["encoder/encoder_norm/scale"], np.ones(16)
    )


def test_generate_answers_from_a_checkpoint_with_and_without_a_prompt(folder, capsys):
    def answers(*flags):
        flags = ["--checkpoint", folder, "--max_length", "4", *flags]
        return run(capsys, "generate", *flags, "Q: mali", "Q: iran").splitlines()

    bare = answers()
    assert len(bare) == 2
    assert answers("--beams", "1") == bare
    assert answers("--temperature", "1e-4") == bare
    assert answers("--prompt", "rte") != bare
    assert answers("--adapter", f"other={folder}/rte.npy", "--prompt", "other") == answers(
        "--prompt", "rte"
    )


def test_inspect_says_what_a_checkpoint_is(folder, capsys):
    printed = run(capsys, "inspect", folder, "--leaves", "--nearest", "2")
    facts = dict(line.split(maxsplit=1) for line in printed.splitlines()[:8])
    assert facts["format"] == "promot_jax"
    assert "emb_dim 16" in facts["sizes"]
    assert facts["fingerprint"] == fingerprint(folder)
    assert "soft prompts  rte (3 rows)" in printed
    for path, leaf in known.open_checkpoint(str(folder)).leaves.items():
        assert any(
            line.startswith(path) and str(leaf.shape) in line for line in printed.split("\n")
        )
    assert "nearest tokens, cosine" in printed


def test_a_model_folder_keeps_what_the_network_computes(adapted, tmp_path):
    model, _ = load(adapted)
    about = json.loads((adapted / "model.json").read_text())
    assert about["config"]["lora"] == {"pattern": LORA.pattern, "rank": 2, "alpha": 4.0}
    changed = dataclasses.replace(model, prefix_lm=True, start_id=7)
    pretrained.save(tmp_path / "changed", changed, load(adapted)[1], {})
    again, _ = load(tmp_path / "changed")
    assert (again.prefix_lm, again.start_id) == (True, 7)
    assert again.vocabulary.encode("mali") == mini.vocabulary().encode("mali")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_heads": "2"}, "num_heads = '2', expected a positive integer"),
        ({"num_encoder_layers": 10**9}, "num_encoder_layers = 1000000000, but only"),
        ({"mlp_activations": 5}, "no network can be built"),
        ({"mlp_activations": ["zzz"]}, "no network can be built"),
        ({"dtype": "float7"}, "no network can be built"),
        ({"lora": 3}, "no network can be built"),
    ],
)
def test_a_configuration_edited_by_hand_is_refused(folder, tmp_path, capsys, changes, expected):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    about = json.loads((damaged / "model.json").read_text())
    about["config"] |= changes
    (damaged / "model.json").write_text(json.dumps(about))
    assert expected in fails(capsys, "import", str(damaged), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_values_that_are_no_numbers_are_refused(folder, tmp_path, capsys):
    model, params = load(folder)
    params["decoder"]["decoder_norm"]["scale"] *= np.nan
    pretrained.save(tmp_path / "nan", model, params, {})
    line = fails(capsys, "import", str(tmp_path / "nan"), str(tmp_path / "new"))
    assert "decoder/decoder_norm/scale in" in line
    assert "NaN" in line
    np.save(tmp_path / "inf.npy", np.full((2, 16), -np.inf, np.float32))
    np.save(tmp_path / "none.npy", np.zeros((0, 16), np.float32))
    for name, expected in [("inf", "NaN or infinite"), ("none", "cannot name a prompt")]:
        adapter = ["--adapter", str(tmp_path / f"{name}.npy")]
        assert expected in fails(capsys, "import", str(folder), str(tmp_path / "new"), *adapter)
    adapter = ["--adapter", f"a={tmp_path}/none.npy"]
    assert "without rows" in fails(capsys, "import", str(folder), str(tmp_path / "new"), *adapter)


@pytest.mark.parametrize("name", ["", "..", "a b", "lora", "none", "*", "a\nb"])
def test_names_that_a_prompt_cannot_have(folder, tmp_path, capsys, name):
    adapter = ["--adapter", f"{name}={folder}/rte.npy"]
    line = fails(capsys, "import", str(folder), str(tmp_path / "new"), *adapter)
    assert "cannot name a prompt" in line


def test_a_path_may_have_an_equals_sign(folder, tmp_path, capsys):
    odd = shutil.copy(folder / "rte.npy", tmp_path / "a=b.npy")
    line = fails(capsys, "import", str(folder), str(tmp_path / "new"), "--adapter", str(odd))
    assert "'a=b' cannot name a prompt" in line
    run(capsys, "import", folder, tmp_path / "new", "--adapter", f"c={odd}")
    assert set(trees.prompts_of(load(tmp_path / "new")[1])) == {"rte", "c"}


def test_bad_requests_are_one_line(folder, adapted, tmp_path, capsys):
    wide = tmp_path / "wide.npy"
    np.save(wide, np.zeros((3, 8), np.float32))
    np.save(tmp_path / "long.npy", np.zeros((5, 16), np.float32))
    (tmp_path / "notes.txt").write_text("")
    new = str(tmp_path / "new")
    ours, peft = str(folder), str(tmp_path / "lora")
    run(capsys, "export", adapted, peft, "--format", "peft")
    for arguments, expected in [
        (["inspect", "nowhere"], "nowhere: no such file or folder"),
        (["inspect", str(tmp_path)], "holds no model checkpoint: expected"),
        (["import", ours, ours], "exists already"),
        (["import", ours, new, "--adapter", str(wide)], "has rows of 8 numbers"),
        (["import", ours, new, "--adapter", f"{ours}/rte.npy"], "has a prompt 'rte' already"),
        (["import", ours, new, "--adapter", f"a={tmp_path}/notes.txt"], "cannot be read"),
        (["import", ours, new, "--adapter", f"{tmp_path}/long.npy"], "rte has 3 rows"),
        (["import", str(adapted), new, "--adapter", peft], "has a low-rank adapter already"),
        (["export", str(adapted), new, "--format", "t5x"], "give --merge_lora"),
        (["export", ours, new, "--merge_lora"], "the model has no low-rank adapter"),
        (["export", ours, new, "--format", "peft", "--prompt", "x"], "one of rte"),
        (["generate", ours, "t", "--adapter", str(wide)], "--adapter goes with --checkpoint"),
        (["generate", "--checkpoint", ours, "--method", "x", "t"], "--method goes with a run"),
        (["export", ours, new, "--prompt", "rte"], "--prompt goes with --format peft"),
        (["export", ours, new, "--seed", "1"], "--seed goes with a run"),
        (["generate", ours], "give the folder of a run and a text"),
        (["generate", "--checkpoint", ours, "--prompt", "x", "t"], "use rte, none"),
        (["generate", "--checkpoint", ours, "--beams", "2", "--top_k", "3", "t"], "one of them"),
        (["generate", "--checkpoint", ours, "--top_p", "2", "t"], "top_p = 2"),
        (["generate", "--checkpoint", ours, "--top_p", "nan", "t"], "top_p = nan"),
        (
            ["generate", "--checkpoint", ours, "--max_length", "0", "t"],
            "--max_length = 0: expected a whole",
        ),
        (["generate", "--checkpoint", ours, "--seed", str(2**70), "t"], "--seed = 11805916207"),
        (["generate", "--checkpoint", ours, "\udcff"], "is not UTF-8"),
        # Before anything is opened.
        (["generate", "--checkpoint", new, "\udcff"], "is not UTF-8"),
        (["generate", "--checkpoint", ours, "--vocabulary", str(wide), "t"], "no SentencePiece"),
        (["import", ours, "gs://b/x"], "write to a local folder"),
        (["import", ours, "a\0b"], "cannot be the name of a folder"),
    ]:
        assert expected in fails(capsys, *arguments)
    assert not (tmp_path / "new").exists()


# ---- adapters of further kinds -------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(adapted):
    """The decoder-only model without its adapter, and its parameters."""
    model, params = load(adapted)
    return model.with_lora(None), lora.remove(params)


def exported(model, params, out, name, **options):
    lines = [*conversion.export_model(model, params, out, format_name=name, origin={}, **options)]
    return "\n".join(lines)


def with_adapters(plain, adapters):
    model, params = plain
    added = lora.add(params, adapters, jax.random.key(0))
    small = jax.tree.map(lambda leaf: leaf + 0.01, lora.adapters(added))
    return model.with_lora(adapters), trees.combine(lora.remove(added), small)


def test_parallel_adapters_go_where_they_have_a_place(plain, tmp_path):
    model, params = with_adapters(plain, Parallel(".*/mlp", 3))
    exported(model, params, tmp_path / "native", "native")
    again, found = load(tmp_path / "native")
    assert again.network.config.lora == Parallel(".*/mlp", 3)
    assert tiny.leaves_equal(found, params)
    told = exported(model, params, tmp_path / "hf", "huggingface")
    assert "the model is written without them; --format native keeps them" in told
    _, found = load(tmp_path / "hf")
    assert tiny.leaves_equal(found, lora.remove(params))
    for name, options in (("peft", {}), ("huggingface", {"merge_lora": True})):
        with pytest.raises(UserError, match="--format native keeps them"):
            exported(model, params, tmp_path / "none", name, **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("scaling", ["rank", "root_rank"])
def test_what_began_as_a_part_of_its_kernel_fits_the_base(plain, tmp_path, scaling):
    """PEFT's folder has twice the rank; added to the base's kernels it is what was merged here."""
    adapters = dataclasses.replace(LORA, scaling=scaling, init=MiLoRA())
    model, params = with_adapters(plain, adapters)
    small = trees.flatten(params)
    changed = {path: 3 * leaf for path, leaf in small.items() if path.endswith("lora_b")}
    params = trees.unflatten(small | changed)
    dry = exported(model, params, tmp_path / "peft", "peft", dry_run=True)
    assert dry == exported(model, params, tmp_path / "peft", "peft").rpartition("\n")[0]
    found = pretrained.attach(*plain, "a", str(tmp_path / "peft"))
    assert (found[0].network.config.lora.rank, found[0].network.config.lora.scaling) == (4, scaling)
    merged = lora.merge(found[1], found[0].network.config.lora)
    expected = trees.flatten(lora.merge(params, adapters))
    for path, leaf in trees.flatten(merged).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert not tiny.leaves_equal(merged, lora.remove(params))

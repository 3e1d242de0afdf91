"""What surrounds the weights of every family, before and after import and export."""

import json
import shutil

import numpy as np
import pytest

from promot_jax.base import partitioning
from promot_jax.checkpoints import pretrained
from promot_jax.checkpoints.formats import known, side_files
from promot_jax.models import decoding

pytestmark = pytest.mark.long

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
round_trip = pytest.importorskip("tests.checkpoints.round_trip")


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module", params=round_trip.FAMILIES)
def made(request, tmp_path_factory):
    """A folder of each family, never to be changed."""
    return round_trip.make(tmp_path_factory.mktemp(request.param) / "theirs", request.param)


def test_all_survives(made, tmp_path):
    kept = round_trip.survives(made, round_trip.through(made, tmp_path))
    assert [item for item, same in kept.items() if not same] == []


def test_our_ids_are_those_of_transformers(made):
    source = known.open_checkpoint(str(made))
    vocabulary = pretrained.find_vocabulary(source, None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(made)
    assert source.options["end_ids"][0] == vocabulary.eos_id == tokenizer.eos_token_id
    front, back = [], [vocabulary.eos_id] if source.family == "t5" else []
    if source.family == "decoder" and vocabulary.start_id is not None:
        front = [vocabulary.start_id]
    for text in round_trip.TEXTS:
        ids = tokenizer(text).input_ids
        if source.family == "t5" and "<|" in text:
            continue
        assert front + list(vocabulary.encode(text)) + back == ids, text


def answers(folder, decoder, texts, **settings):
    """Token ids that our decoder and `generate` of transformers give."""
    model, source = pretrained.open_model(str(folder))
    params = pretrained.load(source, model, partitioning.make_mesh())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    rows = [model.input_ids(text) for text in texts]
    tokens, segments = np.zeros((2, len(rows), max(map(len, rows))), np.int32)
    for place, ids in enumerate(rows):
        tokens[place, : len(ids)], segments[place, : len(ids)] = ids, 1
    inputs = {"encoder_input_tokens": tokens, "encoder_segment_ids": segments}
    ours = np.asarray(model.predict_batch(params, inputs, decoder, 12))
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    loader = round_trip.classes(kind)[0].from_pretrained(folder).float()
    theirs = loader.generate(
        **batch, do_sample=False, repetition_penalty=1.0, max_new_tokens=12, **settings
    )
    start = 1 if model.family == "t5" else batch.input_ids.shape[1]
    return model, ours, theirs[:, start:].numpy()


def with_ends(folder, copy, ends):
    """Copies a folder and names the tokens that end an answer."""
    shutil.copytree(folder, copy)
    file = copy / "generation_config.json"
    content = json.loads(file.read_text()) | {"eos_token_id": ends}
    file.write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize("beams", [1, 3])
def test_each_of_several_ends_stops_an_answer(tmp_path, beams):
    plain = round_trip.make(tmp_path / "plain", "qwen3", torch.float32)
    texts = ["the cat is", "is it a colour?", "12 345"]
    decoder = decoding.huggingface_beam(beams)
    _, free, _ = answers(plain, decoder, texts, num_beams=beams)
    own = json.loads((plain / "generation_config.json").read_text())["eos_token_id"]
    # Ends that the model will meet.
    ends = [own[0], int(free[0, 2]), int(free[1, 4])]
    folder = with_ends(plain, tmp_path / "several", ends)
    model, ours, theirs = answers(folder, decoder, texts, num_beams=beams)
    assert model.ends == tuple(ends)
    assert free[0].tolist() != ours[0].tolist()
    for row, expected in zip(ours, theirs, strict=True):
        place = next((i for i, t in enumerate(expected) if t in ends), len(expected) - 1)
        assert row[: place + 1].tolist() == expected[: place + 1].tolist()
        assert not row[place + 1 :].any()
    place = next(i for i, token in enumerate(ours[0]) if token in ends)
    assert model.texts(ours)[0] == model.vocabulary.decode(ours[0][:place])


def test_the_start_of_an_encoder_decoder_is_its_own(tmp_path):
    folder = round_trip.make(tmp_path / "t5", "t5_v1_1", torch.float32)
    for name in ("config.json", "generation_config.json"):
        about = json.loads((folder / name).read_text()) | {"decoder_start_token_id": 7}
        (folder / name).write_text(json.dumps(about))
    texts = ["the cat is", "is it a colour?"]
    model, ours, theirs = answers(folder, decoding.Greedy(), texts)
    width = theirs.shape[1]
    assert model.start_id == 7
    np.testing.assert_array_equal(ours[:, :width], theirs)
    loader = round_trip.classes("t5")[0].from_pretrained(folder)
    targets = np.array([[5, 9, 11, 1], [4, 6, 8, 1]])
    ids = np.array([[5, 6, 7, 1], [9, 8, 7, 1]])
    with torch.no_grad():
        expected = loader(input_ids=torch.tensor(ids), labels=torch.tensor(targets)).loss
    batch = {
        "encoder_input_tokens": ids,
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }
    source = known.open_checkpoint(str(folder))
    params = pretrained.load(source, model, partitioning.make_mesh())
    loss = model.loss_fn(params, batch, None)
    np.testing.assert_allclose(loss.total / loss.weight, expected, rtol=1e-4)
    exported = round_trip.through(folder, tmp_path)
    assert json.loads((exported / "config.json").read_text())["decoder_start_token_id"] == 7


def test_an_end_of_training_ends_answers_of_the_export():
    files = {
        side_files.CONFIG: b'{"eos_token_id": 3}',
        side_files.GENERATION: b'{"eos_token_id": [4, 5], "top_p": 0.5}',
    }
    changed = side_files.with_end(files, 9, "here")
    assert side_files.end_ids(changed, "here") == (4, 5, 9)
    assert json.loads(changed[side_files.GENERATION])["top_p"] == 0.5
    assert side_files.with_end(files, 5, "here") == files
    alone = {side_files.CONFIG: b'{"eos_token_id": 3}'}
    assert side_files.end_ids(side_files.with_end(alone, 9, "here"), "here") == (3, 9)

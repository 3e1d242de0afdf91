"""The one table of formats: what reads, what writes; a new format is a module and an entry."""

import importlib
import sys
import types

import numpy as np
import pytest

from promot_jax.base.errors import UserError
from promot_jax.checkpoints import formats
from promot_jax.checkpoints.formats import Format, known
from promot_jax.checkpoints.formats.source import Content, Source


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_entry_has_what_it_promises(name):
    about = formats.FORMATS[name]
    assert about.reader or about.writer
    for module, functions in [
        (about.reader, ("is_format", "open_checkpoint")),
        (about.writer, ("save",)),
    ]:
        if module is not None:
            found = importlib.import_module(f"{formats.__name__}.{module}")
            assert all(callable(getattr(found, function)) for function in functions)
    assert (name in formats.WRITTEN) == (about.writer is not None)


def test_a_new_format_is_a_module_and_an_entry(monkeypatch, tmp_path):
    def save(folder, content):
        np.savez(folder.with_suffix(".toy"), **content.leaves)

    def open_checkpoint(path):
        held = np.load(path)
        return Source(path, "toy", dict(held), held.__getitem__, where={})

    toy = types.SimpleNamespace(
        save=save, open_checkpoint=open_checkpoint, is_format=lambda path: path.endswith(".toy.npz")
    )
    monkeypatch.setitem(sys.modules, f"{formats.__name__}.toy", toy)
    monkeypatch.setitem(formats.FORMATS, "toy", Format("toy", "toy"))
    known.save("toy", tmp_path / "m", Content({"a": np.ones(2)}, about={}))
    source = known.open_checkpoint(tmp_path / "m.toy.npz")
    assert source.format == "toy"
    assert source.read("a").tolist() == [1, 1]
    with pytest.raises(UserError, match="no such file"):
        known.open_checkpoint(tmp_path / "other")

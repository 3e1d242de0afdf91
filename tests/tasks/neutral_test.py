"""Plain text as a task: its pieces, and files that cannot be used."""

import pytest

from promot_jax.base.errors import UserError
from promot_jax.data import tasks
from promot_jax.tasks import neutral


def test_the_second_half_of_a_piece_is_told_from_the_first(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("one two\n\nthree  four five six seven")
    name = neutral.task(str(file), words=3)
    rows = tasks.task(name).rows("validation")
    assert rows == [
        {"inputs": "one", "targets": "two three"},
        {"inputs": "four", "targets": "five six"},
    ]
    other = tmp_path / "other.txt"
    other.write_text("one two three four five seven")
    assert neutral.task(str(file), words=3) == name != neutral.task(str(other), words=3)


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (b"one two", 3, "text.txt has 2 words, fewer than a piece of 3; name a longer file"),
        (b"\xff\xfe one two", 2, "text.txt cannot be read as UTF-8 text"),
        (b"one two", 1, "neutral.task.words = 1; a piece needs 2 words at least"),
        (None, 2, "text.txt cannot be read as UTF-8 text .*No such file"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, content, words, message):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        neutral.task(str(file), words)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="NEUTRAL_FILE is not set"):
        neutral.task(None)

"""What a log shows of long work."""

from promot_jax.base.progress import Progress


def test_steps_that_were_done_before_are_no_news(capsys):
    with Progress("rows", 4) as progress:
        progress.skip(4)
    assert capsys.readouterr().out == ""
    with Progress("rows", 4) as progress:
        progress.skip(2)
        progress.advance(2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("rows: step 4/4  ")
    assert line.endswith("  done")

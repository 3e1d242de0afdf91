"""What the tests of the launch scripts share."""

import pathlib
import shlex
import shutil
import subprocess

from promot_jax import cli

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"


def bash(script, *arguments, env=None, cwd=ROOT):
    words = ["bash", str(script), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=env, cwd=cwd, timeout=60)


def printed(script, *arguments, **options):
    """Returns the commands that a dry run prints, as words."""
    done = bash(script, "--dry-run", *arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return commands(done.stdout)


def commands(text):
    """Returns the lines of a shell that are no comments, as words."""
    return [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]


def promot_arguments(words):
    """Parses the words of a `promot` command by its own parser."""
    assert pathlib.Path(words[0]).name == "promot"
    arguments, rest = cli._parser().parse_known_args(words[1:])
    cli._only_gin_flags(rest)
    return arguments, rest


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def small_checkout(folder):
    """Makes a checkout with the scripts and little else."""
    shutil.copytree(LAUNCH, folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    return folder

"""docs/your_task.md, typed as it stands."""

import json
import pathlib
import re
import subprocess
import sys

from tests.cli_test import MINI

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "your_task.md"


def test_the_page_runs(tmp_path):
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    row = json.loads(blocks["json"])
    others = [{"text": "the box is heavy", "label": "no"}, row]
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in [row, *others] * 8)
        )
    (tmp_path / "my_task.py").write_text(blocks["python"])
    (tmp_path / "my_experiment.gin").write_text(blocks["gin"])
    run, generate = blocks["bash"].strip().splitlines()
    assert run.startswith("promot run")
    assert generate.startswith("promot generate")
    program = f"{sys.executable} -m promot_jax.cli"
    flags = " ".join(f'"{flag}"' for flag in MINI if "seeds" not in flag)
    subprocess.run(
        f"{run.replace('promot', program, 1)} {flags}", shell=True, check=True, cwd=tmp_path
    )
    assert (tmp_path / "runs/my_task/report.html").exists()
    answer = subprocess.check_output(
        generate.replace("promot", program, 1), shell=True, cwd=tmp_path, text=True
    )
    assert len(answer.splitlines()) == 1

"""The report's page, Markdown, figures and colours, of whole and of unfinished runs."""

import html
import html.parser
import re
import shutil

import pytest

from promot_jax.report.build import build
from promot_jax.report.charts import palette
from promot_jax.report.pages import outputs, terminal
from promot_jax.report.records import records
from tests.report.report_run import about, change_about, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run with its report."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "mini")
    build(folder)
    return folder


@pytest.fixture
def small(tmp_path):
    """A fresh run of one's own to damage, without a report."""
    return write_run(tmp_path / "mini")


# The page


class Checker(html.parser.HTMLParser):
    """Collects tags and attributes; fails on a tag that is closed out of order."""

    void = frozenset({"meta", "img", "source", "br", "link", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else at {self.getpos()}"

    def handle_data(self, data):
        self.text.append(data)


def parse(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.open == []
    return checker


def test_page_is_well_formed_and_fetches_nothing(run):
    page = parse(run / "report.html")
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert "link" not in names
    sources = [v for _, a in page.tags for k, v in a.items() if k in ("src", "srcset")]
    assert len(sources) == 16
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert len(links) == 6
    assert all(link[1:] in ids for link in links)
    assert "url(" not in (run / "report.html").read_text()


def test_page_shows_texts_of_samples_and_configuration_as_text(run):
    page = parse(run / "report.html")
    text = "".join(page.text)
    assert "<b>monday & peru</b>" in text
    assert "MIXTURE = '<mini_rte> & co'" in text
    assert "answer of RTE" in text
    assert text.count("✓ target") == 3 * (2 + 3 + 2)


def test_differences_have_sign_arrow_and_colour(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    changes = re.findall(
        r'class="change (\w+)"><span aria-hidden="true">(.*?)</span>\((.*?)\)', text
    )
    assert [change[:2] for change in changes] == [("down", "▼ "), ("same", ""), ("down", "▼ ")]
    assert [change[2][0] for change in changes] == ["−", "±", "−"]


def test_samples_are_those_of_the_first_seed(small):
    path = small / "samples.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    later = [line.replace("montag", "dienstag") for line in lines if '"seed": 2' in line]
    path.write_text("".join([*later, *(line for line in lines if '"seed": 2' not in line), *later]))
    texts = [
        sample.prediction
        for task, examples in outputs.samples_by_task(records.read(small))
        for answers in examples
        for sample in answers.values()
        if task.name == "en_de"
    ]
    assert len(texts) == 12
    assert all(text.startswith("montag") for text in texts)


def test_figures_have_numbers_in_their_alternative_text(run):
    images = [attrs for tag, attrs in parse(run / "report.html").tags if tag == "img"]
    assert len(images) == 8
    for image in images:
        assert len(re.findall(r"\d+(?:\.\d+)?", image["alt"])) >= 6, image["alt"]
    assert "ProMoT, mean of 3 seeds" in images[0]["alt"]


def test_figures_are_drawn_for_light_and_dark_paper(run):
    names = sorted(path.name for path in (run / "figures").iterdir())
    assert len(names) == 16
    for name in names:
        if not name.endswith("-dark.png"):
            light = run / "figures" / name
            dark = light.with_name(f"{light.stem}-dark.png")
            assert light.read_bytes() != dark.read_bytes()


def test_markdown_has_whole_tables_and_links_to_files(run):
    text = (run / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) == 8
    assert all((run / link).is_file() for link in links)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1, block
    assert re.search(r"\| \*\*Norm\. Avg\.\*\* \|.*<br>\(−19\.\d\)", text)
    assert "\\<b\\>monday \\& peru" in text


# Colours


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_every_method_has_its_own_legible_colour(small):
    extra = [{"name": f"x{i}", "label": f"X{i}", "stages": ["model"]} for i in range(5)]
    change_about(small, methods=[*about((0,))["methods"], *extra])
    styles = list(palette.styles(records.read(small)).values())
    for kind in ("light", "dark", "marker"):
        assert len({getattr(style, kind) for style in styles}) == 9
    assert min(contrast(s.light, palette.LIGHT.background) for s in styles) > 3
    assert min(contrast(s.dark, palette.DARK.background) for s in styles) > 3


# Unfinished runs


@pytest.mark.usefixtures("undrawn")
def test_one_seed_shows_plain_numbers(tmp_path):
    folder = write_run(tmp_path / "one", seeds=(4,))
    text = build(folder).read_text(encoding="utf-8")
    found = records.read(folder)
    assert "±" not in terminal.terminal_table(found).replace("(±0.0)", "")
    assert "the spread is unknown" in text
    assert "level within the spread" not in text
    assert "over seeds" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_goes_on_gives_a_report_that_says_so(small):
    change_about(small, finished=None)
    path = small / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    keep = [line for line in lines if '"seed": 2' not in line and '"pretrained"' not in line]
    path.write_text("".join(keep) + '{"method": "promot", "se')
    (small / "samples.jsonl").unlink()
    shutil.rmtree(small / "seed_2" / "prompt-model")
    (small / "seed_2" / "model" / "stage.json").unlink()
    with (small / "seed_1" / "model" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 51')
    text = html.unescape(build(small).read_text(encoding="utf-8"))
    parse(small / "report.html")
    for note in (
        "The run is not finished",
        "The last line of results.jsonl is incomplete and was left out.",
        "The last line of seed_1/model/metrics.jsonl is incomplete and was left out.",
        "There is no samples.jsonl",
        "No scores yet for Pretrained; Standard fine-tuning (seed 2); Prompt tuning (seed 2); "
        "ProMoT (seed 2).",
        "No curves for stage prompt-model (seed 2).",
        "Not finished: stage model (seed 2).",
    ):
        assert note in text, note
    assert "against pretrained" not in terminal.terminal_table(records.read(small))


def test_only_run_json_is_needed(small):
    for path in small.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "run.json":
            path.unlink()
    text = build(small).read_text(encoding="utf-8")
    parse(small / "report.html")
    assert "There is no results.jsonl" in text
    assert "No method that trains has been evaluated completely yet." in text
    assert (small / "report.md").is_file()

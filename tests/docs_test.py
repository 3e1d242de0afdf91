"""README.md, CHANGELOG.md, the guides and the pages of results: short, and with links that hold."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
# Reports, tables of the paper and the protocols of the runs stand as they were written.
RESULTS = sorted((ROOT / "results").rglob("README.md"))
PAGES = [README, ROOT / "CHANGELOG.md", *GUIDES, *RESULTS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
LONGEST_SENTENCE = 35


def name(page):
    return str(page.relative_to(ROOT))


def words(page):
    return len(page.read_text().split())


def paragraphs(text):
    """Returns the paragraphs and items of a page: no code, tables, pictures or headings."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", CODE.sub("\n\n", text))
    return [block for block in map(str.strip, blocks) if block and block[0] not in "|#!<"]


def sentences(text):
    for paragraph in paragraphs(text):
        # A link counts as what it shows, a command as one word.
        prose = re.sub(r"`[^`]*`", "code", LINK.sub("]", paragraph), flags=re.DOTALL)
        yield from re.split(r"(?<=[.!?:])[*_)]*\s", prose)


def anchors(page):
    """Returns the anchors of a page's headings as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_front_page_is_short():
    assert words(README) <= 550
    assert len(LINK.findall(README.read_text())) <= 15
    assert README.read_text().count("![") == 1


def test_the_example_is_short_python():
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 15
    compile(example, "README.md", "exec")


def test_the_guides_are_short():
    assert sum(map(words, GUIDES)) <= 12_000


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sentences_are_short(page):
    long = [one for one in sentences(page.read_text()) if len(one.split()) > LONGEST_SENTENCE]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_begins_with_its_title_and_a_sentence(page):
    title, blank, first, *_ = page.read_text().splitlines()
    assert title.startswith("# ")
    assert not blank
    assert re.match(r"[\w`*[]", first)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_tables_have_as_many_cells_in_every_row(page):
    for table in re.findall(r"(?:^\|.*\n)+", CODE.sub("", page.read_text()), re.MULTILINE):
        cells = {len(re.split(r"(?<!\\)\|", line.rstrip())) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_every_guide_is_linked():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text())
    }
    assert set(GUIDES) <= linked

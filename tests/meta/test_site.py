"""The site: every public name has its place, links lead somewhere, figures are the code's, the citation is whole."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

import lgkd
from lgkd import errors, losses
from tests.support.unrendered import real_figures
from tools import guidance_figures, results_figures
from tools.pages import PAGES, ROOT

DOCS = ROOT / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference_once() -> None:
    named = re.findall(r"\.\. auto(?:function|class):: ([\w.]+)", REFERENCE)
    public = [
        *(name for name in lgkd.__all__ if name != "losses"),
        *(name for name in losses.__all__ if name != "TERMS"),
    ]
    assert sorted(name for name in named if "." not in name) == sorted(public)


def test_every_error_is_in_the_reference() -> None:
    (members,) = re.findall(r"automodule:: lgkd\.errors\n +:members: (.*)", REFERENCE)
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert members.split(", ") == kinds


def anchors(page: Path) -> set[str]:
    """The names that GitHub and MyST give to the headings of a page."""
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#{1,6} (.+)$", text, flags=re.M)
    }


def links(page: Path) -> list[str]:
    text = re.sub(r"^\s*```.*?^\s*```\s*$|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [one for one in re.findall(r"\]\(([^)\s]+)\)", text) if not one.startswith(("https:", "http:"))]


def test_links_of_all_pages_lead_somewhere() -> None:
    pages = [*PAGES, ROOT / "CHANGELOG.md"]
    assert sum(len(links(page)) for page in pages) > 60
    for page in pages:
        for link in links(page):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_navigation_once() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted([*listed, "index"]) == sorted(page.stem for page in DOCS.glob("*.md"))


def test_no_page_of_the_site_is_more_than_a_short_reading_wide() -> None:
    """The pages that were written for the site; tables and code may be wider."""
    for name in ("index", "tutorial", "guidance", "own", "own-images", "pausing", "notebook", "neighbours"):
        for number, line in enumerate((DOCS / f"{name}.md").read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 145 or line.startswith("|"), f"{name}.md:{number}"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with real_figures():
        return guidance_figures.draw(tmp_path_factory.mktemp("figures"))


def test_the_figures_are_those_that_the_code_draws(figures: list[Path]) -> None:
    """What is said in them is kept in their descriptions, which no version of matplotlib draws otherwise."""

    def described(path: Path) -> list[str]:
        return [text.strip() for text in ET.parse(path).getroot().itertext() if text.strip()][:40]

    for path in figures:
        kept = DOCS / "img" / path.name
        assert described(path) == described(kept), f"{path.name}: run python -m tools.guidance_figures"
        assert any("img/" + path.name in page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))


def test_the_figure_of_the_results_is_of_the_rows_that_are_there(tmp_path: Path) -> None:
    text = "| 10 a class: unguided | 0, 1 | 8.06 ± 0.21 | 9 |\n| 5 a class: locality guidance | 0 | 9.00 | 9 |\n"
    with pytest.raises(SystemExit, match="lacks rows of cifar100-images-per-class"):
        results_figures.rows(text)
    whole = (
        text
        + "| 10 a class: ResNet-20, the teacher | 0 | 13.56 | 13 |\n| 5 a class: unguided | 0, 1 | 7.50 ± 1.00 | 9 |\n"
    )
    assert results_figures.rows(whole) == {
        "ResNet-20, the teacher": [(10, 13.56, 0.0)],
        "locality guidance": [(5, 9.0, 0.0)],
        "unguided": [(5, 7.5, 1.0), (10, 8.06, 0.21)],
    }
    with real_figures():
        drawn = results_figures.draw(tmp_path)
    kept = DOCS / "img" / drawn.name
    told = [re.search(r"ResNet-20, the teacher: [^<]+", path.read_text(encoding="utf-8")) for path in (drawn, kept)]
    assert told[0] and told[1] and told[0][0] == told[1][0], "run python -m tools.results_figures"


def test_the_figure_of_an_evening_adds_the_teachers_minutes(tmp_path: Path) -> None:
    text = (
        "| 40 minutes: FastNet, the teacher | 0 | 60.50 | 60.50 |  |  | 24.3 min, 16.1 min of processor time | AMD |\n"
        "| 40 minutes: ViT, unguided | 0 | 57.25 | 57.25 |  |  | 50.1 min, 34.0 min of processor time | AMD |\n"
        "| 120 minutes: ViT, unguided |  |  |  |  |  |  |  |\n"
    )
    with pytest.raises(SystemExit, match="lacks rows of cifar100-evening"):
        results_figures.evening_rows(text)
    whole = (
        text
        + "| 40 minutes: ViT, guided | 0, 1 | 62.07 ± 0.11 | 62 | +5 | x | 9 min, 20.0 min of processor time | A |\n"
    )
    assert results_figures.evening_rows(whole) == {"unguided": [(34.0, 57.25, 0.0)], "guided": [(36.1, 62.07, 0.11)]}
    with real_figures():
        drawn = results_figures.draw_evening(tmp_path)
    kept = DOCS / "img" / drawn.name
    told = [re.search(r"guided: [^<]+", path.read_text(encoding="utf-8")) for path in (drawn, kept)]
    assert told[0] and told[1] and told[0][0] == told[1][0], "run python -m tools.results_figures"


def test_the_figure_of_the_method_shows_the_papers_shapes() -> None:
    """DeiT-Ti at 224 px and ResNet-56 at 32 px, as in the authors' configurations."""
    met = guidance_figures.pairs()
    assert [pair.student for pair in met] == ["blocks.0", "blocks.6", "blocks.11"]
    assert [pair.student_map for pair in met] == [(192, 14, 14)] * 3
    assert [pair.teacher_map for pair in met] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert [pair.grid for pair in met] == [(32, 32), (16, 16), (14, 14)]
    projections = sum((192 + 1) * pair.teacher_map[0] for pair in met)
    assert f"{projections:,} numbers" in (DOCS / "guidance.md").read_text(encoding="utf-8")


def test_the_citation_is_complete_and_of_this_version() -> None:
    """The keys that version 1.2.0 of the Citation File Format requires, and none that would be invented."""
    cited: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == lgkd.__version__ and cited["license"] == "Apache-2.0"
    assert not {"doi", "identifiers", "repository-code"} & cited.keys()
    for work in (cited, *cited["references"]):
        assert work["title"] and all(person.keys() & {"name", "family-names"} for person in work["authors"])
    (paper,) = cited["references"]
    assert paper.keys() >= {"type", "title", "authors"} and "2207.10026" in paper["url"]

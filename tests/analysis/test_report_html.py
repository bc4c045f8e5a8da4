"""A report as a file: text stays text, nothing is asked of the network, and it can be read aloud."""

import base64
import io
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from lgkd._internal.manifest import MANIFEST
from lgkd.analysis.report import html
from lgkd.analysis.report import sentences as words
from lgkd.analysis.report.command import command, consequences, preconditions
from lgkd.analysis.report.figures import Line, draw_accuracy, draw_losses
from lgkd.analysis.report.metrics import Curve
from lgkd.analysis.report.report import check_place, write_report
from lgkd.analysis.report.reproduction import Step
from lgkd.analysis.report.selection import choose
from lgkd.analysis.report.svg import Svg, inline
from lgkd.analysis.report.thumbnails import embedded, picture
from lgkd.analysis.report.verdict import Tile, Verdict
from lgkd.cli import run
from lgkd.cli.summary import write_page
from lgkd.data.dataset import Images
from lgkd.errors import InputError, TakenError
from lgkd.runs.compare.find import Finished
from lgkd.runs.folder import read_run
from lgkd.runs.plots import BLUE, as_svg, new_figure
from tests.support.comparing import make_run, make_seeds
from tests.support.manifests import reseal
from tests.support.small import QUICK, TINY, World, make_pictures, snapshot
from tests.support.unrendered import real_figures

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Tags with attributes, the text, and whether every tag is closed in order."""

    VOID = ("meta", "img", "br", "link", "path", "use", "image")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module", autouse=True)
def _rendered() -> Iterator[None]:
    with real_figures():
        yield


@pytest.fixture(scope="module")
def page(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGKD_HOME", str(world.home))
        out = tmp_path_factory.mktemp("report") / "report.html"
        before = snapshot(world.guided_run, world.unguided_run)
        # Guided and unguided runs together are runs and their baseline.
        assert write_report([world.unguided_run, world.guided_run], out=out) == out
        assert snapshot(world.guided_run, world.unguided_run) == before
        return out


def test_the_verdict_is_read_first_and_large_and_what_is_looked_up_is_folded(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    parts = ("summary", "curves", "classes", "confusion", "calibration", "mistakes", "again")
    order = ["<h1>", 'class="tiles"', "<nav", *(f'<section id="{part}"' for part in parts)]
    places = [text.index(mark) for mark in order]
    assert places == sorted(places)
    assert "points over the baseline with one seed: not a result yet" in "".join(read.words).partition("Contents")[0]
    folded = re.findall(r"<details>.*?</details>", text, re.DOTALL)
    assert any("schedule:" in one and "<summary>Recipe</summary>" in one for one in folded)
    assert any("packages: torch" in one for one in folded) and not read.all("details")[0].get("open", "")
    shown = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "packages: torch" not in shown and "optimizer:" not in shown


def test_nothing_is_asked_of_the_network_and_nothing_is_run(page: Path) -> None:
    read = Reader(page.read_text(encoding="utf-8"))
    policy = read.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in (policy["content"] or "")
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in read.tags}
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,")), (tag, name, value[:60])
    assert not re.search(r"url\((?!#)|@import", page.read_text(encoding="utf-8"))


def test_it_can_be_read_aloud_and_by_keyboard(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    read = Reader(text)
    assert read.all("html")[0]["lang"] == "en"
    assert [len(read.all(tag)) for tag in ("h1", "main", "header", "nav", "footer", "title")][:5] == [1] * 5
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert read.all("img") and all(image["alt"] for image in read.all("img"))
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in read.all("svg"):
        assert svg["role"] == "img"
        assert set((svg["aria-labelledby"] or "").split()) <= set(ids)
    for section in read.all("section"):
        assert section["aria-labelledby"] in ids
    assert text.count("<table") == text.count("<caption>") > 5
    assert all(cell.get("scope") in ("row", "col") for cell in read.all("th"))
    for link in read.all("a"):
        assert (link["href"] or "").removeprefix("#") in ids


def test_every_figure_lies_beside_as_png(page: Path) -> None:
    names = {path.name for path in page.with_suffix("").iterdir()}
    assert names == {"curves.png", "loss.png", "classes.png", "confusion.png", "calibration.png"}
    for path in page.with_suffix("").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    svgs = Reader(page.read_text(encoding="utf-8")).all("svg")
    assert len(svgs) == len(names)


def test_it_says_what_run_json_says_and_calls_one_seed_no_result(page: Path, world: World) -> None:
    words = " ".join(" ".join(Reader(page.read_text(encoding="utf-8")).words).split())
    info = read_run(world.guided_run)
    gain = info["results"]["test_top1"] - read_run(world.unguided_run)["results"]["test_top1"]
    assert f"{info['results']['test_top1']:.2%} of 12 test images" in words
    assert f"{100 * gain:+.2f} points with one seed, which gives no interval and is not a result" in words
    assert "hf_not_to_be_written_down" not in page.read_text(encoding="utf-8")
    assert re.search(r"memory, highest [1-9][\d,]* MB", words)
    for key in ("processor", "packages: torch", "optimizer:"):
        assert key in words


@pytest.mark.slow
def test_the_same_is_said_where_the_baseline_is_named(page: Path, world: World, here: Path) -> None:
    named = write_report(world.guided_run, world.unguided_run, out=here / "named.html")
    assert named.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


def test_without_a_baseline_its_parts_are_left_out_in_words(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(world.guided_run), "--out", "alone.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": "alone.html", "figures": "alone"}
    words = " ".join(Reader(Path("alone.html").read_text(encoding="utf-8")).words)
    assert "No baseline was given, so the guide's gain is unknown." in words
    assert "what guidance changed cannot be seen in one run" in words
    assert "Corrected" not in words
    assert "Accuracy of each class" in words


def test_without_what_was_made_in_python_the_rest_is_still_told(world: World, here: Path) -> None:
    for key, value, why in (
        ("path", None, "the data set was loaded in Python"),
        ("name", None, "a module that was made"),
    ):
        copy = here / key
        shutil.copytree(world.guided_run, copy)
        file = copy / ("run.json" if key == "path" else "student.json")
        content = json.loads(file.read_text())
        (content["dataset"] if key == "path" else content)[key] = value
        file.write_text(json.dumps(content))
        reseal(copy)
        told: list[str] = []
        words = write_report(copy, say=told.append).read_text(encoding="utf-8")
        assert why in told[0]
        assert why in words


def test_without_the_images_the_rest_is_still_told(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = here / "copy"
    copy.mkdir()
    for name in ("run.json", "recipe.yaml", "env.json", "metrics.csv", "student.json", "student.safetensors", MANIFEST):
        (copy / name).write_bytes((world.guided_run / name).read_bytes())
    info = json.loads((copy / "run.json").read_text())
    info["dataset"]["path"] = str(here / "gone")
    (copy / "run.json").write_text(json.dumps(info))
    reseal(copy)
    assert run(["report", str(copy)]) == 0
    assert "class by class, confusion, calibration and examples are left out" in capsys.readouterr().err
    words = " ".join(Reader((copy / "report.html").read_text(encoding="utf-8")).words)
    assert "Left out, for the test images are missing" in words
    assert not (copy / "report" / "confusion.png").exists()
    assert (copy / "report" / "curves.png").exists()


def test_a_class_called_script_stays_text(here: Path, world: World) -> None:
    pictures = make_pictures(here / "evil", (EVIL.replace("/", "\u2215"), "$x_$&<b>", "rows\u202e"), train=4, test=2)
    data = ["--dataset", str(pictures), *TINY, *QUICK, "--epochs", "1", "--quiet"]
    assert run(["train", "--student", "deit_tiny", *data, "--seeds", "0,1", "--report", "--out", "runs"]) == 0
    text = Path("runs/report.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert not read.all("script") and not read.all("b")
    assert "<script>alert(1)<\u2215script>" in "".join(read.words)
    assert "$x_$&<b>" in "".join(read.words)
    assert "\u202e" not in text and "rows\\u202e" in text


def test_text_of_others_becomes_no_markup() -> None:
    shown = html.environment().from_string("{{ text }}").render
    assert shown(text=EVIL) == "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert shown(text='" onload="x') == "&#34; onload=&#34;x"
    assert shown(text="a\nb\x1b[2J\x00\u2028\u202e") == "a\\nb\\x1b[2J\\x00\\u2028\\u202e"
    assert shown(text="caf\udce9").encode() == b"caf\\xe9"
    figure, axis = new_figure(1)
    axis.set_title(EVIL)
    drawn = html.blocks.figure("x", inline(as_svg(figure), "x"), EVIL, f"{EVIL}--><b>", EVIL)
    assert "<script" not in drawn and "<b>" not in drawn
    assert drawn.count("&lt;script&gt;alert(1)") >= 3


def test_every_macro_escapes_every_text_that_it_is_given() -> None:
    """With `<script>` in every place where a text goes; what is asserted is the whole of the page's elements."""
    svg = Svg(' viewBox="0 0 1 1"', "<path/></svg>")
    image = {
        "format": EVIL, "data": EVIL, "small": True, "width": EVIL, "height": EVIL, "alt": EVIL, "true": EVIL,
        "lines": [EVIL, EVIL],
    }  # fmt: skip
    steps = [Step(EVIL, [EVIL, EVIL], EVIL), Step(EVIL, [EVIL])]
    verdict = Verdict(EVIL, EVIL, [Tile(EVIL, EVIL, EVIL)], EVIL)
    blocks = html.blocks
    found = [
        blocks.paragraphs([EVIL]),
        blocks.prose([EVIL]),
        blocks.table(EVIL, (EVIL, EVIL, EVIL), [[EVIL, EVIL, EVIL]]),
        blocks.figure(EVIL, svg, EVIL, EVIL, EVIL, "large"),
        blocks.beside(EVIL, [EVIL]),
        blocks.folded(EVIL, blocks.text([EVIL, EVIL])),
        blocks.tiles([Tile(EVIL, EVIL, EVIL)]),
        blocks.commands(steps),
        blocks.gallery([image]),
        blocks.examples(EVIL, [image]),
    ]
    macros = {name for name in vars(blocks) if not name.startswith("_")}
    assert macros == {
        "paragraphs", "prose", "table", "figure", "beside", "folded", "text", "tiles", "commands", "gallery",
        "examples", "page",
    }  # fmt: skip
    part = {"name": EVIL, "title": EVIL, "half": True, "blocks": [*found, EVIL]}
    page = str(blocks.page(EVIL, verdict, [part], EVIL))
    assert "<script" not in page
    # Of the blocks in their order, and of the page: title twice, the verdict's four and its tile, head, link and
    # section of the part, the version, and the last block.
    of_the_page = 2 + 3 + 3 + 2 + 4 + 1 + 1
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 1 + 1 + 8 + 8 + 2 + 3 + 3 + 6 + 8 + 9 + of_the_page
    assert {tag for tag, _ in Reader(page).tags} & {"script", "b"} == set()


def test_only_our_own_pictures_are_taken_for_markup() -> None:
    """No other switch turns the escapes off: `safe` stands in two places, of one SVG element."""
    folder = Path(html.__file__).parent
    template = (folder / html.TEMPLATE).read_text(encoding="utf-8")
    assert re.findall(r"\{\{-? *([^}]*\| *safe)", template) == ["svg.attributes|safe", "svg.content|safe"]
    assert "autoescape" not in template
    code = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert "Markup(" not in code and "__html__" not in code
    assert code.count("autoescape") == 1 and html.environment().autoescape is True


def test_a_picture_is_cut_out_of_its_canvas_and_keeps_its_resolution() -> None:
    pixels = torch.zeros(3, 3, 600, 600, dtype=torch.uint8)
    pixels[0, :, :512, :256] = 255
    sizes = torch.tensor([[512, 256], [20, 30], [200, 100]], dtype=torch.int32)
    images = Images(pixels, sizes, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    assert picture(images, 0).shape == (3, 256, 128)
    assert int(picture(images, 0).min()) == 255
    assert picture(images, 1).shape == (3, 20, 30)
    assert picture(images, 2).shape == (3, 200, 100)
    for place, kind in ((1, "PNG"), (2, "JPEG")):
        shown = embedded(images, place)
        with Image.open(io.BytesIO(base64.b64decode(str(shown["data"])))) as decoded:
            assert (decoded.format, decoded.size) == (kind, (shown["width"], shown["height"]))
        assert (shown["format"], shown["small"]) == (kind.lower(), kind == "PNG")


def test_the_command_makes_the_very_same_student_again(world: World, here: Path) -> None:
    (here / "pictures").symlink_to(world.pictures)
    for folder in (world.guided_run, world.unguided_run):
        chosen = choose([folder])
        line = command(chosen, out=f"again-{folder.name}")
        assert line is not None and str(world.pictures.parent) not in line
        assert str(preconditions(chosen)).startswith("The working folder has to hold pictures")
        shutil.copy(folder / "recipe.yaml", here / "recipe.yaml")
        words = shlex.split(line)
        assert words[0] == "lgkd"
        assert run([*words[1:], "--quiet", *(["--report"] if folder == world.guided_run else [])]) == 0
        again, before = (
            json.loads((place / "student.json").read_text()) for place in (here / f"again-{folder.name}", folder)
        )
        assert again["weights_sha256"] == before["weights_sha256"]
    assert (here / "again-guided" / "report.html").is_file()
    assert not (here / "again-unguided" / "report.html").exists()


def test_a_training_does_not_end_badly_for_want_of_a_report(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_page(world.guided_run, here / "taken.txt")
    assert "no report was written: --out is" in capsys.readouterr().err


def test_a_run_of_objects_has_no_command(here: Path) -> None:
    made_in_python = choose([make_run(here / "x", 0.5, call=None)])
    assert command(made_in_python, out="again") is None


def a_call(*teachers: str, **options: object) -> dict[str, object]:
    return {"model_options": {"depth": 3}, "teachers": teachers, "taps": None, "options": {"subset_seed": 0, **options}}


def test_the_command_of_a_series_names_all_seeds_and_its_baseline(here: Path) -> None:
    photos = {"path": "/home/somebody/photos"}
    for guided in (False, True):
        make_seeds(here / "series", [0.5, 0.6], guided=guided, dataset=photos, call=a_call(*["resnet8"] * guided))
    chosen = choose([here / "series"])
    assert command(chosen, out="again") == (
        "lgkd distill --student deit_tiny --teacher resnet8 --dataset photos/ --student-option depth=3 "
        "--recipe recipe.yaml --seeds 0,1 --with-baseline --out again"
    )
    assert preconditions(chosen) == "The working folder has to hold photos, or links of that name."
    assert "the same students" in consequences(chosen)


def test_a_baseline_of_other_seeds_is_not_part_of_the_command(here: Path) -> None:
    alone = make_seeds(here / "alone", [0.5, 0.5], first=5, call=a_call())
    guided = make_seeds(here / "guided", [0.5, 0.5], guided=True, call=a_call("resnet8", fraction=0.5))
    chosen = choose([guided], [alone])
    line = command(chosen, out="again")
    assert line is not None and "--seeds 0,1 --fraction 0.5 --subset-seed 0 --out" in line
    other = "The baseline was trained by another command; a report of it alone shows that."
    assert consequences(chosen).endswith(other)


def test_the_summary_tells_how_large_the_student_and_how_good_its_teacher_is(here: Path) -> None:
    small = {"options": {"depth": 3, "embed_dim": 48}, "parameters": 90824}
    run_ = make_run(here / "run", 0.5, guided=True, student=small, teacher={"test_top1": 0.3125})
    told = " ".join(words.summary(choose([run_])))
    assert "The student has 90,824 parameters: depth 3, embed_dim 48." in told
    assert "The teacher resnet8 classifies 31.25% of the test images correctly." in told
    nothing_known = " ".join(words.summary(choose([make_run(here / "other", 0.5, guided=True)])))
    assert "The teacher resnet8" not in nothing_known and "7 parameters." in nothing_known


def test_a_report_of_several_seeds_names_them_all_and_the_last_to_end() -> None:
    ends = ("2026-11-28T10:00:00+00:00", "2026-11-28T12:00:00+00:00")
    runs = [finished({"seed": seed, "finished": end, "dataset": {}}) for seed, end in enumerate(ends)]
    assert words.when(runs) == "Seeds 0, 1, finished 2026-11-28 12:00:00 UTC"
    assert words.when([finished({"seed": 3, "dataset": {}})]) == "Seed 3, finished at an unknown time"
    folds = [finished({"seed": 0, "dataset": {"subset": f"fold {fold} of 3, seed 0"}}) for fold in (1, 2, 3)]
    assert words.when(folds).startswith("Folds 1, 2, 3, finished")
    assert [words.name_of(run) for run in folds] == ["fold 1", "fold 2", "fold 3"]
    other = finished({"seed": 4, "dataset": {"subset": "fold 2 of 3, seed 0"}})
    assert words.name_of(other) == "seed 4, fold 2"
    assert words.when([folds[0], other]).startswith("Fold 1; seed 4, fold 2, finished")


def finished(info: dict[str, object]) -> Finished:
    return Finished(Path("x"), info, [], {})


def test_no_axis_of_epochs_has_marks_between_them() -> None:
    rows = [{"epoch": float(epoch), "loss_a": 1.0 / epoch} for epoch in (1, 2, 3)]
    curve = Curve([1.0, 2.0], [0.1, 0.2], [0.1, 0.2], [0.1, 0.2], 1)
    for figure in (draw_accuracy([Line("x", curve, BLUE)]), draw_losses(rows), draw_losses(rows[:1])):
        figure.draw_without_rendering()
        assert all(mark == round(mark) for mark in figure.axes[-1].get_xticks())


def test_a_report_goes_over_a_report_and_over_nothing_else(page: Path, world: World, here: Path) -> None:
    (here / "old.html").write_bytes(page.read_bytes())
    check_place(here / "old.html")
    (here / "mine.html").write_text("<p>mine</p>")
    before = snapshot(here)
    with pytest.raises(TakenError, match=r"mine\.html is not a report of lgkd and would be overwritten; choose"):
        write_report(world.guided_run, out=here / "mine.html")
    with pytest.raises(InputError, match=r"--out is .*report\.pdf, expected a name that ends in \.html"):
        write_report(world.guided_run, out=here / "report.pdf")
    (here / "figures").write_text("a file")
    with pytest.raises(TakenError, match="expected the folder of the figures"):
        write_report(world.guided_run, out=here / "figures.html")
    assert snapshot(here) == before | {str(here / "figures"): snapshot(here)[str(here / "figures")]}


def test_runs_of_two_kinds_make_no_report(world: World, here: Path) -> None:
    with pytest.raises(InputError, match="the runs differ in more than their seeds"):
        write_report([world.guided_run, world.teacher_run], out=here / "x.html")
    assert run(["report", str(here / "nowhere")]) == 2
    with pytest.raises(InputError, match="the runs differ from the baseline in nothing"):
        write_report(world.unguided_run, world.unguided_run, out=here / "x.html")
    assert not (here / "x.html").exists()

"""The model card of an export: true to the run, and harmless whatever things are called."""

import copy
import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lgkd.deploy.model_card import model_card
from lgkd.deploy.snippets import literal
from lgkd.deploy.subject import environment_of, read_subject
from tests.support.small import World

ABOUT = {
    "exported": "2026-01-02T03:04:05+00:00",
    "files": {
        "student.safetensors": {"bytes": 1234, "sha256": "ab", "largest_difference": 2.5e-6},
        "student.onnx": {"bytes": 5678, "sha256": "cd", "largest_difference": 3.5e-6},
    },
    "compared_on": {"images": 12, "of": "pictures", "batch_sizes": [1, 7], "largest_logit": 6.25, "limit": 1e-4},
    "timm": {"model": "deit_tiny_patch16_224", "arguments": {"num_classes": 3, "patch_size": 4}},
    "versions": {"torch": "9.9"},
    "onnx_opset": 20,
}


@pytest.fixture(scope="module")
def card(world: World) -> str:
    return model_card(read_subject(world.guided_run, None), ABOUT, environment_of(world.guided_run))


def html(card: str) -> str:
    """As a viewer of Markdown would show it that lets HTML through."""
    body = card.partition("---\n")[2].partition("---\n")[2]
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def test_the_card_says_of_the_run_what_its_folder_says(world: World, card: str) -> None:
    info = json.loads((world.guided_run / "run.json").read_text())
    env = json.loads((world.guided_run / "env.json").read_text())
    shown = html(card)
    for value in (
        f"<td>{info['results']['test_top1']:.2%}</td>",
        f"<td>{info['dataset']['fingerprint']}</td>",
        f"resnet8, top-1 {info['teacher']['test_top1']:.2%} on the same test split",
        f"<td>{info['recipe']}</td>",
        "On the test split of pictures (12 images), after the last epoch of 2; nothing was selected",
        f"torch {env['packages']['torch']}",
        "3: checks, columns, rows",
        f"{info['student']['parameters']:,} parameters",
        "<td><code>student.onnx</code></td>\n<td>graph and weights, ONNX opset 20</td>",
        "3.5e-06",
        "This is one training with seed 0",
    ):
        assert value in shown, value
    assert shown.count("<h2>") == 6 and shown.count("<table>") == 5
    # Three classes of four images each.
    assert "top-5" not in shown and "balanced accuracy" not in shown
    for name, one in info["results"]["test_by_class"].items():
        cells = f"<td>{name}</td>\n" + "".join(
            f'<td style="text-align:right">{cell}</td>\n'
            for cell in ("4", *(f"{one[key]:.2%}" for key in ("precision", "recall", "f1")), f"{one['auroc']:.4f}")
        )
        assert cells in shown
    assert "timm.create_model('deit_tiny_patch16_224', num_classes=3, patch_size=4)" in card
    assert "torch.export.load" not in card  # of a format that was not written


def test_what_was_chosen_on_held_out_images_is_said(world: World) -> None:
    subject = read_subject(world.unguided_run, None)
    info = copy.deepcopy(subject.info)
    info["results"].update(selected_on="val", epoch=1)
    info["dataset"].update(val_images=8)
    subject.info.update(info)
    assert "after epoch 1 of 2, the best on 8 held-out images by top-1 accuracy" in model_card(subject, ABOUT, {})
    subject.info["results"]["selected_by"] = "macro_f1"
    assert "the best on 8 held-out images by macro F1" in model_card(subject, ABOUT, {})
    assert "| teacher | none |" in model_card(subject, ABOUT, {})


def test_unequal_classes_have_balanced_accuracy_and_many_classes_top_5(world: World) -> None:
    subject = read_subject(world.unguided_run, None)
    results = copy.deepcopy(subject.info["results"])
    by_class = results["test_by_class"]
    for name, predicted in (("checks", 9), ("columns", 3), ("rows", 0)):
        by_class[name]["predicted"] = predicted
    by_class["checks"]["count"] = 9
    results |= {"test_top1": 0.5, "test_balanced_accuracy": 0.25, "test_macro_f1": 0.2, "test_auroc": 0.625}
    subject.info["results"] = results
    card = model_card(subject, ABOUT, {})
    assert "| balanced accuracy | 25.00% |\n| macro F1 | 20.00% |\n| one-vs-rest AUROC | 0.6250 |" in card
    assert "1 of 3 classes is never predicted: rows." in html(card) and "top-5" not in card
    subject.info["dataset"]["classes"] = 11
    assert f"| top-5 | {results['test_top5']:.2%} |" in model_card(subject, ABOUT, {})
    # A run of an earlier version, and one that was changed by hand.
    for odd in (None, {"checks": 3}, {"checks": {**by_class["checks"], "recall": "x"}}):
        results["test_by_class"] = odd
        card = model_card(subject, ABOUT, {})
        assert "By class" not in card and "| balanced accuracy | 25.00% |" in card
        subject.info["results"] = results | {"test_top1": 0.25}
        assert "| balanced accuracy |" not in model_card(subject, ABOUT, {})
        subject.info["results"] = results


EVIL = ("<script>alert(1)</script>", "a|b | c", "`x` ```", "[click](http://x)", "![](http://x)", "a\nb\x1b[2J\u202e",
        "*x* _y_ &amp; # $z$ \\")  # fmt: skip


def test_what_strangers_call_things_is_shown_as_text(world: World) -> None:
    subject = read_subject(world.guided_run, None)
    subject.about["classes"] = list(EVIL)
    subject.about["options"] = {EVIL[0]: EVIL[1]}
    subject.info["dataset"]["name"] = EVIL[3]
    subject.info["recipe"] = EVIL[0]
    subject.info["overrides"] = list(EVIL)
    subject.info["teacher"]["name"] = EVIL[2]
    by_class = subject.info["results"]["test_by_class"]
    subject.info["results"]["test_by_class"] = dict(zip(EVIL[:3], by_class.values(), strict=True))
    evil = copy.deepcopy(ABOUT)
    evil["compared_on"]["of"] = EVIL[0]
    evil["timm"]["arguments"][EVIL[2]] = EVIL[2]
    card = model_card(subject, evil, {EVIL[0]: EVIL[3]})
    shown = html(card)
    plain = html(model_card(read_subject(world.guided_run, None), ABOUT, {"torch": "1"}))
    for mark in ("<script", "<a ", "<img", "<em>", "<code", "<pre>", "<td>", "<table>", "<h1>", "<h2>"):
        assert shown.count(mark) == plain.count(mark), mark
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, a|b | c, `x` ```, [click](http://x), ![](http://x)" in shown
    assert "\x1b" not in card and "\u202e" not in card


def test_a_value_in_a_block_of_code_cannot_end_it() -> None:
    value = {"a": "```\n# not code", "b": (1, 2.5, True, None)}
    assert "`" not in literal(value) and "\n" not in literal(value)
    assert eval(literal(value)) == value


def test_an_environment_that_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert environment_of(tmp_path) == {}
    for text in ("{", "[]", '{"packages": 3}', '{"packages": [1]}'):
        (tmp_path / "env.json").write_text(text)
        assert environment_of(tmp_path) == {}
    (tmp_path / "env.json").write_text('{"packages": {"torch": "1", "timm": null}}')
    assert environment_of(tmp_path) == {"torch": "1"}

"""Write the model card of an export: a README that describes the student, its accuracy, and its use."""

import re
from collections.abc import Mapping
from dataclasses import fields
from html import escape
from typing import Any

from lgkd._internal.metric_rules import THRESHOLD, headline, shows_top5
from lgkd.deploy.accuracy import Accuracy, LabelAccuracy
from lgkd.deploy.options import FORMATS
from lgkd.deploy.snippets import snippets
from lgkd.deploy.subject import Subject
from lgkd.runs.class_results import (
    about_never_predicted,
    by_class_of,
    class_metrics,
    has_unequal_classes,
    in_words,
    selected_by,
)
from lgkd.runs.early_stop import stopped_early, trained_epochs
from lgkd.runs.folder import describe

_MANY = 30
"""Classes that are listed by name."""

_HEAD = """---
pipeline_tag: image-classification
tags: [image-classification, vision, knowledge-distillation, lgkd]
---
"""


def model_card(subject: Subject, about: Mapping[str, Any], trained_with: Mapping[str, str]) -> str:
    """Write the text of README.md.

    Args:
        subject: what was exported.
        about: export.json.
        trained_with: versions of packages.
    """
    info = subject.info
    parts = [
        f"{_HEAD}\n# {text(describe(info))}\n",
        _in_short(subject),
        _accuracy(info),
        _training(info, subject.about["weights_sha256"]),
        _files(about),
        "## How to use it\n\n" + "\n".join(snippets(subject, about)),
        _limits(subject),
        _versions(about, trained_with),
    ]
    return "\n".join(parts)


def text(words: object) -> str:
    """Escape text of others for Markdown: shown as it is, on one line, and no mark-up, link or code."""
    shown = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in str(words)
    )
    return re.sub(r"([\\`*_{}\[\]()#+!|~$@:])", r"\\\1", escape(shown, quote=False))


def _in_short(subject: Subject) -> str:
    info, about = subject.info, subject.about
    height, width = subject.image_size
    classes = about["classes"]
    names = ", ".join(map(text, classes[:_MANY])) + (", ..." if len(classes) > _MANY else "")
    parameters = sum(parameter.numel() for parameter in subject.student.parameters())
    options = ", ".join(f"{text(key)} {text(value)}" for key, value in about["options"].items()) or "none"
    return (
        f"A classifier of images{' with several labels each' if about.get('multi_label') else ''}, trained from "
        "scratch with [lgkd](https://arxiv.org/abs/2207.10026)"
        f"{' under the guidance of a small CNN, of which nothing is left in it' if info.get('teacher') else ''}.\n\n"
        "| | |\n|---|---|\n"
        f"| student | {text(about['name'] or about['class'])}, {parameters:,} parameters |\n"
        f"| its options | {options} |\n"
        f"| images | {height} x {width} pixels{', grey levels' if subject.channels == 1 else ''} |\n"
        f"| classes | {len(classes)}: {names} |\n"
    )


def _accuracy(info: Mapping[str, Any]) -> str:
    """Write its accuracy, the images of the test, and the split that chose the epoch."""
    results, data = info["results"], info["dataset"]
    chosen = (
        f"the last epoch of {trained_epochs(info)}; nothing was selected"
        if results["selected_on"] is None
        else f"epoch {results['epoch']} of {trained_epochs(info)}, the best on {data['val_images']:,} held-out images "
        f"by {selected_by(results)}"
    )
    best = results["best_epoch_on_the_test_split"]
    main = headline(results)
    several = main.key == "map"
    alike = class_metrics(results) if several or has_unequal_classes(results) else {}
    lines = [
        "## Accuracy\n",
        f"On the test split of {text(data['name'])} ({data['test_images']:,} images), after {chosen}, computed in "
        f"{text(info['precision'])}:\n",
        "| | |\n|---|---|",
        f"| {main.short} | {results[f'test_{main.key}']:.2%} |",
        *([f"| top-5 | {results['test_top5']:.2%} |"] if shows_top5(data["classes"]) and not several else []),
        *(f"| {name} | {value} |" for name, value in alike.items()),
        f"| {'binary ' if several else ''}cross entropy | {results['test_loss']:.4f} |",
        *([] if several else [f"| calibration error (15 bins) | {results['test_ece']:.2%} |"]),
        "",
        f"This is one training with seed {info['seed']}: how much another seed would change it is not known from it "
        f"alone. The best epoch on the test split, which papers print and which is chosen by looking at the answer, "
        f"was epoch {best['epoch']} with {best[f'test_{main.key}']:.2%}.\n",
        *_by_class(results),
    ]
    return "\n".join(lines)


def _by_class(results: Mapping[str, Any]) -> list[str]:
    """Write the table of scores by class; none for many classes, or for a run of an earlier version."""
    by_class = by_class_of(results)
    if by_class is None or len(by_class) > _MANY:
        return []
    several = headline(results).key == "map"
    shares = ("ap", "precision", "recall", "f1") if several else ("precision", "recall", "f1")
    rows = [
        f"| {text(name)} | {one['count']:,} | "
        + " | ".join("" if one.get(key) is None else f"{one[key]:.2%}" for key in shares)
        + f" | {'' if one['auroc'] is None else in_words('auroc', one['auroc'])} |"
        for name, one in by_class.items()
    ]
    remark = about_never_predicted(by_class)
    return [
        "By class, on the same images; AUROC is that of each class against all others:\n",
        f"| class | images |{' average precision |' if several else ''} precision | recall | F1 | AUROC |",
        f"|---|---:|{'---:|' if several else ''}---:|---:|---:|---:|",
        *rows,
        "",
        *([] if remark is None else [f"{text(remark)}.\n"]),
    ]


def _training(info: Mapping[str, Any], weights_sha256: str) -> str:
    data = info["dataset"]
    teachers = [one for one in (info.get("teacher"), *(info.get("more_teachers") or [])) if one]
    rows = {
        "kind": {"distill": "guided student", "train": "student without a teacher"}.get(info["kind"], info["kind"]),
        "teacher": "; ".join(map(_teacher, teachers)) or "none",
        "started from": f"trained weights, SHA-256 {info['init'].get('sha256')}" if info.get("init") else None,
        "recipe": info["recipe"] + (f", with {', '.join(info['overrides'])}" if info.get("overrides") else ""),
        "epochs": trained_epochs(info),
        "ended": stopped_early(info),
        "seed": info["seed"],
        "data set": data["name"],
        "trained on": f"{data['train_images']:,} images" + (f" ({data['subset']})" if data.get("subset") else ""),
        "data fingerprint": data["fingerprint"],
        "weights' SHA-256": weights_sha256,
    }
    shown = "\n".join(f"| {name} | {text(value)} |" for name, value in rows.items() if value is not None)
    return f"## Training\n\n| | |\n|---|---|\n{shown}\n"


def _teacher(teacher: Mapping[str, Any]) -> str:
    name = teacher.get("name") or teacher.get("class") or "a module"
    main = headline(teacher)
    top1 = teacher.get(f"test_{main.key}")
    subset = f", trained on {teacher['subset']}" if teacher.get("subset") else ""
    return f"{name}{subset}" + (f", {main.short} {top1:.2%} on the same test split" if top1 is not None else "")


def _files(about: Mapping[str, Any]) -> str:
    compared = about["compared_on"]
    what = {
        FORMATS["safetensors"]: "weights",
        FORMATS["onnx"]: f"graph and weights, ONNX opset {about['onnx_opset']}",
        FORMATS["onnx-fp16"]: f"the same in fp16, images and logits in fp32, ONNX opset {about['onnx_opset']}",
        FORMATS["onnx-int8"]: f"the same in int8 (QDQ), calibrated on {about.get('calibrated_on', 0):,} training "
        f"images, ONNX opset {about['onnx_opset']}",
        FORMATS["torch-export"]: "graph and weights, torch.export",
    }
    rows = [
        f"| `{file}` | {what[file]} | {one['bytes']:,} | {one['largest_difference']:.1e} |"
        for file, one in about["files"].items()
    ]
    return "\n".join(
        [
            "## Files\n",
            f"Every file takes any number of images at once. It was compared with the student on {compared['images']} "
            f"images of {text(compared['of'])}, in fp32, {' and '.join(map(str, compared['batch_sizes']))} images at a "
            f"time; the largest logit was {compared['largest_logit']:.3g}.\n",
            "| file | holds | bytes | largest difference of a logit |",
            "|---|---|---:|---:|",
            *rows,
            "| `student.json` | classes in the order of the logits, size, mean, std and interpolation of images | | |",
            "| `export.json` | SHA-256 of every file, differences, versions | | |",
            "",
            *_measured(about),
        ]
    )


def _measured(about: Mapping[str, Any]) -> list[str]:
    """Write the accuracy of the files for which it was measured."""
    found = about.get("test")
    if found is None:
        return []
    each = {"the student, in fp32": found["student"]} | {
        f"`{file}`": one["test"] for file, one in about["files"].items() if "test" in one
    }
    kind = LabelAccuracy if "map" in found["student"] else Accuracy
    keys = [one.name for one in fields(kind)]
    rows = [f"| {name} | {' | '.join(f'{one[key]:.2%}' for key in keys)} |" for name, one in each.items()]
    return [
        f"Measured with these files on the {found['images']:,} test images:\n",
        f"| file | {' | '.join(kind.TITLES)} as the student |",
        "|---|---:|---:|---:|",
        *rows,
        "",
    ]


def _limits(subject: Subject) -> str:
    classes, data = subject.about["classes"], text(subject.info["dataset"]["name"])
    several = bool(subject.about.get("multi_label"))
    answers = (
        f"- Its {len(classes)} outputs are independent of each other: the sigmoid of each is the probability of that "
        f"class, and an image has every label above {THRESHOLD:g}, several or none. Do not apply a softmax.\n"
        if several
        else f"- It always answers with one of its {len(classes)} classes, also where an image shows none of them.\n"
    )
    sure = (
        "- Confidences are those of sigmoids; how far they are from the share of right labels was not measured.\n"
        if several
        else "- Confidences are those of a softmax; the calibration error above is their distance from the share of "
        "right answers, on the same kind of images only.\n"
    )
    return (
        "## Limits\n\n"
        f"{answers}"
        f"- Its accuracy was measured on images that come from where its training images come from ({data}). On others "
        "(another camera, another hospital, another season) it has to be measured again.\n"
        f"{sure}"
        "- Which groups of people or things its images leave out, and what may be done with them, the data set's "
        "makers know, and this card does not. Nor does it give a licence: that is for who publishes the weights.\n"
        "- Resizing with another library changes a level here and there, and with it a confidence in the third digit.\n"
    )


def _versions(about: Mapping[str, Any], trained_with: Mapping[str, str]) -> str:
    def listed(versions: Mapping[str, str]) -> str:
        return ", ".join(f"{text(name)} {text(version)}" for name, version in versions.items()) or "not known"

    return (
        f"## Versions\n\nTrained with {listed(trained_with)}.\n\nExported on {about['exported'][:10]} with "
        f"{listed(about['versions'])}.\n"
    )

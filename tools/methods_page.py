"""Writes what docs/methods.md says of terms: from the losses and the schema, and with --measure what they cost.

python -m tools.methods_page [--measure [KIND ...]]

With kinds, only their rows of the costs are measured, against steps without guidance in the same rounds, and the other
rows stay.
"""

import inspect
import re
import statistics
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from lgkd.config import TermSection
from lgkd.config.introspect import type_text
from lgkd.config.problems import shown
from lgkd.config.terms import SECTIONS
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided, Supervised
from lgkd.losses import TERMS
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from tools.pages import replaced

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
READS = {
    "maps": "maps",
    "logits": "logits, so the same classes",
    "distillation": "logits, so the same classes; a distillation token",
    "embeddings": "embeddings",
    "dense": "logits of each position, so the same classes",
    "student-maps": "the student's maps alone",
    "exits": "the student's maps; logits, so the same classes",
    "images": "the student's images alone",
}
LOSSES = {kind: TERMS[kind] for kind in SECTIONS}
"""The losses in the order of the table of kinds."""


def table() -> str:
    """One line for each kind of term."""
    lines = ["| kind | loss | reads | across the batch | learns | weight |", "|---|---|---|---|---|---:|"]
    for kind, loss in LOSSES.items():
        across = loss.across_batch
        words = "no" if across is False else "yes" if across is True else _sometimes(loss)
        reads = "maps of all blocks" if getattr(loss, "all_blocks", False) else READS[loss.reads]
        weight = SECTIONS[kind].model_fields["weight"].default
        learns = "yes" if _learns(loss) else "no"
        name = loss.__name__
        lines.append(f"| [{kind}](#{kind}) | `{name}` | {reads} | {words} | {learns} | {weight:g} |")
    return "\n".join(lines)


def _sometimes(loss: type[nn.Module]) -> str:
    """Whether a loss with its defaults looks across the batch, where its options decide."""
    return f"{'yes' if loss().across_batch else 'no'}, by its options"


def _learns(loss: type[nn.Module]) -> bool:
    return hasattr(loss, "build")


def sections() -> str:
    """Each term in full: its loss's own words with formula and source, and its keys in a recipe."""
    parts = []
    for kind, loss in LOSSES.items():
        words = re.split(r"\n(?:Args|Raises):\n", inspect.cleandoc(loss.__doc__ or ""))[0].strip()
        words = re.sub(r"\n((?:    .*\n?)+)", _formula, words + "\n").strip()
        rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
        for key, field in SECTIONS[kind].model_fields.items():
            if key == "weight" or key not in TermSection.model_fields:
                may, default = type_text(field.annotation, field.metadata), shown(field.default).strip("'")
                rows.append(f"| `{key}` | {default} | {may} | {field.description} |")
        parts.append(f"### {kind}\n\n{words}\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _formula(found: re.Match[str]) -> str:
    return "\n```\n" + inspect.cleandoc("\n" + found[1]) + "\n```\n"


ROUNDS, IMAGES, SIZE = 7, 32, 32
ATTENTION = {"attention-relations": [f"blocks.{block}.attn.qkv" for block in (0, 2, 5)]}
"""Taps of terms that need a teacher with attention, which is then an untrained copy of the student."""
STUDENT = {"patch_size": 4, "depth": 6, "embed_dim": 96, "num_heads": 3, "distillation_token": True}


def measured(kinds: Sequence[str]) -> tuple[dict[str, str], float]:
    """Rows of the terms by kind, and the seconds of a step without guidance.

    What a step costs with each term alone, in units of one without guidance: the median over rounds of one run.
    """
    torch.manual_seed(0)
    student = create_student("deit_tiny", num_classes=100, image_size=SIZE, **STUDENT)
    for head in (student.head, student.head_dist):
        nn.init.normal_(head.weight, std=0.02)
    teacher = Teacher(CifarResNet(20, 100), image_size=SIZE)
    labels, index = torch.arange(50_000) % 100, torch.arange(IMAGES)
    batch = Batch(torch.randn(IMAGES, 3, SIZE, SIZE), labels[:IMAGES], index=index)
    times: dict[str, list[float]] = {kind: [] for kind in ("none", *kinds)}
    for _ in range(ROUNDS + 1):
        for kind, seconds in times.items():
            guide = None if kind == "none" else _guide(student, teacher, kind, labels)
            task = Supervised(student) if guide is None else Guided(student, guide)
            for timed in (False, True):
                task.zero_grad()
                began = time.perf_counter()
                task(batch).loss.backward()
                if timed:
                    seconds.append(time.perf_counter() - began)
            if guide is not None:
                guide.remove()
    ratios = {
        kind: [one / none for one, none in zip(seconds[1:], times["none"][1:], strict=True)]
        for kind, seconds in times.items()
        if kind != "none"
    }
    rows = {}
    for kind, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        rows[kind] = f"| {kind} | {middle:.2f} | {low:.2f} to {high:.2f} |"
    return rows, statistics.median(times["none"][1:])


def _guide(student: nn.Module, teacher: Teacher, kind: str, labels: torch.Tensor) -> Guide:
    taps = ATTENTION.get(kind)
    if taps is not None:
        teacher = Teacher(
            create_student("deit_tiny", num_classes=100, image_size=SIZE, **STUDENT), image_size=SIZE, taps=taps
        )
    return Guide(student, teacher, image_size=SIZE, terms=[Term(LOSSES[kind]())], labels=labels, taps=taps)


def costs() -> str:
    """The table of costs, with what it was measured on."""
    rows, seconds = measured(list(LOSSES))
    head = ["| kind | step, relative to none | quartiles |", "|---|---:|---:|"]
    about = (
        f"`python -m tools.methods_page --measure`, torch {torch.__version__.partition('+')[0]}, "
        f"{torch.get_num_threads()} thread(s) of a CPU: forward and backward of {IMAGES} images of {SIZE} px; a ViT of "
        f"6 blocks, width 96, patches of 4 px; a ResNet-20 that sees {SIZE} px; medians of {ROUNDS} rounds in which "
        f"all take turns. One step without guidance took {1000 * seconds:.0f} ms."
    )
    return textwrap.fill(about, 118, break_on_hyphens=False) + "\n\n" + "\n".join([*head, *rows.values()])


def with_rows(page: str, rows: Mapping[str, str]) -> str:
    """The page with rows of the costs replaced, or added in the order of the kinds."""
    before, _, rest = page.partition("<!-- costs -->\n")
    block, end, after = rest.partition("\n<!-- end of costs -->")
    lines = block.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    old = {line.split("|")[1].strip(): line for line in lines[first:]}
    table = [(old | rows)[kind] for kind in LOSSES if kind in old | dict(rows)]
    return before + "<!-- costs -->\n" + "\n".join([*lines[:first], *table]) + end + after


def generated(page: str) -> str:
    """The page with all that is not measured made anew."""
    return replaced(replaced(page, "terms", table()), "sections", sections())


if __name__ == "__main__":
    content = generated(PAGE.read_text(encoding="utf-8"))
    if sys.argv[1:] == ["--measure"]:
        content = replaced(content, "costs", costs())
    elif sys.argv[1:2] == ["--measure"]:
        content = with_rows(content, measured(sys.argv[2:])[0])
    PAGE.write_text(content, encoding="utf-8")

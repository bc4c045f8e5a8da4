"""Teachers that are not what they seem, and that a teacher which guides stays what it was."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lgkd
from lgkd.models.teacher_store import CARD, WEIGHTS
from lgkd.runs.folder import read_metrics
from tests.support.manifests import reseal
from tests.support.small import CLASSES, DISTILL, TINY_OPTIONS, snapshot
from tools.torture.arena import Arena
from tools.torture.inside import Ended, command, expect_words, surroundings
from tools.torture.parts import Trials, expect, part
from tools.torture.pickles import vouch
from tools.torture.students import FACTORY, FAULT, MARK

TERMS = ("locality", "blocks", "hint", "attention-transfer", "kd", "dkd", "dist", "rkd", "cross-correlation")


@part(
    "teachers", "R23", "other classes or weights: refused; accuracy said before step 1; the teacher stays as it was", 48
)
def teachers(arena: Arena, trials: Trials) -> None:
    while trials.left():
        kind = list(KINDS)[trials.made % len(KINDS)]
        with trials.one(f"{kind}, trial {trials.made}"):
            place = arena.new("teachers")
            shutil.copytree(arena.world.home, place / "home")
            shutil.copytree(arena.world.pictures, place / "pictures")
            KINDS[kind](arena, place, trials.draw)
            trials.seen[kind] += 1
            shutil.rmtree(place)


def _folder(place: Path) -> Path:
    return place / "home" / "teachers" / "pictures" / "resnet8"


def _distilled(place: Path, *more: str) -> Ended:
    words = [*DISTILL, "--epochs", "1", "--dataset", str(place / "pictures"), "--out", str(place / "run"), *more]
    return command(words, LGKD_HOME=str(place / "home"))


def _refused(place: Path, *words: str) -> None:
    before = snapshot(place)
    ended = _distilled(place)
    expect_words(ended.code, ended.said, [2], *words)
    expect(snapshot(place) == before, "something was written")


# Other classes


def _classes(arena: Arena, place: Path, draw: random.Random) -> None:
    how = draw.choice(["one more", "one less", "another name", "another order", "another case"])
    for split in ("train", "test"):
        folder = place / "pictures" / split
        if how == "one more":
            shutil.copytree(folder / "rows", folder / "waves")
        elif how == "one less":
            shutil.rmtree(folder / "rows")
        elif how == "another name":
            (folder / "rows").rename(folder / "zigzags")
        elif how == "another order":  # the folders' names are those of the classes; the card has them otherwise
            continue
        else:
            (folder / "rows").rename(folder / "Rows")
    if how == "another order":
        _change_card(place, {"classes": [CLASSES[place] for place in draw.choice([(1, 0, 2), (2, 1, 0), (1, 2, 0)])]})
    _refused(place, "the teacher resnet8 was trained on", "and they differ", "lgkd train-teacher resnet8")


def _change_card(place: Path, values: Mapping[str, object]) -> None:
    file = _folder(place) / CARD
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    reseal(file.parent)


# Other weights


def _weights(arena: Arena, place: Path, draw: random.Random) -> None:
    """Weights that the card does not know: as good as any, and refused by their hash."""
    file = _folder(place) / WEIGHTS
    tensors = load_file(file)
    how = draw.choice(["a flipped byte", "drawn at random", "of another training", "cut", "none"])
    if how == "a flipped byte":
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
    elif how == "drawn at random":
        chance = torch.Generator().manual_seed(draw.randrange(1 << 30))
        drawn = {name: torch.randn(value.shape, generator=chance).to(value.dtype) for name, value in tensors.items()}
        save_file(drawn, file)
    elif how == "of another training":
        save_file({name: value + (value.is_floating_point() * 1e-3) for name, value in tensors.items()}, file)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    else:
        file.unlink()
    wanted = "cannot be read" if how == "none" else "its card says"
    _refused(place, str(file), wanted, "lgkd train-teacher resnet8 pictures")


def _shapes(arena: Arena, place: Path, draw: random.Random) -> None:
    """Weights of another network, with a card that vouches for them."""
    file = _folder(place) / WEIGHTS
    tensors = load_file(file)
    name = draw.choice(sorted(tensors))
    how = draw.choice(["missing", "unexpected", "of another shape"])
    if how == "missing":
        del tensors[name]
    elif how == "unexpected":
        tensors["another.weight"] = torch.zeros(3)
    else:
        tensors[name] = torch.zeros(7, 7)
    save_file(tensors, file)
    vouch(file)
    reseal(file.parent)
    _refused(place, str(file), "does not fit CifarResNet", f"1 {how}")


def _numbers(arena: Arena, place: Path, draw: random.Random) -> None:
    """A card with a normalisation or an accuracy that cannot be."""
    values = draw.choice(
        [
            {"std": [0.2, 0.0, 0.2]}, {"std": [0.2, -0.1, 0.2]}, {"mean": [0.5, 0.5]}, {"mean": "imagenet"},
            {"image_size": 0}, {"taps": ["stage1", "stage1", "stage3"]}, {"taps": ["stage1", "stage2", "stage9"]},
            {"architecture": "resnet57"}, {"dataset": "digits"}, {"version": 2},
        ]
    )  # fmt: skip
    _change_card(place, values)
    _refused(place)


# What is said, and what stays


def _said(arena: Arena, place: Path, draw: random.Random) -> None:
    """The teacher's accuracy is said before the first step, and is that which its own training found last."""
    words = [word for word in DISTILL if word != "--quiet"]
    words[words.index("deit_tiny")] = FACTORY
    options = [place for place, word in enumerate(words) if word == "--student-option"]
    words = [word for place, word in enumerate(words) if place not in options and place - 1 not in options]
    words += ["--dataset", str(place / "pictures"), "--out", str(place / "run"), "--epochs", "1"]
    started = arena.start_words(words, LGKD_HOME=str(place / "home"), **{FAULT: "tell:0:1"})
    expect(started.end() == 0, started.said()[-600:])
    said, top1 = started.said(), read_metrics(arena.world.teacher_run)[-1]["test_top1"]
    sentence = f"teacher resnet8: {top1:.1%} top-1 on pictures test, trained on 24 images"
    expect(sentence in said, f"it does not say {sentence!r}: {said[-600:]}")
    mark = said.find(MARK.decode())
    expect(mark >= 0, "there was no first step")
    expect(said.index(sentence) < mark, "it is said after the first step")


def _stays(arena: Arena, place: Path, draw: random.Random) -> None:
    """Files and weights of the teacher are the same after a run, whatever is compared and however it normalises."""
    before = snapshot(place / "home")
    bn, view = draw.choice(["running", "batch"]), draw.choice(["resized", "original"])
    terms = ", ".join(f"{{kind: {kind}, name: t{number}}}" for number, kind in enumerate(draw.sample(TERMS, 2)))
    changes = [f"guide.teacher_bn={bn}", f"guide.view={view}", f"guide.terms=[{terms}]", "batch_size=8"]
    options = {"recipe": "locality-guidance", "overrides": changes, "epochs": 1, "image_size": 16, "device": "cpu"}
    options["precision"] = draw.choice(["fp32", "bf16"])
    with surroundings({"LGKD_HOME": str(place / "home")}):
        teacher = lgkd.load_teacher("resnet8", dataset=place / "pictures")
        state = _hash(teacher.model)
        lgkd.distill(
            "deit_tiny", teacher, place / "pictures", student_options=TINY_OPTIONS, out=place / "run", **options
        )
    expect(_hash(teacher.model) == state, f"the teacher's weights have changed: {changes}")
    expect(snapshot(place / "home") == before, f"the store has changed: {changes}")
    expect(
        not any(weight.requires_grad or weight.grad is not None for weight in teacher.parameters()), "it took gradients"
    )


def _trains(arena: Arena, place: Path, draw: random.Random) -> None:
    """A module in training mode, handed over as a teacher, is frozen: in its mode, its statistics and its gradients."""
    with surroundings({"LGKD_HOME": str(place / "home")}):
        model = lgkd.load_teacher("resnet8", dataset=place / "pictures").model
        model.requires_grad_(True).train()
        state, seen = _hash(model), []

        def look(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
            seen.append((any(part.training for part in module.modules()), logits.requires_grad))

        model.register_forward_hook(look)
        teacher = lgkd.Teacher(model, image_size=16)
        options = {"epochs": 1, "image_size": 16, "device": "cpu", "batch_size": 8, "out": place / "run"}
        lgkd.distill("deit_tiny", teacher, place / "pictures", student_options=TINY_OPTIONS, **options)
    expect(len(seen) > 2, "nobody looked at it")
    expect(not any(training or graded for training, graded in seen), "it was in training mode, or in the graph")
    expect(_hash(model) == state, "its weights or statistics have changed")


def _hash(model: nn.Module) -> str:
    whole = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        whole.update(name.encode() + value.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _none(arena: Arena, place: Path, draw: random.Random) -> None:
    """A teacher that was never trained is not made up: the command that trains it is named."""
    shutil.rmtree(_folder(place))
    before = snapshot(place)
    ended = _distilled(place)
    expect_words(ended.code, ended.said, [3], f"lgkd train-teacher resnet8 {place / 'pictures'}")
    expect(snapshot(place) == before, "something was written")


KINDS: dict[str, Callable[[Arena, Path, random.Random], None]] = {
    "other classes": _classes,
    "other weights": _weights,
    "weights of another network": _shapes,
    "a card that cannot be": _numbers,
    "its accuracy is said": _said,
    "it stays as it was": _stays,
    "a module in training mode": _trains,
    "never trained": _none,
}
"""What is wrong with a teacher, or what has to be right."""

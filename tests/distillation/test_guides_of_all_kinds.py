"""Guides with terms of every family, moving weights, several teachers; from Python and from a recipe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lgkd
from lgkd.config import AdaptiveStop, Mix, Recipe, TermSchedule, View, load_recipe, parse_recipe
from lgkd.data.dataset import Images
from lgkd.data.loader import TrainLoader
from lgkd.data.transforms.augment import Augment
from lgkd.data.transforms.mixup import Mixing
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, TapError
from lgkd.losses import TERMS, MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from lgkd.runner.build import make_guides
from tests.support.small import World


class Logits(nn.Module):
    reads = "logits"

    def forward(self, ours: Tensor, theirs: Tensor, targets: Tensor) -> Tensor:
        return (ours - theirs).square().mean() + 0.0 * targets.float().mean()


class Embeddings(nn.Module):
    reads = "embeddings"

    def build(self, ours: int, theirs: int) -> None:
        self.project = nn.Linear(ours, theirs)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return F.mse_loss(self.project(ours), theirs)


class Blocks(nn.Module):
    reads = "maps"
    all_blocks = True

    def build(self, ours: list[tuple[int, int, int]], theirs: list[tuple[int, int, int]]) -> None:
        self.shapes = ours, theirs

    def forward(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        return torch.stack([each.mean() for each in ours]).mean() - theirs[0].mean()


def test_every_family_is_given_what_it_reads(
    small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student("deit_tiny", depth=5)
    terms = [Term(Logits()), Term(Embeddings()), Term(Blocks()), Term(MapLoss("linear"), 2.5)]
    guide = Guide(student, teacher, image_size=size, terms=terms)
    task = Guided(student.eval(), guide)
    batch = make_batch(size)
    step = task(batch)

    with torch.no_grad():
        view = F.interpolate(batch.images, size=32, mode="bilinear", align_corners=False)
        theirs, ours = teacher.model(view), student(batch.images)
        pooled = {}
        handles = [
            net.register_forward_pre_hook(lambda _m, args, key=key: pooled.update({key: args[0]}))
            for key, net in (("ours", student.head), ("theirs", teacher.model.fc))
        ]
        student(batch.images), teacher.model(view)
        for handle in handles:
            handle.remove()
        tokens: list[Tensor] = []
        hooks = [block.register_forward_hook(lambda _m, _a, out: tokens.append(out)) for block in student.blocks]
        student(batch.images)
        for handle in hooks:
            handle.remove()
        assert len(tokens) == 5
        stage = teacher.model.stage1(torch.relu(teacher.model.bn(teacher.model.conv(view))))
        expected = {
            "logits": (ours - theirs).square().mean(),
            "embeddings": F.mse_loss(guide.losses["embeddings"].project(pooled["ours"]), pooled["theirs"]),
            "blocks": torch.stack([each[:, 1:].mean() for each in tokens]).mean() - stage.mean(),
        }
    for name, value in expected.items():
        torch.testing.assert_close(step.parts[name], value, rtol=1e-4, atol=1e-5)
    assert guide.losses["blocks"].shapes == ([(192, 4, 4)] * 5, [pair.teacher_map for pair in guide.pairs])
    weighted = step.parts["classification"] + sum(guide.weights[n] * step.parts[n] for n in guide.weights)
    torch.testing.assert_close(step.loss, weighted)


def test_logits_of_other_classes_cannot_be_compared_but_maps_can(conv_student: nn.Module) -> None:
    other = Teacher(CifarResNet(8, 7), image_size=32)
    Guide(conv_student, other, image_size=32, terms=[Term(MapLoss())]).remove()
    with pytest.raises(InputError, match="has 5 classes, the teacher 7, and a term compares their logits"):
        Guide(conv_student, other, image_size=32, terms=[Term(TERMS["kd"]())])


def test_a_distillation_token_is_asked_for_by_name(conv_student: nn.Module, teacher: Teacher) -> None:
    with pytest.raises(TapError, match="ConvStudent has no distillation token, which a term reads"):
        Guide(conv_student, teacher, image_size=32, terms=[Term(TERMS["deit-hard"]())])


def test_with_a_distillation_token_the_labels_are_for_the_class_token_alone(
    teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student = create_student(
        "timm:deit_tiny_distilled_patch16_224", num_classes=5, image_size=32, patch_size=8, depth=3
    )
    guide = Guide(student, teacher, image_size=32, terms=[Term(TERMS["deit-hard"](), 0.5)])
    task = Guided(student.eval(), guide, classification_weight=0.5)
    batch = make_batch(32)
    step = task(batch)
    with torch.no_grad():
        tokens = student.forward_features(batch.images)
        ours, distilled = student.head(tokens[:, 0]), student.head_dist(tokens[:, 1])
        verdict = teacher.model(batch.images).argmax(1)
        expected = 0.5 * F.cross_entropy(ours, batch.targets) + 0.5 * F.cross_entropy(distilled, verdict)
    torch.testing.assert_close(step.loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step.logits, (ours + distilled) / 2)


def test_a_scheduled_weight_multiplies_its_term_and_nothing_else(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    terms = [Term(MapLoss("linear"), 2.5, schedule=TermSchedule(warmup=4)), Term(MapLoss("attention"), 10.0)]
    guide = Guide(conv_student.eval(), teacher, image_size=32, terms=terms)
    task, batch = Guided(conv_student, guide), make_batch(32)
    guide.on_train_start(10)
    for epoch, factor in ((0.0, 0.0), (1.0, 0.25), (4.0, 1.0)):
        guide.set_epoch(epoch)
        step = task(batch)
        parts = step.parts
        expected = (
            parts["classification"] + 2.5 * factor * parts["guidance_linear"] + 10.0 * parts["guidance_attention"]
        )
        torch.testing.assert_close(step.loss, expected, rtol=1e-6, atol=0)
        assert guide.current_weights() == {"guidance_linear": 2.5 * factor}


def test_an_ended_term_is_neither_computed_nor_logged_and_stays_ended_after_a_restore(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    def make() -> Guide:
        adaptive = TermSchedule(adaptive=AdaptiveStop(-0.02, 1, relative=False))
        terms = [Term(MapLoss("linear"), 2.5, schedule=adaptive), Term(MapLoss("similarity"), 10.0)]
        guide = Guide(conv_student, teacher, image_size=32, terms=terms)
        guide.on_train_start(10)
        return guide

    guide = make()
    assert guide.on_epoch_end(1, {"guidance_linear": 1.0}) == []
    (note,) = guide.on_epoch_end(2, {"guidance_linear": 1.5})
    assert note.startswith("guidance_linear ended after epoch 2: its loss changes by 0.5 per epoch")
    again = make()
    again.load_extra_state(guide.extra_state())
    for each in (guide, again):
        each.set_epoch(2.0)
        step = Guided(conv_student, each)(make_batch(32))
        assert set(step.parts) == {"classification", "guidance_similarity"} and each.across_batch
        assert each.current_weights() == {"guidance_linear": 0.0}


def test_two_teachers_guide_with_terms_layers_and_sizes_of_their_own(
    small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student("deit_tiny")
    torch.manual_seed(4)
    small = Teacher(CifarResNet(8, 5), image_size=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    first = Guide(student, teacher, image_size=size, terms=[Term(MapLoss("attention"), 10.0, name="far")])
    near = Term(MapLoss("linear"), 2.5, name="near")
    second = Guide(student, small, image_size=size, terms=[near], taps=["blocks.1"], teacher_taps=["stage2"])
    batch = make_batch(size)
    together = Guided(student.eval(), first, second)(batch)
    alone = [Guided(student, guide)(batch) for guide in (first, second)]
    assert set(together.parts) == {"classification", "far", "near"}
    torch.testing.assert_close(together.parts["far"], alone[0].parts["far"])
    torch.testing.assert_close(together.parts["near"], alone[1].parts["near"])
    torch.testing.assert_close(
        together.loss, together.parts["classification"] + 10 * together.parts["far"] + 2.5 * together.parts["near"]
    )
    assert second.pairs[0].teacher_map == (32, 8, 8)
    with pytest.raises(InputError, match="terms of two guides are named 'near'"):
        Guided(student, second, second)


def recipe_with(*terms: dict[str, Any], **guide: Any) -> Recipe:
    plain = load_recipe("locality-guidance").model_dump(mode="json")
    plain["guide"] = {"terms": list(terms), **guide}
    return parse_recipe(json.dumps(plain))


def test_a_recipe_sets_schedules_and_says_which_teacher_a_term_is_for(
    conv_student: nn.Module, teacher: Teacher
) -> None:
    class Known:
        mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        multi_label = False

    recipe = recipe_with(
        {"kind": "locality", "schedule": {"shape": "cosine", "adaptive": {"window": 3}}},
        {"kind": "kd", "for_teacher": 2, "weight": 0.5},
        classification_weight=0.5,
    )
    other = Teacher(CifarResNet(8, 5), image_size=16)
    first, second = make_guides(
        conv_student,
        [teacher, other],
        recipe,
        Known(),
        image_size=(32, 32),
        taps=None,
        seed=0,  # type: ignore[arg-type]
    )
    assert first.weights == {"guidance_linear-1": 2.5}
    assert second.weights == {"guidance_linear-2": 2.5, "kd-2": 0.5}
    course = second.term_states["guidance_linear-2"].schedule
    assert course == TermSchedule(shape="cosine", adaptive=AdaptiveStop(threshold=-0.1, window=3, relative=True))
    with pytest.raises(InputError, match="the term kd is for teacher 2, and there are 1; name as many with --teacher"):
        make_guides(conv_student, [teacher], recipe, Known(), image_size=(32, 32), taps=None, seed=0)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_run_with_two_teachers_and_a_term_that_ends_is_written_down_and_goes_on(world: World, here: Path) -> None:
    recipe = recipe_with(
        {"kind": "locality", "schedule": {"until": 1}},
        {"kind": "kd", "for_teacher": 2},
        classification_weight=0.5,
        view="original",
    )
    said: list[str] = []
    student = {"patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2}
    run = lgkd.distill(
        "deit_tiny",
        ["resnet8", "resnet8"],
        world.pictures,
        student_options=student,
        recipe=recipe,
        epochs=3,
        image_size=16,
        out=here / "two",
        say=said.append,
    )
    assert run.info["teacher"]["kept_as"] == "resnet8" and len(run.info["more_teachers"]) == 1
    assert [("loss_guidance_linear-1" in row, "loss_kd-2" in row) for row in run.metrics] == [
        (True, True), (False, True), (False, True)
    ]  # fmt: skip
    assert [row["weight_guidance_linear-2"] for row in run.metrics] == [2.5, 0.0, 0.0]
    assert sum("ended after epoch 1" in sentence for sentence in said) == 2


def colourful(count: int = 12) -> Images:
    """Smooth pictures of 32 pixels, so that a picture drawn small resembles the same drawn large and made small."""
    draw = torch.Generator().manual_seed(8)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    pixels = F.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    sizes = torch.full((count, 2), 32, dtype=torch.int32)
    return Images(pixels, sizes, torch.arange(count) % 5, tuple(f"{place}.png" for place in range(count)))


def test_a_teacher_can_be_shown_the_stored_image_by_the_same_crop_flip_and_mixture() -> None:
    view = View(scale=(0.5, 1.0), flip=0.5)
    large, small = (Augment(view, side, mean=(0.5,) * 3, std=(0.25,) * 3, seed=2) for side in (64, 16))
    for mixing in (Mixing(Mix(), classes=5, seed=2), Mixing(Mix(mixup=0.8, cutmix=1.0), classes=5, seed=2)):
        loader = TrainLoader(colourful(), large, mixing, batch_size=6, seed=2, views=[small, None])
        plain = TrainLoader(colourful(), large, mixing, batch_size=6, seed=2)
        for batch, expected in zip(loader.epoch(1), plain.epoch(1), strict=True):
            own, (theirs, none) = batch.images, batch.views
            assert torch.equal(own, expected.images) and torch.equal(batch.targets, expected.targets) and none is None
            assert torch.equal(batch.index, expected.index) and expected.views == ()
            assert theirs.shape == (6, 3, 16, 16)
            resized = F.interpolate(own, size=16, mode="bilinear", align_corners=False)
            # A mixture's cut edges fall between the pixels of the small image; the rest is the same picture.
            assert (theirs - resized).abs().median() < 0.02
            assert (theirs - resized.flip(3)).abs().mean() > 4 * (theirs - resized).abs().mean()


def test_each_teachers_view_goes_to_its_own_guide(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    guide = Guide(conv_student.eval(), teacher, image_size=32, terms=[Term(MapLoss())])
    task = Guided(conv_student, guide)
    batch, other = make_batch(32), make_batch(32, seed=9)
    seen = guide.read(conv_student, batch.images)
    expected = guide.losses["guidance_linear"](seen.maps, guide.teach(other.images).maps)
    step = task(Batch(batch.images, batch.targets, views=(other.images,)))
    torch.testing.assert_close(step.parts["guidance_linear"], expected)
    halves = Batch(batch.images, batch.targets, views=(other.images,)).split(2)
    assert torch.equal(torch.cat([half.views[0] for half in halves]), other.images)
    assert Batch(batch.images, batch.targets, views=(None,)).split(2)[0].views == (None,)

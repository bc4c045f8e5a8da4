"""A distillation token for plain ViTs: it makes timm's own distilled model, and what cannot have one says so."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from lgkd import api
from lgkd.cli import run
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import ModelError, TapError
from lgkd.losses import KD, DeiTHard, DeiTSoft, MapLoss
from lgkd.models.default_taps import head_names
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from lgkd.runs.load_student import load_student
from tests.support.small import DISTILL, World

SMALL = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}


def student(name: str = "deit_tiny", **options: Any) -> nn.Module:
    torch.manual_seed(1)
    return create_student(name, num_classes=5, image_size=32, **{**SMALL, "distillation_token": True, **options})


def awake(model: nn.Module) -> nn.Module:
    """With heads that are not zero."""
    for head in (model.head, model.head_dist):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    return model


@pytest.mark.parametrize("pooled", [False, True])
def test_with_the_same_weights_it_is_the_distilled_model_of_timm(pooled: bool) -> None:
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, num_classes=5, **SMALL).eval()
    ours = student().eval()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.forward_features(images), theirs.forward_features(images))
    for one, other in zip(ours.forward_intermediates(images)[1], theirs.forward_intermediates(images)[1], strict=True):
        assert torch.equal(one, other)
    features = theirs.forward_features(images)
    assert torch.equal(ours.forward_head(features, pooled), theirs.forward_head(features, pooled))


def test_the_logits_are_the_mean_of_two_heads_that_a_guide_reads_apart(teacher: Teacher) -> None:
    model = awake(student()).eval()
    guide = Guide(model, teacher, image_size=32, terms=[Term(DeiTSoft()), Term(MapLoss())])
    images = torch.randn(4, 3, 32, 32)
    seen = guide.read(model, images)
    tokens = model.forward_features(images)
    torch.testing.assert_close(seen.classification, model.head(tokens[:, 0]))
    torch.testing.assert_close(seen.distillation, model.head_dist(tokens[:, 1]))
    torch.testing.assert_close(seen.logits, (seen.classification + seen.distillation) / 2)
    assert head_names(model) == ("head", "head_dist")
    assert [each.shape for each in seen.maps] == [(4, 48, 4, 4)] * 3
    *_, last = model.forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(seen.maps[2], last)


def test_the_class_head_learns_the_labels_and_the_other_only_the_teacher(
    teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    model = awake(student())
    task = Guided(model, Guide(model, teacher, image_size=32, terms=[Term(DeiTHard(), 0.5)]), classification_weight=0.5)
    batch = make_batch(32)
    step = task(batch)
    step.loss.backward()
    seen = task.guide.read(model, batch.images)
    taught = task.guide.teach(batch.images).logits.argmax(1)
    label = nn.functional.cross_entropy(seen.classification, batch.targets)
    torch.testing.assert_close(step.parts["classification"], label.detach())
    expected = torch.autograd.grad(nn.functional.cross_entropy(seen.distillation, taught), model.head_dist.weight)[0]
    torch.testing.assert_close(model.head_dist.weight.grad, 0.5 * expected)


def test_the_weights_of_the_plain_model_are_those_without_the_option() -> None:
    plain, distilled = student(distillation_token=False), student()
    mine, its = plain.state_dict(), distilled.state_dict()
    assert its.keys() - mine.keys() == {"dist_token", "head_dist.weight", "head_dist.bias"}
    assert all(torch.equal(its[key], mine[key]) for key in mine if key != "pos_embed")
    positions = its["pos_embed"]
    assert torch.equal(torch.cat([positions[:, :1], positions[:, 2:]], dim=1), mine["pos_embed"])
    assert positions[:, 1].std().item() == pytest.approx(0.02, rel=0.5) and its["dist_token"].std() > 0.01
    assert not distilled.head_dist.weight.any() and not distilled.head.weight.any(), "as the paper's DeiT starts"
    assert student("timm:vit_tiny_patch16_224").head_dist.weight.any()


def test_a_vit_whose_class_token_has_no_position_gives_the_other_none_either(teacher: Teacher) -> None:
    model = awake(student("timm:deit3_small_patch16_224")).eval()
    assert model.pos_embed.shape == (1, 16, 48)
    guide = Guide(model, teacher, image_size=32, terms=[Term(DeiTSoft()), Term(MapLoss())])
    images = torch.randn(2, 3, 32, 32)
    tokens = model.patch_embed(images) + model.pos_embed
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.dist_token.expand(2, -1, -1), tokens], dim=1)
    tokens = model.norm(model.blocks(tokens))
    torch.testing.assert_close(model(images), (model.head(tokens[:, 0]) + model.head_dist(tokens[:, 1])) / 2)
    assert guide.read(model, images).maps[0].shape == (2, 48, 4, 4)


def test_patches_are_dropped_and_the_two_tokens_are_not() -> None:
    model = student(patch_drop_rate=0.5).train()
    assert model.patch_drop(torch.randn(2, 18, 48)).shape == (2, 2 + 8, 48)
    tokens = torch.randn(2, 18, 48)
    assert torch.equal(model.patch_drop(tokens)[:, :2], tokens[:, :2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pvt_v2_b0", {}, "it is a PyramidVisionTransformerV2, not a plain VisionTransformer"),
        ("convit_tiny", {}, "it is a ConVit, not a plain VisionTransformer"),
        ("timm:deit_tiny_distilled_patch16_224", {}, "it has one already"),
        ("deit_tiny", {"class_token": False, "global_pool": "avg"}, "it pools by 'avg', and does not classify by"),
        ("deit_tiny", {"global_pool": "avg"}, "it pools by 'avg'"),
        ("deit_tiny", {"reg_tokens": 4}, "it has 4 register tokens"),
        ("deit_tiny", {"pos_embed": "none"}, "its positions are not learned"),
        ("deit_tiny", {"dynamic_img_size": True}, "its positions are not learned for images of one size"),
    ],
)
def test_a_model_that_cannot_have_one_says_what_is_in_the_way(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=re.escape(f"{name} cannot have a distillation token: {words}")) as caught:
        create_student(name, num_classes=5, image_size=32, distillation_token=True, **options)
    assert "\n" not in str(caught.value) and "deit_tiny" in str(caught.value)


def test_the_option_is_true_or_false_and_no_option_of_a_cnn() -> None:
    with pytest.raises(ModelError, match="distillation_token is 1, expected true or false"):
        student(distillation_token=1)
    with pytest.raises(ModelError, match="resnet8 has no option 'distillation_token'"):
        create_student("resnet8", num_classes=5, image_size=32, distillation_token=True)


def test_a_student_without_a_token_is_told_of_the_option(
    small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher
) -> None:
    model, size = small_student()
    with pytest.raises(TapError, match=r"has no distillation token.*--student-option distillation_token=true"):
        Guide(model, teacher, image_size=size, terms=[Term(DeiTHard())])


def test_a_run_with_a_token_is_loaded_again(world: World, here: Path) -> None:
    out = here / "distilled"
    asked = [*DISTILL, "--dataset", str(world.pictures), "--out", str(out), "--epochs", "1"]
    token = ["--student-option", "distillation_token=true", "--set", "guide.terms.0.kind=deit-hard"]
    assert run([*asked, *token, "--set", "guide.terms.0.weight=0.5"]) == 2, "the keys of another kind stay"
    assert run([*asked, *token[:2], "--set", "guide.terms=[{kind: deit-hard, weight: 0.5}, {kind: locality}]"]) == 0
    loaded, done = load_student(out), api.load_run(out)
    assert type(loaded).__name__ == "DistilledVisionTransformer"
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(images), done.student(images))
    assert api.evaluate(out).top1 == pytest.approx(done.top1)
    assert {"loss_deit-hard", "loss_guidance_linear"} <= done.metrics[0].keys()


@pytest.mark.slow
def test_a_step_with_both_heads_is_one_graph(teacher: Teacher, make_batch: Callable[..., Batch]) -> None:
    torch._dynamo.reset()
    model = awake(student())
    terms = [Term(DeiTHard(), 0.5), Term(DeiTSoft(), 0.1), Term(KD()), Term(MapLoss(), 2.5)]
    task, batch = Guided(model, Guide(model, teacher, image_size=32, terms=terms)), make_batch(32)
    eager = task(batch)
    step = torch.compile(task, fullgraph=True, backend="eager")(batch)
    torch.testing.assert_close(step.loss, eager.loss)
    torch.testing.assert_close(step.logits, eager.logits)
    torch._dynamo.reset()

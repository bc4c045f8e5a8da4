"""The classifier at the end of a model and the map that it pools: of every kind of model, and what is not one."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.distillation.features import FeatureReader, FeatureSpec
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.linear_head import find_head
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, TapError
from lgkd.losses import DenseKD, MapLoss, TeacherHead, TokenRelations
from lgkd.models.cnn.fastnet import FastNet
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_model, create_student
from lgkd.models.teacher import Teacher

SMALL = {"patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2}
# Name, image size, options; the layer of the pooled map and how it is pooled.
MODELS = [
    ("resnet8", 32, {}, "stage3", "mean"),
    ("wrn_16_2", 32, {}, "relu", "mean"),
    ("fastnet_small", 32, {}, "group3", "max"),
    ("timm:resnet10t", 64, {}, "layer4", "mean"),
    ("timm:regnetx_002", 64, {}, "final_conv", "mean"),
    ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}, "stages", "mean"),
    ("timm:vit_tiny_patch16_224", 32, {**SMALL, "global_pool": "avg", "class_token": False}, "norm", "mean"),
    ("timm:vit_tiny_patch16_224", 32, SMALL, "norm", "token"),
    ("timm:convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, "norm_pre", "mean"),
    ("pit_ti", 64, {"depth": (1, 1, 1)}, "transformers.2.blocks", "token"),
]


def image_of(model: nn.Module, size: int) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "size", "options", "layer", "pooling"), MODELS)
def test_pooled_and_classified_the_found_map_is_the_models_output(
    name: str, size: int, options: dict[str, object], layer: str, pooling: str
) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, image_size=size, options=options).eval()
    images = image_of(model, size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    head = find_head(model, (size, size))
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is drawn"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert (head.pooled.layer, head.pooled.pooling) == (layer, pooling)
    taken: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _a, output: taken.append(output))
    with torch.no_grad():
        logits = model(images)
        handle.remove()
        output = taken[-1][0] if isinstance(taken[-1], tuple) else taken[-1]
        if pooling == "token":
            pooled = output[:, 0]
        elif output.ndim == 3:
            pooled = output.mean(dim=1)
        else:
            pooled = output.mean(dim=(2, 3)) if pooling == "mean" else output.amax(dim=(2, 3))
        if head.pooled.norm is not None:
            pooled = F.layer_norm(pooled, pooled.shape[1:], head.pooled.norm.weight, head.pooled.norm.bias,
                                  head.pooled.norm.eps)  # fmt: skip
        torch.testing.assert_close(head.scale * head.classifier(pooled), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.matrix, head.scale * head.classifier.weight)


def dense_of(model: nn.Module, size: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and dense logits of images."""
    reader = FeatureReader(model, [], FeatureSpec(logits=True, dense=True, head=True), (size, size))
    taps = reader.attach(model)
    with torch.no_grad():
        logits, seen = taps.capture(model.eval(), images)
    taps.remove()
    return logits, reader.features(logits, seen).dense


@pytest.mark.parametrize(("name", "size"), [("resnet8", 32), ("wrn_16_2", 32), ("pvt_v2_b0", 64), ("vit_96", 32)])
def test_dense_logits_average_to_the_logits_of_a_model_that_averages(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, image_size=size)
    logits, dense = dense_of(model, size, image_of(model, size))
    assert dense.shape[:2] == logits.shape and dense.shape[2] > 1
    torch.testing.assert_close(dense.mean(dim=(2, 3)), logits, rtol=1e-4, atol=1e-5)


def test_dense_logits_of_a_position_are_those_of_a_map_of_this_position_alone() -> None:
    torch.manual_seed(0)
    fast, images = FastNet(5, (8, 8, 8)).eval(), torch.randn(2, 3, 32, 32)
    logits, dense = dense_of(fast, 32, images)
    with torch.no_grad():
        whole = fast.group3(fast.group2(fast.group1(fast.stem(images))))
        alone = fast.fc(fast.pool(whole[:, :, 1:2, 2:3]).flatten(1)) * fast.scale
    torch.testing.assert_close(dense[:, :, 1, 2], alone)
    assert not torch.allclose(dense.mean(dim=(2, 3)), logits, atol=1e-3), "it takes the maximum of every channel"


class Behind(nn.Module):
    """A small CNN with another end: `end` maps pooled features (B,6) to logits."""

    lgkd_taps = ("map", "map", "map")

    def __init__(self, classifier: nn.Module, factor: float = 1.0, add: float = 0.0) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 6, 3, stride=4)
        self.classifier, self.factor, self.add = classifier, factor, add
        self.lgkd_classifier = "classifier"

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.map(images).mean(dim=(2, 3))).flatten(1) * self.factor + self.add


def test_a_factor_of_the_logits_is_found() -> None:
    head = find_head(Behind(nn.Linear(6, 5), factor=-0.25), (32, 32))
    assert head.scale == pytest.approx(-0.25) and head.pooled.layer == "map"
    torch.testing.assert_close(head.matrix, -0.25 * head.classifier.weight)


class Unpooled(nn.Module):
    """Its classifier reads a weighted sum of positions, which is no layer's output."""

    lgkd_taps = ("map", "map", "map")
    lgkd_blocks = ("map",)

    def __init__(self) -> None:
        super().__init__()
        self.map, self.classifier = nn.Conv2d(3, 6, 3, stride=4), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.map(images).flatten(2)
        return self.classifier((tokens * tokens.mean(dim=1, keepdim=True).softmax(dim=2)).sum(dim=2))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            Behind(nn.Sequential(nn.Linear(6, 5))),
            "the classifier 'classifier' of Behind is a Sequential, expected a torch",
        ),
        (
            Behind(nn.Linear(6, 5), add=1.0),
            "the outputs of Behind are not those of its classifier 'classifier' times a",
        ),
    ],
)
def test_a_teacher_without_a_linear_classifier_at_its_end_is_refused(
    model: nn.Module, words: str, conv_student: nn.Module
) -> None:
    for loss in (DenseKD(), TeacherHead()):
        with pytest.raises(TapError, match=words) as caught:
            Guide(conv_student, Teacher(model, image_size=32), image_size=32, terms=[Term(loss)])
        assert "use a term that reads" in str(caught.value)
    Guide(conv_student, Teacher(model, image_size=32), image_size=32, terms=[Term(TokenRelations())]).remove()


def test_a_teacher_whose_map_is_not_found_has_a_classifier_but_no_dense_logits(conv_student: nn.Module) -> None:
    teacher = Teacher(Unpooled(), image_size=32)
    with pytest.raises(
        TapError, match="no layer of Unpooled outputs a map whose mean, maximum or class token"
    ) as caught:
        Guide(conv_student, teacher, image_size=32, terms=[Term(DenseKD())])
    assert "torch.nn.Identity will do" in str(caught.value)
    Guide(conv_student, teacher, image_size=32, terms=[Term(TeacherHead())]).remove()


def test_classes_must_be_the_teachers_for_dense_logits_and_not_for_its_classifier(conv_student: nn.Module) -> None:
    other = Teacher(CifarResNet(8, 7), image_size=32)
    with pytest.raises(InputError, match="has 5 classes, the teacher 7, and a term compares their logits"):
        Guide(conv_student, other, image_size=32, terms=[Term(DenseKD())])
    guide = Guide(conv_student, other, image_size=32, terms=[Term(TeacherHead())])
    assert guide.losses["teacherhead"].matrix.shape == (7, 64)


@pytest.mark.parametrize(
    ("name", "size", "options", "shape", "learned"),
    [
        ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}, (5, 2, 2), False),
        ("vit_96", 32, {"depth": 3, "embed_dim": 24}, (5, 8, 8), False),
        ("resnet8", 32, {}, (5, 8, 8), False),
        ("fastnet_small", 32, {}, (5, 4, 4), False),
        ("deit_tiny", 32, SMALL, (24, 4, 4), True),
        ("cct_2_3x2", 32, {"embed_dim": 16}, (16, 8, 8), True),
        ("pit_ti", 64, {"depth": (1, 1, 1)}, (256, 2, 2), True),
    ],
)
def test_a_student_classifies_positions_itself_where_it_pools_them(
    name: str, size: int, options: dict[str, object], shape: tuple[int, ...], learned: bool, teacher: Teacher,
    make_batch: Callable[..., Batch],
) -> None:  # fmt: skip
    torch.manual_seed(1)
    student = create_student(name, num_classes=5, image_size=size, **options)
    guide = Guide(student, teacher, image_size=size, terms=[Term(DenseKD("soft"), name="dense")])
    assert guide._reader.dense_shape == shape and guide.teaches == {"logits": (5,), "dense": (5, 8, 8)}
    assert bool(list(guide.losses.parameters())) is learned
    task, batch = Guided(student, guide, classification_weight=0).train(), make_batch(size)
    seen = guide.read(student, batch.images)
    assert seen.dense.shape[1:] == shape
    step = task(batch)
    step.loss.backward()
    classifier = student.get_submodule(find_head(student, (size, size)).name)
    assert bool(classifier.weight.grad is not None and classifier.weight.grad.any()) is not learned
    if not learned:
        student.eval()
        seen = guide.read(student, batch.images)
        if name != "fastnet_small":
            torch.testing.assert_close(seen.dense.mean(dim=(2, 3)), seen.logits, rtol=1e-4, atol=1e-5)


def test_the_courses_of_a_guide_follow_its_epochs(conv_student: nn.Module, teacher: Teacher) -> None:
    terms = [Term(DenseKD(), name="one"), Term(DenseKD(course="square"), name="two"), Term(MapLoss(), name="three")]
    guide = Guide(conv_student, teacher, image_size=32, terms=terms)
    guide.on_train_start(8)
    for epoch, shares in (
        (0.0, (1, 1)),
        (2.0, (0.75, 0.5625)),
        (5.5, (0.3125, 0.3125**2)),
        (8.0, (0, 0)),
        (2.0, (0.75, 0.5625)),
    ):
        guide.set_epoch(epoch)
        assert [float(guide.losses[name].local) for name in ("one", "two")] == pytest.approx(shares)
    assert not any("local" in key for key in guide.state_dict())


def test_a_grid_of_one_position_is_warned_of(conv_student: nn.Module, teacher: Teacher) -> None:
    student = create_student("timm:resnet10t", num_classes=5, image_size=32)
    with pytest.warns(UserWarning, match=r"the pair layer4 \(512, 1, 1\) - stage3 \(5, 8, 8\) is compared on a grid"):
        Guide(student, teacher, image_size=32, terms=[Term(DenseKD())])


def test_a_lowered_teacher_classifies_positions_in_full_precision(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    guide, images = Guide(conv_student, teacher, image_size=32, terms=[Term(DenseKD())]), make_batch(32).images
    whole = guide.teacher_runner(images).dense
    guide.teacher_runner.cast(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = guide.teacher_runner(images).dense
    assert low.dtype == torch.float32 and (low - whole).norm() < 0.03 * whole.norm()


def test_two_guides_read_one_student_without_disturbing_each_other(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    """The classifier's own hooks of one guide do not see the dense logits of the other."""
    other = Teacher(CifarResNet(8, 5), image_size=32)
    first = Guide(conv_student.eval(), teacher, image_size=32, terms=[Term(TeacherHead(), name="head")])
    second = Guide(conv_student, other, image_size=32, terms=[Term(DenseKD(), name="dense")])
    batch = make_batch(32)
    together = Guided(conv_student, first, second).eval()(batch).parts
    alone = Guided(conv_student, first).eval()(batch).parts | Guided(conv_student, second).eval()(batch).parts
    for name in ("head", "dense"):
        torch.testing.assert_close(together[name], alone[name])

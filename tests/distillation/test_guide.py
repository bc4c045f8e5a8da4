"""The guide: what it builds, what it leaves alone, what it refuses, and that nothing of it stays."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

import lgkd
from lgkd.distillation.guide import Guide, PairShape, Term
from lgkd.distillation.taps import Tap
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import InputError, TapError
from lgkd.losses import MapLoss
from lgkd.models.cnn.resnet import CifarResNet
from lgkd.models.factory import create_student
from lgkd.models.teacher import Teacher
from tests import CHECKOUT

README, OWN = CHECKOUT / "README.md", CHECKOUT / "docs" / "own.md"
FAMILIES = ("deit_tiny", "pvt_v2_b0", "pit_ti", "convit_tiny")
HOOKS = [name for name in vars(nn.Linear(1, 1)) if "hooks" in name]


def linear(weight: float = 2.5) -> list[Term]:
    return [Term(MapLoss("linear"), weight=weight)]


def everything_about(model: nn.Module) -> dict[str, Any]:
    """State, flags and hooks of every module, to be compared."""
    assert HOOKS, "torch keeps hooks elsewhere now; this test must look there"
    return {
        name: (
            module.training,
            {key: (each.clone(), each.requires_grad) for key, each in module._parameters.items() if each is not None},
            {key: (value.clone(), False) for key, value in module._buffers.items() if value is not None},
            {hook: dict(vars(module)[hook] or {}) for hook in HOOKS},
            sorted(key for key in vars(module)),
        )
        for name, module in model.named_modules()
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, (training, parameters, buffers, hooks, attributes) in before.items():
        assert (training, hooks, attributes) == (after[name][0], *after[name][3:]), name
        for old, new in ((parameters, after[name][1]), (buffers, after[name][2])):
            assert old.keys() == new.keys()
            assert all(torch.equal(old[key][0], new[key][0]) and old[key][1] == new[key][1] for key in old), name


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_and_grids_of_the_papers_students_meet_where_the_paper_says(
    name: str, golden: Callable[[str], Any]
) -> None:
    expected = golden("models")
    student = create_student(name, num_classes=100)
    model = CifarResNet(8, 100)  # the same three stages as a ResNet-56
    guide = Guide(student, Teacher(model, image_size=32), image_size=224, terms=linear())
    stated = expected["students"][name]
    assert {pair.student: list(pair.student_map) for pair in guide.pairs} == stated["taps"]
    assert {pair.teacher: list(pair.teacher_map) for pair in guide.pairs} == expected["resnet56"]["taps"]
    assert [pair.grid for pair in guide.pairs] == [(side, side) for side in stated["matched_grids"]]
    assert [fold.prefix for fold in guide._reader.folds] == stated["prefixes"]
    widths = [shape[0] for shape in stated["taps"].values()]
    assert [tuple(p.weight.shape) for p in guide.losses["guidance_linear"].projections] == [
        (teacher_width, width, 1, 1) for width, teacher_width in zip(widths, (16, 32, 64), strict=True)
    ]


def test_the_grid_of_a_pair_is_the_larger_side_by_side() -> None:
    assert PairShape("a", (8, 2, 9), "b", (8, 4, 3)).grid == (4, 9)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_making_and_removing_a_guide_leaves_both_models_as_they_were(
    conv_student: nn.Module, teacher: Teacher, mode: str
) -> None:
    conv_student.train()
    conv_student.late.eval()
    conv_student.head.requires_grad_(False)
    conv_student.head.register_forward_hook(lambda *_: None)  # somebody else's
    teacher.use_batch_norm(mode)
    ours, theirs = everything_about(conv_student), everything_about(teacher)
    torch.manual_seed(9)
    chance = torch.get_rng_state()
    guide = Guide(conv_student, teacher, image_size=32, terms=[Term(MapLoss("attention"))])
    assert torch.equal(torch.get_rng_state(), chance), "looking at shapes must not draw numbers"
    assert conv_student.early._forward_hooks and not teacher.model.stage1._forward_hooks, "a copy is run of the teacher"
    guide.remove()
    assert_same(ours, everything_about(conv_student))
    assert_same(theirs, everything_about(teacher))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_gives_the_same_logits_before_with_and_after_its_guide(
    name: str, small_student: Callable[..., tuple[nn.Module, int]], teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    student, size = small_student(name)
    batch = make_batch(size)
    before = student.eval()(batch.images)
    keys = list(student.state_dict())
    guide = Guide(student, teacher, image_size=size, terms=linear())
    assert torch.equal(student(batch.images), before)
    seen = guide.read(student, batch.images)
    assert torch.equal(seen.logits, before) and [each.ndim for each in seen.maps] == [4, 4, 4]
    Guided(student, guide)(batch).loss.backward()
    guide.remove()
    assert torch.equal(student(batch.images), before)
    assert list(student.state_dict()) == keys
    assert not any(module._forward_hooks for module in student.modules())


def test_after_removal_a_read_is_refused(conv_student: nn.Module, teacher: Teacher) -> None:
    guide = Guide(conv_student, teacher, image_size=32, terms=linear())
    guide.remove()
    guide.remove()
    with pytest.raises(TapError, match="did not run in its forward pass"):
        guide.read(conv_student, torch.zeros(2, 3, 32, 32))


def test_the_teacher_is_no_part_of_the_guide_but_goes_where_it_goes(conv_student: nn.Module, teacher: Teacher) -> None:
    guide = Guide(conv_student, teacher, image_size=32, terms=linear())
    task = Guided(conv_student, guide)
    its = {id(parameter) for parameter in teacher.parameters()}
    assert its.isdisjoint(id(parameter) for parameter in task.parameters())
    assert {key.split(".")[0] for key in task.state_dict()} == {"student", "guides"}
    assert {key.split(".")[2] for key in task.state_dict() if key.startswith("guides")} == {"losses"}
    assert all(module is not teacher.model for module in task.modules())
    task.double()
    assert {p.dtype for p in [*task.parameters(), *teacher.parameters(), teacher.mean]} == {torch.float64}
    task.to("meta")
    assert {p.device.type for p in [*task.parameters(), *teacher.parameters(), teacher.std]} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_guide_takes_the_precision_of_its_student(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch], dtype: torch.dtype
) -> None:
    conv_student.to(dtype)
    task = Guided(conv_student, Guide(conv_student, teacher, image_size=32, terms=linear()))
    batch = make_batch(32)
    step = task(Batch(batch.images.to(dtype), batch.targets))
    step.loss.backward()
    assert step.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_weights_and_names_of_terms_are_kept_apart(conv_student: nn.Module, teacher: Teacher) -> None:
    again = Term(MapLoss("linear"), 0.0, name="again")
    terms = [Term(MapLoss("linear"), 2.5), Term(MapLoss("attention"), 100.0), again]
    guide = Guide(conv_student, teacher, image_size=32, terms=terms)
    assert guide.weights == {"guidance_linear": 2.5, "guidance_attention": 100.0, "again": 0.0}
    first, second = guide.losses["guidance_linear"], guide.losses["again"]
    assert len(first.projections) == len(second.projections) == 3
    assert first.projections[0].weight is not second.projections[0].weight


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([], "a guide has no terms; give at least one"),
        ([Term(MapLoss()), Term(MapLoss())], "two terms of the loss are named 'guidance_linear'; give each term a"),
        ([Term(MapLoss(), name="classification")], "two terms of the loss are named 'classification'"),
        ([Term(MapLoss(), name="loss")], "a term cannot be named 'loss'; use letters"),
        ([Term(MapLoss(), name="accuracy")], "a term cannot be named 'accuracy'"),
        ([Term(MapLoss(), name="a.b")], "a term cannot be named 'a.b'"),
        ([Term(MapLoss(), name="keys")], "a term cannot be named 'keys'"),
        ([Term(MapLoss(), name="training")], "a term cannot be named 'training'"),
        (
            [Term(nn.MSELoss())],
            "MSELoss reads None; a loss declares its family as the class attribute reads, one of 'maps'",
        ),
    ],
)
def test_terms_that_cannot_be_are_refused(
    terms: list[Term], message: str, conv_student: nn.Module, teacher: Teacher
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Guide(conv_student, teacher, image_size=32, terms=terms)
    assert not any(module._forward_hooks for module in conv_student.modules()), "an error must leave no hook behind"


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_of_zero_or_more(weight: float) -> None:
    with pytest.raises(InputError, match=f"the weight of MapLoss is {weight}, expected a number >= 0"):
        Term(MapLoss(), weight=weight)


def test_a_model_that_is_no_teacher_is_refused_with_what_to_do(conv_student: nn.Module) -> None:
    with pytest.raises(InputError, match=r"teacher is a CifarResNet, expected an lgkd\.Teacher.*lgkd\.Teacher\(model"):
        Guide(conv_student, CifarResNet(8, 5), image_size=32, terms=linear())


def test_unequal_numbers_of_taps_are_refused_with_both_lists(conv_student: nn.Module, teacher: Teacher) -> None:
    expected = "2 student taps (early, late) cannot be paired with 3 teacher taps (stage1, stage2, stage3)"
    with pytest.raises(TapError, match=re.escape(expected)):
        Guide(conv_student, teacher, image_size=32, terms=linear(), taps=["early", "late"])
    taps, teacher_taps = ["early", Tap("late")], ["stage1", "stage3"]
    guide = Guide(conv_student, teacher, image_size=32, terms=linear(), taps=taps, teacher_taps=teacher_taps)
    assert [(pair.student, pair.teacher) for pair in guide.pairs] == [("early", "stage1"), ("late", "stage3")]


def test_a_layer_without_a_map_is_refused_with_its_shape(conv_student: nn.Module, teacher: Teacher) -> None:
    with pytest.raises(TapError, match=r"tap 'head' has the output shape \(2, 5\), which is not a map"):
        Guide(conv_student, teacher, image_size=32, terms=linear(), taps=["early", "late", "head"])
    with pytest.raises(TapError, match=r"ConvStudent has no layer 'earli'; did you mean 'early'"):
        Guide(conv_student, teacher, image_size=32, terms=linear(), taps=["earli", "middle", "late"])


def test_windows_of_swin_are_no_maps_but_its_blocks_are(teacher: Teacher) -> None:
    student = SwinTransformer(
        img_size=64, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1, 1), num_heads=(1, 1, 1), num_classes=5
    )
    guide = Guide(student, teacher, image_size=64, terms=linear())
    assert [pair.student_map for pair in guide.pairs] == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    with pytest.raises(TapError, match=r"for 2 image\(s\): its first dimension is not the batch"):
        Guide(student, teacher, image_size=64, terms=linear(), taps=["layers.0.blocks.0.attn"], teacher_taps=["stage1"])


def test_images_that_are_not_square_are_guided_too(teacher: Teacher, make_batch: Callable[..., Batch]) -> None:
    student = create_student("deit_tiny", num_classes=5, image_size=(32, 48), patch_size=8, depth=3)
    guide = Guide(student, teacher, image_size=(32, 48), terms=linear())
    assert [pair.student_map for pair in guide.pairs] == [(192, 4, 6)] * 3
    assert [pair.grid for pair in guide.pairs] == [(32, 32), (16, 16), (8, 8)]
    assert Guided(student, guide)(make_batch((32, 48))).loss.isfinite()


def test_images_of_another_size_than_promised_are_refused(
    conv_student: nn.Module, teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    """A student that takes any size, but whose tokens were to be laid out for another one."""

    class Tokens(nn.Module):
        lgkd_taps = ("blocks",)

        def __init__(self) -> None:
            super().__init__()
            self.patch, self.blocks, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Identity(), nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.blocks(self.patch(images).flatten(2).transpose(1, 2)).mean(1))

    student = Tokens()
    guide = Guide(student, teacher, image_size=32, terms=linear(), teacher_taps=["stage3"])
    with pytest.raises(TapError, match="64 tokens, expected 0 and a grid of 4 x 4; pass images of the size"):
        Guided(student, guide)(make_batch(64))


def test_a_pair_that_meets_at_one_point_is_warned_of(teacher: Teacher) -> None:
    student = create_student("deit_tiny", num_classes=5, image_size=32, depth=3, patch_size=32)
    with pytest.warns(UserWarning, match="is compared on a grid of 1 x 1: no local information is left"):
        Guide(student, teacher, image_size=32, terms=linear())


def test_the_students_normalisation_reaches_the_teachers_view(conv_student: nn.Module, teacher: Teacher) -> None:
    """The same photograph, normalised in two ways, shows the teacher the same thing."""
    pixels = torch.rand(2, 3, 48, 48)
    seen = []
    for mean, std in (((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))):
        guide = Guide(conv_student, teacher, image_size=48, terms=linear(), mean=mean, std=std)
        images = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        seen.append(guide.teach(images).maps[0])
        guide.remove()
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)


def block_of(page: Path, having: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [block for block in blocks if having in block]
    assert len(found) == 1, f"{page.name} has {len(found)} blocks with {having!r}"
    return found[0]


def test_the_student_of_ones_own_on_its_page_takes_ten_lines_and_learns(
    teacher: Teacher, make_batch: Callable[..., Batch]
) -> None:
    block = block_of(OWN, "class MyViT")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    names: dict[str, Any] = {}
    exec(compile(block, "own.md", "exec"), names)
    torch.manual_seed(0)
    student = names["MyViT"](num_classes=5, image_size=32)
    guide = Guide(student, teacher, image_size=32, terms=linear())
    assert [pair.student_map for pair in guide.pairs] == [(64, 8, 8)] * 3
    task, batch = Guided(student, guide), make_batch(32, count=8)
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        step = task(batch)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(step.loss.item())
    assert losses[-1] < losses[0]


def test_the_loop_in_the_readme_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, teacher: Teacher) -> None:
    asked = []

    def load_teacher(name: str, dataset: str) -> Teacher:
        asked.append((name, dataset))
        return teacher

    monkeypatch.setattr(lgkd, "load_teacher", load_teacher, raising=False)
    names: dict[str, Any] = {
        "lgkd": lgkd,
        "torch": torch,
        "images": torch.randn(2, 3, 224, 224),
        "targets": torch.tensor([3, 97]),
    }
    exec(compile(block_of(README, "lgkd.Guide("), "README.md", "exec"), names)
    step = names["step"]
    assert asked == [("resnet56", "cifar100")]
    assert step.logits.shape == (2, 100) and set(step.parts) == {"classification", "guidance_linear"}
    assert all(p.grad is not None for p in names["guide"].parameters())
    assert not any(module._forward_hooks for module in names["student"].modules())

"""Default taps of models from elsewhere: they are found, they hold maps of the image, and a teacher can guide them."""

import re
import sys
from typing import Any

import pytest
import timm
import torch
from timm.models.hiera import Hiera
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from lgkd.cli import run
from lgkd.distillation.guide import Guide, Term
from lgkd.distillation.layers import describe_layers, meet
from lgkd.distillation.taps import Tap, find_fold
from lgkd.distillation.tasks import Batch, Guided
from lgkd.errors import LgkdError, ModelError, TapError
from lgkd.losses import MapLoss
from lgkd.models.default_taps import block_names, default_taps, guided_blocks, stage_names
from lgkd.models.factory import create_student
from lgkd.models.huggingface import Classifier, classifier
from lgkd.models.teacher import Teacher
from tools.models_page import FAMILIES, HUGGING_FACE, PAGE, Elsewhere, content, installed, shown_maps

ROWS = {line.strip("| ").split(" | ")[0]: line for line in content(PAGE.read_text(), "elsewhere").splitlines()}
SPOT = (0.7, 0.2)
"""Where images are painted on, of the height and of the width."""

NEAR = 0.15
"""Of the side; half a place of a map of 4 x 4 and no more. What moves everywhere alike has its middle at 0.3."""


def guide_of(student: nn.Module, teacher: Teacher, size: int, taps: tuple[str, ...] = ()) -> Guide:
    return Guide(student, teacher, image_size=size, terms=[Term(MapLoss("linear"), weight=2.5)], taps=taps or None)


def gradients(student: nn.Module, guide: Guide, images: Tensor) -> dict[str, float]:
    """How much the guidance alone, without labels, pulls at what each tapped layer puts out."""
    seen: dict[str, Tensor] = {}
    modules = dict(student.named_modules())

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            seen[name] = output if isinstance(output, Tensor) else output[0]
            seen[name].retain_grad()

        return hook

    handles = [modules[pair.student].register_forward_hook(keep(pair.student)) for pair in guide.pairs]
    terms = guide(guide.read(student, images), guide.teach(images), torch.zeros(len(images), dtype=torch.long))
    sum(terms.values()).backward()
    for handle in handles:
        handle.remove()
    return {name: float(output.grad.abs().sum()) for name, output in seen.items() if output.grad is not None}


def far_from_spot(student: nn.Module, guide: Guide, size: int) -> list[float]:
    """Paint a spot into images; how far from it, as a share of the side, the middle of what moves in each map is.

    Of maps that were folded or turned, which may have been so wrongly. In an untrained model with BatchNorm only the
    first: what moves deeper inside moves everywhere.
    """
    norms = [module for module in student.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        module.momentum = 1.0
    chance = torch.Generator().manual_seed(6)
    student.train()(torch.randn(8, 3, size, size, generator=chance))
    student.eval()
    top, left = (round(size * share) for share in SPOT)
    half = max(size // 16, 2)
    before = torch.randn(8, 3, size, size, generator=chance) / 10
    after = before.clone()
    after[..., top - half : top + half, left - half : left + half] += 2
    with torch.no_grad():
        pairs = zip(guide.read(student, before).maps, guide.read(student, after).maps, strict=True)
        moves = [(new - old, fold) for (old, new), fold in zip(pairs, guide._reader.folds, strict=True)]
    far = []
    for move, fold in moves[: 1 if norms else None]:
        if fold.layout == "NCHW":
            continue
        moved = move.square().sum(dim=1).mean(dim=0)
        # What goes everywhere, by way of attention, tells nothing of places.
        moved = (moved - moved.mean()).clamp(min=0)
        high, wide = moved.shape
        row = float((moved.sum(dim=1) * (torch.arange(high) + 0.5)).sum() / moved.sum())
        column = float((moved.sum(dim=0) * (torch.arange(wide) + 0.5)).sum() / moved.sum())
        far.append(max(abs(row / high - SPOT[0]), abs(column / wide - SPOT[1])))
    return far


def families(*, refused: bool) -> list[Any]:
    return [
        pytest.param(
            entry,
            id=entry.family,
            marks=[
                *([pytest.mark.slow] if entry.heavy else []),
                pytest.mark.skipif(not installed(entry), reason="transformers is not installed"),
            ],
        )
        for entry in FAMILIES
        if ("| none |" in ROWS[entry.family]) == refused
    ]


@pytest.mark.parametrize("entry", families(refused=False))
@pytest.mark.filterwarnings("ignore:.*is compared on a grid of 1 x 1:UserWarning")
def test_a_family_is_guided_at_places_of_the_image(entry: Elsewhere, teacher: Teacher) -> None:
    torch.manual_seed(0)
    student = create_student(entry.name, num_classes=5, image_size=entry.size, **entry.options)
    if entry.taps:
        with pytest.raises(TapError):
            guide_of(student, teacher, entry.size)
    guide = guide_of(student, teacher, entry.size, entry.taps)
    cells = ROWS[entry.family].strip("|").split(" | ")
    assert re.findall(r"`([^`]+)`", cells[4]) == [pair.student for pair in guide.pairs]
    assert cells[5].strip() == shown_maps([pair.student_map for pair in guide.pairs])
    images = torch.randn(2, 3, entry.size, entry.size)
    assert Guided(student, guide)(Batch(images, torch.tensor([0, 3]))).loss.isfinite()
    pulled = gradients(student, guide, images)
    assert list(pulled) == [pair.student for pair in guide.pairs] and min(pulled.values()) > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert max(far_from_spot(student, guide, entry.size), default=0) < NEAR


@pytest.mark.parametrize("entry", families(refused=True))
def test_a_family_without_taps_says_why(entry: Elsewhere) -> None:
    student = create_student(entry.name, num_classes=5, image_size=entry.size, **entry.options)
    for find in (default_taps, guided_blocks):
        with pytest.raises(TapError) as error:
            find(student)
        assert str(error.value).partition(";")[0] in ROWS[entry.family]


def test_tokens_of_hiera_are_in_the_wrong_order_indeed(teacher: Teacher) -> None:
    """Else the refusal would be for nothing; NesT and the others are in order by the same measure."""
    torch.manual_seed(0)
    size = 64
    student = Hiera(img_size=(size, size), num_classes=5, embed_dim=16, num_heads=1, stages=(1, 1, 1, 1))
    guide = guide_of(student, teacher, size, ("blocks.0", "blocks.1", "blocks.3"))
    assert max(far_from_spot(student, guide, size)) > 2 * NEAR


def test_torchvisions_swin_is_tapped_at_its_blocks(teacher: Teacher) -> None:
    """Its maps are channels-last, and it says so nowhere."""
    torch.manual_seed(0)
    student = SwinTransformer([4, 4], 12, [1, 1, 2], [1, 2, 4], [4, 4], num_classes=5)
    guide = guide_of(student, teacher, 64)
    assert [(pair.student, pair.student_map) for pair in guide.pairs] == [
        ("features.1.0", (12, 16, 16)),
        ("features.5.0", (48, 4, 4)),
        ("features.5.1", (48, 4, 4)),
    ]
    far = far_from_spot(student, guide, 64)
    assert len(far) == 3 and max(far) < NEAR


def weightless(name: str) -> nn.Module:
    try:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=2)
    except (NotImplementedError, RuntimeError):
        # Older versions of timm compute with tensors while they build.
        return timm.create_model(name, num_classes=2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Their blocks have an attribute `attn`: an Identity, or a gate of channels.
        ("cspresnet50", ["stages.0", "stages.1", "stages.2"]),
        ("ese_vovnet19b_dw", ["stages.0", "stages.1", "stages.2"]),
        ("eca_resnet33ts", ["stages.0", "stages.1", "stages.2"]),
        ("skresnet18", ["layer1", "layer2", "layer3"]),
        # A mixer of tokens by name, a convolution by nature.
        ("repvit_m0_9", ["stages.0", "stages.1", "stages.2"]),
        # Attention in its last stages alone.
        ("botnet26t_256", ["stages.0", "stages.1", "stages.2"]),
        # timm lists the stem of some first, but not of all.
        ("rdnet_tiny", ["dense_stages.0", "dense_stages.1", "dense_stages.5"]),
        ("mobilenetv3_small_050", ["blocks.0", "blocks.1", "blocks.3"]),
    ],
)
def test_cnns_are_tapped_at_stages_whatever_their_parts_are_called(name: str, expected: list[str]) -> None:
    assert default_taps(weightless(name)) == expected


class Block(nn.Module):
    """Attention by an attribute of its class alone."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.a, self.norm = nn.MultiheadAttention(6, 2, batch_first=batch_first), nn.LayerNorm(6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens + self.a(tokens, tokens, tokens, need_weights=False)[0])


class Net(nn.Module):
    """A ViT of one's own around blocks that are given."""

    def __init__(self, body: nn.Module, *, batch_first: bool = True) -> None:
        super().__init__()
        self.patch, self.body, self.head = nn.Conv2d(3, 6, 8, stride=8), body, nn.Linear(6, 5)
        self.batch_first = batch_first

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        tokens = self.body(tokens if self.batch_first else tokens.transpose(0, 1))
        return self.head(tokens.mean(1 if self.batch_first else 0))


def test_blocks_are_known_by_the_class_of_their_attention_and_whatever_they_lie_in(teacher: Teacher) -> None:
    student = Net(nn.Sequential(*(Block() for _ in range(4))))
    assert default_taps(student) == ["body.0", "body.2", "body.3"]
    assert [pair.student_map for pair in guide_of(student, teacher, 32).pairs] == [(6, 4, 4)] * 3


def test_torchs_own_encoder_is_tapped_at_its_layers(teacher: Teacher) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
    student = Net(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    guide = guide_of(student, teacher, 32)
    assert [pair.student for pair in guide.pairs] == ["body.layers.0", "body.layers.1", "body.layers.2"]
    assert min(gradients(student, guide, torch.randn(2, 3, 32, 32)).values()) > 0


def test_tokens_that_come_first_are_refused(teacher: Teacher) -> None:
    student = Net(nn.Sequential(*(Block(batch_first=False) for _ in range(3))), batch_first=False)
    with pytest.raises(TapError, match=r"\(16, 2, 6\) for 2 image\(s\): its first dimension is not the batch"):
        guide_of(student, teacher, 32)


def test_lists_of_parts_are_no_blocks_as_they_never_run() -> None:
    student = Net(nn.ModuleList(nn.ModuleList([Block(), nn.Linear(6, 6)]) for _ in range(3)))
    assert block_names(student) == ["body.0.0", "body.1.0", "body.2.0"]


def test_blocks_that_are_fewer_than_taps_give_way_to_stages() -> None:
    model = nn.Module()
    model.blocks = nn.Sequential(Block(), Block())
    with pytest.raises(TapError, match="a model of 2 blocks cannot be tapped at 3"):
        default_taps(model)
    for number in (1, 2, 3):
        model.add_module(f"layer{number}", nn.Identity())
    assert default_taps(model) == ["layer1", "layer2", "layer3"]


def test_stages_are_found_inside_of_a_wrapper() -> None:
    wrapped = nn.ModuleDict({"backbone": nn.ModuleDict({"net": weightless("resnet18")})})
    assert stage_names(wrapped) == [f"backbone.net.layer{stage}" for stage in (1, 2, 3, 4)]
    assert default_taps(wrapped) == [f"backbone.net.layer{stage}" for stage in (1, 2, 3)]


def test_pieces_of_a_map_beside_each_other_are_refused() -> None:
    """NesT's (B, pieces, tokens, D); on images that are not square nothing can be told."""
    with pytest.raises(TapError, match=r"\(2, 4, 196, 192\), of which neither the second and third nor the last"):
        find_fold(Tap("levels.1.transformer_encoder.0"), (2, 4, 196, 192), image_size=(224, 224))
    assert find_fold(Tap("x", layout="NCHW"), (2, 4, 196, 192), image_size=(224, 224)).layout == "NCHW"
    assert find_fold(Tap("x"), (2, 8, 7, 7), image_size=(64, 128)).layout == "NCHW"


# What default taps meet


def test_layers_say_what_they_meet_of_a_teacher_as_a_guide_does(teacher: Teacher) -> None:
    options = {"patch_size": 8, "depth": 3}
    layers = meet(describe_layers("deit_tiny", image_size=32, options=options), "resnet8")
    student = create_student("deit_tiny", num_classes=5, image_size=32, **options)
    assert [
        (layer.name, layer.map, layer.meets.teacher, layer.meets.layer, layer.meets.map, layer.meets.grid)
        for layer in layers
        if layer.meets
    ] == [
        (pair.student, pair.student_map, "resnet8", pair.teacher, pair.teacher_map, pair.grid)
        for pair in guide_of(student, teacher, 32).pairs
    ]
    assert [layer.tapped for layer in layers] == [layer.meets is not None for layer in layers]


def test_models_that_cannot_be_paired_say_what_was_found() -> None:
    layers = describe_layers("timm:tnt_s_patch16_224", image_size=32, options={"depth": 3})
    with pytest.raises(
        TapError, match=r"blocks.0 \(no map\), .* cannot be paired with stage1, stage2, stage3 of resnet8"
    ):
        meet(layers, "resnet8")


def test_depth_is_the_share_of_layers_with_kernels_that_have_run() -> None:
    """ResNet-8: a convolution, then 2, 2 and 2 with projections before stages 2 and 3, then the classifier."""
    depths = {layer.name: layer.depth for layer in describe_layers("resnet8")}
    wanted = {"conv": 1, "stage1": 3, "stage2": 6, "stage3": 9, "fc": 10}
    assert {name: depths[name] for name in wanted} == {name: done / 10 for name, done in wanted.items()}


def test_no_layer_of_hiera_is_shown_as_a_map() -> None:
    layers = describe_layers("timm:hiera_tiny_224", image_size=64, options={"embed_dim": 16, "num_heads": 1})
    assert not any(layer.map or layer.tapped for layer in layers)
    assert {layer.problem for layer in layers} == {"not in rows"}


def test_the_command_shows_what_meets_which_stage_and_why_if_nothing_does(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["layers", "deit_tiny", "--image-size", "32", "--option", "patch_size=8", "--option", "depth=3"]
    assert run(words) == 0
    assert "default taps and stages of resnet56\n" in capsys.readouterr().out
    assert run([*words, "--teacher", "resnet8"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[-4].split("  ")[-1].strip() == "32 x 32" and shown[-4].split()[6] == "stage1"
    assert run(["layers", "resnet8"]) == 0
    assert " meet" not in capsys.readouterr().out, "a teacher is not guided unless it is asked by whom"
    assert run(["layers", "timm:hiera_tiny_224", "--image-size", "64", "--option", "embed_dim=16"]) == 0
    assert "the model has no default taps to pair" in capsys.readouterr().out
    assert run(["layers", "deit_tiny", "--teacher", "resnet57"]) == 2


# Hugging Face


def test_an_answer_with_logits_becomes_logits() -> None:
    class Answer:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Theirs(nn.Linear):
        def forward(self, pixel_values: Tensor) -> Answer:  # type: ignore[override]
            return Answer(super().forward(pixel_values.mean(dim=(2, 3))))

    theirs, images = Theirs(3, 4), torch.randn(2, 3, 5, 5)
    assert torch.equal(Classifier(theirs)(images), theirs(images).logits)


def test_options_reach_the_configuration_and_mistyped_ones_are_named() -> None:
    pytest.importorskip("transformers")
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = classifier(num_classes=3, model_type="vit", image_size=(16, 32), patch_size=8, **small)
    assert model(torch.zeros(2, 3, 16, 32)).shape == (2, 3)
    assert (model.model.config.patch_size, model.model.config.hidden_size) == (8, 12)
    with pytest.raises(ModelError, match="vit has no option 'hidden_sise'; did you mean 'hidden_size'"):
        classifier(num_classes=3, model_type="vit", hidden_sise=12)
    with pytest.raises(ModelError, match="transformers has no image classifier of type 'vitt'; did you mean 'vit'"):
        create_student(HUGGING_FACE, num_classes=3, model_type="vitt")
    for key in ("return_dict", "_name_or_path"):
        with pytest.raises(ModelError, match=f"vit has no option '{key}'"):
            classifier(num_classes=3, model_type="vit", **{key: False})
    with pytest.raises(ModelError, match="model_type"):
        create_student(HUGGING_FACE, num_classes=3)


def test_the_same_configuration_gives_the_logits_of_transformers_itself() -> None:
    transformers = pytest.importorskip("transformers")
    words = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
    torch.manual_seed(3)
    ours = create_student(HUGGING_FACE, num_classes=3, image_size=32, model_type="swin", **words).eval()
    torch.manual_seed(3)
    config = transformers.SwinConfig(image_size=32, num_labels=3, **words)
    theirs = transformers.SwinForImageClassification(config).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images).logits)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LgkdError, match=r"transformers cannot be imported .*; install it: pip install 'lgkd\[hf\]'"):
        create_student(HUGGING_FACE, num_classes=3, image_size=32, model_type="vit")

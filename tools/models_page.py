"""Writes docs/models.md: from the catalogue, from the models themselves, and from the families of others tried below.

python -m tools.models_page

Nothing is trained and hardly anything is computed: models are made on torch's meta device, where shapes alone exist.
"""

import importlib.util
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lgkd.benchmark.flops import count_flops
from lgkd.distillation.features import FeatureReader, FeatureSpec
from lgkd.distillation.taps import Tap
from lgkd.errors import LgkdError
from lgkd.models.default_taps import block_names, default_taps
from lgkd.models.factory import create_model
from lgkd.models.registry import MODELS
from tools.pages import replaced

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
HUGGING_FACE = "lgkd.models.huggingface:classifier"

FROM_TIMM = (
    ("`timm.create_model(NAME)`", "`--student timm:NAME`", "any timm classifier, with random weights"),
    ("`deit_tiny_patch16_224`", "`deit_tiny`", "distilled: `--student-option distillation_token=true`"),
    ("`img_size`", "`--image-size`, `view.image_size`", "an option of the training, not of the model"),
    ("`patch_size` and other arguments", "`--student-option patch_size=4`", "passed to the constructor"),
    ("`drop_path_rate`, `--drop-path`", "`drop_path`", "0.1 in `locality-guidance`"),
    ("`--opt`, `--lr`, `--weight-decay`", "`optimizer.name`, `.lr`, `.weight_decay`", "not scaled with the batch"),
    (
        "`--sched`, `--warmup-epochs`, `--min-lr`",
        "`schedule.decay`, `.warmup_epochs`, `.min_lr`",
        "`cosine` as in timm, or `linear`",
    ),
    ("`--clip-grad`", "`clip_norm`", "norm of the whole gradient; timm's default mode"),
    ("`--grad-accum-steps`", "`accumulate`", "splits `batch_size`; timm multiplies it"),
    ("`--model-ema-decay`", "`ema.decay`", "with `ema: null` there is no average"),
    ("`--aa`", "`view.rand_augment`", "timm's notation: `rand-m9-mstd0.5-inc1`"),
    ("`--reprob`", "`view.erase`", "filled with noise, as `--remode pixel`"),
    ("`--hflip`, `--color-jitter`", "`view.flip`, `view.color_jitter`", ""),
    ("`--scale`, `--ratio`", "`view.scale`, `view.ratio`", "of `view.crop: random-resized`"),
    ("`--train-interpolation`", "`view.interpolation`", "tests: `evaluation.interpolation`"),
    ("`--mixup`, `--cutmix`, `--mixup-prob`", "`mix.mixup`, `.cutmix`, `.probability`", "alphas of Beta distributions"),
    ("`--smoothing`", "`label_smoothing`", "0 in `locality-guidance`; timm's default is 0.1"),
)
"""Terms of timm's training script, those of lgkd, and a remark."""


@dataclass(frozen=True)
class Elsewhere:
    """A family of models that lgkd did not make, tried with its smallest member.

    Attributes:
        family: the name in the literature.
        name: what stands after --student.
        size: pixels of the side of the images.
        options: reach the constructor, to make it smaller.
        note: what users should know of its taps.
        taps: given by hand where none are found.
        heavy: takes seconds on a CPU, so that it is not trained in every run of the tests.
    """

    family: str
    name: str
    size: int
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    taps: tuple[str, ...] = ()
    heavy: bool = False


PLAIN = {"patch_size": 8, "depth": 3, "embed_dim": 48, "num_heads": 3}
STAGED = {"depths": (1, 1, 2, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)}
SWIN = {"window_size": 4, "depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 6)}
LEVIT = {"depth": (1, 1, 1), "embed_dim": (32, 48, 64), "num_heads": (2, 3, 4)}
COAT = {"serial_depths": (1, 1, 1, 1), "embed_dims": (32, 32, 32, 32)}
TINY_VIT = {**STAGED, "window_sizes": (2, 2, 2, 2)}
DAVIT = {"depths": (1, 1, 1, 1), "embed_dims": (32, 32, 64, 64), "num_heads": (1, 1, 2, 2), "window_size": 4}
STAGES = "the ends of its first stages, as a CNN"
CONVOLUTIONAL = "most of its blocks hold no attention: the ends of stages"

FAMILIES = (
    Elsewhere("ViT, DeiT", "timm:vit_tiny_patch16_224", 32, PLAIN),
    Elsewhere("DeiT with distillation token", "timm:deit_tiny_distilled_patch16_224", 32, PLAIN),
    Elsewhere("DeiT III", "timm:deit3_small_patch16_224", 32, PLAIN),
    Elsewhere("BEiT", "timm:beit_base_patch16_224", 32, PLAIN),
    Elsewhere("EVA-02", "timm:eva02_tiny_patch14_224", 32, PLAIN),
    Elsewhere("Swin", "timm:swin_tiny_patch4_window7_224", 64, SWIN),
    Elsewhere("Swin V2", "timm:swinv2_tiny_window8_256", 64, SWIN),
    Elsewhere("PiT", "timm:pit_ti_224", 64, {"depth": (1, 1, 1), "base_dims": (16, 16, 16), "heads": (1, 2, 4)}),
    Elsewhere(
        "ConViT",
        "timm:convit_tiny",
        32,
        {"patch_size": 8, "depth": 3, "local_up_to_layer": 2, "embed_dim": 12, "num_heads": 4},
    ),
    Elsewhere("CaiT", "timm:cait_xxs24_224", 32, PLAIN, "its blocks for the class token alone are not tapped"),
    Elsewhere(
        "XCiT",
        "timm:xcit_nano_12_p16_224",
        64,
        {"depth": 3, "embed_dim": 48, "num_heads": 3},
        "its blocks for the class token alone are not tapped",
    ),
    Elsewhere("PVTv2", "timm:pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}),
    Elsewhere("Twins-SVT", "timm:twins_svt_small", 64, STAGED),
    Elsewhere("Twins-PCPVT", "timm:twins_pcpvt_small", 64, STAGED),
    Elsewhere("LeViT", "timm:levit_128s", 64, LEVIT, "16 pixels a place already in the first block"),
    Elsewhere("MobileViT", "timm:mobilevit_xxs", 64, {}, "its attention sees pieces of maps: the stages that hold it"),
    Elsewhere("MobileViTv2", "timm:mobilevitv2_050", 64, {}, "as MobileViT"),
    Elsewhere("TinyViT", "timm:tiny_vit_5m_224", 64, TINY_VIT, "its first stage is convolutional"),
    Elsewhere("MaxViT", "timm:maxvit_pico_rw_256", 64, {"depths": (1, 1, 2, 1), "embed_dim": (32, 32, 64, 64)}),
    Elsewhere(
        "CoAtNet",
        "timm:coatnet_pico_rw_224",
        64,
        {"depths": (1, 1, 2, 2), "embed_dim": (32, 32, 64, 64)},
        "its first two stages are convolutional",
    ),
    Elsewhere("CoaT-Lite", "timm:coat_lite_tiny", 64, COAT),
    Elsewhere("CoaT", "timm:coat_tiny", 64, {**COAT, "parallel_depth": 1}, "not its parallel blocks"),
    Elsewhere("PoolFormer", "timm:poolformer_s12", 64),
    Elsewhere("CAFormer", "timm:caformer_s18", 64, {}, "its first two stages are convolutional", heavy=True),
    Elsewhere("DaViT", "timm:davit_tiny", 64, DAVIT, "the half of each block that attends to places"),
    Elsewhere("GC ViT", "timm:gcvit_xxtiny", 64, heavy=True),
    Elsewhere("MViTv2", "timm:mvitv2_tiny", 64, heavy=True),
    Elsewhere("VOLO", "timm:volo_d1_224", 64, heavy=True),
    Elsewhere("CrossViT", "timm:crossvit_tiny_240", 64, {}, "of both branches, in the order in which they run"),
    Elsewhere("EfficientViT (MSRA)", "timm:efficientvit_m0", 128),
    Elsewhere("NesT", "timm:nest_tiny", 64, {}, "its attention sees pieces of maps: its levels", heavy=True),
    Elsewhere("MLP-Mixer", "timm:mixer_s16_224", 64, heavy=True),
    Elsewhere("ResMLP", "timm:resmlp_12_224", 64, heavy=True),
    Elsewhere("gMLP", "timm:gmlp_ti16_224", 64, heavy=True),
    Elsewhere("EdgeNeXt", "timm:edgenext_xx_small", 64, {}, CONVOLUTIONAL),
    Elsewhere("SwiftFormer", "timm:swiftformer_xs", 64, {}, CONVOLUTIONAL),
    Elsewhere("EfficientFormerV2", "timm:efficientformerv2_s0", 64, {}, CONVOLUTIONAL),
    Elsewhere("FastViT", "timm:fastvit_t8", 64, {}, STAGES),
    Elsewhere("ConvNeXt", "timm:convnext_atto", 64, {"depths": (1, 1, 1, 1)}, STAGES),
    Elsewhere("ResNet", "timm:resnet18", 64, {}, STAGES),
    Elsewhere("InceptionNeXt", "timm:inception_next_atto", 64, {"depths": (1, 1, 1, 1)}, STAGES),
    Elsewhere("EfficientNet", "timm:efficientnet_b0", 64, {}, STAGES),
    Elsewhere("MobileNetV3", "timm:mobilenetv3_small_050", 64, {}, STAGES),
    Elsewhere("RegNet", "timm:regnetx_002", 64, {}, STAGES),
    Elsewhere("DenseNet", "timm:densenet121", 64, {}, STAGES),
    Elsewhere("torchvision's ViT", "torchvision.models:vit_b_16", 64, heavy=True),
    Elsewhere("torchvision's Swin", "torchvision.models:swin_t", 64, heavy=True),
    Elsewhere(
        "Hugging Face's ViT",
        HUGGING_FACE,
        32,
        {
            "model_type": "vit",
            "patch_size": 8,
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 96,
        },
    ),
    Elsewhere(
        "Hugging Face's Swin",
        HUGGING_FACE,
        64,
        {"model_type": "swin", "window_size": 2, "embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 3, 6]},
    ),
    Elsewhere(
        "torchvision's ConvNeXt",
        "torchvision.models:convnext_tiny",
        64,
        {},
        "stages are every second part of `features`",
        ("features.1", "features.3", "features.5"),
        heavy=True,
    ),
    Elsewhere(
        "Hugging Face's MobileViT",
        HUGGING_FACE,
        64,
        {"model_type": "mobilevit"},
        "",
        tuple(f"model.mobilevit.encoder.layer.{layer}" for layer in (2, 3, 4)),
    ),
    Elsewhere(
        "TNT",
        "timm:tnt_s_patch16_224",
        64,
        {"depth": 3},
        "its blocks put out a pair whose first half are pixels inside of patches",
        tuple(f"blocks.{block}.norm_mlp" for block in range(3)),
    ),
    Elsewhere("Hiera", "timm:hiera_tiny_224", 64, heavy=True),
)


def made(name: str, *, classes: int, size: int, options: Mapping[str, Any] | None = None) -> tuple[nn.Module, str]:
    """A model without weights if it can be, and where it is: on the device "meta" or "cpu"."""
    try:
        with torch.device("meta"):
            return create_model(name, num_classes=classes, image_size=size, options=options).eval(), "meta"
    except LgkdError:
        # T2T-ViT asks autocast for its device, which has none of that kind.
        return create_model(name, num_classes=classes, image_size=size, options=options).eval(), "cpu"


def read(model: nn.Module, taps: list[str], size: int) -> list[tuple[int, ...]]:
    """Maps (C,h,w) of the taps."""
    return list(FeatureReader(model, [Tap(name) for name in taps], FeatureSpec(maps=True), (size, size)).map_shapes)


def gigaflops(model: nn.Module, size: int, device: str) -> float:
    """Of one image forward; attention as two products of matrices, whatever kernel a machine would take for it."""
    images = torch.zeros(1, 3, size, size, device=device)
    with sdpa_kernel(SDPBackend.MATH):
        return count_flops(lambda: model.requires_grad_(False)(images)) / 1e9


def shown_maps(maps: list[tuple[int, ...]]) -> str:
    """Shapes in order, equal ones in a row as one."""
    groups = [(" x ".join(map(str, shape)), len(list(group))) for shape, group in groupby(maps)]
    return ", ".join(f"{many} times {shape}" if many > 1 else shape for shape, many in groups)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Rows as Markdown; a head that ends in ":" is of a column that is set flush right."""
    lines = [heads, ["---:" if head.endswith(":") else "---" for head in heads], *rows]
    return "\n".join("| " + " | ".join(cell.removesuffix(":") if row is heads else cell for cell in row) + " |"
                     for row in lines)  # fmt: skip


def code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def known_models() -> tuple[str, str]:
    """Two tables of every model in the catalogue: what it is, and where it is tapped."""
    what, where = [], []
    for name, info in MODELS.items():
        model, device = made(name, classes=100, size=info.image_size)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        taps = default_taps(model)
        also = code(list(info.aliases))
        flops = f"{gigaflops(model, info.image_size, device):.3f}"
        what.append([f"`{name}`", also, info.title, info.role, str(info.image_size), f"{parameters:,}", flops,
                     info.source])  # fmt: skip
        blocks = block_names(model)
        kind = f"{len(blocks)} blocks" if blocks else "stages"
        where.append([f"`{name}`", kind, code(taps), shown_maps(read(model, taps, info.image_size))])
    heads = ["name", "also", "model", "role", "px:", "parameters:", "GFLOPs:", "source"]
    return table(heads, what), table(["name", "has", "default taps", "as maps, channels x height x width"], where)


def installed(entry: Elsewhere) -> bool:
    """Hugging Face's library is an extra."""
    return entry.name != HUGGING_FACE or importlib.util.find_spec("transformers") is not None


def tried_as(entry: Elsewhere) -> str:
    """What stands after --student, and the kind of model where that does not tell it."""
    kind = f" ({entry.options['model_type']})" if "model_type" in entry.options else ""
    return f"`{entry.name}`{kind}"


def elsewhere_row(entry: Elsewhere) -> list[str]:
    """One family: how it was tried, whether its taps are found, and what they put out."""
    model, _ = made(entry.name, classes=5, size=entry.size, options=entry.options)
    head = [entry.family, tried_as(entry), str(entry.size)]
    try:
        taps = default_taps(model)
        maps = read(model, taps, entry.size)
        return [*head, "found", code(taps), shown_maps(maps), entry.note]
    except LgkdError as error:
        reason = str(error)
    if entry.taps:
        maps = read(model, list(entry.taps), entry.size)
        return [*head, "with `--taps`", code(list(entry.taps)), shown_maps(maps), entry.note]
    return [*head, "none", "", "", reason.partition(";")[0]]


def elsewhere(page: str) -> str:
    """The table of families; rows of what is not installed stay as they are on the page."""
    old = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    rows, kept = [], {}
    for entry in FAMILIES:
        if installed(entry):
            rows.append(elsewhere_row(entry))
        else:
            kept[len(rows)] = old.get(entry.family, "")
            rows.append([""])
    lines = table(["family", "tried as", "px:", "taps", "layers", "as maps", "of note"], rows).splitlines()
    for place, line in kept.items():
        lines[2 + place] = line
    return "\n".join(lines)


def from_timm() -> str:
    """Return the table of timm's names beside those of lgkd."""
    return table(["in timm", "in lgkd", "remark"], [list(row) for row in FROM_TIMM])


def content(page: str, name: str) -> str:
    """What stands between the marks of a name."""
    found = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", page, re.DOTALL)
    assert len(found) == 1, f"docs/models.md has no place for {name}"
    return str(found[0])


def with_known_models(page: str) -> str:
    """The page with the tables of the catalogue's models made anew."""
    with torch.random.fork_rng(devices=[]):
        what, where = known_models()
    page = replaced(page, "from timm", from_timm())
    return replaced(replaced(page, "models", what), "taps", where)


def with_elsewhere(page: str) -> str:
    """The page with the table of others' families made anew."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return replaced(page, "elsewhere", elsewhere(page))


if __name__ == "__main__":
    PAGE.write_text(with_elsewhere(with_known_models(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")

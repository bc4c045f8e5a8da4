"""Choose the layers of a model that are tapped by default: blocks of transformers, ends of stages of CNNs.

Nothing here runs a model: blocks and stages are recognised by the names and classes of its modules.
"""

import re
from collections.abc import Sequence

from torch import nn

from lgkd.errors import TapError

# The last part of the name of one of several equal modules: `blocks.3`, `encoder_layer_3`.
_NUMBERED = re.compile(r"(?:[a-z_]+_)?\d+")
_ATTENTION = re.compile(r"attn|attention|att(?:_|$)|(?<![a-z])mh?sa(?![a-z])", re.IGNORECASE)
_TOKEN_MIXER = re.compile(r"token|^mixer$")
# Gates of channels and attention added to CNNs, by their class names: models with them are not transformers.
_GATE = re.compile(
    r"SE(?=[A-Z]|$)|Squeeze|Eca|Excite|Cbam|GlobalContext|SelectiveKernel|SplitAttn|NonLocal|Channel"
    r"|SpatialAttn|SpatialGate"
)
_STAGES = ("stage", "layer", "stages.", "layers.")
# Pixels per position of a map; a finer map belongs to a stem and not to a stage.
_STEM_STRIDE = 4


def default_taps(model: nn.Module, count: int = 3) -> list[str]:
    """Return the names of the layers to tap, from early to late.

    A model may state them itself as an attribute `lgkd_taps`. Transformers are tapped at their
    first, middle and last block (the pairing of Locality Guidance: 0, 6, 11 for twelve blocks, and
    0, 3, 7 for PVTv2-B0), CNNs at the ends of their first stages. Where attention works on pieces inside
    stages (MobileViT, NesT), the stages that hold it are tapped, from the first to the last.

    Raises:
        TapError: neither blocks nor stages were found, or the tokens have no spatial order; the message
            says what to give instead.
    """
    stated = getattr(model, "lgkd_taps", None)
    if stated is not None:
        return list(stated)
    _refuse_unordered(model)
    blocks, stages = block_names(model), stage_names(model)
    if len(blocks) >= count or (blocks and len(stages) < count):
        return spread(blocks, count, staged=len({name.rsplit(".", 1)[0] for name in blocks}) > 1)
    if len(stages) >= count:
        modules = dict(model.named_modules())
        attending = [name for name in stages if _holds_attention(modules[name])]
        if len(attending) >= count:
            return spread(attending, count, staged=False)
        # With four or more stages the last ones keep little of the positions of things.
        return stages[:count]
    top = [name for name, _ in model.named_children()]
    raise TapError(
        f"{type(model).__name__} has no transformer blocks and no {count} stages to tap; name the layers with --taps "
        f"(its parts: {', '.join(top[:12])}; `lgkd layers MODEL` lists all)"
    )


def block_names(model: nn.Module) -> list[str]:
    """Return all transformer blocks in order.

    Blocks are numbered modules that hold attention or another token mixer: an attribute with such a name or class,
    or an attribute of one. Names that differ only in their numbers form one family (`stages.0.blocks.1`,
    `stages.3.blocks.0`); of several the largest is taken, which excludes the few blocks for the class token (CaiT).
    A family of which less than half holds attention belongs to a CNN. timm's models of equal layers without attention
    (gMLP, ConvMixer) have these layers as blocks.
    """
    families: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        # A list is not run, so it cannot be tapped.
        if not _NUMBERED.fullmatch(name.rpartition(".")[2]) or isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue
        family = re.sub(r"\d+", "#", name)
        if _works_on_pieces(family):
            continue
        sizes[family] = sizes.get(family, 0) + 1
        if _is_block(module):
            families.setdefault(family, []).append(name)
    if not families:
        return _equal_layers(model)
    family = max(families, key=lambda key: len(families[key]))
    return families[family] if 2 * len(families[family]) >= sizes[family] else []


def stage_names(model: nn.Module) -> list[str]:
    """Return the stages of a CNN in order: `stage1` ..., `layer1` ..., `stages.0` ...; or those that timm lists."""
    names = [name for name, _ in model.named_modules()]
    for prefix in _STAGES:
        found = [name for name in names if re.fullmatch(re.escape(prefix) + r"\d+", name)]
        if found:
            return sorted(found, key=lambda name: int(name.removeprefix(prefix)))
    entries = {module: stride for module, stride in _timm_layers(model) if module in names}
    if entries:
        modules = list(entries)
        return modules[1:] if len(modules) > 3 and entries[modules[0]] < _STEM_STRIDE else modules
    return _inner_stages(names)


def _is_block(module: nn.Module) -> bool:
    for name, child in module.named_children():
        if _mixes_tokens(name, child):
            return True
        inner = [] if _NUMBERED.fullmatch(name) or _GATE.search(type(child).__name__) else child.named_children()
        if any(_mixes_tokens(*each) for each in inner):
            return True
    return False


def _mixes_tokens(name: str, module: nn.Module) -> bool:
    if _is_attention(name, module):
        return True
    if isinstance(module, nn.Identity) or not _TOKEN_MIXER.search(name):
        return False
    # RepViT and InceptionNeXt call convolutions a token mixer; they are CNNs.
    return not any(isinstance(each, nn.Conv2d) and max(each.kernel_size) > 1 for each in module.modules())


def _is_attention(name: str, module: nn.Module) -> bool:
    kind = type(module).__name__
    if isinstance(module, nn.Identity) or _GATE.search(kind):
        return False
    return bool(_ATTENTION.search(name) or _ATTENTION.search(kind))


def _holds_attention(module: nn.Module) -> bool:
    children = [each for each in module.named_children() if not _GATE.search(type(each[1]).__name__)]
    return any(_is_attention(*each) or _holds_attention(each[1]) for each in children)


def _works_on_pieces(family: str) -> bool:
    """Return true for blocks of a transformer inside a numbered part, which cuts its map into pieces for it."""
    return re.search(r"#\.(?:.*\.)?transformer", family) is not None


def _equal_layers(model: nn.Module) -> list[str]:
    """Return the layers that timm lists of a model whose layers all have the same stride."""
    entries = _timm_layers(model)
    equal = len(entries) > 2 and len({stride for _, stride in entries}) == 1
    names = {name for name, _ in model.named_modules()}
    return [module for module, _ in entries] if equal and names.issuperset(module for module, _ in entries) else []


def _timm_layers(model: nn.Module) -> list[tuple[str, float]]:
    """Return names and strides of the layers that timm lists in its models' `feature_info`."""
    info = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info) or []
    found = [entry for entry in entries if isinstance(entry, dict) and entry.get("module")]
    return [(str(entry["module"]), float(entry.get("reduction", 0))) for entry in found]


def _inner_stages(names: Sequence[str]) -> list[str]:
    """Return the stages of a model wrapped by another one with the same names: those nested least deeply."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = re.fullmatch(r"(.+\.(?:stage|layer|stages\.|layers\.))\d+", name)
        if found:
            groups.setdefault(found[1], []).append(name)
    groups = {prefix: group for prefix, group in groups.items() if len(group) > 1}
    if not groups:
        return []
    prefix = min(groups, key=lambda each: each.count("."))
    return sorted(groups[prefix], key=lambda name: int(name.removeprefix(prefix)))


def is_unordered(model: nn.Module) -> bool:
    """Return true if the model's tokens are in another order than the image's rows.

    Hiera sorts them so that pooling takes neighbours in the list, and has a method to restore the order.
    """
    return any(callable(getattr(module, "reroll", None)) for module in model.modules())


def _refuse_unordered(model: nn.Module) -> None:
    if is_unordered(model):
        raise TapError(
            f"the tokens of {type(model).__name__} are in the order of its mask units, not of the image's rows, so "
            "they cannot be folded into a map; choose another student"
        )


def spread(blocks: Sequence[str], count: int, *, staged: bool) -> list[str]:
    """Choose `count` of the blocks, evenly spaced from the first to the last.

    The middle of an even number of blocks is the later one, as in the paper (6 of 12), but the
    earlier one in a pyramid of equal stages (3 of 8), where it is the last block of its stage.
    """
    last = len(blocks) - 1
    if count > len(blocks):
        twice = ",".join([*blocks, *[blocks[-1]] * count][:count])
        raise TapError(
            f"a model of {len(blocks)} blocks cannot be tapped at {count} different ones; use a deeper model, or name "
            f"its layers with --taps, where one may appear twice: --taps {twice}"
        )
    if count == 1:
        return [blocks[-1]]
    per_stage = [name.rsplit(".", 1)[0] for name in blocks]
    equal = staged and len({per_stage.count(stage) for stage in per_stage}) == 1
    places = [(i * last) // (count - 1) if equal else (i * last + count - 2) // (count - 1) for i in range(count)]
    return [blocks[place] for place in places]


def guided_blocks(model: nn.Module) -> list[str]:
    """Return every layer that can be guided: all transformer blocks, or all stages of a CNN.

    Raises:
        TapError: neither were found.
    """
    stated = getattr(model, "lgkd_blocks", None)
    if stated is None:
        _refuse_unordered(model)
    found = list(stated) if stated is not None else block_names(model) or stage_names(model)
    if not found:
        raise TapError(
            f"{type(model).__name__} has neither transformer blocks nor stages, and a term reads all of them; a "
            "model of your own can state them as its attribute lgkd_blocks"
        )
    return found


def classifier_name(model: nn.Module) -> str:
    """Return the name of the layer whose input is the embedding and whose outputs are the logits.

    A model may state it as an attribute `lgkd_classifier`; timm's models state it themselves; of others it is the
    last linear layer.

    Raises:
        TapError: the model has no such layer.
    """
    stated = getattr(model, "lgkd_classifier", None)
    if stated is not None:
        return str(stated)
    names = {module: name for name, module in model.named_modules()}
    asked = getattr(model, "get_classifier", None)
    if callable(asked):
        found = asked()
        found = found[0] if isinstance(found, tuple | list) else found
        if found in names and not isinstance(found, nn.Identity):
            return str(names[found])
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise TapError(
            f"{type(model).__name__} has no linear layer whose input could be its embedding; a model of your own can "
            "state it as its attribute lgkd_classifier"
        )
    return str(linear[-1])


def head_names(model: nn.Module) -> tuple[str, str]:
    """Return the heads of the class token and of the distillation token.

    Raises:
        TapError: the model has no distillation token.
    """
    stated = getattr(model, "lgkd_heads", None)
    if stated is not None:
        first, second = stated
        return str(first), str(second)
    if isinstance(getattr(model, "head_dist", None), nn.Module) and isinstance(getattr(model, "head", None), nn.Module):
        return "head", "head_dist"
    raise TapError(
        f"{type(model).__name__} has no distillation token, which a term reads; use --student-option "
        "distillation_token=true, a student such as timm:deit_tiny_distilled_patch16_224, or kd instead"
    )

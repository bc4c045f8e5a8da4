"""Which layers of a model are tapped when nobody says: blocks of transformers, ends of stages of CNNs."""

import re
from collections.abc import Sequence

from torch import nn

from lgkd.errors import TapError

_BLOCK = re.compile(r"^(?:.*\.)?blocks\.\d+$")
_STAGES = ("stage", "layer", "stages.", "layers.")


def default_taps(model: nn.Module, count: int = 3) -> list[str]:
    """Names of the layers to tap, from early to late.

    A model may state them itself as an attribute `lgkd_taps`. Transformers are tapped at their
    first, middle and last block (the pairing of Locality Guidance: 0, 6, 11 for twelve blocks, and
    0, 3, 7 for PVTv2-B0), CNNs at the ends of their first stages.

    Raises:
        TapError: neither blocks nor stages were found; the message says what to give instead.
    """
    stated = getattr(model, "lgkd_taps", None)
    if stated is not None:
        return list(stated)
    blocks = block_names(model)
    if blocks:
        return spread(blocks, count, staged=len({name.rsplit(".", 1)[0] for name in blocks}) > 1)
    stages = stage_names(model)
    if len(stages) >= count:
        # With four or more stages the last ones have little left of the places things are at.
        return stages[:count]
    top = [name for name, _ in model.named_children()]
    raise TapError(
        f"{type(model).__name__} shows no transformer blocks and no {count} stages to tap; name the layers with --taps "
        f"(its parts: {', '.join(top[:12])}; `lgkd layers MODEL` lists all)"
    )


def block_names(model: nn.Module) -> list[str]:
    """All transformer blocks in order: entries of containers called `blocks` that hold attention."""
    return [
        name
        for name, module in model.named_modules()
        if _BLOCK.match(name) and any("attn" in inner or "attention" in inner for inner, _ in module.named_children())
    ]


def stage_names(model: nn.Module) -> list[str]:
    """The stages of a CNN in order: `stage1` ..., `layer1` ..., `stages.0` ...; or what timm says of it."""
    names = [name for name, _ in model.named_modules()]
    for prefix in _STAGES:
        found = [name for name in names if re.fullmatch(re.escape(prefix) + r"\d+", name)]
        if found:
            return sorted(found, key=lambda name: int(name.removeprefix(prefix)))
    info = getattr(model, "feature_info", None)
    if info is not None:
        entries = getattr(info, "info", info)
        modules = [entry["module"] for entry in entries if isinstance(entry, dict) and entry.get("module") in names]
        # timm lists the stem first; it is no stage.
        return modules[1:] if len(modules) > 3 else modules
    return []


def spread(blocks: Sequence[str], count: int, *, staged: bool) -> list[str]:
    """`count` of the blocks from the first to the last.

    The middle of an even number of blocks is the later one, as in the paper (6 of 12), but the
    earlier one in a pyramid of equal stages (3 of 8), where it is the last block of its stage.
    """
    last = len(blocks) - 1
    if count > len(blocks):
        raise TapError(f"a model of {len(blocks)} blocks cannot be tapped at {count}; name its layers with --taps")
    if count == 1:
        return [blocks[-1]]
    per_stage = [name.rsplit(".", 1)[0] for name in blocks]
    equal = staged and len({per_stage.count(stage) for stage in per_stage}) == 1
    places = [(i * last) // (count - 1) if equal else (i * last + count - 2) // (count - 1) for i in range(count)]
    return [blocks[place] for place in places]


def guided_blocks(model: nn.Module) -> list[str]:
    """Every layer that can be guided: all transformer blocks, or all stages of a CNN.

    Raises:
        TapError: neither were found.
    """
    stated = getattr(model, "lgkd_blocks", None)
    found = list(stated) if stated is not None else block_names(model) or stage_names(model)
    if not found:
        raise TapError(
            f"{type(model).__name__} shows neither transformer blocks nor stages, and a term reads all of them; a "
            "model of your own can state them as its attribute lgkd_blocks"
        )
    return found


def classifier_name(model: nn.Module) -> str:
    """The layer whose input is the embedding and whose output are the logits.

    A model may state it as an attribute `lgkd_classifier`; timm's say it themselves; of others it is the last linear
    layer.

    Raises:
        TapError: there is none.
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
    """The heads of the class token and of the distillation token, of a model that has both.

    Raises:
        TapError: it has no distillation token.
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

"""Build models from names: lgkd's own, timm's (`timm:NAME`), and custom ones (`package.module:factory`)."""

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lgkd._internal.text import did_you_mean, first_line
from lgkd.errors import ModelError
from lgkd.models.fitting_sizes import sizes_that_fit
from lgkd.models.forward_checks import check_model
from lgkd.models.plausible import check_plausible as check_plausible
from lgkd.models.registry import ModelInfo, find

ImageSize = int | tuple[int, int]

_NO_OPTIONS = {
    "num_classes", "img_size", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
}  # fmt: skip
"""Arguments of timm that lgkd sets: the sizes, and that no file is read, even where a run's folder asks for one."""

_OF_A_PRUNED = {"kept_heads", "kept_units"}
"""Options of `lgkd.models.pruned_student`, which every student takes whose heads can be removed."""

_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def create_teacher(
    name: str, *, num_classes: int, image_size: ImageSize | None = None, in_chans: int = 3, **options: Any
) -> nn.Module:
    """Build an untrained teacher, a plain module (B,in_chans,H,W) -> (B,num_classes).

    Args:
        name: as `lgkd teachers` lists them, `timm:NAME` or `package.module:factory`.
        num_classes: width of the logits.
        image_size: pixels, one number or (height, width); None for the model's own.
        in_chans: channels of its images: 3, or 1 for grey levels.
        options: passed to the constructor.

    Raises:
        ModelError: an unknown name or option, or images that the model cannot take.
    """
    return create_model(name, num_classes=num_classes, image_size=image_size, channels=in_chans, options=options)


def create_student(
    name: str, *, num_classes: int, image_size: ImageSize | None = None, in_chans: int = 3, **options: Any
) -> nn.Module:
    """Build an untrained student, a plain module (B,in_chans,H,W) -> (B,num_classes).

    Args:
        name: as `lgkd students` lists them, `timm:NAME` or `package.module:factory`.
        num_classes: width of the logits.
        image_size: pixels, one number or (height, width); None for the model's own.
        in_chans: channels of its images: 3, or 1 for grey levels.
        options: passed to the constructor: `patch_size=4, depth=6, drop_path_rate=0.1`; `distillation_token=True` gives
            a plain ViT a distillation token, see `lgkd.models.distillation_token`; `kept_heads` and `kept_units` are
            those of a pruned student, see `lgkd.models.pruned_student`.

    Raises:
        ModelError: an unknown name or option, or images that the model cannot take.
    """
    return create_model(name, num_classes=num_classes, image_size=image_size, channels=in_chans, options=options)


def create_model(
    name: str,
    *,
    num_classes: int,
    image_size: ImageSize | None = None,
    channels: int = 3,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model by name, for `create_teacher` and `create_student`."""
    if num_classes < 1:
        raise ModelError(f"{name}: num_classes is {num_classes}, expected at least 1")
    info = find(name)
    size = pair(default_image_size(name) if image_size is None else image_size)
    if min(size) < 1:
        raise ModelError(f"{name}: the image size is {size[0]} x {size[1]} pixels, expected at least 1 x 1")
    if channels not in (1, 3):
        raise ModelError(f"{name}: channels is {channels}, expected 3, or 1 for grey levels")

    def made(wanted: tuple[int, int]) -> nn.Module:
        return _created(name, info, num_classes, wanted, channels, options or {})

    try:
        return made(size)
    except ModelError as error:
        ours = info is not None or name.startswith("timm:")
        if not ours or "pixels" not in str(error) or image_size is None:
            raise
        others = sizes_that_fit(made, size)
        if not others:
            raise
        raise ModelError(f"{error}; sizes near it that it takes: {', '.join(others)}") from error.__cause__


def _created(
    name: str,
    info: ModelInfo | None,
    num_classes: int,
    size: tuple[int, int],
    channels: int,
    options: Mapping[str, Any],
) -> nn.Module:
    widths = {key: value for key, value in options.items() if key in _OF_A_PRUNED}
    options = {key: value for key, value in options.items() if key not in widths}
    asked = {**options, **({"in_chans": channels} if channels != 3 else {})}
    if info is not None and info.made_by is not None:
        model = _from_factory(name, info.made_by, num_classes, size, channels, dict(options), info.preset)
    elif info is not None or name.startswith("timm:"):
        model = _from_timm(name, info, num_classes, size, channels, asked)
    else:
        model = _from_factory(name, name, num_classes, size, channels, dict(options), {})
    if widths:
        from lgkd.models.pruned_student import shrink

        model = shrink(model, name, widths)
    check_model(model, name, num_classes=num_classes, image_size=size, channels=channels)
    return model


def default_image_size(name: str) -> int:
    """Return the side of the images that a model is made for, in pixels; 224 where it is not stated."""
    info = find(name)
    if info is not None:
        return info.image_size
    if name.startswith("timm:"):
        import timm

        defaults = timm.get_pretrained_cfg(name.removeprefix("timm:"), allow_unregistered=True)
        if defaults is not None and defaults.input_size:
            return int(defaults.input_size[-1])
    return 224


def pair(size: ImageSize) -> tuple[int, int]:
    """Convert a size to (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _from_timm(
    name: str,
    info: ModelInfo | None,
    num_classes: int,
    size: tuple[int, int],
    channels: int,
    options: dict[str, Any],
) -> nn.Module:
    import timm

    timm_name = info.timm if info is not None and info.timm else name.removeprefix("timm:")
    if info is None and not timm.is_model(timm_name):
        raise ModelError(f"timm has no model {timm_name!r}; {did_you_mean(timm_name, timm.list_models())}")
    taken = _NO_OPTIONS & options.keys()
    if taken:
        raise ModelError(f"{name}: {', '.join(sorted(taken))} is not an option; classes come from the data set, "
                         "the size from --image-size, and weights are learned from scratch")  # fmt: skip

    distilled = options.pop("distillation_token", False)
    if not isinstance(distilled, bool):
        raise ModelError(f"{name}: distillation_token is {distilled!r}, expected true or false")

    def build(**extra: Any) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: nn.Module = timm.create_model(timm_name, num_classes=num_classes, **options, **extra)
            return made

    # Some architectures need the size at construction, some refuse the argument, some accept it and fail later.
    try:
        model = build(img_size=size if size[0] != size[1] else size[0])
        check_model(model, name, num_classes=None, image_size=size, channels=channels)
    except Exception as first:
        try:
            model = build()
            if isinstance(first, ModelError):
                # It took the size at construction: if it fails without it as well, the first error says more.
                check_model(model, name, num_classes=None, image_size=size, channels=channels)
        except ModelError:
            raise first from first.__cause__
        except Exception as second:
            _refuse_unknown(second, name, options, timm.models.model_entrypoint(timm_name))
            raise ModelError(f"{name} cannot be made with {_listed(options)}: {first_line(second)}") from first
    heads = ["head"]
    paper = info is not None and info.name == "deit_tiny"
    if paper and isinstance(model.cls_token, nn.Parameter):
        # As wide as the positions, unlike timm's; drawn before a second token, so that it is the same without one.
        nn.init.trunc_normal_(model.cls_token, std=0.02)
    if distilled:
        from lgkd.models.distillation_token import add_distillation_token

        add_distillation_token(model, name)
        heads.append("head_dist")
    if paper:  # whose head starts from zeros
        for head in heads:
            nn.init.zeros_(getattr(model, head).weight)
            nn.init.zeros_(getattr(model, head).bias)
    return model


def _from_factory(
    name: str,
    made_by: str,
    num_classes: int,
    size: tuple[int, int],
    channels: int,
    options: dict[str, Any],
    preset: Mapping[str, Any],
) -> nn.Module:
    factory = import_factory(made_by)
    offered: dict[str, Any] = {"num_classes": num_classes, "image_size": size if size[0] != size[1] else size[0]}
    if channels != 3:
        offered["in_chans"] = channels
    try:
        accepted: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    except ValueError:
        # A callable built into Python, without a signature.
        accepted = {}
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        # The preset of a name is not an option of it, nor are classes and size.
        free = accepted.keys() - preset.keys() - (offered.keys() if made_by != name else set())
        unknown = sorted(options.keys() - free)
        if unknown:
            raise ModelError(f"{name} has no option {unknown[0]!r}; {did_you_mean(unknown[0], sorted(free))}")
        offered = {key: value for key, value in offered.items() if key in accepted}
    try:
        model = _called(factory, {**offered, **options, **preset}, asked="image_size" in options)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    except Exception as error:
        _refuse_unknown(error, name, options, factory)
        raise ModelError(
            f"{name} cannot be made with {_listed({**offered, **options})}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _refuse_unknown(error: Exception, name: str, options: Mapping[str, Any], factory: Callable[..., Any]) -> None:
    """Report an option that the class behind a factory does not have, where its signature shows the options.

    Args:
        error: raised by the factory.
        name: the model's.
        options: the requested ones.
        factory: passes its arguments on.

    Raises:
        ModelError: the error is of that kind.
    """
    found = _UNEXPECTED.match(str(error))
    home = sys.modules.get(getattr(factory, "__module__", None) or "")
    made = getattr(home, found[1], None) if found is not None else None
    if found is None or found[2] not in options or not isinstance(made, type):
        return
    known = inspect.signature(made).parameters
    # A submodule can also reject arguments that the model itself would accept.
    if "num_classes" in known:
        free = {key for key, p in known.items() if p.kind is not p.VAR_KEYWORD} - _NO_OPTIONS
        raise ModelError(f"{name} has no option {found[2]!r}; {did_you_mean(found[2], free)}") from error


def _called(factory: Callable[..., Any], words: dict[str, Any], *, asked: bool) -> Any:
    try:
        return factory(**words)
    except TypeError as error:
        # A factory that passes all arguments to a class that takes images of any size: torchvision's Swin and ResNets.
        if asked or "unexpected keyword argument 'image_size'" not in str(error):
            raise
    return factory(**{key: value for key, value in words.items() if key != "image_size"})


def import_factory(name: str) -> Callable[..., Any]:
    """Import the callable of `package.module:factory`; the working folder is searched as python does.

    Raises:
        ModelError: no such module, or no callable of that name in it.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # The name of no module, or any error raised by the user's file.
        raise ModelError(
            f"{name}: the module {module_name!r} cannot be imported ({type(error).__name__}: {first_line(error)}); "
            "expected package.module:factory, importable from the working folder"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(f"{module_name} has no factory {attribute!r}; {did_you_mean(attribute, public)}")
    return factory  # type: ignore[no-any-return]


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "its defaults"

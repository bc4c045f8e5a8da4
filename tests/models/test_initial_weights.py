"""Trained weights as the first ones of another model: which fit, which are resized, which are drawn anew."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lgkd.errors import InputError
from lgkd.models.factory import create_model
from lgkd.models.initial_weights import Adapted, start_from_weights

DEIT = {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}
VIT = {"patch_size": 4, "depth": 3, "embed_dim": 12, "num_heads": 2}


def made(
    name: str, *, classes: int = 5, size: int | tuple[int, int] = 16, seed: int = 0, **options: object
) -> nn.Module:
    torch.manual_seed(seed)
    model = create_model(name, num_classes=classes, image_size=size, options=options)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model


def by_pillow(map_Chw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pillow's bicubic filter on every channel."""
    layers = [Image.fromarray(layer.numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for layer in map_Chw]
    return torch.tensor(np.stack([np.asarray(layer) for layer in layers]))


def test_weights_of_the_same_classes_are_all_loaded() -> None:
    trained, model = made("deit_tiny", **DEIT), made("deit_tiny", seed=1, **DEIT)
    assert start_from_weights(model, trained.state_dict(), "x", same_classes=True) == Adapted("kept", ())
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("classes", "same", "classifier"),
    [(5, True, "kept"), (5, False, "new"), (5, None, "kept"), (7, False, "new"), (7, None, "new")],
)
def test_a_classifier_of_other_classes_keeps_the_first_weights_of_the_new_model(
    classes: int, same: bool | None, classifier: str
) -> None:
    trained, model = made("deit_tiny", **DEIT), made("deit_tiny", classes=classes, seed=1, **DEIT)
    drawn = model.head.weight.detach().clone()
    adapted = start_from_weights(model, trained.state_dict(), "x", same_classes=same)
    assert adapted == Adapted(classifier, ())
    assert torch.equal(model.head.weight, drawn if classifier == "new" else trained.head.weight)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, trained.blocks[1].mlp.fc1.weight)


def test_both_classifiers_of_a_distillation_token_are_drawn_anew() -> None:
    options = {**DEIT, "distillation_token": True}
    trained, model = made("deit_tiny", **options), made("deit_tiny", classes=3, seed=1, **options)
    drawn = model.head_dist.weight.detach().clone()
    assert start_from_weights(model, trained.state_dict(), "x", same_classes=False).classifier == "new"
    assert torch.equal(model.head_dist.weight, drawn) and torch.equal(model.dist_token, trained.dist_token)


def test_weights_without_a_classifier_get_a_new_one() -> None:
    trained, model = made("resnet8"), made("resnet8", seed=1)
    trained.bn.running_mean.fill_(3.0)
    backbone = {name: value for name, value in trained.state_dict().items() if not name.startswith("fc.")}
    assert start_from_weights(model, backbone, "x") == Adapted("new", ())
    assert model.bn.running_mean[0] == 3.0, "statistics of BatchNorm are weights, too"


@pytest.mark.parametrize("size", [8, 24, 32])
def test_positions_are_resized_by_a_bicubic_filter_as_timm_and_pillow_do(size: int) -> None:
    trained, model = made("deit_tiny", **DEIT), made("deit_tiny", size=size, seed=1, **DEIT)
    before = trained.pos_embed.detach().clone()
    adapted = start_from_weights(model, trained.state_dict(), "x", same_classes=True)
    assert adapted == Adapted("kept", ("pos_embed",))
    assert torch.equal(model.pos_embed[:, :1], before[:, :1]), "the class token has no place"
    grid = size // 4
    patches_Dhw = before[0, 1:].T.reshape(24, 4, 4)
    expected = by_pillow(patches_Dhw, (grid, grid)).flatten(1).T
    torch.testing.assert_close(model.pos_embed[0, 1:].detach(), expected, atol=1e-5, rtol=1e-5)
    trained.set_input_size(img_size=size)  # timm's own
    assert torch.equal(model.pos_embed, trained.pos_embed)


def test_positions_of_images_that_are_not_square_are_laid_out_by_their_proportions() -> None:
    trained = made("vit_96", size=(16, 32), **VIT)
    model = made("vit_96", size=(8, 16), seed=1, **VIT)
    start_from_weights(model, trained.state_dict(), "x", same_classes=True, image_size=(16, 32))
    expected = by_pillow(trained.pos_embed.detach()[0].T.reshape(12, 4, 8), (2, 4)).flatten(1).T
    torch.testing.assert_close(model.pos_embed[0].detach(), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"pos_embed \(1, 32, 12\) instead of \(1, 8, 12\)"):  # no square
        start_from_weights(model, trained.state_dict(), "x", same_classes=True)


def test_the_stages_of_a_pyramid_have_positions_each() -> None:
    options = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 8, 8), "num_heads": (1, 1, 1, 1)}
    trained, model = made("pvt_tiny", size=128, **options), made("pvt_tiny", size=64, seed=1, **options)
    adapted = start_from_weights(model, trained.state_dict(), "x", same_classes=True)
    assert adapted.resized == tuple(f"stages.{stage}.pos_embed" for stage in range(4))
    before, after = trained.stages[3].pos_embed.detach(), model.stages[3].pos_embed.detach()
    old, new = trained.stages[3].grid, model.stages[3].grid
    assert torch.equal(after[:, 0], before[:, 0])
    expected = by_pillow(before[0, 1:].T.reshape(-1, *old), new).flatten(1).T
    torch.testing.assert_close(after[0, 1:], expected, atol=1e-5, rtol=1e-5)


def test_fixed_positions_stay_those_of_the_new_model() -> None:
    trained, model = made("t2t_vit_7", size=64), made("t2t_vit_7", size=32, seed=1)
    fixed = model.pos_embed.detach().clone()
    assert fixed.shape != trained.pos_embed.shape
    start_from_weights(model, trained.state_dict(), "x", same_classes=True)
    assert torch.equal(model.pos_embed, fixed)


def test_a_patch_embedding_of_larger_patches_answers_as_the_old_one_did() -> None:
    """For any patch, the product of new weights and enlarged patch is that of the old ones (FlexiViT)."""
    trained = made("deit_tiny", **DEIT)
    model = made("deit_tiny", size=32, seed=1, **{**DEIT, "patch_size": 8})
    adapted = start_from_weights(model, trained.state_dict(), "x", same_classes=True)
    assert adapted == Adapted("kept", ("patch_embed.proj.weight",))
    patches = torch.randn(10, 3, 4, 4)
    larger = F.interpolate(patches, (8, 8), mode="bicubic", antialias=True)
    old, new = (one.patch_embed.proj.weight.detach().flatten(1) for one in (trained, model))
    torch.testing.assert_close(larger.flatten(1) @ new.T, patches.flatten(1) @ old.T, atol=1e-3, rtol=1e-3)


def test_all_else_has_to_fit_and_nothing_is_loaded_otherwise() -> None:
    trained, model = made("deit_tiny", **DEIT), made("deit_tiny", seed=1, **{**DEIT, "depth": 3})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        InputError, match=r"my weights does not fit .*: 12 missing \(blocks\.2\.attn\.proj\.bias, .*options"
    ):
        start_from_weights(model, trained.state_dict(), "my weights", same_classes=True)
    wide = made("deit_tiny", seed=1, **{**DEIT, "embed_dim": 48})
    with pytest.raises(InputError, match=r"of another shape \(blocks.0.attn.proj.bias \(24,\) instead of \(48,\)"):
        start_from_weights(wide, trained.state_dict(), "x")
    more = {**trained.state_dict(), "extra.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 unexpected \(extra.weight\)"):
        start_from_weights(made("deit_tiny", **DEIT), more, "x")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()

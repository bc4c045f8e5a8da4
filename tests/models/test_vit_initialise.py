"""Mimetic and impulse weights, and whitened patches: what they promise, measured on the weights that come out."""

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.vit.initialise import impulse, mimetic, whiten_patches
from lgkd.models.vit.plain import PlainViT


def ours(**options: object) -> PlainViT:
    torch.manual_seed(0)
    return PlainViT(4, 32, **{"embed_dim": 96, "depth": 2, "num_heads": 3, "positions": "sinusoidal", **options})


def theirs(**options: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"embed_dim": 96, "depth": 2, "num_heads": 3, "patch_size": 4, **options}
    return timm.create_model("vit_tiny_patch16_224", num_classes=4, img_size=32, **options)


def products(attention: nn.Module) -> tuple[list[Tensor], Tensor]:
    """Wq Wk^T of each head and Wv Wproj, in the convention of row vectors, from the layers' weights alone."""
    width, heads = attention.proj.in_features, attention.num_heads
    query, key, value = attention.qkv.weight.detach().split(width)
    pairs = zip(query.chunk(heads), key.chunk(heads), strict=True)
    return [q.T @ k for q, k in pairs], value.T @ attention.proj.weight.detach().T


def about_identity(product: Tensor) -> tuple[float, float]:
    """The multiple b of the identity in a product, and the deviation of what is left, times the root of the width."""
    rest = product - product.trace() / len(product) * torch.eye(len(product))
    return float(product.trace() / len(product)), float(rest.std() * len(product) ** 0.5)


@pytest.mark.parametrize("make", [ours, theirs])
def test_mimetic_products_are_noise_and_the_identity(make: Callable[..., nn.Module]) -> None:
    model = make(num_heads=1)  # one head has full rank, so that nothing is cut off
    mimetic(model)
    for block in model.blocks:
        (query_key,), value_projection = products(block.attn)
        assert about_identity(query_key) == pytest.approx((0.7, 0.7), rel=0.12)
        assert about_identity(value_projection) == pytest.approx((-0.4, 0.4), rel=0.12)


@pytest.mark.parametrize("make", [ours, theirs])
def test_mimetic_heads_are_of_their_rank_and_like_attracts_like(make: Callable[..., nn.Module]) -> None:
    model = make()
    mimetic(model)
    attention = model.blocks[1].attn
    query_keys, value_projection = products(attention)
    assert [int(torch.linalg.matrix_rank(product)) for product in query_keys] == [32] * 3
    identity = torch.eye(96).flatten()
    for product in query_keys:
        cosine = F.cosine_similarity(product.flatten(), identity, dim=0)
        # The exact product's would be 0.7; a third of the singular values keep about two thirds of it or less.
        assert 0.3 < cosine < 0.7
    assert not torch.allclose(query_keys[0], query_keys[1], atol=0.05), "each head has noise of its own"
    assert about_identity(value_projection) == pytest.approx((-0.4, 0.4), rel=0.12)
    assert all(not layer.bias.any() for layer in (attention.qkv, attention.proj))


def test_queries_and_keys_of_a_mimetic_head_are_of_one_size() -> None:
    model = ours(init="mimetic")
    query, key, _ = model.blocks[0].attn.qkv.weight.detach().split(96)
    torch.testing.assert_close(query.norm(), key.norm())
    gram_query, gram_key = (half.chunk(3)[0] @ half.chunk(3)[0].T for half in (query, key))
    torch.testing.assert_close(gram_query, gram_key, rtol=1e-3, atol=1e-4)  # both are the kept singular values
    torch.testing.assert_close(gram_query, torch.diag(gram_query.diagonal()), rtol=1e-3, atol=1e-4)


def test_options_choose_the_weights_and_the_seed_settles_them() -> None:
    def weights(init: str) -> Tensor:
        return ours(init=init).blocks[0].attn.qkv.weight.detach()

    assert all(torch.equal(weights(init), weights(init)) for init in ("default", "xavier", "mimetic", "impulse"))
    model = ours()
    torch.manual_seed(1)
    mimetic(model)
    by_hand = model.blocks[0].attn.qkv.weight.clone()
    torch.manual_seed(1)
    model.start_from("default")
    assert not torch.equal(model.blocks[0].attn.qkv.weight, by_hand)
    assert weights("default").std().item() == pytest.approx(0.02, rel=0.05)
    assert weights("xavier").std().item() == pytest.approx((2 / (96 + 288)) ** 0.5, rel=0.05)


# Where each head is to look: itself, up, right, left, down, and the corners.
STEPS = [(0, 0), (-1, 0), (0, 1), (0, -1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]


@torch.no_grad()
def share_of_hits(maps_BHNN: Tensor, grid: tuple[int, int]) -> tuple[float, float]:
    """Of all rows of all heads, how many have their largest weight where they should, and the mean weight there."""
    rows, columns = grid
    hits, weights = [], []
    for head in range(maps_BHNN.shape[1]):
        down, right = STEPS[head % 9]
        for y in range(rows):
            for x in range(columns):
                if 0 <= y + down < rows and 0 <= x + right < columns:
                    row = maps_BHNN[:, head, y * columns + x]
                    target = (y + down) * columns + x + right
                    hits.append((row.argmax(-1) == target).float().mean())
                    weights.append(row[:, target].mean())
    return float(torch.stack(hits).mean()), float(torch.stack(weights).mean())


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"embed_dim": 144, "num_heads": 9, "positions": "sinusoidal", "pooling": "mean"}, 32),
        ({"embed_dim": 144, "num_heads": 9, "positions": "sinusoidal", "class_tokens": 3}, 32),
        ({"embed_dim": 144, "num_heads": 12, "positions": "sinusoidal", "pooling": "mean"}, (24, 32)),
        ({"embed_dim": 288, "num_heads": 9, "positions": "learned", "pooling": "sequence"}, 32),
    ],
)
def test_impulse_heads_look_at_their_step(options: dict[str, object], size: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = PlainViT(4, size, depth=2, init="impulse", **options)
    grid, prefix = model.patch_embed.grid_size, model.num_prefix_tokens
    count = grid[0] * grid[1]
    with torch.no_grad():
        for block in model.blocks:
            maps = block.attn.maps(block.norm1(model.pos_embed))[:, :, prefix:, prefix:]
            hits, weight = share_of_hits(maps, grid)
            assert hits > 0.97 and weight > 0.5
        # And where images are added to the positions, many times as often as by chance.
        tokens = model.patch_embed(torch.randn(4, 3, *((size, size) if isinstance(size, int) else size)))
        if model.cls_token is not None:
            tokens = torch.cat([model.cls_token.expand(4, -1, -1), tokens], dim=1)
        first = model.blocks[0]
        hits, weight = share_of_hits(
            first.attn.maps(first.norm1(tokens + model.pos_embed))[..., prefix:, prefix:], grid
        )
        assert hits > 10 / count and weight > 10 / count


def test_default_weights_look_nowhere_in_particular() -> None:
    model = ours(embed_dim=144, num_heads=9, pooling="mean")
    maps = model.blocks[0].attn.maps(model.blocks[0].norm1(model.pos_embed)).detach()
    assert share_of_hits(maps, (8, 8))[1] < 2 / 64


def test_impulse_weights_serve_timms_vit_and_make_its_learned_positions_count() -> None:
    model = theirs(embed_dim=192, num_heads=3)
    impulse(model)
    assert model.pos_embed.square().mean().sqrt().item() == pytest.approx(0.36, rel=1e-4)
    block = model.blocks[0]
    tokens = block.norm1(model.pos_embed[:, 1:])
    query, key, _ = block.attn.qkv(tokens).view(1, 64, 3, 3, 64).permute(2, 0, 3, 1, 4)
    hits, weight = share_of_hits((query @ key.transpose(-2, -1) * 64**-0.5).softmax(-1), (8, 8))
    assert hits > 0.97 and weight > 0.5
    assert about_identity(products(block.attn)[1]) == pytest.approx((-0.4, 0.4), rel=0.12)


def test_fixed_positions_stay_and_query_and_key_have_the_strength_asked_for() -> None:
    model = ours()
    before = model.pos_embed.clone()
    impulse(model, strength=3.0)
    assert torch.equal(model.pos_embed, before)
    query, key, _ = model.blocks[0].attn.qkv.weight.detach().split(96)
    for half in (query, key):
        torch.testing.assert_close(half.view(3, 32, 96).norm(dim=(1, 2)), torch.full((3,), 3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"init": "mimetic", "q_rank": 4},
            r"mimetic weights need blocks with one full matrix for q, k and v, .*ranks",
        ),
        ({"init": "impulse", "v_rank": 4}, r"impulse weights need blocks with one full matrix"),
        (
            {"init": "impulse", "positions": "none"},
            r"made from positions, and this model has none; use positions=sinus",
        ),
        ({"init": "impulse", "attention": "local"}, r"heads attend to their own patch, which local attention masks"),
    ],
)
def test_weights_that_cannot_be_made_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ours(**options)


def test_models_of_another_make_are_refused() -> None:
    with pytest.raises(ModelError, match=r"mimetic weights are for a plain ViT, and a Linear has no blocks"):
        mimetic(nn.Linear(2, 2))


# Whitening


def photos(count: int = 40, size: int = 16) -> Tensor:
    """Images whose neighbouring pixels and channels are alike, with a mean of their own, as photographs have."""
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, size + 2, size + 2, generator=chance)
    return (
        F.avg_pool2d(noise, 3, stride=1) + 0.5 * noise[:, :1, 1:-1, 1:-1] + torch.tensor([0.3, -1.0, 2.0]).view(3, 1, 1)
    )


def windows(images: Tensor, side: int) -> Tensor:
    """Every window of side x side, (count, 3, side, side), by slices."""
    span = images.shape[-1] - side + 1
    return torch.cat([images[:, :, y : y + side, x : x + side] for y in range(span) for x in range(span)])


@pytest.mark.parametrize("make", [ours, theirs])
def test_whitened_patches_have_mean_zero_and_the_identity_as_covariance(make: Callable[..., nn.Module]) -> None:
    model, images = make(), photos()
    further = model.patch_embed.proj.weight.detach()[48:].clone()
    whiten_patches(model, images, eps=0.0)
    projection = model.patch_embed.proj
    outputs = projection(windows(images, 4)).flatten(1).detach()[:, :48]
    torch.testing.assert_close(outputs.mean(0), torch.zeros(48), atol=1e-3, rtol=0)
    torch.testing.assert_close(outputs.T.cov(correction=0), torch.eye(48), atol=2e-3, rtol=0)
    assert torch.equal(projection.weight[48:], further)
    assert not torch.allclose(windows(images, 4).flatten(1).T.cov(), torch.eye(48), atol=0.2), (
        "they were not white before"
    )


def test_outputs_begin_with_the_direction_that_varies_most() -> None:
    model, images = ours(embed_dim=12), photos()
    whiten_patches(model, images, eps=0.0)
    filters = model.patch_embed.proj.weight.detach().flatten(1)
    assert filters.shape == (12, 48)
    # A filter that whitens a direction of deviation s has norm 1/s.
    assert (filters.norm(dim=1).diff() > 0).all()
    patches = windows(images, 4).flatten(1)
    leading = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)[2][0]
    assert abs(F.cosine_similarity(filters[0], leading, dim=0)) > 0.999


def test_flat_images_are_not_blown_up() -> None:
    model = ours()
    whiten_patches(model, torch.full((2, 3, 8, 8), 0.5))
    assert model.patch_embed.proj.weight[:48].abs().max() <= 5e-4**-0.5 * 1.001
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_a_whitened_model_can_be_trained_further() -> None:
    model = ours()
    whiten_patches(model, photos())
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert model.patch_embed.proj.weight.grad is not None


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ({"tokenizer": "shifted"}, (2, 3, 8, 8), r"only a patch projection can be whitened, .* use tokenizer=patch"),
        ({"tokenizer": "conv"}, (2, 3, 8, 8), r"only a patch projection can be whitened"),
        ({}, (2, 3, 3, 8), r"images of shape \(2, 3, 3, 8\) hold no patch of 4 x 4 pixels; expected \(B,3,H,W\)"),
        ({}, (2, 1, 8, 8), r"images of shape \(2, 1, 8, 8\) hold no patch"),
        ({}, (0, 3, 8, 8), r"hold no patch"),
        ({}, (3, 8, 8), r"hold no patch"),
    ],
)
def test_what_cannot_be_whitened_is_refused(model: dict[str, object], images: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        whiten_patches(ours(**model), torch.zeros(images))

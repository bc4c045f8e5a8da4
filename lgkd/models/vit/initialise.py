"""Initialise a plain ViT: mimetic, impulse, whitened patches.

Each function changes a model in place and works for any plain ViT whose parts are named as here and in timm: `blocks`
with `attn.qkv` (D -> 3D), `attn.proj` and `attn.num_heads`, `patch_embed.grid_size`, `patch_embed.proj`, `pos_embed`.
Random numbers come from torch's generator, so `torch.manual_seed` determines them.

Letters in shapes: H heads, D width, d = D/H width of a head, N = h w patches, P patch size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError

OFFSETS = ((0, 0), (-1, 0), (0, 1), (0, -1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Rows and columns from a patch to the one that a head attends to: the patch itself, its sides, its corners."""


@torch.no_grad()
def mimetic(
    model: nn.Module, *, alpha_qk: float = 0.7, beta_qk: float = 0.7, alpha_v: float = 0.4, beta_v: float = 0.4
) -> None:
    """Initialise attention as in trained ViTs: equal tokens attract, and a little of the values is subtracted.

    In the convention of row vectors, where a head's logits are x Wq Wk^T x^T and attention adds A x Wv Wproj:

        Wq Wk^T  ~ alpha_qk Z + beta_qk I     for each head, of rank d: the d largest singular values are kept,
                                              and their roots go to both sides
        Wv Wproj = alpha_v Z - beta_v I       of all heads together, exactly

    with Z (D,D) drawn for each, normal with variance 1/D. Biases of q, k, v and of the projection become 0. It is
    meant for positions that exist from the start, as sinusoidal ones.

    Source: Trockman and Kolter, Mimetic Initialization of Self-Attention Layers, ICML 2023 (arXiv 2305.09828).

    Args:
        model: a plain ViT.
        alpha_qk, beta_qk, alpha_v, beta_v: as above.

    Raises:
        ModelError: another kind of model, or one with low ranks.
    """
    for attention in _attentions(model, "mimetic"):
        width, heads = attention.proj.in_features, attention.num_heads
        noise_HDD = torch.randn(heads, width, width) / width**0.5
        query_HDd, key_HDd = _halves(alpha_qk * noise_HDD + beta_qk * torch.eye(width), width // heads)
        _set_query_key(attention, query_HDd, key_HDd)
        _set_value(attention, alpha_v, beta_v)


@torch.no_grad()
def impulse(model: nn.Module, *, strength: float = 7.0, position_rms: float = 0.36, noise: float = 0.0018) -> None:
    """Initialise each head's attention map as a step to one neighbour, like a convolution kernel with a single one.

    Head i attends from each patch to the patch at `OFFSETS[i % 9]`. For its target T (N,N), 1 at that step and a little
    noise elsewhere, and the LayerNormed positions E (N,D),

        E Wq Wk^T E^T ~ T,     Wq Wk^T = E+ T E+^T,

    where E+ is the pseudo-inverse of E on its d leading singular directions; the product is then split by its singular
    values into Wq and Wk (D,d), each with norm 1, times `strength`. Values and projection are those of `mimetic`,
    biases become 0, learned positions are scaled to be visible beside the patches; a class token is left out
    of the targets.

    The sharpness of the maps depends on d against N. Learned positions start without any order, so that all N
    directions count alike and a head needs about N/2 of them; sinusoidal ones need 16 for 64 patches.

    Source: Zheng et al., Structured Initialization for Vision Transformers, arXiv 2404.01139 and 2505.19985, and the
    authors' code of the latter, from which the defaults are: 7; positions of deviation 0.02 times 18; noise of
    deviation 0.6 times 3 against impulses of 1000. Chosen here: the inverse of a singular value s is damped to
    s / (s^2 + (s_1 / 20)^2) with s_1 the largest. Those of learned positions are hardly changed by it; those of
    sinusoidal positions fall so fast that without it the faintest would take all of Wq and Wk.

    Args:
        model: a plain ViT with positions.
        strength: norm of each Wq and Wk.
        position_rms: root mean square of learned positions afterwards; fixed ones are unchanged.
        noise: deviation of the noise in the targets, against impulses of 1.

    Raises:
        ModelError: another kind of model, or one with low ranks, without positions, or with local attention, which
            masks the target of a head with the offset (0, 0), or a Gaussian mask, which multiplies the logits.
    """
    attentions = _attentions(model, "impulse")
    positions = getattr(model, "pos_embed", None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(positions, Tensor) or grid is None:
        raise ModelError("impulse weights are made from positions, and this model has none; use positions=sinusoidal")
    if any(hasattr(attention, "temperature") for attention in attentions):
        raise ModelError(
            "impulse weights let heads attend to their own patch, which local attention masks; use only one of them"
        )
    if any(hasattr(attention, "sigma") for attention in attentions):
        raise ModelError(
            "impulse weights set the attention logits, which a Gaussian mask multiplies by numbers of any sign; use "
            "only one of them"
        )
    if isinstance(positions, nn.Parameter):
        positions.mul_(position_rms / positions.square().mean().sqrt())
    count = grid[0] * grid[1]
    embedded_ND = F.layer_norm(positions[0, -count:].double(), positions.shape[-1:])
    left_ND, sizes, right_DD = torch.linalg.svd(embedded_ND, full_matrices=False)
    damped = sizes / (sizes.square() + (sizes[0] / 20).square())
    for attention in attentions:
        width, heads = attention.proj.in_features, attention.num_heads
        leading = slice(0, width // heads)
        inverse_DN = right_DD[leading].T @ (left_ND[:, leading] * damped[leading]).T
        steps_HNN = torch.stack([_step(grid, OFFSETS[head % len(OFFSETS)]) for head in range(heads)]).to(inverse_DN)
        targets_HNN = steps_HNN + noise * torch.randn_like(steps_HNN) * (steps_HNN == 0)
        query_HDd, key_HDd = _halves(inverse_DN @ targets_HNN @ inverse_DN.T, width // heads)
        query_HDd, key_HDd = (strength * half / half.norm(dim=(1, 2), keepdim=True) for half in (query_HDd, key_HDd))
        _set_query_key(attention, query_HDd, key_HDd)
        _set_value(attention, 0.4, 0.4)


@torch.no_grad()
def whiten_patches(model: nn.Module, images_B3HW: Tensor, *, eps: float = 5e-4) -> None:
    """Initialise the patch projection to whiten patches: decorrelate neighbouring pixels.

    The patches of P x P pixels at every place of the images, not only those of the grid, have a mean m and a covariance
    with eigenvectors e_i and eigenvalues l_i, largest first. Output i of the projection becomes e_i (x - m) /
    sqrt(l_i + eps), so that on these patches the outputs have mean 0 and the identity as their covariance (as far as
    eps is small beside l_i). There are at most 3 P^2 of them; further outputs keep their weights.

    It needs images, which the command line does not pass to a model: call it from Python, on images normalised as in
    training, before a student is given to `lgkd.distill`.

    Source: Wu, arXiv 2501.06220, and the authors' code, which takes whole windows at every place and this eps. Chosen
    here: the mean is subtracted, which the code does not, so that the covariance is the identity.

    Args:
        model: a plain ViT with `patch_embed.proj`, a convolution that cuts patches.
        images_B3HW: a few hundred to a few thousand training images.
        eps: bounds the scale of directions without variance.

    Raises:
        ModelError: a model without such a convolution (shifted patches, the convolutional tokeniser), or images that
            images without a patch.
    """
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    if not isinstance(projection, nn.Conv2d) or projection.kernel_size != projection.stride or projection.bias is None:
        raise ModelError("only a patch projection can be whitened, and this model has none; use tokenizer=patch")
    rows, columns = projection.kernel_size
    shape = tuple(images_B3HW.shape)
    if len(shape) != 4 or shape[1] != projection.in_channels or shape[2] < rows or shape[3] < columns or not shape[0]:
        raise ModelError(
            f"images of shape {shape} hold no patch of {rows} x {columns} pixels; expected "
            f"(B,{projection.in_channels},H,W)"
        )
    mean, covariance = _patch_statistics(images_B3HW, (rows, columns))
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values.clamp_min(0) + eps).sqrt()).T.flip(0)[: projection.out_channels]
    many = len(filters)
    projection.weight[:many] = filters.reshape(many, *projection.weight.shape[1:]).to(projection.weight)
    projection.bias[:many] = -(filters @ mean).to(projection.bias)


def _patch_statistics(images_B3HW: Tensor, patch: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute mean and covariance of all patches in double precision, a few images at a time, as patches overlap."""
    size = images_B3HW.shape[1] * patch[0] * patch[1]
    total = images_B3HW.new_zeros(size, dtype=torch.float64)
    products = images_B3HW.new_zeros(size, size, dtype=torch.float64)
    count = 0
    for part in torch.split(images_B3HW, 64):
        patches = F.unfold(part.double(), patch).transpose(1, 2).flatten(0, 1)
        total, products, count = total + patches.sum(0), products + patches.T @ patches, count + len(patches)
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def _attentions(model: nn.Module, purpose: str) -> list[Any]:
    """Return the attention of every block."""
    found = [getattr(block, "attn", None) for block in getattr(model, "blocks", ())]
    for attention in found:
        qkv, proj = getattr(attention, "qkv", None), getattr(attention, "proj", None)
        whole = isinstance(qkv, nn.Linear) and qkv.out_features == 3 * qkv.in_features
        if not whole or not isinstance(proj, nn.Linear) or not hasattr(attention, "num_heads"):
            raise ModelError(
                f"{purpose} weights need blocks with one full matrix for q, k and v, which this model lacks; "
                "leave out the ranks or qkv=multiscale, or choose init=default"
            )
    if not found:
        raise ModelError(f"{purpose} weights are for a plain ViT, and a {type(model).__name__} has no blocks")
    return found


def _halves(product_HDD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factorise into (H,D,r) of the closest matrices of that rank: product ~ first second^T, with equal norms."""
    left, sizes, right = torch.linalg.svd(product_HDD)
    roots = sizes[:, None, :rank].sqrt()
    return left[:, :, :rank] * roots, right[:, :rank].transpose(1, 2) * roots


def _set_query_key(attention: Any, query_HDd: Tensor, key_HDd: Tensor) -> None:
    width = attention.proj.in_features
    for place, half_HDd in enumerate((query_HDd, key_HDd)):
        rows = half_HDd.transpose(1, 2).reshape(width, width)
        attention.qkv.weight[place * width : (place + 1) * width] = rows.to(attention.qkv.weight)


def _set_value(attention: Any, alpha: float, beta: float) -> None:
    width = attention.proj.in_features
    product_DD = alpha * torch.randn(width, width) / width**0.5 - beta * torch.eye(width)
    value, projection = _halves(product_DD[None], width)
    attention.qkv.weight[2 * width :] = value[0].T.to(attention.qkv.weight)
    attention.proj.weight.copy_(projection[0])
    for layer in (attention.qkv, attention.proj):
        if layer.bias is not None:
            layer.bias.zero_()


def _step(grid: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """Build (N,N): 1 from each patch to the one at the offset, where there is one."""
    by_row, by_column = (
        torch.diag(torch.ones(max(0, side - abs(step))), step)[:side, :side]
        for side, step in zip(grid, offset, strict=True)
    )
    return torch.kron(by_row, by_column)

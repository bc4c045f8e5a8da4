"""The parts of the plain ViT: tokens, attention, positions, pools, each against something worked out another way."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgkd.errors import ModelError
from lgkd.models.factory import create_student
from lgkd.models.vit.attention import Attention, LocalAttention, LowRank
from lgkd.models.vit.blocks import CompactBlock, PreNormBlock
from lgkd.models.vit.pooling import ClassPool, MeanPool, SequencePool
from lgkd.models.vit.positions import learned_positions, sinusoidal_positions
from lgkd.models.vit.tokens import ConvTokens, PatchTokens, ShiftedPatchTokens


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def by_loops(attention: Attention, tokens: Tensor, *, local: bool) -> Tensor:
    """Attention from its definition: image by image, head by head, token by token."""
    width, d = tokens.shape[2], attention.head_dim
    outputs = []
    for image in tokens:
        q, k, v = attention.qkv(image).split(width, dim=-1)
        heads = []
        for head in range(attention.num_heads):
            own = slice(head * d, (head + 1) * d)
            scale = attention.temperature[head].item() if local else 1 / math.sqrt(d)
            rows = []
            for i in range(len(image)):
                others = [j for j in range(len(image)) if not (local and i == j)]
                powers = [math.exp(scale * float(q[i, own] @ k[j, own])) for j in others]
                rows.append(sum(power * v[j, own] for power, j in zip(powers, others, strict=True)) / sum(powers))
            heads.append(torch.stack(rows))
        outputs.append(attention.proj(torch.cat(heads, dim=1)))
    return torch.stack(outputs)


@pytest.mark.parametrize("kind", [Attention, LocalAttention])
@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_its_definition_head_by_head(kind: type[Attention], fused: bool) -> None:
    attention = kind(12, 3).eval()
    attention.fused_attn = fused
    if kind is LocalAttention:
        attention.temperature.data.copy_(torch.tensor([0.3, 1.0, 2.5]).view(3, 1, 1))
    tokens = torch.randn(2, 5, 12)
    with torch.no_grad():
        torch.testing.assert_close(attention(tokens), by_loops(attention, tokens, local=kind is LocalAttention))


@pytest.mark.parametrize("kind", [Attention, LocalAttention])
def test_both_ways_of_attention_have_the_same_gradients(kind: type[Attention]) -> None:
    attention = kind(16, 4, q_rank=3)
    tokens = torch.randn(2, 7, 16)
    gradients = []
    for fused in (True, False):
        attention.fused_attn = fused
        gradients.append(torch.autograd.grad(attention(tokens).square().sum(), list(attention.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0][:1])


@pytest.mark.parametrize("kind", [Attention, LocalAttention])
def test_attention_maps_are_what_attention_mixes_by(kind: type[Attention]) -> None:
    attention = kind(8, 2).eval()
    tokens = torch.randn(3, 6, 8)
    maps = attention.maps(tokens)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 6))
    values = attention.qkv(tokens)[..., 16:].view(3, 6, 2, 4)
    mixed = torch.einsum("bhij,bjhd->bihd", maps, values).reshape(3, 6, 8)
    torch.testing.assert_close(attention(tokens), attention.proj(mixed))


def test_a_local_token_gives_itself_no_weight_at_all() -> None:
    attention = LocalAttention(8, 2)
    attention.qkv.weight.data[8:16] = attention.qkv.weight.data[:8]  # like attracts like: the diagonal would win
    attention.qkv.bias.data.zero_()
    tokens = torch.randn(4, 9, 8)
    plain = Attention(8, 2)
    plain.load_state_dict({key: value for key, value in attention.state_dict().items() if key != "temperature"})
    assert plain.maps(tokens).diagonal(dim1=-2, dim2=-1).min() > 0
    assert torch.equal(attention.maps(tokens).diagonal(dim1=-2, dim2=-1), torch.zeros(4, 2, 9))


def test_what_a_local_token_puts_out_does_not_depend_on_its_own_value() -> None:
    attention = LocalAttention(8, 2)
    attention.qkv.weight.data[:16] = 0  # all logits are equal, whatever the tokens are
    tokens = torch.randn(1, 5, 8)
    changed = tokens.clone()
    changed[0, 2] += 1.0
    moved = (attention(changed) - attention(tokens)).abs().amax(dim=(0, 2))
    assert moved[2] < 1e-6 and moved[[0, 1, 3, 4]].min() > 1e-3


def test_temperatures_start_at_the_usual_scale_and_are_learned_for_each_head() -> None:
    attention = LocalAttention(48, 3)
    assert attention.temperature.flatten().tolist() == pytest.approx([1 / 4] * 3)
    attention(torch.randn(1, 4, 48)).square().sum().backward()
    assert attention.temperature.grad is not None and (attention.temperature.grad.flatten() != 0).all()


@pytest.mark.parametrize("kind", [Attention, LocalAttention])
def test_attention_in_bfloat16_is_attention_up_to_rounding(kind: type[Attention]) -> None:
    attention = kind(16, 2).eval()
    tokens = torch.randn(2, 8, 16)
    exact = attention(tokens)
    for fused in (True, False):
        attention.fused_attn = fused
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = attention(tokens)
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


def test_attention_dropout_is_there_in_training_alone() -> None:
    attention = Attention(8, 2, dropout=0.5)
    tokens = torch.randn(2, 6, 8)
    for fused in (True, False):
        attention.fused_attn = fused
        assert not torch.equal(attention.train()(tokens), attention(tokens))
        assert torch.equal(attention.eval()(tokens), attention(tokens))


@pytest.mark.parametrize("which", ["q", "k", "v", "qkv"])
def test_low_rank_at_full_rank_is_the_full_matrix(which: str) -> None:
    full = Attention(12, 3).eval()
    low = Attention(12, 3, **{f"{name}_rank": 12 for name in which}).eval()
    low.proj.load_state_dict(full.proj.state_dict())
    for place, name in enumerate("qkv"):
        weight, bias = (part[12 * place : 12 * (place + 1)] for part in (full.qkv.weight.data, full.qkv.bias.data))
        linear = getattr(low.qkv, name)
        if isinstance(linear, LowRank):
            left, sizes, right = torch.linalg.svd(weight)
            linear.up.weight.data, linear.down.weight.data = left * sizes, right
            linear.up.bias.data = bias
        else:
            linear.weight.data, linear.bias.data = weight, bias
    assert sum(isinstance(module, LowRank) for module in low.modules()) == len(which)
    tokens = torch.randn(2, 7, 12)
    torch.testing.assert_close(low(tokens), full(tokens), rtol=1e-4, atol=1e-6)


def test_a_low_rank_map_has_that_rank_and_fewer_weights() -> None:
    attention = Attention(12, 3, q_rank=2, v_rank=0)
    product = attention.qkv.q.up.weight @ attention.qkv.q.down.weight
    assert torch.linalg.matrix_rank(product.detach()) == 2
    assert [tuple(part.shape) for part in attention.qkv.q.parameters()] == [(2, 12), (12, 2), (12,)]
    assert isinstance(attention.qkv.k, nn.Linear) and isinstance(attention.qkv.v, nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, r"embed_dim is 12, which 5 heads do not divide; expected a multiple of num_heads"),
        ({"heads": 0}, r"num_heads is 0, expected a whole number of at least 1"),
        ({"width": 0}, r"embed_dim is 0, expected a whole number of at least 1"),
        ({"q_rank": 13}, r"rank of q, k or v is 13, expected at most embed_dim, 12; 0 keeps the full matrix"),
        ({"k_rank": -1}, r"rank of q, k or v is -1, expected a whole number of at least 1"),
        ({"v_rank": 2.5}, r"rank of q, k or v is 2.5, expected a whole number"),
        ({"dropout": 1.0}, r"attn_drop_rate is 1.0, expected a number from 0 to below 1"),
    ],
)
def test_attention_that_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Attention(**{"width": 12, "heads": 3, **options})


# Tokens


def test_patches_are_cut_row_by_row_and_mapped_alike() -> None:
    tokens = PatchTokens((8, 12), 4, 5)
    images = torch.randn(2, 3, 8, 12)
    found = tokens(images)
    assert tokens.grid_size == (2, 3) and found.shape == (2, 6, 5)
    for row in range(2):
        for column in range(3):
            patch = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected = torch.einsum("bcyx,dcyx->bd", patch, tokens.proj.weight) + tokens.proj.bias
            torch.testing.assert_close(found[:, 3 * row + column], expected)


@pytest.mark.parametrize("name", ["vit_96", "vit_96_conv", "sl_vit", "cct_2_3x2", "poorvit"])
def test_the_residual_stream_is_contiguous(name: str) -> None:
    """A stream in the order of the convolution's map is copied by every LayerNorm of it."""
    model, found = create_student(name, num_classes=3, image_size=32), list[bool]()
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].is_contiguous()))
    model(torch.randn(2, 3, 32, 32))
    assert len(found) == len(model.blocks) and all(found)


@pytest.mark.parametrize("patch", [2, 3, 4])
def test_shifted_copies_are_the_image_seen_from_half_a_patch_away(patch: int) -> None:
    tokens = ShiftedPatchTokens((12, 12), patch, 7)
    images = torch.randn(1, 3, 12, 12)
    half = patch // 2
    shifted = tokens.shifted(images)[0].view(5, 3, 12, 12)
    for copy, (down, right) in enumerate([(0, 0), (half, half), (half, -half), (-half, half), (-half, -half)]):
        for y in range(12):
            for x in range(12):
                inside = 0 <= y - down < 12 and 0 <= x - right < 12
                expected = images[0, :, y - down, x - right] if inside else torch.zeros(3)
                assert torch.equal(shifted[copy, :, y, x], expected)


def test_a_shifted_token_is_norm_and_linear_of_its_window_in_all_five_images() -> None:
    tokens = ShiftedPatchTokens((8, 12), 4, 6)
    nn.init.normal_(tokens.norm.weight)
    nn.init.normal_(tokens.norm.bias)
    images = torch.randn(2, 3, 8, 12)
    found = tokens(images)
    assert tokens.grid_size == (2, 3) and found.shape == (2, 6, 6)
    # The token at row 1, column 2 sees rows 4 to 7 and columns 8 to 11 of the image and of its copies.
    padded = F.pad(images, (2, 2, 2, 2))
    windows = [(6, 10), (4, 8), (4, 12), (8, 8), (8, 12)]
    numbers = torch.cat([padded[:, :, y : y + 4, x : x + 4].flatten(1) for y, x in windows], dim=1)
    expected = tokens.proj(F.layer_norm(numbers, (240,), tokens.norm.weight, tokens.norm.bias))
    torch.testing.assert_close(found[:, 5], expected)


@pytest.mark.parametrize(
    ("size", "kernel", "layers", "grid"),
    [((32, 32), 3, 1, (16, 16)), ((32, 32), 3, 2, (8, 8)), ((224, 224), 7, 2, (14, 14)), ((31, 47), 3, 2, (8, 12)),
     ((33, 20), 5, 1, (17, 10))],
)  # fmt: skip
def test_the_convolutional_grid_is_the_one_that_comes_out(
    size: tuple[int, int], kernel: int, layers: int, grid: tuple[int, int]
) -> None:
    tokens = ConvTokens(size, 6, kernel=kernel, layers=layers, hidden=4)
    assert tokens.grid_size == grid
    assert tokens(torch.randn(2, 3, *size)).shape == (2, grid[0] * grid[1], 6)


def test_a_convolutional_token_is_the_largest_of_its_neighbours_responses() -> None:
    tokens = ConvTokens((8, 8), 5)
    images = torch.randn(1, 3, 8, 8)
    found = tokens(images)[0]
    padded = F.pad(images[0], (1, 1, 1, 1))
    filters = tokens.convs[0].weight

    def response(y: int, x: int) -> Tensor:
        return (filters * padded[:, y : y + 3, x : x + 3]).sum(dim=(1, 2, 3)).clamp_min(0)

    # Token (2,1) pools the responses around pixel (4,2), token (0,3) those around (0,6).
    for token, rows, columns in ((9, (3, 4, 5), (1, 2, 3)), (3, (0, 1), (5, 6, 7))):
        expected = torch.stack([response(y, x) for y in rows for x in columns]).amax(0)
        torch.testing.assert_close(found[token], expected, rtol=1e-4, atol=1e-5)


def test_responses_below_zero_are_cut_off() -> None:
    tokens = ConvTokens((8, 8), 5)
    tokens.convs[0].weight.data.abs_().neg_()
    assert torch.equal(tokens(torch.rand(2, 3, 8, 8)), torch.zeros(2, 16, 5))
    assert (tokens(-torch.rand(2, 3, 8, 8)) > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchTokens((30, 32), 4, 8), r"images of 30 x 32 pixels do not divide into patches of 4 x 4; choose"),
        (lambda: PatchTokens((32, 32), 0, 8), r"patch_size is 0, expected a whole number of at least 1"),
        (lambda: ShiftedPatchTokens((32, 32), 1, 8), r"patch_size of tokenizer=shifted is 1, expected .* at least 2"),
        (lambda: ShiftedPatchTokens((32, 34), 4, 8), r"32 x 34 pixels do not divide"),
        (lambda: ConvTokens((32, 32), 8, kernel=4), r"conv_kernel is 4, expected an odd number"),
        (lambda: ConvTokens((32, 32), 8, kernel=1), r"conv_kernel is 1, expected a whole number of at least 3"),
        (lambda: ConvTokens((32, 32), 8, layers=0), r"conv_layers is 0"),
        (lambda: ConvTokens((32, 32), 8, hidden=0, layers=2), r"conv_width is 0"),
        (lambda: sinusoidal_positions(1, (2, 2), 6), r"embed_dim is 6, and positions=sinusoidal needs a multiple of 4"),
    ],
)
def test_tokens_that_cannot_be_made_are_refused(make: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()


# Positions and pools


def test_sinusoidal_positions_follow_the_formula() -> None:
    positions = sinusoidal_positions(2, (3, 5), 16)
    assert positions.shape == (1, 2 + 15, 16)
    assert torch.equal(positions[0, :2], torch.zeros(2, 16))
    row, column = 2, 4
    token = positions[0, 2 + row * 5 + column].tolist()
    for k in range(4):
        frequency = 10000 ** (-k / 4)
        assert token[k] == pytest.approx(math.sin(row * frequency), abs=1e-6)
        assert token[4 + k] == pytest.approx(math.cos(row * frequency), abs=1e-6)
        assert token[8 + k] == pytest.approx(math.sin(column * frequency), abs=1e-6)
        assert token[12 + k] == pytest.approx(math.cos(column * frequency), abs=1e-6)


def test_learned_positions_are_learned_and_start_as_wide_as_asked() -> None:
    positions = learned_positions(1, (16, 16), 64, 0.2)
    assert positions.requires_grad and positions.shape == (1, 257, 64)
    assert positions.std().item() == pytest.approx(0.2, rel=0.05)


def test_sequence_pooling_of_a_case_worked_by_hand() -> None:
    pool = SequencePool(2)
    pool.logit.weight.data = torch.tensor([[math.log(2.0), 0.0]])
    pool.logit.bias.data.fill_(0.7)  # a softmax does not see what all its logits share
    tokens = torch.tensor([[[0.0, 7.0], [1.0, 0.0], [2.0, 14.0]]])
    # Logits 0, log 2, log 4: weights 1/7, 2/7, 4/7.
    torch.testing.assert_close(pool(tokens), torch.tensor([[(0 + 2 + 8) / 7, (7 + 0 + 56) / 7]]))


def test_class_tokens_are_laid_side_by_side_and_means_are_means() -> None:
    tokens = torch.arange(24.0).view(1, 6, 4)
    assert ClassPool(2)(tokens).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert MeanPool()(tokens).tolist() == [[10, 11, 12, 13]]


# Blocks


def test_the_stream_of_a_compact_block_is_normalised_between_its_branches() -> None:
    block = CompactBlock(Attention(8, 2), 8, 16, drop_path=0.0, eps=1e-5)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    out = block(5 + 3 * torch.randn(2, 4, 8))
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(-1, unbiased=False), torch.ones(2, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", [PreNormBlock, CompactBlock])
def test_a_blocks_branches_are_added_in_the_order_of_its_kind(kind: type[PreNormBlock]) -> None:
    block = kind(Attention(8, 2), 8, 16, drop_path=0.0, eps=1e-5)
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)

    def normalised(tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
        spread = (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return (tokens - tokens.mean(-1, keepdim=True)) / spread * norm.weight + norm.bias

    tokens = 5 + 3 * torch.randn(2, 4, 8)
    stream = tokens + block.attn(normalised(tokens, block.norm1))
    read = normalised(stream, block.norm2)
    stream = read if kind is CompactBlock else stream
    hidden = F.gelu(read @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    expected = stream + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [PreNormBlock, CompactBlock])
def test_a_block_whose_branches_say_nothing_adds_nothing(kind: type[PreNormBlock]) -> None:
    block = kind(Attention(8, 2), 8, 16, drop_path=0.0, eps=0.0)
    for layer in (block.attn.proj, block.mlp.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    tokens = 5 + 3 * torch.randn(2, 4, 8)
    expected = (
        tokens if kind is PreNormBlock else (tokens - tokens.mean(-1, True)) / tokens.std(-1, False, keepdim=True)
    )
    torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


def test_a_dropped_path_leaves_the_image_as_it_was() -> None:
    block = PreNormBlock(Attention(8, 2), 8, 16, drop_path=0.5, eps=1e-6).train()
    tokens = torch.randn(400, 3, 8)
    same = (block(tokens) == tokens).flatten(1).all(dim=1).float().mean()
    assert 0.15 < same < 0.35, "both branches are left out for a quarter of the images"

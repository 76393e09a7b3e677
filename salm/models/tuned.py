"""The audio tower as it runs in inference: the same weights and results as `AudioEncoder`, faster, without gradients.

What differs from the training path of `salm.models.htsat`:

- weights are cast once, and packed once for oneDNN where the processor has it (in fp32 twice as fast as MKL on AMD);
- the bias, the shift's mask and the scale of the attention are put together once;
- tokens stay in the order of the windows through a block: one gather for each block instead of four copies;
- GELU and both residual sums happen inside of the matrix products;
- memory that one layer frees is kept for the next one;
- batch norms of convolutions are a part of these;
- bf16 attention multiplies out scores and softmax: fused attention in torch takes twice as long on windows of 64.

Only the transformer and the convolutions are bf16: decibels, batch norm, pooling and projections keep fp32. With
"int8" and "int16" the branches are those of `salm.models.integer_tower`; the networks of `ArrivalPooling`, the step
from maps to image and the projections are compiled code as well (`salm.models.compiled_arrival`, `compiled_image`,
`compiled_projection`). The other convolutions are, with "int8", those of `salm.models.integer_convolution`.
"""

from copy import copy, deepcopy
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salm.models.audio_encoder import AudioEncoder, MapNorm
from salm.models.compiled_arrival import CompiledWeights
from salm.models.compiled_image import CompiledMapNorm
from salm.models.compiled_projection import CompiledProjection
from salm.models.convolution import fuse_batch_norms, lay_channels_last
from salm.models.htsat import HTSAT, PatchEmbed, SwinBlock, SwinStage, merging_order, window_order
from salm.models.integer_convolution import IntegerTimbre
from salm.models.integer_tower import IntegerBranch, IntegerTower
from salm.models.precision import DTYPES, INTEGER_BITS, Precision, compiled_code_for, known_precision
from salm.models.salm import SALM
from salm.models.timbre import TimbrePooling

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_PACKED_ROWS = 4096
"""Rows that oneDNN lays its weights out for; others work as well."""
_KEPT_BYTES = 31 << 20
"""Just under the largest block that glibc ever takes from its heap (32 MiB) and not from the system."""


def tuned_model(model: SALM, precision: Precision = "float32") -> SALM:
    """The model with its audio tower, and what projects its vectors, tuned for inference where they are now.

    The rest is shared with `model`. Later changes of its weights do not reach what is tuned, and that must stay on its
    device.

    Raises:
        ConfigError: unknown precision.
    """
    tuned = _shallow(model)
    tuned.audio_encoder = tuned_encoder(model.audio_encoder, precision)
    for name in ("semantic_projection", "spatial_projection", "timbre_projection"):
        projection = getattr(model, name)
        setattr(tuned, name, None if projection is None else tuned_projection(projection, precision))
    return tuned.eval()


def tuned_encoder(encoder: AudioEncoder, precision: Precision = "float32") -> AudioEncoder:
    """The audio tower alone, see `tuned_model`."""
    tuned = _shallow(encoder)
    _keep_freed_memory()
    bits = INTEGER_BITS.get(known_precision(precision))
    tuned.takes_batches = bits is not None
    if bits is not None and encoder.semantic is not None and encoder.spatial is not None:
        stitches: Any = encoder.stitches
        tuned.semantic = tuned.spatial = None  # their float weights need not stay
        tuned.image_tokens = IntegerTower([encoder.semantic, encoder.spatial], stitches, bits)  # type: ignore[assignment]
    else:
        for name in ("semantic", "spatial"):
            branch = getattr(encoder, name)
            setattr(tuned, name, None if branch is None else tuned_branch(branch, precision))
    if encoder.timbre is not None:
        tuned.timbre = _tuned_timbre(encoder.timbre, precision)  # type: ignore[assignment]
    tuned.map_norm = tuned_map_norm(encoder.map_norm, precision)  # type: ignore[assignment]
    needed_for = compiled_code_for(precision)
    if encoder.arrival is not None and needed_for is not None and CompiledWeights.fit(encoder.arrival.first):
        tuned.arrival = _shallow(encoder.arrival)
        for name in ("first", "second"):
            setattr(tuned.arrival, name, CompiledWeights(getattr(encoder.arrival, name), needed_for))
    return tuned.eval()


def tuned_map_norm(norm: MapNorm, precision: Precision = "float32") -> MapNorm | CompiledMapNorm:
    """What makes a branch's image of feature maps, see `tuned_model`; in float32 in any precision."""
    needed_for = compiled_code_for(precision)
    return norm if needed_for is None else CompiledMapNorm(norm, needed_for)


def tuned_projection(projection: nn.Sequential, precision: Precision = "float32") -> nn.Module:
    """A `Projection`, see `tuned_model`; in float32 in any precision."""
    needed_for = compiled_code_for(precision)
    if needed_for is None or not CompiledProjection.fits(projection):
        return projection
    return CompiledProjection(projection, needed_for)


def tuned_branch(branch: HTSAT, precision: Precision = "float32") -> HTSAT | IntegerBranch:
    """One branch, see `tuned_model`; its final tokens are float32 in any precision."""
    dtype = DTYPES[known_precision(precision)]
    bits = INTEGER_BITS.get(precision)
    _keep_freed_memory()
    if bits is not None:
        return IntegerBranch(branch, bits).eval()
    with torch.no_grad():
        tuned = _shallow(branch)
        tuned.patch_embed = TunedPatchEmbed(branch.patch_embed, dtype)  # type: ignore[assignment]
        tuned.layers = nn.ModuleList(TunedStage(stage, dtype) for stage in branch.layers)  # type: ignore[arg-type]
        tuned.norm = TunedNorm(branch.norm, dtype, out=torch.float32)  # type: ignore[assignment]
    return tuned.eval()


class PackedLinear:
    """A linear layer with constant weights, and what follows it in the same pass over memory.

    Args:
        layer: whose weights are taken.
        dtype: of the weights and of all inputs and outputs.
        row_scale: factor of each output.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, row_scale: Float[Tensor, "out"] | None = None) -> None:
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if row_scale is not None:
            weight = weight * row_scale[:, None]
            bias = None if bias is None else bias * row_scale
        self.weight, self.bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.packed = _can_pack(self.weight)
        if self.packed:
            weight = self.weight.contiguous().clone()  # the layout of a small matrix may stay as it is
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)

    def __call__(self, rows: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return functional.linear(rows, self.weight, self.bias)

    def gelu(self, rows: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """GELU of the outputs."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "gelu", [], "none")
        return functional.gelu(functional.linear(rows, self.weight, self.bias))

    def add(self, rows: Float[Tensor, "*batch in"], other: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
        """Sum of the outputs and `other`."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise.binary(rows, other, self.weight, self.bias, "add")
        return functional.linear(rows, self.weight, self.bias) + other


class TunedNorm(nn.Module):
    """A layer norm with its weights in `dtype`; `out` is the type of what it gives."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype, out: torch.dtype | None = None) -> None:
        super().__init__()
        self.shape, self.eps, self.out = norm.normalized_shape, norm.eps, out or dtype
        self.weight, self.bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)

    def forward(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return functional.layer_norm(tokens, self.shape, self.weight, self.bias, self.eps).to(self.out)


class TunedPatchEmbed(nn.Module):
    """`PatchEmbed` that takes an fp32 image in any precision."""

    def __init__(self, embed: PatchEmbed, dtype: torch.dtype) -> None:
        super().__init__()
        projection = embed.proj
        self.dtype, self.patch = dtype, projection.kernel_size[0]
        # With the maps last, what the convolution gives lies in memory as tokens already.
        self.weight = projection.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = projection.bias.detach().to(dtype)  # type: ignore[union-attr]
        self.norm = TunedNorm(embed.norm, dtype)

    def forward(self, image: Float[Tensor, "batch maps side side"]) -> Float[Tensor, "batch tokens width"]:
        image = image.to(self.dtype, memory_format=torch.channels_last)
        tokens = functional.conv2d(image, self.weight, self.bias, stride=self.patch)
        return self.norm(tokens.flatten(2).transpose(1, 2).contiguous())


class TunedBlock:
    """`SwinBlock` on tokens in the order of its windows.

    Attributes:
        order: place in the image of each token.
    """

    def __init__(self, block: SwinBlock, dtype: torch.dtype) -> None:
        attention, width = block.attn, block.norm1.weight.numel()
        self.order = window_order(block.side, block.window, block.shift)
        self.tokens, self.num_heads = block.window**2, attention.num_heads
        scale = torch.ones(3 * width, device=attention.qkv.weight.device)
        scale[:width] = attention.scale
        self.qkv = PackedLinear(attention.qkv, dtype, row_scale=scale)
        self.proj = PackedLinear(attention.proj, dtype)
        self.fc1, self.fc2 = PackedLinear(block.mlp.fc1, dtype), PackedLinear(block.mlp.fc2, dtype)
        self.norm1, self.norm2 = TunedNorm(block.norm1, dtype), TunedNorm(block.norm2, dtype)
        bias = attention.position_bias().detach()[None]
        self.bias = (bias if block._mask is None else bias + block._mask[:, None]).to(dtype).contiguous()

    def __call__(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        tokens = self.proj.add(self._mixed(self.qkv(self.norm1(tokens))).view(tokens.shape), tokens)
        return self.fc2.add(self.fc1.gelu(self.norm2(tokens)), tokens)

    def _mixed(self, qkv: Float[Tensor, "batch tokens three_widths"]) -> Tensor:
        """Values mixed by attention within windows, contiguous; the scale is in the weights already."""
        batch, heads = qkv.shape[0], self.num_heads
        parts = qkv.view(-1, self.tokens, 3, heads, qkv.shape[-1] // (3 * heads)).permute(2, 0, 3, 1, 4)
        if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
            query, key, value = parts.contiguous().flatten(1, 2).unbind(0)  # (batch * windows * heads, tokens, width)
            scores = torch.bmm(query, key.transpose(1, 2))
            scores.view(batch, -1, heads, self.tokens, self.tokens).add_(self.bias)
            mixed = torch.bmm(scores.softmax(dim=-1), value).unflatten(0, (-1, heads))
        else:
            # One clip needs no copies of the mask: the windows are then the batch of fused attention.
            bias = self.bias if len(self.bias) == 1 else self.bias.repeat(batch, 1, 1, 1)
            query, key, value = parts.unbind(0)
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return mixed.transpose(1, 2).contiguous()


class TunedStage(nn.Module):
    """`SwinStage`; tokens in and out are in the order of the image, as there."""

    def __init__(self, stage: SwinStage, dtype: torch.dtype) -> None:
        super().__init__()
        device = next(stage.parameters()).device
        self.blocks = [TunedBlock(block, dtype) for block in stage.blocks]  # type: ignore[arg-type]
        place = torch.arange(len(self.blocks[0].order))  # of each place of the image, where its token is now
        self.gathers: list[Tensor | None] = []
        for block in self.blocks:
            self.gathers.append(_gather(place[block.order], device))
            place = torch.argsort(block.order)
        self.merges = stage.downsample is not None
        if stage.downsample is not None:
            place = place[merging_order(stage.downsample.side)]
            self.norm = TunedNorm(stage.downsample.norm, dtype)
            self.reduction = PackedLinear(stage.downsample.reduction, dtype)
        self.gathers.append(_gather(place, device))

    def forward(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch out_tokens out_width"]:
        for gather, block in zip(self.gathers, self.blocks, strict=False):
            tokens = block(_gathered(tokens, gather))
        tokens = _gathered(tokens, self.gathers[-1])
        if not self.merges:
            return tokens
        return self.reduction(self.norm(tokens.view(tokens.shape[0], -1, 4 * tokens.shape[-1])))


def _tuned_timbre(timbre: TimbrePooling, precision: Precision) -> nn.Module:
    tuned = _shallow(timbre)
    tuned.layers = deepcopy(timbre.layers).eval()
    fuse_batch_norms(tuned.layers)
    if precision == "int8" and IntegerTimbre.fits(timbre):
        return IntegerTimbre(tuned)
    tuned.layers.to(DTYPES[precision])
    lay_channels_last(tuned.layers)
    return tuned


def _gather(places: Tensor, device: torch.device) -> Tensor | None:
    in_order = torch.equal(places, torch.arange(len(places)))
    return None if in_order else places.to(device)


def _gathered(tokens: Tensor, places: Tensor | None) -> Tensor:
    return tokens.contiguous() if places is None else tokens.index_select(1, places)


def _keep_freed_memory() -> None:
    """Have glibc keep freed blocks, up to twice `_KEPT_BYTES`, which it does once it has freed one of this size.

    Else it gives them back to the system at once and gets them anew, page by page: thousands of page faults for each
    clip of salm-base. Other C libraries take no notice.
    """
    torch.empty(_KEPT_BYTES, dtype=torch.uint8)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _shallow(module: ModuleT) -> ModuleT:
    """A copy that shares all parts, so that parts can be replaced in it."""
    copied = copy(module)
    copied.__dict__ = dict(module.__dict__)
    for registry in ("_parameters", "_buffers", "_modules"):
        copied.__dict__[registry] = dict(module.__dict__[registry])
    return copied

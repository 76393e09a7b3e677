"""Both branches' vectors of every sound in a training batch, a piece of the batch at a time where memory is short."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from salm.data.dataset import Example
from salm.models.audio_encoder import AudioEncoder, frame_spans, pool_spans


class Pooled(NamedTuple):
    """What the audio tower makes of a batch, sound by sound.

    Attributes:
        semantic, spatial: vectors of the two branches, before the projections.
        arrival: estimates of the direction, none without `ArrivalPooling`.
        stages: the maps inside `TimbrePooling`, clip by clip, if they were asked for.
    """

    semantic: Float[Tensor, "clips sounds semantic_width"]
    spatial: Float[Tensor, "clips sounds spatial_width"]
    arrival: Float[Tensor, "clips sounds stages 3"]
    stages: list[Float[Tensor, "clips _ _ _"]]


def pool_sounds(
    encoder: AudioEncoder,
    batch: Example,
    *,
    image_tokens: Callable[..., tuple[Tensor, Tensor]],
    semantic_alone: bool,
    timbre_alone: bool,
    with_stages: bool,
    micro_batch: int | None,
) -> Pooled:
    """The vectors of every sound in a batch.

    Args:
        image_tokens: `encoder.image_tokens`, perhaps compiled.
        semantic_alone: leave the spatial branch silent. `timbre_alone`: both, so that W's map is enough.
        with_stages: also the maps inside `TimbrePooling`, for the whole batch at once.
        micro_batch: see `in_pieces`.
    """
    spans = tuple((int(first), int(end)) for first, end in batch.spans)

    def pool(image: Tensor) -> tuple[Tensor, Tensor]:
        semantic, spatial = image_tokens(image, semantic_alone=semantic_alone)
        return pool_spans(semantic, spans), pool_spans(spatial, spans)

    if timbre_alone:
        semantic = spatial = batch.features.new_zeros(*batch.labels.shape, encoder.out_width)
    else:
        pieces = in_pieces(pool, encoder.image(batch.features), rows=micro_batch)
        semantic, spatial = map(torch.cat, zip(*pieces, strict=True))
    stages: list[Tensor] = []
    if encoder.timbre is not None:
        log_mel = batch.features[:, :1]
        if with_stages:
            stages = encoder.timbre.stages(log_mel)
            heard = encoder.timbre.pool(stages[-1], spans)
        else:
            heard = torch.cat(in_pieces(partial(encoder.timbre, spans=spans), log_mel, rows=micro_batch))
        semantic = torch.cat([semantic, heard], dim=-1)
    if encoder.arrival is None:
        return Pooled(semantic, spatial, spatial.new_zeros(*spatial.shape[:2], 0, 3), stages)
    if semantic_alone:
        arrival = spatial.new_zeros(*spatial.shape[:2], 1, 3)
    else:
        frames = frame_spans(spans, batch.features.shape[2])
        arrival = torch.cat(in_pieces(partial(encoder.arrival, spans=frames), batch.features, rows=micro_batch))
    return Pooled(semantic, encoder.with_arrival(spatial, arrival), arrival, stages)


def in_pieces(tower: Callable[..., Any], *inputs: Tensor, rows: int | None) -> list[Any]:
    """What a tower makes of its inputs, some rows at a time (None: all), which the backward pass computes again."""
    if rows is None or len(inputs[0]) <= rows:
        return [tower(*inputs)]
    pieces = zip(*(part.split(rows) for part in inputs), strict=True)
    return [recompute(tower, *piece, use_reentrant=False) for piece in pieces]

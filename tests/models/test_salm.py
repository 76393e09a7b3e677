from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from salm.config import BRANCHES
from salm.errors import ConfigError
from salm.models.audio_encoder import AudioEncoder, CrossStitch, diffuse_maps, pool_spans
from salm.models.builders import SIZES, build_model, named_config, salm_small, salm_tiny


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model(salm_tiny()).eval()
    torch.nn.init.normal_(model.spatial_weight)
    return model


@pytest.fixture(scope="module")
def features():
    return torch.randn(2, 7, 1001, 64, generator=torch.Generator().manual_seed(1))


def test_joint_embedding_is_equation_2(model, features):
    parts = model.encode_audio(features)
    assert torch.equal(parts.joint, parts.semantic + model.spatial_weight * parts.spatial)
    assert parts.joint.shape == (2, 512)
    torch.testing.assert_close(parts.doa.norm(dim=-1), torch.ones(2))


def test_editing_is_equation_3(model):
    semantic, spatial, text = torch.randn(3, 4, 512).unbind(0)
    edited = model.edit_direction(semantic, spatial, text)
    for row in range(4):
        scale = spatial[row].norm() / text[row].norm()
        torch.testing.assert_close(edited[row], semantic[row] + model.spatial_weight * scale * text[row])


def test_editing_with_the_own_spatial_part_changes_nothing(model):
    semantic, spatial = torch.randn(2, 4, 512).unbind(0)
    torch.testing.assert_close(model.edit_direction(semantic, spatial, 3.0 * spatial), model.join(semantic, spatial))


def test_editing_towards_the_own_spatial_text_keeps_its_length(model):
    semantic, spatial, text = torch.randn(3, 4, 512).unbind(0)
    replaced = (model.edit_direction(semantic, spatial, text) - semantic) / model.spatial_weight
    torch.testing.assert_close(replaced.norm(dim=-1), spatial.norm(dim=-1), rtol=1e-3, atol=0)


def test_a_clip_is_encoded_the_same_alone_and_in_a_batch(model, features):
    with torch.inference_mode():
        together = model.encode_audio(features)
        again = model.encode_audio(features)
        turned = model.encode_audio(features.flip(0))
        alone = [model.encode_audio(clip[None]) for clip in features]
    assert torch.equal(together.joint, again.joint)
    for name in ("semantic", "spatial", "joint", "doa"):
        batch = getattr(together, name)
        torch.testing.assert_close(batch, torch.cat([getattr(one, name) for one in alone]), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(batch, getattr(turned, name).flip(0), atol=1e-6, rtol=1e-6)


def test_inputs_are_not_modified(model, features):
    before = features.clone()
    model.encode_audio(features)
    assert torch.equal(features, before)


@torch.no_grad()
def test_tokens_that_are_known_are_not_computed_again(model, features, monkeypatch):
    mono = features[:, :1]
    expected = model.encode_audio(features), model.encode_semantic(mono)
    tokens, mono_tokens = model.audio_encoder(features), model.audio_encoder(diffuse_maps(mono))
    monkeypatch.setattr(model.audio_encoder, "image_tokens", None)
    found = model.encode_audio(features, tokens), model.encode_semantic(mono, mono_tokens)
    for name in ("semantic", "spatial", "joint", "doa"):
        assert torch.equal(getattr(found[0], name), getattr(expected[0], name))
    assert torch.equal(found[1], expected[1])


def test_one_span_over_everything_equals_pooling(model, features):
    encoder = model.audio_encoder
    for pooled, tokens in zip(encoder.pool(features), encoder(features), strict=True):
        torch.testing.assert_close(pool_spans(tokens, [(0, 32)])[:, 0], pooled)


def test_spans_average_to_the_whole(model, features):
    for pooled, tokens in zip(model.audio_encoder.pool(features), model.audio_encoder(features), strict=True):
        torch.testing.assert_close(pool_spans(tokens, [(0, 16), (16, 32)]).mean(dim=1), pooled)


def test_the_semantic_branch_alone_hears_a_silent_spatial_one(model, features):
    """As if every token of the spatial branch were zero at every stage; the second output is zeros."""
    encoder = model.audio_encoder
    semantic, spatial = encoder.image_tokens(encoder.image(features), semantic_alone=True)
    assert not spatial.any()
    expected = encoder.semantic.patch_embed(encoder.image(features)[:, :1])
    for stitch, stage in zip(encoder.stitches, encoder.semantic.layers, strict=True):
        expected = stage(expected * stitch.weight[:, 0, 0])
    torch.testing.assert_close(semantic, encoder.semantic.norm(expected))


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_model_with_one_branch_knows_the_other_as_zero(features, branch):
    config = salm_tiny()
    model = build_model(replace(config, audio=replace(config.audio, branches=(branch,)))).eval()
    parts = model.encode_audio(features)
    known, unknown = (parts.semantic, parts.spatial) if branch == "semantic" else (parts.spatial, parts.semantic)
    assert not unknown.any()
    weight = 1.0 if branch == "semantic" else model.spatial_weight
    torch.testing.assert_close(parts.joint, weight * known)
    assert not any(
        f"{other}_projection" in name for other in BRANCHES if other != branch for name in model.state_dict()
    )


@pytest.mark.parametrize("timbre_channels", [0, 4])
def test_mono_is_heard_as_a_diffuse_field(timbre_channels):
    config = salm_tiny()
    model = build_model(replace(config, audio=replace(config.audio, timbre_channels=timbre_channels))).eval()
    logmel = torch.full((1, 1, 1001, 64), -30.0)
    diffuse = torch.cat([logmel, (logmel - 4.771213).expand(-1, 3, -1, -1), torch.zeros(1, 3, 1001, 64)], dim=1)
    expected = model.encode_audio(diffuse).semantic
    assert expected.std() > 1e-3
    torch.testing.assert_close(model.encode_semantic(logmel), expected)


@torch.no_grad()
def test_the_branch_and_the_network_count_alike_in_the_semantic_embedding():
    config = salm_tiny()
    model = build_model(replace(config, audio=replace(config.audio, timbre_channels=4))).eval()
    encoder = model.audio_encoder
    pooled = torch.randn(3, encoder.semantic_width, generator=torch.Generator().manual_seed(3))
    spatial = torch.zeros(3, encoder.spatial_width)
    branch = functional.normalize(model.semantic_projection(pooled[:, : encoder.out_width]), dim=-1)
    network = functional.normalize(model.timbre_projection(pooled[:, encoder.out_width :]), dim=-1)
    torch.testing.assert_close(model.project_audio(pooled, spatial).semantic, branch + network)
    pooled[:, : encoder.out_width] = 0.0  # silent, as in the training of the network alone
    torch.testing.assert_close(model.project_audio(pooled, spatial).semantic, network)


def test_cross_stitch_feeds_the_mixed_first_branch_to_the_second():
    stitch = CrossStitch(1)
    stitch.weight.data = torch.tensor([[[2.0, 3.0], [5.0, 7.0]]])
    first, second = stitch(torch.ones(1, 1, 1), torch.full((1, 1, 1), 10.0))
    assert first.item() == 2 + 30
    assert second.item() == 5 * 32 + 70


def test_uncoupled_branches_are_independent(features):
    encoder = AudioEncoder(width=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4)).eval()
    for stitch in encoder.stitches:
        stitch.weight.data = torch.eye(2).repeat(len(stitch.weight), 1, 1)
    changed = features.clone()
    changed[:, 1:] += 1.0
    (semantic, spatial), (semantic_again, spatial_again) = encoder.pool(features), encoder.pool(changed)
    assert torch.equal(semantic, semantic_again)
    assert not torch.equal(spatial, spatial_again)


def test_text_padding_changes_nothing(model):
    ids = torch.tensor([[0, 7, 8, 2]])
    padded = torch.tensor([[0, 7, 8, 2, 1, 1]])
    alone = model.encode_text(ids, torch.ones_like(ids))
    torch.testing.assert_close(model.encode_text(padded, (padded != 1).long()), alone, atol=1e-5, rtol=1e-5)


def test_every_weight_gets_a_gradient(features):
    model = build_model(salm_tiny())
    parts = model.encode_audio(features)
    text = model.encode_text(torch.tensor([[0, 5, 2]]), torch.ones(1, 3, dtype=torch.long))
    (parts.joint.square().sum() + parts.doa[:, 0].sum() + text.sum()).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == ["log_temperature"]


def test_sizes():
    count = sum(value.numel() for value in build_model(salm_small()).state_dict().values())
    assert 18e6 < count < 20e6
    assert 2 * count < 40e6, "salm-small in half precision must stay under 40 MB"
    base = named_config("salm-base")
    assert (base.audio.width, base.audio.depths, base.text.width, base.text.depth) == (96, (2, 2, 6, 2), 768, 12)
    assert set(SIZES) == {"salm-base", "salm-small", "salm-tiny"}
    with pytest.raises(ConfigError, match="unknown model size 'salm-huge'; expected one of salm-base, salm-small"):
        named_config("salm-huge")


def test_more_semantic_maps_than_maps_are_refused():
    with pytest.raises(ConfigError, match="expected 1 to 7 semantic maps, got 8"):
        AudioEncoder(width=8, depths=(1,), num_heads=(1,), num_semantic_maps=8)

"""Hints: the teacher's maps meet ours at the same frequencies, and what agrees costs nothing."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from salm.audio.features import FeatureExtractor
from salm.audio.io import SAMPLE_RATE_HZ
from salm.config import FeatureConfig
from salm.data.audio_teacher import STAGE_WIDTHS, AudioTeacher
from salm.models.timbre import TimbrePooling
from salm.train.hints import TeacherHints, band_alignment

CLIP_SAMPLES = 10 * SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return AudioTeacher().eval()


@pytest.mark.parametrize("frequency_hz", [200.0, 1_000.0, 3_000.0, 9_000.0])
def test_a_tone_is_in_the_bands_that_are_aligned(teacher, frequency_hz):
    tone = np.sin(2 * np.pi * frequency_hz * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32)
    ours = int(FeatureExtractor()(torch.from_numpy(tone)[None, None])[0, 0, 50].argmax())
    theirs = int(teacher.log_mel(tone)[:, 50].argmax())
    for stage in range(len(STAGE_WIDTHS)):
        weights = band_alignment(stage, FeatureConfig())[ours // 2**stage]
        nearest = theirs / 2 ** (stage + 1)
        read = float(weights @ torch.arange(len(weights)).float())
        assert abs(read - nearest) <= 1.0, stage


def test_every_band_of_ours_reads_the_teachers_with_weights_that_add_up_to_one():
    for stage in range(len(STAGE_WIDTHS)):
        weights = band_alignment(stage, FeatureConfig())
        assert weights.shape == (64 >> stage, 64 >> stage)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(weights)))


@torch.no_grad()
def test_stages_of_both_networks_have_one_resolution(teacher):
    clip = 0.1 * torch.randn(CLIP_SAMPLES, generator=torch.Generator().manual_seed(1))
    heard = teacher.stages(teacher.log_mel(clip.numpy())[None])
    ours = TimbrePooling(2).eval().stages(FeatureExtractor()(clip[None, None]))
    assert [stage.shape[1] for stage in heard] == list(STAGE_WIDTHS)
    for stage, (our_maps, their_maps) in enumerate(zip(ours, heard, strict=True)):
        assert our_maps.shape[2] == their_maps.shape[2] == 64 >> stage
        assert 0 <= our_maps.shape[3] - their_maps.shape[3] <= 12 >> stage
    features = teacher.features(teacher.log_mel(clip.numpy())[None, None])
    torch.testing.assert_close(heard[-1], features)


@torch.no_grad()
def test_the_loss_is_none_for_equal_maps_and_one_for_knowing_nothing():
    generator = torch.Generator().manual_seed(2)
    heard = [
        3.0 + 2.0 * torch.randn(2, width, 64 >> stage, 500 >> stage, generator=generator)
        for stage, width in enumerate(STAGE_WIDTHS)
    ]
    hints = TeacherHints(STAGE_WIDTHS, FeatureConfig())
    for stage, (head, width) in enumerate(zip(hints.heads, STAGE_WIDTHS, strict=True)):
        head.weight.data = torch.eye(width)[:, :, None, None]
        head.bias.data.zero_()
        # The same value in all bands, so that aligning them changes nothing.
        heard[stage] = heard[stage][:, :, :1].expand(-1, -1, 64 >> stage, -1)
    same = [(maps - maps.mean((0, 2, 3), keepdim=True)) / maps.std((0, 2, 3), keepdim=True) for maps in heard]
    longer = [functional.pad(maps, (0, 12 >> stage), value=9.0) for stage, maps in enumerate(same)]
    assert float(hints(longer, heard)) < 1e-3
    for head in hints.heads:
        head.weight.data.zero_()
    assert float(hints(longer, heard)) == pytest.approx(1.0, abs=1e-2)

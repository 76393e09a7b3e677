"""The learned weighting of intensity vectors: what holds whatever its weights are."""

import numpy as np
import pytest
import torch

from salm.audio.augment import axis_turns, shift_level, turn_maps
from salm.audio.features import FeatureExtractor
from salm.geometry import encode_plane_wave, unit_vector
from salm.models.arrival import ArrivalPooling

SECOND = 24_000


@pytest.fixture(scope="module")
def pooling():
    torch.manual_seed(0)
    pooling = ArrivalPooling(4).eval()
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return pooling


def noise_from(azimuth_deg: float, elevation_deg: float, seconds: int = 1, seed: int = 0) -> np.ndarray:
    sound = np.random.default_rng(seed).normal(0, 0.1, seconds * SECOND)
    return encode_plane_wave(sound, np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg)).astype(np.float32)


def maps_of(foa: np.ndarray) -> torch.Tensor:
    return FeatureExtractor()(torch.from_numpy(foa)[None])


@pytest.fixture(scope="module")
def noisy():
    """A plane wave in diffuse noise, and a second one that comes later: nothing that every weighting agrees on."""
    rng = np.random.default_rng(3)
    foa = np.concatenate([noise_from(30, 10), noise_from(-120, -20, seed=1)], axis=1)
    return maps_of(foa + rng.normal(0, 0.05, foa.shape).astype(np.float32))


@pytest.mark.parametrize(("azimuth_deg", "elevation_deg"), [(0, 0), (100, 40), (-135, -60), (179, 5)])
def test_a_plane_wave_is_found_where_it_comes_from(pooling, azimuth_deg, elevation_deg):
    estimates = pooling(maps_of(noise_from(azimuth_deg, elevation_deg)))
    expected = torch.from_numpy(unit_vector(np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg))).float()
    torch.testing.assert_close(estimates[0, 0], expected.expand(2, 3), atol=1e-3, rtol=0)


def test_the_estimate_turns_with_the_field(pooling, noisy):
    (before,) = pooling(noisy)
    for turn in axis_turns():
        (after,) = pooling(turn_maps(noisy[0], turn)[None])
        torch.testing.assert_close(after, before @ torch.from_numpy(turn.T).float(), atol=1e-5, rtol=0)


def test_the_weights_matter(pooling, noisy):
    """The two estimates differ from each other and from the plain mean, so that there is something to be learned."""
    first, second = pooling(noisy)[0, 0]
    plain = torch.nn.functional.normalize(noisy[0, 4:][[2, 0, 1]].sum(dim=(1, 2)), dim=0)
    assert (first - second).norm() > 1e-3
    assert (first - plain).norm() > 1e-3


def test_a_recorders_gain_changes_nothing(pooling, noisy):
    torch.testing.assert_close(pooling(shift_level(noisy[0], 12.0)[None]), pooling(noisy), atol=1e-4, rtol=0)


def test_each_span_has_its_own_direction(pooling):
    features = maps_of(np.concatenate([noise_from(45, 0), noise_from(-90, 30, seed=1)], axis=1))
    estimates = pooling(features, spans=((0, 96), (104, 201)))
    for number, (azimuth_deg, elevation_deg) in enumerate([(45, 0), (-90, 30)]):
        expected = torch.from_numpy(unit_vector(np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg))).float()
        torch.testing.assert_close(estimates[0, number, -1], expected, atol=1e-2, rtol=0)


def test_silence_has_no_direction(pooling):
    assert torch.equal(pooling(maps_of(np.zeros((4, SECOND), np.float32))), torch.zeros(1, 1, 2, 3))


def test_learning_to_trust_the_right_bins_lowers_the_error():
    """Loud diffuse noise and a softer plane wave that alternate: after some steps the softer parts are trusted."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    clips, directions = [], []
    for seed in range(8):
        azimuth_deg = float(rng.uniform(-180, 180))
        foa = 0.2 * noise_from(azimuth_deg, 0, seed=seed)
        loud = rng.normal(0, 0.1, (4, SECOND // 2)).astype(np.float32) / np.sqrt([[1], [3], [3], [3]])
        foa[:, : SECOND // 2] = loud
        clips.append(maps_of(foa.astype(np.float32)))
        directions.append(unit_vector(np.deg2rad(azimuth_deg), 0.0))
    features, wanted = torch.cat(clips), torch.from_numpy(np.stack(directions)).float()
    pooling = ArrivalPooling(4)
    optimizer = torch.optim.Adam(pooling.parameters(), lr=2e-2)
    losses = []
    for _ in range(25):
        loss = (1 - (pooling(features)[:, 0] * wanted[:, None]).sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

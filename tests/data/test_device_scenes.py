"""Scenes made in batches on a device (here the processor) against the laws and the code that makes them one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from salm.config import FeatureConfig
from salm.data.audio_teacher import AudioTeacher
from salm.data.dataset import SceneDataset
from salm.data.device_scenes import DeviceScenes, Placed, random_symmetry
from salm.data.scene_mix import SceneMix
from salm.data.sounds import SoundBank, read_teacher
from salm.geometry import angle_between, azimuth_elevation, foa_rotation, sector_index
from salm.scenes.spatialize import spatialize

PLAIN = SceneMix(num_sounds=2, snr_db=(300, 300), level_dbfs=(-20, -20), mask_mels=0)
VARIED = SceneMix(num_sounds=3, tilt_deg=20, any_axis=0.5, speed=(0.8, 1.2), colour_db=3.0, distractor=0.5, mask_mels=8)
LENGTH = 12_000


@pytest.fixture(scope="module")
def scenes(dry_folder, dry_sounds, rooms, tmp_path_factory):
    bank = SoundBank.read(dry_sounds, cache=tmp_path_factory.mktemp("cache"))
    teacher = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    return SceneDataset(bank, rooms, teacher, FeatureConfig(), [PLAIN, VARIED], batch_size=4, seed=0)


@pytest.fixture(scope="module")
def device_scenes(scenes):
    return DeviceScenes(scenes, torch.device("cpu"))


def place(scenes, count, seed=0):
    generator = np.random.default_rng(seed)
    return Placed(
        generator.integers(len(scenes.bank), size=count),
        generator.integers(len(scenes.rooms), size=count),
        np.stack([random_symmetry(generator) for _ in range(count)]),
    )


def test_fields_are_those_of_the_sounds_one_by_one(scenes, device_scenes):
    placed = place(scenes, 6)
    fields, alone = device_scenes._hear(placed, LENGTH, PLAIN, np.random.default_rng(1))
    generator = np.random.default_rng(1)
    dry = device_scenes._excerpts(placed.rows, LENGTH, generator.uniform(1, 1, size=6), generator).numpy()
    for field, sound, position, turn in zip(fields.numpy(), dry, placed.places, placed.turns, strict=True):
        response = (foa_rotation(turn) @ scenes.rooms[int(position)].response).astype(np.float32)
        expected = spatialize(sound, response)[:, :LENGTH]
        expected /= np.sqrt(np.mean(expected[0] ** 2))
        np.testing.assert_allclose(field, expected, atol=2e-4)
    np.testing.assert_allclose(alone, dry / np.sqrt(np.mean(dry**2, axis=1, keepdims=True)), atol=2e-4)


def test_a_dry_scene_is_its_sounds_in_w_alone(scenes):
    """Filter and distractor are in both."""
    mix = replace(VARIED, num_sounds=1, distractor=1.0, dry=True, snr_db=(300, 300), level_dbfs=(0, 0))
    dry_scenes = SceneDataset(scenes.bank, scenes.rooms, scenes.teacher, FeatureConfig(), [mix], batch_size=4, seed=0)
    on_device = DeviceScenes(dry_scenes, torch.device("cpu"))
    fields, dry = on_device._record(place(scenes, 6), LENGTH, mix, np.random.default_rng(1), torch.Generator())
    assert fields[:, 1:].abs().max() < 1e-9  # the sensor noise
    torch.testing.assert_close(fields[:, 0], dry, atol=2e-4, rtol=0)
    plain = replace(mix, colour_db=0.0, distractor=0.0)
    _, alone = on_device._hear(place(scenes, 6), LENGTH, plain, np.random.default_rng(1))
    assert (dry - alone).abs().max() > 0.1


def test_the_teacher_hears_the_dry_sounds_of_a_batch(scenes):
    """As it hears them one by one, but for the way to its sample rate."""
    torch.manual_seed(0)
    teacher = replace(scenes.teacher, model=AudioTeacher().eval())
    alone = replace(PLAIN, num_sounds=1, hints=True)
    listening = SceneDataset(scenes.bank, scenes.rooms, teacher, FeatureConfig(), [PLAIN, alone], batch_size=4, seed=0)
    on_device = DeviceScenes(listening, torch.device("cpu"))
    heard = []
    record = on_device._record
    on_device._record = lambda *given: heard.append(record(*given)) or heard[-1]
    two, one = on_device.batch(0, 4), on_device.batch(4, 4)
    assert two.heard is None
    for batch, (_, dry) in zip((two, one), heard, strict=True):
        embeddings, tags = teacher.listen(dry.numpy())
        torch.testing.assert_close(batch.teacher.flatten(0, 1), torch.from_numpy(embeddings), atol=0.02, rtol=0)
        torch.testing.assert_close(batch.tags.flatten(0, 1), torch.from_numpy(tags), atol=1e-3, rtol=0)
    maps = np.stack([teacher.log_mel(sound) for sound in heard[1][1].numpy()])
    assert np.median(np.abs(one.heard.numpy() - maps)) < 1e-3


def test_an_excerpt_at_normal_speed_is_a_piece_of_its_sound(scenes, device_scenes):
    rows = np.arange(len(scenes.bank))
    pieces = device_scenes._excerpts(rows, 4_000, np.ones(len(rows)), np.random.default_rng(2)).numpy()
    for row, piece in zip(rows.tolist(), pieces, strict=True):
        sound = scenes.bank[row]
        assert len(sound) > 4_000
        windows = np.lib.stride_tricks.sliding_window_view(sound, 4_000)
        assert np.any(np.all(np.isclose(windows[:, :4_000:500], piece[:4_000:500], atol=1e-6), axis=1))


def test_a_short_sound_is_repeated_with_silence_before_and_between(scenes, device_scenes):
    rows = np.zeros(8, np.int64)
    sound = scenes.bank[0]
    length = 3 * len(sound)
    pieces = device_scenes._excerpts(rows, length, np.ones(8), np.random.default_rng(3)).numpy()
    for piece in pieces:
        energy = float(np.sum(piece**2) / np.sum(sound**2))
        assert 1.2 < energy <= 3.0 + 1e-3
    assert any(piece[0] == 0.0 for piece in pieces)


def test_a_faster_sound_is_higher(scenes, device_scenes):
    tone = np.sin(2 * np.pi * 1_000 * np.arange(48_000) / 24_000)
    at = torch.arange(24_000, dtype=torch.float64)[None] * 1.25
    bank = device_scenes.samples
    try:
        device_scenes.samples = torch.from_numpy(np.round(tone * 32_767).astype(np.int16))
        lengths, starts = device_scenes.lengths, device_scenes.starts
        device_scenes.lengths, device_scenes.starts = np.array([48_000]), np.array([0])
        played = device_scenes._interpolated(np.array([0]), at)[0].numpy()
    finally:
        device_scenes.samples, device_scenes.lengths, device_scenes.starts = bank, lengths, starts
    assert np.argmax(np.abs(np.fft.rfft(played))) == 1_250
    expected = np.sin(2 * np.pi * 1_250 * np.arange(24_000) / 24_000)
    assert 20 * np.log10(np.std(played - expected) / np.std(expected)) < -45


def test_what_is_heard_comes_from_where_the_labels_say(scenes, device_scenes):
    placed = place(scenes, 40, seed=4)
    fields, _ = device_scenes._record(placed, LENGTH, PLAIN, np.random.default_rng(4), torch.Generator())
    fields = fields.numpy()
    intensity = (fields[:, :1] * fields[:, 1:]).mean(axis=-1)[:, [2, 0, 1]]
    directions = np.einsum("nij,nj->ni", placed.turns, device_scenes._directions(placed.places))
    errors = np.degrees([angle_between(a, b) for a, b in zip(intensity, directions, strict=True)])
    assert np.median(errors) < 15
    levels_db = 10 * np.log10(np.mean(fields[:, 0] ** 2, axis=-1))
    np.testing.assert_allclose(levels_db, -20, atol=0.01)


def test_a_distractor_is_in_the_same_room_and_elsewhere(scenes, device_scenes):
    rooms = scenes.rooms
    places = np.arange(len(rooms))
    for seed in range(5):
        others = device_scenes._elsewhere(places, np.random.default_rng(seed))
        np.testing.assert_array_equal(rooms.room_index[others], rooms.room_index[places])
        assert np.all(others != places)


def test_a_batch_is_complete_and_depends_on_its_number_alone(scenes, device_scenes):
    for first, sounds in ((0, 2), (4, 3), (8, 2)):
        batch = device_scenes.batch(first, 4)
        again = device_scenes.batch(first, 4)
        assert batch.features.shape == (4, 7, 1001, 64)
        assert torch.isfinite(batch.features).all()
        assert torch.equal(batch.features, again.features)
        assert batch.spatial_captions == again.spatial_captions
        assert len(batch.captions) == 4 * sounds
        assert batch.doa.shape == (4, sounds, 3)
        assert batch.teacher.shape[:2] == batch.tags.shape[:2] == (4, sounds)
        azimuth, _ = azimuth_elevation(batch.doa.numpy())
        np.testing.assert_array_equal(batch.sectors, sector_index(azimuth))
    assert not torch.equal(batch.features, device_scenes.batch(0, 4).features)


def test_maps_of_a_batch_point_where_the_sounds_are(device_scenes):
    """Through the whole path: the mean intensity maps over a sound's frames against its label."""
    errors = []
    for first in (0, 8, 16, 24):
        batch = device_scenes.batch(first, 4)
        for clip in range(4):
            for sound, (start, end) in enumerate(batch.spans.tolist()):
                frames = batch.features[clip, 4:, start * 32 : end * 32].mean(dim=(1, 2)).numpy()
                errors.append(angle_between(frames[[2, 0, 1]], batch.doa[clip, sound].numpy()))
    assert np.degrees(np.median(errors)) < 15

from dataclasses import replace

import numpy as np
import pytest
import torch

from salm.audio.augment import mask_mels
from salm.config import FeatureConfig
from salm.data.audio_teacher import AudioTeacher
from salm.data.batches import EpochSampler, collate
from salm.data.dataset import (
    NUM_TIME_TOKENS,
    SceneDataset,
    excerpt,
    random_symmetry,
    token_spans,
)
from salm.data.scene_mix import SceneMix
from salm.data.sounds import SoundBank, read_teacher
from salm.geometry import SECTORS, azimuth_elevation, find_sector, foa_rotation, sector_index


@pytest.fixture(scope="module")
def dataset(dry_folder, dry_sounds, rooms, tmp_path_factory):
    bank = SoundBank.read(dry_sounds, cache=tmp_path_factory.mktemp("cache"))
    teacher = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    mixes = (SceneMix(num_sounds=3, snr_db=(30, 40)), SceneMix(num_sounds=1, snr_db=(30, 40), mask_mels=0))
    return SceneDataset(bank, rooms, teacher, FeatureConfig(), mixes, batch_size=2, seed=0)


def test_an_item_depends_on_seed_and_number_alone(dataset):
    first, other, again = dataset[5], dataset[6], dataset[5]
    assert torch.equal(first.features, again.features)
    assert first.spatial_captions == again.spatial_captions
    assert not torch.equal(first.features, other.features)


def test_mixes_take_turns_by_batch(dataset):
    assert [len(dataset[item].captions) for item in range(6)] == [3, 3, 1, 1, 3, 3]


def test_shapes_and_agreement_of_an_item(dataset):
    item = dataset[0]
    assert item.features.shape == (7, 1001, 64)
    assert torch.isfinite(item.features).all()
    torch.testing.assert_close(item.doa.norm(dim=-1), torch.ones(3))
    azimuth, _ = azimuth_elevation(item.doa.numpy())
    np.testing.assert_array_equal(item.sectors, sector_index(azimuth))
    for caption, sector in zip(item.spatial_captions, item.sectors, strict=True):
        assert find_sector(caption) == SECTORS[sector]
    rows = [dataset.bank.labels.index(f"noise {label}") for label in range(6)]
    for label, teacher in zip(item.labels, item.teacher, strict=True):
        assert int(label) in rows
        assert any(torch.equal(teacher, torch.from_numpy(known)) for known in dataset.teacher.embeddings)


def test_each_span_points_to_its_own_source(dataset):
    """The intensity within a span, energy-weighted, lies within 35 degrees of the label (small reverberant rooms)."""
    errors = []
    for number in range(0, 40, 4):
        item = dataset[number]
        power = 10 ** (item.features[0] / 10)
        for (first, end), doa in zip(item.spans.tolist(), item.doa, strict=True):
            frames = slice(32 * first + 8, 32 * end - 8)
            flow = (item.features[4:, frames] * power[frames]).sum(dim=(1, 2))  # Y, Z, X
            estimate = torch.stack([flow[2], flow[0], flow[1]])
            cosine = torch.nn.functional.cosine_similarity(estimate, doa, dim=0)
            errors.append(float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))))
    assert len(errors) == 30
    assert np.median(errors) < 15
    assert np.mean(np.array(errors) < 35) > 0.8


def test_epochs_continue_the_items():
    sampler = EpochSampler(2, 2)
    assert list(sampler) == [0, 1, 2, 3]
    sampler.set_epoch(2)
    assert list(sampler) == [8, 9, 10, 11]
    assert len(sampler) == 4


def test_two_processes_share_the_batches_of_one():
    alone = list(EpochSampler(2, 4))
    first, second = (list(EpochSampler(2, 2, rank=rank, world_size=2)) for rank in range(2))
    assert first[:2] + second[:2] + first[2:] + second[2:] == alone


def test_collate_stacks_and_flattens(dataset):
    batch = collate([dataset[0], dataset[1]])
    assert batch.features.shape == (2, 7, 1001, 64)
    assert batch.doa.shape == (2, 3, 3)
    assert batch.captions == dataset[0].captions + dataset[1].captions
    assert batch.spans.tolist() == dataset[1].spans.tolist()


def test_an_excerpt_of_a_long_sound_is_a_piece_of_it():
    dry = np.arange(1000, dtype=np.float32)
    piece = excerpt(dry, 100, np.random.default_rng(0))
    np.testing.assert_array_equal(np.diff(piece), 1.0)


def test_an_excerpt_avoids_silence():
    dry = np.zeros(10_000, np.float32)
    dry[8_000:] = 1.0
    loud = [excerpt(dry, 1_000, np.random.default_rng(seed)).any() for seed in range(200)]
    assert np.mean(loud) > 1 - 0.78**3 - 0.12  # a single draw hears something in 22 % of all cases


def test_a_short_sound_is_repeated_whole():
    dry = np.full(10, 0.5, np.float32)
    repeated = excerpt(dry, 95, np.random.default_rng(3))
    assert len(repeated) == 95
    assert 10 <= np.count_nonzero(repeated) <= 95


def test_symmetries_are_orthogonal_and_keep_the_vertical_axis():
    for seed in range(20):
        turn = random_symmetry(np.random.default_rng(seed))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(np.abs(turn[2]), [0, 0, 1], atol=1e-12)
        np.testing.assert_allclose(foa_rotation(turn)[0], [1, 0, 0, 0])


def test_spans_leave_joints_out():
    assert token_spans(np.array([0, 80_000, 160_000, 240_000]), 240) == [(0, 10), (11, 20), (21, NUM_TIME_TOKENS)]
    assert token_spans(np.array([0, 240_000]), 240) == [(0, NUM_TIME_TOKENS)]


def test_masking_flattens_one_band_and_keeps_the_input():
    features = torch.randn(7, 100, 64)
    before = features.clone()
    masked = mask_mels(features, 8, np.random.default_rng(1))
    assert torch.equal(features, before)
    flat = (masked.std(dim=1) < 1e-6).all(dim=0)
    assert 1 <= int(flat.sum()) <= 8
    assert torch.equal(masked[..., ~flat], features[..., ~flat])
    assert mask_mels(features, 0, np.random.default_rng(1)) is features


def test_a_distractor_is_added_at_its_level_and_changes_nothing_else(dry_folder, dry_sounds, rooms, tmp_path):
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    teacher = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    still = {"num_sounds": 1, "snr_db": (300, 300), "level_dbfs": (-20, -20), "distractor_db": (12, 12)}
    alone, beside = SceneMix(**still), SceneMix(**still, distractor=1.0)
    scenes = SceneDataset(bank, rooms, teacher, FeatureConfig(), [alone, beside], batch_size=1, seed=0)
    for seed in range(4):
        single = scenes._place(0, 24_000, alone, np.random.default_rng(seed))
        crowded = scenes._place(0, 24_000, beside, np.random.default_rng(seed))
        np.testing.assert_array_equal(single.direction, crowded.direction)
        added = crowded.field - single.field
        assert 10 * np.log10(np.mean(added[0] ** 2)) == pytest.approx(-32, abs=0.1)
        assert abs(np.corrcoef(added[0], single.field[0])[0, 1]) < 0.9
        assert 20 * np.log10(np.std(crowded.dry - single.dry) / np.std(single.dry)) == pytest.approx(-12, abs=0.1)


def test_the_teacher_hears_what_comes_into_the_scene(dry_folder, dry_sounds, rooms, tmp_path):
    """With a model, each sound's target is what that says of the dry sound, distractor and all, at one level."""
    heard = []

    def model(samples):
        heard.append(samples)
        return torch.full((len(samples), 384), 2.0), torch.zeros(len(samples), 527)

    known = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    mix = SceneMix(num_sounds=2, distractor=1.0, distractor_db=(3, 3), speed=(1.2, 1.2), mask_mels=0)
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    scenes = SceneDataset(bank, rooms, replace(known, model=model), FeatureConfig(), [mix], batch_size=1, seed=0)
    item = scenes[0]
    (sounds,) = heard
    assert sounds.shape == (2, 120_000)
    for samples in sounds:
        assert 20 * np.log10(float(samples.square().mean().sqrt())) == pytest.approx(-20, abs=0.1)
    expected = torch.from_numpy((2.0 - known.mean) / known.deviation)
    torch.testing.assert_close(item.teacher, expected.expand(2, -1))
    torch.testing.assert_close(item.tags, torch.full((2, 527), 0.5))
    generator = np.random.default_rng((0, 0))
    rows = scenes.choose(mix, 2, generator)
    placed = scenes._place(int(rows[0]), 120_000, mix, generator)
    similarity = np.corrcoef(placed.dry, sounds[0].numpy())[0, 1]
    assert similarity == pytest.approx(1.0, abs=1e-4)


def test_an_omni_scene_is_the_w_of_the_whole_one(dry_folder, dry_sounds, rooms, tmp_path):
    """The same sounds in the same rooms, but for the sensor's noise, which is drawn for each channel."""
    whole = SceneMix(num_sounds=2, distractor=0.5, snr_db=(200, 200), tilt_deg=20, distinct=2, any_axis=1.0)
    omni = replace(whole, omni=True)
    teacher = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    scenes = SceneDataset(bank, rooms, teacher, FeatureConfig(), [whole, omni], batch_size=1, seed=0)
    first, second = (scenes.draw(mix, np.random.default_rng(4)) for mix in (whole, omni))
    assert second.features.shape == (1, 1001, 64)
    # The next sound is another one: the noise of three channels fewer was drawn.
    torch.testing.assert_close(second.features[0, :480], first.features[0, :480], atol=0.02, rtol=0)
    assert first.rows.tolist() == second.rows.tolist()
    scenes.keep_scenes(tmp_path, num_workers=0, progress=None)
    assert [scenes[number].features.shape[0] for number in range(2)] == [7, 1]


def test_a_dry_scene_is_what_the_teacher_hears(dry_folder, dry_sounds, rooms, tmp_path):
    """Distractor and all, at whatever level; the teacher's own map comes with it, also from the disk."""
    known = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    torch.manual_seed(0)
    model = AudioTeacher().eval()
    mix = SceneMix(num_sounds=1, distractor=1.0, distractor_db=(3, 3), snr_db=(200, 200), mask_mels=0)
    mix = replace(mix, dry=True, hints=True)
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    teacher = replace(known, model=model)
    kept = replace(mix, distinct=2)
    scenes = SceneDataset(bank, rooms, teacher, FeatureConfig(), [mix, kept], batch_size=1, seed=0)
    generator = np.random.default_rng((0, 0))
    placed = scenes._place(int(scenes.choose(mix, 1, generator)[0]), 240_000, mix, generator)
    assert placed.field.shape == (1, 240_000)
    assert np.corrcoef(placed.field[0], placed.dry)[0, 1] == pytest.approx(1.0, abs=1e-5)
    item = scenes[0]
    assert item.features.shape == (1, 1001, 64)
    level = 10 ** (-20 / 20) / np.sqrt(np.mean(np.square(placed.dry)))
    torch.testing.assert_close(item.heard, model.log_mel(placed.dry * np.float32(level)), atol=1e-4, rtol=1e-3)
    embedding, _ = model(torch.from_numpy(placed.dry * np.float32(level))[None])
    expected = (embedding - torch.from_numpy(known.mean)) / torch.from_numpy(known.deviation)
    torch.testing.assert_close(item.teacher, expected, atol=1e-3, rtol=1e-3)
    scenes.keep_scenes(tmp_path, num_workers=0, progress=None)
    assert scenes[1].heard.shape == item.heard.shape
    batch = collate([scenes[0], scenes[2]])
    assert batch.heard.shape == (2, *item.heard.shape)


def test_hints_for_a_scene_with_a_room_are_of_the_dry_sound(dry_folder, dry_sounds, rooms, tmp_path):
    torch.manual_seed(0)
    teacher = replace(read_teacher(dry_folder / "teacher.npz", dry_sounds), model=AudioTeacher().eval())
    mix = SceneMix(num_sounds=1, snr_db=(200, 200), omni=True, mask_mels=0)
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    scenes = SceneDataset(bank, rooms, teacher, FeatureConfig(), [mix, replace(mix, hints=True)], batch_size=1, seed=0)
    generator = scenes.generator(1)
    placed = scenes._place(int(scenes.choose(mix, 1, generator)[0]), 240_000, mix, generator)
    assert np.corrcoef(placed.field[0], placed.dry)[0, 1] < 0.99
    level = 10 ** (-20 / 20) / np.sqrt(np.mean(np.square(placed.dry)))
    expected = teacher.model.log_mel(placed.dry * np.float32(level))
    torch.testing.assert_close(scenes[1].heard, expected, atol=1e-4, rtol=1e-3)
    assert scenes[0].heard is None

import numpy as np
import pytest
import torch

from salm.config import FeatureConfig
from salm.data.batches import collate
from salm.data.dataset import SceneDataset
from salm.data.scene_mix import SceneMix
from salm.data.sounds import SoundBank, read_teacher
from salm.data.store import Scene, SceneStore
from salm.geometry import azimuth_elevation, sector_index

MIX = SceneMix(num_sounds=2, snr_db=(30, 40), mask_mels=0, tilt_deg=20.0, distinct=5)


@pytest.fixture
def dataset(dry_folder, dry_sounds, rooms, tmp_path):
    bank = SoundBank.read(dry_sounds, cache=tmp_path)
    teacher = read_teacher(dry_folder / "teacher.npz", dry_sounds)
    made = SceneDataset(bank, rooms, teacher, FeatureConfig(), [MIX], batch_size=2, seed=0)
    made.keep_scenes(tmp_path, num_workers=0, progress=None)
    return made


class Numbers(torch.utils.data.Dataset):
    """Scene i holds i everywhere; counts how often it is asked for, and breaks off at scene `last`."""

    def __init__(self, last=None, heard=False):
        self.asked, self.last, self.heard = [], last, heard

    def __len__(self):
        return 20

    def __getitem__(self, number):
        if number == self.last:
            raise KeyboardInterrupt
        self.asked.append(number)
        shapes = {"directions": (2, 3), "teacher": (2, 4), "tags": (2, 6)}
        if self.heard:
            shapes["heard"] = (8, 5)
        told = {name: np.full(shape, float(number)) for name, shape in shapes.items()}
        return Scene(torch.full((7, 5, 4), float(number)), np.full(2, number), **told)


@pytest.mark.parametrize("heard", [False, True])
def test_an_interrupted_store_makes_only_what_is_missing(tmp_path, heard):
    with pytest.raises(KeyboardInterrupt):
        SceneStore.create_or_resume(tmp_path, "recipe", Numbers(last=13, heard=heard), 20, num_workers=0)
    later = Numbers(heard=heard)
    seen = []
    store = SceneStore.create_or_resume(
        tmp_path, "recipe", later, 20, num_workers=0, progress=lambda *step: seen.append(step)
    )
    assert sorted(set(later.asked)) == list(range(8, 20))
    assert seen == [(16, 20), (20, 20)]
    assert len(store) == 20
    for number in range(20):
        scene = store[number]
        assert scene.features.dtype == torch.float32
        assert (scene.heard is not None) == heard
        assert all(bool((torch.as_tensor(part) == number).all()) for part in scene if part is not None)


def test_another_recipe_is_another_store(tmp_path):
    SceneStore.create_or_resume(tmp_path, "one", Numbers(), 3, num_workers=0)
    other = Numbers()
    SceneStore.create_or_resume(tmp_path, "two", other, 3, num_workers=0)
    assert other.asked


def test_kept_scenes_are_those_that_would_be_made_anew(dataset):
    store = dataset.stores[MIX]
    again = dataset.draw(MIX, np.random.default_rng(np.random.SeedSequence(0, spawn_key=(3,))))
    torch.testing.assert_close(store[3].features, again.features, atol=0.1, rtol=1e-3)
    np.testing.assert_allclose(store[3].directions, again.directions, atol=1e-6)
    np.testing.assert_array_equal(store[3].rows, again.rows)
    np.testing.assert_allclose(store[3].teacher, again.teacher, atol=1e-2)
    np.testing.assert_allclose(store[3].tags, again.tags, atol=1e-2)


def test_items_are_kept_scenes_under_a_symmetry_with_their_directions(dataset):
    """Each item's W map is a kept one up to a level, and its DOA one of the 16 images of that scene's."""
    store = dataset.stores[MIX]
    for number in range(12):
        item = dataset[number]
        shifts = [item.features[0] - scene.features[0] for scene in store]
        origin = min(range(len(store)), key=lambda row: float(shifts[row][:900].std()))
        assert float(shifts[origin].median().abs()) <= 6.0
        torch.testing.assert_close(
            item.doa.abs().sort(dim=1).values,
            torch.from_numpy(store[origin].directions).float().abs().sort(dim=1).values,
        )
        azimuth, _ = azimuth_elevation(item.doa.numpy())
        np.testing.assert_array_equal(item.sectors, sector_index(azimuth))


def test_kept_scenes_join_to_batches(dataset):
    batch = collate([dataset[0], dataset[1]])
    assert batch.features.shape == (2, 7, 1001, 64)
    assert torch.isfinite(batch.features).all()

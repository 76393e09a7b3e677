import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from salm.audio.features import FeatureExtractor
from salm.audio.io import fit_window, read_foa
from salm.config import FeatureConfig
from salm.data.batches import EpochSampler, collate
from salm.data.shards import INDEX_NAME, ShardedScenes, pack_scenes, shard_name
from salm.errors import ManifestError
from salm.geometry import SECTORS, find_sector
from salm.scenes.dataset_writer import simulate_dataset


@pytest.fixture(scope="module")
def scenes(dry_sounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return simulate_dataset(dry_sounds, folder, seed=3, num_scenes=11, duration_s=1.0, rt60_range_s=(0.1, 0.2))


@pytest.fixture(scope="module")
def packed(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    pack_scenes(scenes, folder, scenes_per_shard=4)
    return folder


def test_shards_hold_the_scenes_as_they_are(packed, scenes):
    assert sorted(file.name for file in packed.iterdir()) == [shard_name(0), shard_name(1), shard_name(2), INDEX_NAME]
    stored = ShardedScenes(packed, FeatureConfig(), augment=False)
    assert len(stored) == 11
    for number, scene in enumerate(scenes):
        row, samples = stored.read(number)
        assert replace(row, path=scene.path) == scene
        np.testing.assert_array_equal(samples, read_foa(scene.path))


def test_a_shard_is_a_plain_tar_of_pairs(packed):
    with tarfile.open(packed / shard_name(2)) as tar:
        assert tar.getnames() == [f"{number:09d}{suffix}" for number in (8, 9, 10) for suffix in (".flac", ".json")]


def test_items_without_augmentation_are_the_scenes_in_order(packed, scenes):
    stored = ShardedScenes(packed, FeatureConfig(), augment=False)
    item, scene = stored[5], scenes[5]
    foa = torch.from_numpy(fit_window(read_foa(scene.path), 240_000))
    assert torch.equal(item.features, FeatureExtractor()(foa[None])[0])
    assert stored.labels[item.labels] == scene.sources[0].label
    assert item.spatial_captions == scene.spatial_captions[:1]
    assert int(torch.rad2deg(torch.atan2(item.doa[0, 1], item.doa[0, 0])).round()) == round(
        scene.sources[0].azimuth_deg
    )


def test_every_pass_meets_every_scene_once_in_an_order_of_its_own(packed):
    stored = ShardedScenes(packed, FeatureConfig(), seed=1)
    first, second = (stored._order(turn).tolist() for turn in range(2))
    assert sorted(first) == sorted(second) == list(range(11))
    assert first != second
    assert first == ShardedScenes(packed, FeatureConfig(), seed=1)._order(0).tolist()


def test_augmented_items_agree_with_themselves(packed):
    stored = ShardedScenes(packed, FeatureConfig(), seed=1, mask_mels=0)
    for number in range(22):
        item = stored[number]
        assert find_sector(item.spatial_captions[0]) == SECTORS[int(item.sectors)]
        flow = (item.features[4:] * 10 ** (item.features[0] / 10)).sum(dim=(1, 2))[[2, 0, 1]]
        assert torch.nn.functional.cosine_similarity(flow, item.doa[0], dim=0) > 0.7
    assert torch.equal(stored[3].features, stored[3].features)


def test_batches_of_shards(packed):
    stored = ShardedScenes(packed, FeatureConfig())
    batch = collate([stored[item] for item in EpochSampler(1, 3)])
    assert batch.features.shape == (3, 7, 1001, 64)
    assert batch.teacher.shape == (3, 1, 0)


def test_an_interrupted_packing_goes_on(scenes, packed, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_scenes(scenes, tmp_path, scenes_per_shard=4, progress=interrupt)
    with pytest.raises(ManifestError, match="no packed scenes here; make them with: salm pack"):
        ShardedScenes(tmp_path, FeatureConfig())
    written = (tmp_path / shard_name(0)).stat().st_mtime_ns
    pack_scenes(scenes, tmp_path, scenes_per_shard=4)
    assert (tmp_path / shard_name(0)).stat().st_mtime_ns == written
    for file in packed.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_other_scenes_or_damage_are_noticed(scenes, packed, tmp_path):
    with pytest.raises(ManifestError, match="holds other scenes than the manifest"):
        pack_scenes(scenes[::-1], packed, scenes_per_shard=4)
    with pytest.raises(ManifestError, match="expected at least one scene"):
        pack_scenes([], tmp_path)
    two = replace(scenes[0], sources=scenes[0].sources * 2)
    with pytest.raises(ManifestError, match="expected one source, a spatial caption and 24000 Hz, got 2"):
        pack_scenes([two], tmp_path)
    for file in packed.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / shard_name(1)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ManifestError, match=r"shard-000001.tar: scene 7 is not where shards.json says .*; pack again"):
        ShardedScenes(tmp_path, FeatureConfig()).read(7)
    index = json.loads((tmp_path / INDEX_NAME).read_text()) | {"format_version": 9}
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(ManifestError, match="format version 9, this SALM reads 1"):
        ShardedScenes(tmp_path, FeatureConfig())

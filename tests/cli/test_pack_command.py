from pathlib import Path

import pytest

from salm.config import FeatureConfig
from salm.data.shards import ShardedScenes
from salm.manifest import read_scenes
from salm.scenes.dataset_writer import simulate_dataset
from tests.cli.commands import Run, assert_mistake
from tests.dry_fixtures import dry_folder, dry_sounds

__all__ = ["dry_folder", "dry_sounds"]


@pytest.fixture
def scenes(dry_sounds: list, tmp_path: Path) -> Path:
    simulate_dataset(dry_sounds, tmp_path / "scenes", seed=1, num_scenes=5, duration_s=0.5, rt60_range_s=(0.1, 0.2))
    return tmp_path / "scenes"


def test_a_folder_of_scenes_is_packed(run: Run, scenes: Path, tmp_path: Path) -> None:
    result = run("pack", scenes, "--out", tmp_path / "shards", "--per-shard", "2", "--json", "-q")
    assert (result.code, result.stderr) == (0, "")
    assert result.json == {"folder": str(tmp_path / "shards"), "scenes": 5, "shards": 3}
    stored = ShardedScenes(tmp_path / "shards", FeatureConfig(), augment=False)
    expected = [scene.captions for scene in read_scenes(scenes / "scenes.jsonl")]
    assert [stored.read(number)[0].captions for number in range(5)] == expected


def test_scenes_that_are_not_there(run: Run, scenes: Path, tmp_path: Path) -> None:
    next((scenes / "foa").iterdir()).unlink()
    assert_mistake(run("pack", scenes, "--out", tmp_path / "shards", "-q"), "no file")
    assert_mistake(run("pack", tmp_path / "nothing", "--out", tmp_path / "shards", "-q"), "nothing")

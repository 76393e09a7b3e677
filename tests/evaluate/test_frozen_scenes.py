"""The frozen test scenes: their recipe cannot change unnoticed, and shares no room with training."""

import importlib.util
import json
from pathlib import Path

import pytest

from salm.manifest import read_scenes
from salm.scenes.srir_bank import SrirBank
from tests.dry_fixtures import dry_folder

__all__ = ["dry_folder"]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "frozen_scenes.py"
TRAINING_SEEDS = (0, 1)


@pytest.fixture(scope="module")
def frozen():
    spec = importlib.util.spec_from_file_location("frozen_scenes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recipes_are_pinned(frozen):
    shared = {
        "positions_per_sound": 3, "duration_s": 10.0, "rt60_range_s": (0.1, 0.8), "snr_db_range": (10.0, 40.0),
        "level_dbfs_range": (-35.0, -20.0), "sample_rate": 24_000, "bits": 16, "split": "test",
    }  # fmt: skip
    assert {
        "centre-v1": {"seed": 20_000, "receiver": "centre"} | shared,
        "anywhere-v1": {"seed": 20_001, "receiver": "anywhere"} | shared,
    } == frozen.RECIPES


def test_seeds_are_apart_from_each_other_and_from_training(frozen):
    seeds = [recipe["seed"] for recipe in frozen.RECIPES.values()]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= frozen.FIRST_FROZEN_SEED > max(TRAINING_SEEDS)


def test_scenes_follow_the_recipe_in_rooms_of_their_own(frozen, dry_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(frozen.RECIPES, "short", frozen.RECIPES["centre-v1"] | {"duration_s": 0.5, "num_scenes": 15})
    built = frozen.build(dry_folder / "manifest.csv", tmp_path, "short")
    scenes = read_scenes(tmp_path / "scenes.jsonl", check_files=True)
    assert scenes == built
    assert len(scenes) == 15
    assert all(10.0 <= scene.snr_db <= 40.0 and 0.05 < scene.room.rt60_s < 0.85 for scene in scenes)
    assert {scene.seed for scene in scenes} == {20_000}
    assert json.loads((tmp_path / "recipe.json").read_text())["receiver"] == "centre"
    rooms = {scene.room.dimensions_m for scene in scenes}
    assert len(rooms) == 12  # one for each sound
    for seed in TRAINING_SEEDS:
        bank = SrirBank.simulate(12, 1, seed)
        assert rooms.isdisjoint(room.dimensions_m for room in bank.rooms)

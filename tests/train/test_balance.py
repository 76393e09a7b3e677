"""The semantic part without directions, the calibration, and the weight of the spatial part, by held-out sounds."""

from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from salm.errors import ConfigError
from salm.geometry import SECTORS, direction_prompt
from salm.models.builders import build_model
from salm.models.salm import Projection
from salm.train import balance
from salm.train.balance import SHARPNESSES, WEIGHTS, Heard, choose, make_neutral
from salm.train.cli import main
from salm.weights.checkpoint import load_checkpoint, save_checkpoint

SCENES, WIDTH, LABELS = 80, 16, 5


def heard(lean=0.0, certainty=1.0):
    """Five sounds in turn, each from all eight sectors twice; semantic parts may lean towards the next sector.

    Spatial parts point along the sector's axis, semantic ones along the label's; those of the second half of the scenes
    do so only with this cosine.
    """
    number = torch.arange(SCENES)
    labels, sectors = number % LABELS, number // LABELS % 8
    axes = torch.eye(WIDTH)
    certain = torch.where(number >= SCENES // 2, certainty, 1.0)[:, None]
    semantic = lean * axes[(sectors + 1) % 8] + certain * axes[8 + labels] + (1 - certain**2).sqrt() * axes[13]
    return Heard(semantic, axes[sectors], labels, sectors, torch.ones(SCENES, dtype=torch.bool))


def chosen(scenes, tolerance=0.01, wanted=None):
    axes = torch.eye(WIDTH)
    queries = axes[8 : 8 + LABELS, None] + axes[None, :8]
    return choose(scenes, axes[8 : 8 + LABELS], axes[:8], queries, tolerance, wanted)


def test_the_best_searches_decide(monkeypatch):
    scenes = heard(certainty=0.3)
    found = chosen(scenes)
    assert set(found.trials) == {(sharpness, weight) for sharpness in SHARPNESSES for weight in WEIGHTS}
    best = max(trial.search for trial in found.trials.values())
    assert found.trials[found.sharpness, found.weight].search == best == pytest.approx(1.0)
    assert found.spatial == 1.0
    assert found.calibration.sharpness.tolist() == pytest.approx([found.sharpness, found.sharpness * found.weight])
    monkeypatch.setattr(balance, "WEIGHTS", (0.01, 0.3))
    scenes.spatial.copy_(-scenes.spatial)
    backwards = chosen(scenes, tolerance=1.0)
    assert backwards.weight == 0.01, "a spatial part that is wrong should count little"
    assert backwards.spatial == 0.0


def test_the_smallest_of_equally_good_weights_is_taken():
    found = chosen(heard(certainty=0.3))
    as_good = [weight for (_, weight), trial in found.trials.items() if trial.search == 1.0 and trial.direction == 1.0]
    assert found.weight == min(as_good) < max(as_good)


def test_doubtful_scenes_are_found_only_by_the_calibration():
    """A sound that is recognised with 0.3 comes after a certain one from elsewhere if s is below 0.7."""
    scenes = heard(certainty=0.3)
    joint = torch.nn.functional.normalize(scenes.semantic + 0.5 * scenes.spatial, dim=-1)
    axes = torch.eye(WIDTH)
    query = axes[8 + scenes.labels[-1]] + axes[scenes.sectors[-1]]
    relevant = (scenes.labels == scenes.labels[-1]) & (scenes.sectors == scenes.sectors[-1])
    assert relevant.sum() == 2
    assert not relevant[(joint @ query).topk(2).indices].all()
    for (_, weight), trial in chosen(scenes).trials.items():
        if weight == 0.5:
            assert trial.search == pytest.approx(1.0)


def test_only_the_wanted_labels_are_searched_for():
    scenes = heard()
    scenes.semantic[scenes.labels == 0] = torch.eye(WIDTH)[8 + 1]
    assert max(trial.search for trial in chosen(scenes).trials.values()) < 0.9
    found = chosen(scenes, wanted=torch.tensor([2, 3]))
    assert found.trials[found.sharpness, found.weight].search == pytest.approx(1.0)


def test_directions_may_not_suffer():
    """The semantic part leans towards other sectors: a smaller s would lose the direction."""
    threshold = 0.8 / (1 + 0.8**2) ** 0.5
    found = chosen(heard(lean=0.8))
    assert found.weight > threshold
    assert all((trial.direction == 1.0) == (weight > threshold) for (_, weight), trial in found.trials.items())


def test_the_best_directions_are_taken_where_none_is_good_enough():
    scenes = heard(lean=2.8)
    axes = torch.eye(WIDTH)
    scenes.semantic[: SCENES // 2] = (axes[(scenes.sectors + 1) % 8] - axes[scenes.sectors])[: SCENES // 2]
    found = chosen(scenes)
    assert found.weight == WEIGHTS[-1]
    assert found.trials[found.sharpness, found.weight].direction == 0.5


def test_scenes_near_a_border_do_not_count_for_directions():
    scenes = heard(lean=0.8)
    scenes.clear[:] = False
    scenes.clear[0] = True
    scenes.semantic[0] = torch.eye(WIDTH)[8]
    assert all(trial.direction == 1.0 for trial in chosen(scenes).trials.values())


def test_a_neutral_semantic_part_fits_all_directions_equally_well():
    torch.manual_seed(0)
    projection, prompts, pooled = Projection(12, WIDTH, WIDTH), torch.randn(8, WIDTH), torch.randn(5, 12)
    normalised = torch.nn.functional.normalize(prompts, dim=-1)
    before = projection(pooled)
    assert (before @ normalised.T).std(dim=-1).min() > 1e-2
    make_neutral(projection, prompts)
    after = projection(pooled)
    assert (after @ normalised.T).std(dim=-1).max() < 1e-5
    differences = normalised - normalised.mean(dim=0)
    across = torch.eye(WIDTH) - torch.linalg.pinv(differences) @ differences
    torch.testing.assert_close(after @ across, before @ across, msg="what has nothing to do with directions stays")


@pytest.mark.filterwarnings("ignore")
def test_what_the_convolutional_network_says_becomes_neutral_too(start, dry_folder, tmp_path):
    """Both parts of the semantic embedding have a projection of their own."""
    loaded = load_checkpoint(start)
    torch.manual_seed(0)
    config = replace(loaded.config, audio=replace(loaded.config.audio, timbre_channels=4))
    save_checkpoint(tmp_path / "heard", build_model(config), config, loaded.tokenizer)
    settings = balance.BalanceSettings(
        start=str(tmp_path / "heard"),
        export_to=str(tmp_path / "balanced"),
        manifest=str(dry_folder / "manifest.csv"),
        cache=str(tmp_path / "cache"),
        num_rooms=3,
        rt60_s=(0.1, 0.2),
        num_scenes=32,
    )
    checkpoint = load_checkpoint(tmp_path / "heard")
    balance.balance(checkpoint, settings)
    model = checkpoint.model
    model.calibration = None
    with torch.no_grad():
        prompts = model.encode_text(*checkpoint.tokenizer([direction_prompt(sector) for sector in SECTORS]))
        vectors = torch.randn(5, model.audio_encoder.semantic_width)
        semantic = model.project_audio(vectors, torch.zeros(5, model.audio_encoder.spatial_width)).semantic
    # The prompts of an untrained text tower are nearly one: their differences count, however small.
    prompts = torch.nn.functional.normalize(prompts, dim=-1)
    leaning = semantic @ torch.nn.functional.normalize(prompts - prompts.mean(dim=0), dim=-1).T
    assert leaning.abs().max() < 1e-4
    assert semantic.std() > 1e-3


@pytest.mark.filterwarnings("ignore")
def test_the_command_writes_the_model_with_the_new_weight(start, dry_folder, tmp_path, capsys):
    settings = {
        "start": str(start),
        "export_to": str(tmp_path / "balanced"),
        "manifest": str(dry_folder / "manifest.csv"),
        "cache": str(tmp_path / "cache"),
        "num_rooms": 3,
        "rt60_s": [0.1, 0.2],
        "num_scenes": 32,
    }
    config = tmp_path / "balance.yaml"
    config.write_text(yaml.safe_dump(settings))
    main(["balance", "--config", str(config)])
    printed = capsys.readouterr().out
    weight = float(printed.split(": s ")[1].split(",")[0])
    after = load_checkpoint(tmp_path / "balanced")
    state, before = after.model.state_dict(), load_file(start / "model.safetensors")
    assert after.config.query_bank == len(after.model.calibration.labels) == 6, "labels of the training sounds"
    torch.testing.assert_close(state["spatial_weight"], torch.full((512,), weight), rtol=1e-3, atol=0)
    assert len(before) > 50
    for name, value in before.items():
        if name.startswith("semantic_projection.2."):
            assert not torch.equal(state[name], value.float()), name
        elif name != "spatial_weight":
            torch.testing.assert_close(state[name], value.to(state[name].dtype), rtol=1e-3, atol=1e-4, msg=name)
    twice = {"start": str(tmp_path / "balanced"), "export_to": str(tmp_path / "twice")}
    config.write_text(yaml.safe_dump(settings | twice))
    main(["balance", "--config", str(config)])
    again = load_checkpoint(tmp_path / "twice")
    for name, value in after.model.calibration.state_dict().items():
        torch.testing.assert_close(again.model.calibration.state_dict()[name], value, rtol=0, atol=2e-2, msg=name)
    config.write_text(yaml.safe_dump(settings | {"colour": "red"}))
    with pytest.raises(ConfigError, match="unknown keys colour"):
        main(["balance", "--config", str(config)])
    config.write_text(yaml.safe_dump(settings | {"labels": str(tmp_path / "none.txt")}))
    with pytest.raises(ConfigError, match="none.txt: no such file; expected one label"):
        main(["balance", "--config", str(config)])


def test_a_model_with_one_branch_is_refused(start, dry_folder, tmp_path):
    loaded = load_checkpoint(start)
    alone = replace(loaded.config, audio=replace(loaded.config.audio, branches=("semantic",)))
    save_checkpoint(tmp_path / "omni", build_model(alone), alone, loaded.tokenizer)
    settings = {"start": "omni", "export_to": "balanced", "manifest": str(dry_folder / "manifest.csv")}
    with pytest.raises(ConfigError, match="omni: a model with one branch has nothing to balance"):
        balance.balance(load_checkpoint(tmp_path / "omni"), balance.BalanceSettings(**settings))

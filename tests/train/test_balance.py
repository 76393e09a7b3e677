"""The semantic part without directions, and the weight of the spatial part, chosen on held-out sounds."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from salm.errors import ConfigError
from salm.models.salm import Projection
from salm.train.balance import FACTORS, Heard, choose_factor, make_neutral
from salm.train.cli import main

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
    semantic = lean * axes[(sectors + 1) % 8] + certain * axes[8 + labels] + (1 - certain**2).sqrt() * axes[-1]
    return Heard(semantic, axes[sectors], labels, sectors, torch.ones(SCENES, dtype=torch.bool))


def choose(scenes, tolerance=0.01, wanted=None):
    axes = torch.eye(WIDTH)
    queries = axes[8 : 8 + LABELS, None] + axes[None, :8]
    return choose_factor(scenes, torch.ones(WIDTH), axes[:8], queries, tolerance, wanted)


def test_the_factor_with_the_best_searches_is_taken():
    """A sound that is recognised with 0.3 is found before a certain one from elsewhere if s is above 0.7."""
    certain, doubtful = choose(heard()), choose(heard(certainty=0.3))
    assert certain.factor == FACTORS[0]
    assert doubtful.factor == 0.75
    assert doubtful.spatial == 1.0
    assert tuple(doubtful.trials) == FACTORS
    for factor, trial in doubtful.trials.items():
        assert (trial.search == pytest.approx(1.0)) == (factor > 0.7)


def test_only_the_wanted_labels_are_searched_for():
    scenes = heard(certainty=0.3)
    sure = scenes.labels == 2
    scenes.semantic[sure] = torch.eye(WIDTH)[8 + 2]
    assert choose(scenes).factor == 0.75
    assert choose(scenes, wanted=torch.tensor([2])).factor == FACTORS[0]


def test_directions_may_not_suffer():
    """The semantic part leans towards other sectors: a smaller s would lose the direction."""
    found = choose(heard(lean=0.8))
    assert found.factor > 0.8
    assert all((trial.direction == 1.0) == (factor > 0.8) for factor, trial in found.trials.items())
    assert choose(heard(lean=0.8), tolerance=1.0).factor <= found.factor


def test_the_best_directions_are_taken_where_none_is_good_enough():
    assert choose(heard(lean=100.0)).trials[3.0].direction == 0.0
    mixed = heard(lean=100.0)
    mixed.semantic[: SCENES // 2] = 2.8 * torch.eye(WIDTH)[(mixed.sectors[: SCENES // 2] + 1) % 8]
    assert choose(mixed).factor == FACTORS[-1]


def test_scenes_near_a_border_do_not_count_for_directions():
    scenes = heard(lean=0.8)
    scenes.clear[:] = False
    scenes.clear[0] = True
    scenes.semantic[0] = torch.eye(WIDTH)[8]
    assert all(trial.direction == 1.0 for trial in choose(scenes).trials.values())


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
    factor = float(capsys.readouterr().out.split(": ")[1].split(" times")[0])
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "balanced"))
    for name, value in before.items():
        if name.startswith("semantic_projection.2."):
            assert not torch.equal(after[name], value)
            continue
        expected = value * factor if name == "spatial_weight" else value
        torch.testing.assert_close(after[name].float(), expected.float(), rtol=1e-3, atol=1e-4, msg=name)
    config.write_text(yaml.safe_dump(settings | {"colour": "red"}))
    with pytest.raises(ConfigError, match="unknown keys colour"):
        main(["balance", "--config", str(config)])
    config.write_text(yaml.safe_dump(settings | {"labels": str(tmp_path / "none.txt")}))
    with pytest.raises(ConfigError, match="none.txt: no such file; expected one label"):
        main(["balance", "--config", str(config)])

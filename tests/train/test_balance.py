"""The semantic part without directions, and the weight of the spatial part, chosen on held-out sounds."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from salm.errors import ConfigError
from salm.models.salm import Projection
from salm.train.balance import FACTORS, Heard, choose_factor, make_neutral
from salm.train.cli import main

SCENES, WIDTH = 80, 16


def heard(lean):
    """Spatial parts of length 1 along the true sector's axis; semantic ones lean towards the next sector's."""
    sectors = torch.arange(SCENES) % 8
    axes = torch.eye(WIDTH)
    return Heard(lean * axes[(sectors + 1) % 8] + 3 * axes[8], axes[sectors], sectors)


def test_the_smallest_factor_that_outweighs_the_lean_is_taken():
    for lean, factor in ((0.5, 1.0), (1.6, 1.75), (1.9, 2.0)):
        found = choose_factor(heard(lean), torch.ones(WIDTH), torch.eye(8, WIDTH), 0.01)
        assert found.factor == factor
        assert found.spatial == found.joint[factor] == 1.0
        assert all(accuracy == 0.0 for tried, accuracy in found.joint.items() if tried < factor)


def test_the_last_factor_is_taken_where_none_is_enough():
    found = choose_factor(heard(100.0), torch.ones(WIDTH), torch.eye(8, WIDTH), 0.01)
    assert found.factor == FACTORS[-1]
    assert tuple(found.joint) == FACTORS


def test_a_worse_joint_embedding_is_tolerated_up_to_the_given_share():
    one_leans = heard(0.5)
    one_leans.semantic[0, 1] = 1.2
    assert choose_factor(one_leans, torch.ones(WIDTH), torch.eye(8, WIDTH), 2 / SCENES).factor == 1.0
    assert choose_factor(one_leans, torch.ones(WIDTH), torch.eye(8, WIDTH), 0.0).factor == 1.25


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

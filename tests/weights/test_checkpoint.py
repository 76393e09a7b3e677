import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from salm.config import ModelConfig
from salm.errors import CheckpointError
from salm.models.builders import build_model, salm_tiny
from salm.weights.checkpoint import load_checkpoint, save_checkpoint
from salm.weights.registry import bundled_models, find_checkpoint


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_a_checkpoint_reads_back(tiny_checkpoint, tmp_path):
    first = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path / "again", first.model, first.config, first.tokenizer, dtype=torch.float16)
    second = load_checkpoint(tmp_path / "again")
    assert isinstance(second.config, ModelConfig)
    assert second.config == first.config == salm_tiny()
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert second.fingerprint == first.fingerprint
    assert second.model_id == f"salm-tiny:{first.fingerprint}"
    assert not second.model.training


def test_the_fingerprint_tells_weights_apart(folder):
    before = load_checkpoint(folder).fingerprint
    state = load_file(folder / "model.safetensors")
    state["spatial_weight"] += 1
    save_file(state, folder / "model.safetensors")
    assert load_checkpoint(folder).fingerprint != before


def test_the_card_is_kept(folder):
    checkpoint = load_checkpoint(folder)
    save_checkpoint(folder, checkpoint.model, checkpoint.config, checkpoint.tokenizer)
    assert "random weights" in (folder / "README.md").read_text()
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".copy")]


def test_a_folder_of_other_things_is_not_overwritten(tmp_path, tiny_checkpoint):
    (tmp_path / "thesis.txt").write_text("precious")
    checkpoint = load_checkpoint(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="not empty and no checkpoint; choose another folder"):
        save_checkpoint(tmp_path, checkpoint.model, checkpoint.config, checkpoint.tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}; expected a SALM checkpoint folder"):
        load_checkpoint(folder)


def edit(folder, **changes):
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | changes))


def test_damaged_files_are_named(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged .* download it again"):
        load_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        load_checkpoint(folder)


def test_a_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        load_checkpoint(folder)


def test_other_versions_and_keys_are_refused(folder):
    edit(folder, format_version=2)
    with pytest.raises(CheckpointError, match="format version 2, this SALM reads 1; upgrade"):
        load_checkpoint(folder)
    edit(folder, format_version=1, model={"colour": "red"})
    with pytest.raises(CheckpointError, match="unknown keys colour"):
        load_checkpoint(folder)


def test_weights_of_other_sizes_are_refused(folder):
    model = json.loads((folder / "config.json").read_text())["model"]
    edit(folder, model=model | {"embedding_width": 256})
    with pytest.raises(CheckpointError, match=r"has shape .* expected"):
        load_checkpoint(folder)
    state = load_file(folder / "model.safetensors")
    state.pop("spatial_weight")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 weights missing \['spatial_weight'\]"):
        load_checkpoint(folder)


def test_no_pickle_is_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(build_model(salm_tiny()).state_dict(), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(folder)


def test_unknown_names_list_the_bundled_ones(tmp_path):
    with pytest.raises(CheckpointError, match="unknown model 'salm-huge'; expected one of .* a checkpoint folder"):
        find_checkpoint("salm-huge")
    assert find_checkpoint(tmp_path) == tmp_path
    for name in bundled_models():
        assert (find_checkpoint(name) / "config.json").is_file()


def test_a_hub_repository_is_downloaded_by_name(monkeypatch, tmp_path):
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_checkpoint("someone/model") == tmp_path
    assert asked == [("someone/model", ["config.json", "model.safetensors", "tokenizer.json", "README.md"])]


def test_an_unreachable_hub_is_a_clear_error(monkeypatch):
    def download(repository, allow_patterns):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CheckpointError, match=r"someone/model: neither a folder here nor .* \(no route\)"):
        find_checkpoint("someone/model")

import shutil

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import salm
from salm.errors import CheckpointError
from salm.weights import registry
from salm.weights.registry import bundled_models, find_checkpoint


@pytest.fixture
def bundled(tiny_checkpoint, tmp_path, monkeypatch):
    """A package that comes with `salm-tiny`."""
    shutil.copytree(tiny_checkpoint, tmp_path / "package" / "salm-tiny")
    monkeypatch.setattr(registry, "_BUNDLED", tmp_path / "package")
    return tmp_path / "package"


def test_bundled_names_come_first(bundled, tmp_path, monkeypatch):
    (tmp_path / "salm-tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert bundled_models() == ["salm-tiny"]
    assert find_checkpoint("salm-tiny") == bundled / "salm-tiny"
    assert salm.load("salm-tiny", device="cpu").model_id.startswith("salm-tiny:")


def test_folders(tiny_checkpoint, monkeypatch):
    assert find_checkpoint(tiny_checkpoint) == tiny_checkpoint
    assert find_checkpoint(str(tiny_checkpoint)) == tiny_checkpoint
    monkeypatch.setenv("HOME", str(tiny_checkpoint.parent))
    assert find_checkpoint(f"~/{tiny_checkpoint.name}") == tiny_checkpoint


@pytest.mark.parametrize("name", ["nope", "../nope", "a/b/c", "x" * 5000, "a\0b", ""])
def test_unknown_names_list_the_valid_ones(bundled, name):
    with pytest.raises(
        CheckpointError, match="unknown model .* expected one of salm-tiny, a checkpoint folder"
    ) as caught:
        find_checkpoint(name)
    assert len(str(caught.value)) < 400


def test_hub_repositories_download_four_files_alone(tiny_checkpoint, monkeypatch):
    calls = []

    def download(repository, allow_patterns):
        calls.append((repository, sorted(allow_patterns)))
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("someone/salm-large") == tiny_checkpoint
    assert calls == [("someone/salm-large", ["README.md", "config.json", "model.safetensors", "tokenizer.json"])]


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no network"), ConnectionError("no network\nmore lines")])
def test_no_network_says_what_to_do(bundled, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        CheckpointError, match=r"someone/salm: .*\(no network\); check the name and the network, .* model: salm-tiny$"
    ):
        find_checkpoint("someone/salm")

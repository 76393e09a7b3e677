"""Saving, and the Hugging Face hub, which is a stand-in here: the tests open no connection."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

import salm
from salm.errors import CheckpointError
from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.weights.checkpoint import save_checkpoint


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["rain"], 512, 64)
    save_checkpoint(tmp_path / "model", build_model(salm_tiny()), salm_tiny(), tokenizer, card="# A card\n")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_saved_model_is_the_same_model(folder, tmp_path, dtype):
    model = salm.SALM.from_pretrained(folder)
    checkpoint = model.checkpoint
    stored = tmp_path / "stored"
    save_checkpoint(stored, checkpoint.model, checkpoint.config, checkpoint.tokenizer, card="é", dtype=dtype)
    first = salm.SALM.from_pretrained(stored)
    first.save_pretrained(tmp_path / "again")
    assert salm.load(tmp_path / "again").model_id == first.model_id
    assert (tmp_path / "again/README.md").read_text(encoding="utf-8") == "é"


class Hub:
    """Keeps what is uploaded in a folder of its own."""

    def __init__(self, shelf: Path) -> None:
        self.shelf, self.created = shelf, {}

    def __call__(self, token=None):
        self.token = token
        return self

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        self.created[name] = private

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.shelf / repo_id)
        return f"https://example.org/{repo_id}/commit/1"


def test_an_uploaded_checkpoint_loads_by_its_name(folder, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "shelf")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(hub.shelf / name))
    model = salm.load(folder)
    assert model.push_to_hub("lab/salm", private=True, token="secret").endswith("/commit/1")
    assert hub.created == {"lab/salm": True}
    assert hub.token == "secret"
    assert sorted(file.name for file in (hub.shelf / "lab/salm").iterdir()) == sorted(
        ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    )
    assert salm.SALM.from_pretrained("lab/salm").model_id == model.model_id


def test_without_a_hub_the_message_says_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = salm.load(folder)
    with pytest.raises(CheckpointError, match="lab/salm: the Hugging Face hub did not take .* save_pretrained"):
        model.push_to_hub("lab/salm")
    with pytest.raises(CheckpointError, match="expected a Hugging Face repository such as owner/name"):
        model.push_to_hub("salm")

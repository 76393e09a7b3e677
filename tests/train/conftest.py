import pytest
import torch

from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.weights.checkpoint import save_checkpoint
from tests.dry_fixtures import dry_folder, dry_sounds, rooms

__all__ = ["dry_folder", "dry_sounds", "rooms", "start"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A tiny untrained model that training starts from."""
    torch.manual_seed(0)
    config = salm_tiny()
    folder = tmp_path_factory.mktemp("start") / "text"
    tokenizer = Tokenizer.train(["noise from the north", "left right behind"], 1_024, config.text.max_tokens)
    save_checkpoint(folder, build_model(config), config, tokenizer)
    return folder

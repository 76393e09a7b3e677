"""Expected values: the public reference implementations with small random weights, see ../shared/parity/README.md."""

import numpy as np
import pytest
import torch

from salm.errors import CheckpointError
from salm.weights.convert import audio_encoder_from_pseldnets, clap_from_laion


def relative_error(value: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(value.detach().numpy() - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module")
def parity(shared_dir):
    return shared_dir / "parity"


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("training_path", [False, True])
def test_dual_encoder_reproduces_pseldnets(parity, training_path):
    encoder = audio_encoder_from_pseldnets(parity / "pseldnets_tiny.ckpt")
    with np.load(parity / "pseldnets_tiny_expected.npz") as expected, torch.set_grad_enabled(training_path):
        semantic, spatial = encoder.pool(tensor(expected["features"]))
        assert relative_error(semantic, expected["semantic"]) < 1e-5
        assert relative_error(spatial, expected["spatial"]) < 1e-5
    assert encoder.num_semantic_maps == 4


def test_clap_towers_reproduce_laion(parity):
    towers = clap_from_laion(parity / "laion_clap_tiny.pt")
    with np.load(parity / "laion_clap_tiny_expected.npz") as expected, torch.inference_mode():
        logmel = tensor(expected["logmel"])
        ids, mask = torch.from_numpy(expected["ids"]).long(), torch.from_numpy(expected["mask"]).long()
        assert relative_error(towers.pool_audio(logmel), expected["pooled"]) < 1e-4
        assert relative_error(towers.embed_audio(logmel), expected["audio"]) < 1e-4
        assert relative_error(towers.embed_text(ids, mask), expected["text"]) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("net.sed_encoder.norm.weight"), r"1 keys missing \['semantic\.norm\.weight'\]"),
        (lambda state: state.update({"net.extra.weight": torch.ones(1)}), r"1 unexpected \['extra\.weight'\]"),
        (lambda state: state.pop("net.scalar.3.bias"), r"no scalar\.0 to scalar\.6\.bias"),
        (lambda state: state.update({"net.sed_encoder.norm.weight": torch.ones(3)}), "sizes do not fit together"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(parity, tmp_path, change, message):
    state = torch.load(parity / "pseldnets_tiny.ckpt", weights_only=True)["state_dict"]
    change(state)
    torch.save({"state_dict": state}, tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointError, match=rf"changed\.ckpt: .*{message}"):
        audio_encoder_from_pseldnets(tmp_path / "changed.ckpt")


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (("none.pt", "no such"), ("text.pt", "not a PyTorch"), ("list.pt", "expected a state")):
        with pytest.raises(CheckpointError, match=rf"{name.replace('.', '[.]')}: {message}"):
            clap_from_laion(tmp_path / name)

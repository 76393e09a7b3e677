"""Expected values: the public reference implementations with small random weights, see ../shared/parity/README.md."""

import numpy as np
import pytest
import torch
from transformers import ClapConfig, ClapModel

from salm.errors import CheckpointError
from salm.weights.convert import (
    audio_encoder_from_pseldnets,
    clap_from_hf,
    clap_from_laion,
    read_clap,
    read_hf_clap,
    read_laion_clap,
    read_pseldnets,
    towers_from_clap_model,
)

SMALL_AUDIO = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 64,
    "depths": [1, 2, 1, 2],
    "num_attention_heads": [1, 2, 2, 4],
}
SMALL_TEXT = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "max_position_embeddings": 34,
}


def relative_error(value: torch.Tensor, expected: np.ndarray | torch.Tensor) -> float:
    expected = torch.as_tensor(expected)
    return float((value - expected).detach().abs().max() / expected.abs().max())


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope="module")
def parity(shared_dir):
    return shared_dir / "parity"


def random_clap(audio: dict, text: dict, width: int) -> ClapModel:
    """A ClapModel whose every weight, norms included, is random."""
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=width)).eval()
    for name, value in model.named_parameters():
        if "norm" in name.lower() or name.endswith("bias"):
            torch.nn.init.normal_(value, 1.0 if name.endswith("weight") else 0.0, 0.1)
        elif "position_bias" in name:
            torch.nn.init.normal_(value)
    norm = model.audio_model.audio_encoder.batch_norm
    norm.running_mean.normal_(-30.0, 5.0)
    norm.running_var.uniform_(300.0, 500.0)
    return model


@pytest.fixture(scope="module")
def small_clap():
    return random_clap(SMALL_AUDIO, SMALL_TEXT, 24)


@pytest.fixture(scope="module")
def clap_folder(small_clap, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    small_clap.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("training_path", [False, True])
def test_dual_encoder_reproduces_pseldnets(parity, training_path):
    encoder = audio_encoder_from_pseldnets(parity / "pseldnets_tiny.ckpt")
    with np.load(parity / "pseldnets_tiny_expected.npz") as expected, torch.set_grad_enabled(training_path):
        semantic, spatial = encoder.pool(tensor(expected["features"]))
        assert relative_error(semantic, expected["semantic"]) < 1e-5
        assert relative_error(spatial, expected["spatial"]) < 1e-5
    assert encoder.num_semantic_maps == 4
    assert not encoder.training


def test_clap_towers_reproduce_laion(parity):
    towers = clap_from_laion(parity / "laion_clap_tiny.pt")
    with np.load(parity / "laion_clap_tiny_expected.npz") as expected, torch.inference_mode():
        logmel = tensor(expected["logmel"])
        ids, mask = torch.from_numpy(expected["ids"]).long(), torch.from_numpy(expected["mask"]).long()
        assert relative_error(towers.pool_audio(logmel), expected["pooled"]) < 1e-4
        assert relative_error(towers.embed_audio(logmel), expected["audio"]) < 1e-4
        assert relative_error(towers.embed_text(ids, mask), expected["text"]) < 1e-4


def assert_same_features(towers, model: ClapModel, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logmel = torch.rand(batch, 1, 1001, 64, generator=generator) * 80 - 80
    ids = torch.randint(3, model.config.text_config.vocab_size, (2, 12), generator=generator)
    ids[1, 7:] = 1
    mask = (ids != 1).long()
    with torch.inference_mode():
        audio = model.audio_model(input_features=logmel, is_longer=None).pooler_output
        text = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        assert relative_error(towers.pool_audio(logmel), audio) < 1e-4
        assert relative_error(towers.embed_audio(logmel), model.audio_projection(audio)) < 1e-4
        assert relative_error(towers.embed_text(ids, mask), model.text_projection(text)) < 1e-4


def test_clap_towers_reproduce_transformers(small_clap, clap_folder):
    assert_same_features(clap_from_hf(clap_folder), small_clap, batch=2)


def test_clap_towers_of_true_size_reproduce_transformers():
    model = random_clap({}, {}, 512)
    towers, report = towers_from_clap_model(model, "true size")
    assert towers.htsat.out_width == 768
    assert len(report.used) > 300
    assert_same_features(towers, model, batch=1)


def test_a_file_and_a_folder_are_told_apart(parity, clap_folder):
    assert read_clap(parity / "laion_clap_tiny.pt")[0].text_encoder.out_width == 32
    assert read_clap(clap_folder)[0].text_encoder.out_width == 48


def test_reports_account_for_every_key(parity, clap_folder):
    for read, path in ((read_pseldnets, "pseldnets_tiny.ckpt"), (read_laion_clap, "laion_clap_tiny.pt")):
        keys = set(torch.load(parity / path, weights_only=True)["state_dict"])
        module, report = read(parity / path)
        assert set(report.used) | set(report.ignored) == keys
        assert not set(report.used) & set(report.ignored)
        assert set(report.used.values()) == {key for key in module.state_dict() if "num_batches" not in key}
    assert report.ignored["module.text_branch.embeddings.position_ids"] == "constants"
    assert report.ignored["module.audio_transform.sequential.0.bias"] == "heads for tuning on one modality"
    assert "heads of the original task" in str(report)
    towers, report = read_hf_clap(clap_folder)
    assert set(report.used.values()) == {key for key in towers.state_dict() if "num_batches" not in key}


def test_the_prefix_of_distributed_training_is_optional(parity, tmp_path):
    state = torch.load(parity / "laion_clap_tiny.pt", weights_only=True)["state_dict"]
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    assert plain.keys() != state.keys()
    # A training script's leftovers: numpy numbers beside the weights.
    torch.save({"epoch": 1, "best": np.float64(0.5), "state_dict": plain}, tmp_path / "plain.pt")
    first, second = (
        clap_from_laion(path).state_dict() for path in (parity / "laion_clap_tiny.pt", tmp_path / "plain.pt")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.save({**plain, **state}, tmp_path / "twice.pt")
    with pytest.raises(CheckpointError, match="unexpected: module"):
        clap_from_laion(tmp_path / "twice.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("net.sed_encoder.norm.weight"), r"1 weights missing: semantic\.norm\.weight, 0 unex"),
        (lambda state: state.update({"net.extra.weight": torch.ones(1)}), r"1 unexpected: net\.extra\.weight"),
        (lambda state: state.update({"net.doa_encoder.x": torch.ones(1)}), r"1 unexpected: net\.doa_encoder\.x"),
        (lambda state: state.pop("net.scalar.3.bias"), r"missing scalar\.3\.bias, needed for map_norm"),
        (lambda state: state.pop("net.stitch1.2.weight"), r"missing: stitches\.2\.weight"),
        (
            lambda state: state.update({"net.sed_encoder.norm.weight": torch.ones(3)}),
            r"net\.sed_encoder\.norm\.weight has shape \(3,\), its neighbours ask for \(64,\)",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if ".layers." in key],
            r"nothing becomes semantic\.layers\.0\.blocks\.0",
        ),
    ],
)
def test_layouts_that_do_not_fit_are_refused(parity, tmp_path, change, message):
    state = torch.load(parity / "pseldnets_tiny.ckpt", weights_only=True)["state_dict"]
    change(state)
    torch.save({"state_dict": state}, tmp_path / "changed.ckpt")
    with pytest.raises(CheckpointError, match=rf"changed\.ckpt: .*{message}"):
        audio_encoder_from_pseldnets(tmp_path / "changed.ckpt")


def test_one_checkpoint_taken_for_another_is_refused(parity):
    with pytest.raises(CheckpointError, match=r"laion_clap_tiny\.pt: missing scalar\.0\.weight"):
        audio_encoder_from_pseldnets(parity / "laion_clap_tiny.pt")
    with pytest.raises(CheckpointError, match="the file has another layout; unexpected: net"):
        clap_from_laion(parity / "pseldnets_tiny.ckpt")
    with pytest.raises(CheckpointError, match="text width 32 is not a multiple of 5 heads"):
        clap_from_laion(parity / "laion_clap_tiny.pt", text_heads=5)


class Payload:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


def test_files_that_are_no_checkpoints_are_refused(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"state_dict": {"weight": torch.ones(1)}, "hook": Payload()}, tmp_path / "code.pt")
    messages = {"none": "no such", "text": "not a PyTorch", "list": "expected a state", "code": "not a PyTorch"}
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=rf"{name}[.]pt: {message}"):
            clap_from_laion(tmp_path / f"{name}.pt")
    assert capsys.readouterr().out == ""


def test_hugging_face_models_of_other_kinds_are_refused(tmp_path, small_clap, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="expected a ClapModel, got model type 'bert'"):
        clap_from_hf(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere: no ClapModel here or on the Hugging Face hub"):
        clap_from_hf(tmp_path / "nowhere")
    monkeypatch.setattr(small_clap.config.audio_config, "enable_fusion", True)
    with pytest.raises(CheckpointError, match=r"audio_config\.enable_fusion is True, SALM converts False alone"):
        towers_from_clap_model(small_clap, "fused")


def test_incomplete_hugging_face_weights_are_refused(clap_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(clap_folder / "model.safetensors")
    del state["audio_projection.linear1.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((clap_folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"do not fit its configuration: .*audio_projection\.linear1\.weight"):
        clap_from_hf(tmp_path)

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import salm
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
    with pytest.raises(CheckpointError, match=r"thesis\.txt: a file; choose a folder"):
        save_checkpoint(tmp_path / "thesis.txt", checkpoint.model, checkpoint.config, checkpoint.tokenizer)
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


def test_fp32_round_trip_is_exact(tiny, tmp_path, make_scene):
    parts = tiny.checkpoint
    save_checkpoint(tmp_path / "again", parts.model, parts.config, parts.tokenizer, dtype=torch.float32)
    again = salm.load(tmp_path / "again", device="cpu")
    assert again.checkpoint.config == parts.config
    scene = make_scene(2.0)
    for method, arguments in (("encode_text", ("dog barking",)), ("encode_audio", (scene,))):
        options = {"sample_rate": 24_000} if method == "encode_audio" else {}
        np.testing.assert_array_equal(
            getattr(again, method)(*arguments, **options), getattr(tiny, method)(*arguments, **options)
        )


def test_fp16_costs_its_rounding_alone(tiny, tmp_path):
    generator = torch.Generator().manual_seed(1)
    model = load_checkpoint_copy(tiny, tmp_path)
    with torch.no_grad():
        for value in model.parameters():
            value += 1e-3 * torch.randn(value.shape, generator=generator)  # no longer fp16 numbers
    save_checkpoint(tmp_path / "half", model, tiny.checkpoint.config, tiny.checkpoint.tokenizer)
    halved = load_checkpoint(tmp_path / "half").model.state_dict()
    # fp16 has 11 significant bits; below 6e-5 its step is 6e-8.
    for name, value in model.state_dict().items():
        torch.testing.assert_close(halved[name], value, rtol=2**-11, atol=2**-25)
    assert any((halved[name] != value).any() for name, value in model.state_dict().items())


def load_checkpoint_copy(tiny, tmp_path):
    parts = tiny.checkpoint
    save_checkpoint(tmp_path / "start", parts.model, parts.config, parts.tokenizer)
    return load_checkpoint(tmp_path / "start").model


def test_loading_draws_nothing(tiny_checkpoint):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_checkpoint(tiny_checkpoint)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"format_version": 1,', r"config\.json: not JSON"),
        ("config.json", b"\xff\xfe", r"config\.json: not JSON"),
        ("config.json", b"[]", "format version None, this SALM reads 1"),
        ("config.json", b'{"format_version": 1}', r"config\.json: no 'model' in it"),
        ("config.json", b'{"format_version": 1, "model": 5}', "not a model's configuration"),
        ("model.safetensors", b"", r"model\.safetensors: damaged"),
        ("model.safetensors", b"PK\x03\x04 a pickle in a zip file", r"model\.safetensors: damaged"),
        ("tokenizer.json", b'{"version": "1.0"', r"tokenizer\.json: not a tokenizer"),
    ],
)
def test_malformed_files_are_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=2), "format version 2, this SALM reads 1; upgrade with: pip install"),
        (lambda d: d["model"].update(colour="red"), "unknown keys colour"),
        (lambda d: d["model"]["audio"].update(width=-8), "expected a positive whole number"),
        (lambda d: d["model"]["audio"].update(width=8.5), "expected a positive whole number, got 8.5"),
        (lambda d: d["model"]["audio"].update(num_heads=[3, 3, 3, 3]), "no model can be built from it"),
        (lambda d: d["model"]["audio"].update(width=16), r"has shape \(.*\), expected \("),
        (lambda d: d["model"]["text"].update(vocabulary_size=10), "do not belong together"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(folder, change, message):
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)

"""`salm convert`, from weights and a tokenizer in the layouts of the public ones."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from transformers import ClapConfig, ClapModel, PreTrainedTokenizerFast

from salm.models.audio_encoder import AudioEncoder
from salm.text.tokenizer import Tokenizer
from salm.weights.checkpoint import load_checkpoint
from tests.cli.commands import Run, assert_mistake

VOCABULARY = 400


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `ClapModel` of random weights, HTSAT width 8."""
    torch.manual_seed(0)
    text = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 64, "max_position_embeddings": 90}
    audio = {"patch_embeds_hidden_size": 8, "depths": [2, 2, 2, 2], "num_attention_heads": [1, 1, 2, 4]}
    audio |= {"hidden_size": 64, "num_mel_bins": 64, "enable_fusion": False}
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    folder = tmp_path_factory.mktemp("clap")
    ClapModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer in RoBERTa's layout, as `save_pretrained` leaves it."""
    folder = tmp_path_factory.mktemp("roberta")
    Tokenizer.train(["dog barking from the northwest", "church bell"], VOCABULARY, 512).save(folder)
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pseldnets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EINV2-HTSAT checkpoint of random weights under PSELDNets' keys."""
    torch.manual_seed(1)
    encoder = AudioEncoder(width=8, depths=(2, 2, 2, 2), num_heads=(1, 1, 2, 4), num_semantic_maps=4)
    prefixes = {"semantic.": "net.sed_encoder.", "spatial.": "net.doa_encoder.", "stitches.": "net.stitch1."}
    state = {}
    for key, value in encoder.state_dict().items():
        if key.startswith("map_norm.norm."):
            if value.ndim:
                name = key.removeprefix("map_norm.norm.")
                state |= {f"net.scalar.{number}.{name}": part for number, part in enumerate(value.chunk(7))}
            continue
        (prefix,) = (known for known in prefixes if key.startswith(known))
        state[prefixes[prefix] + key.removeprefix(prefix)] = value
    path = tmp_path_factory.mktemp("pseldnets") / "EINV2-HTSAT.ckpt"
    torch.save({"state_dict": state}, path)
    return path


def test_a_model_is_started_from_the_three_sources(
    run: Run, clap_folder: Path, roberta_folder: Path, pseldnets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "start"
    sources = ("--clap", clap_folder, "--pseldnets", pseldnets, "--tokenizer", roberta_folder)
    result = run("convert", *sources, "--out", out, "--json")
    assert result.code == 0, result.stderr
    assert result.json["model"] == load_checkpoint(out).model_id
    assert len(result.json["sources"]) == 2
    checkpoint = load_checkpoint(out)
    assert (checkpoint.config.name, checkpoint.config.audio.width, checkpoint.config.text.depth) == ("salm-base", 8, 1)
    assert checkpoint.config.text.max_tokens == 77
    theirs = torch.load(pseldnets, weights_only=True)["state_dict"]
    torch.testing.assert_close(
        checkpoint.model.audio_encoder.spatial.patch_embed.proj.weight,
        theirs["net.doa_encoder.patch_embed.proj.weight"],
    )
    ids, mask = checkpoint.tokenizer(["dog barking"])
    assert ids[0, 0] == 0
    assert torch.isfinite(checkpoint.model.encode_text(ids, mask)).all()


def test_the_same_seed_gives_the_same_start(run: Run, clap_folder: Path, roberta_folder: Path, tmp_path: Path) -> None:
    common = ("convert", "--clap", clap_folder, "--tokenizer", roberta_folder, "--json")
    names = [
        run(*common, "--seed", seed, "--out", tmp_path / name).json["model"] for seed, name in ((0, "a"), (0, "b"))
    ]
    other = run(*common, "--seed", 1, "--out", tmp_path / "c").json["model"]
    assert names[0] == names[1] != other


def test_sources_that_cannot_be_used(
    run: Run, clap_folder: Path, roberta_folder: Path, pseldnets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "start"
    common = ("convert", "--out", out, "--clap")
    assert_mistake(run(*common, tmp_path / "nothing", "--tokenizer", roberta_folder), "nothing", "ClapModel")
    assert_mistake(run(*common, clap_folder, "--tokenizer", tmp_path), "no RoBERTa tokenizer", "roberta-base")
    missing = run(*common, clap_folder, "--tokenizer", roberta_folder, "--pseldnets", tmp_path / "none.ckpt")
    assert_mistake(missing, "none.ckpt")
    document = json.loads((roberta_folder / "tokenizer.json").read_text())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] != "<pad>"]
    document["model"]["vocab"] = {name: place for name, place in document["model"]["vocab"].items() if name != "<pad>"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text(json.dumps(document))
    (other / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert_mistake(run(*common, clap_folder, "--tokenizer", other), "<pad>")
    assert not out.exists()


def test_a_tokenizer_that_the_text_tower_does_not_know(run: Run, clap_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    Tokenizer.train([f"word{number} sounds" for number in range(300)], 2 * VOCABULARY, 512).save(folder)
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>").save_pretrained(folder)
    result = run("convert", "--clap", clap_folder, "--tokenizer", folder, "--out", tmp_path / "start")
    assert_mistake(result, "tokens", str(VOCABULARY))

"""Training through its own command line, small: it learns, resumes to the same weights, and exports a checkpoint."""

import csv

import pytest
import torch
import yaml
from safetensors.torch import load_file

from salm.errors import ConfigError
from salm.models.builders import build_model, salm_tiny
from salm.text.tokenizer import Tokenizer
from salm.train.cli import main
from salm.weights.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(0)
    config = salm_tiny()
    folder = tmp_path_factory.mktemp("start") / "text"
    tokenizer = Tokenizer.train(["noise from the north", "left right behind"], 1_024, config.text.max_tokens)
    save_checkpoint(folder, build_model(config), config, tokenizer)
    return folder


@pytest.fixture
def configure(dry_folder, start, tmp_path):
    def write(epochs: int, name: str, **model: object) -> str:
        run = tmp_path / name
        checkpoints = {"dirpath": str(run), "save_last": True, "save_top_k": 1, "save_on_train_epoch_end": True}
        settings = {
            "ckpt_path": "last",
            "trainer": {
                "accelerator": "cpu",
                "precision": "bf16-mixed",
                "max_epochs": epochs,
                "default_root_dir": str(run),
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
                "check_val_every_n_epoch": 2,
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": str(run), "name": "log"},
                },
                "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": checkpoints}],
            },
            "model": {
                "size": "salm-tiny",
                "start": str(start),
                "export_to": str(run / "export"),
                "warmup_steps": 2,
                "schedule_steps": 6,
                "loss": {"prompts": 0.5, "teacher": 1.0, "tags": 20.0},
                **model,
            },
            "data": {
                "manifest": str(dry_folder / "manifest.csv"),
                "teacher": str(dry_folder / "teacher.npz"),
                "cache": str(tmp_path / "cache"),
                "num_rooms": 3,
                "rt60_s": [0.1, 0.2],
                "batch_size": 4,
                "batches_per_epoch": 3,
                "validation_share": 0.2,
                "validation_clips": 4,
                "num_workers": 0,
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    return write


def losses(folder):
    rows = [row for file in sorted(folder.rglob("metrics.csv")) for row in csv.DictReader(file.open())]
    return {int(row["step"]): float(row["train/loss"]) for row in rows if row["train/loss"]}


@pytest.mark.filterwarnings("ignore")  # Lightning's own advice on workers, logging intervals and tree specifications
def test_an_interrupted_training_ends_with_the_same_weights(configure, tmp_path):
    main(["fit", "--config", configure(2, "whole")])
    main(["fit", "--config", configure(1, "parts")])
    main(["fit", "--config", configure(2, "parts")])
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == 6
    assert whole == pytest.approx(parts)
    first = load_file(tmp_path / "whole/export/model.safetensors")
    second = load_file(tmp_path / "parts/export/model.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name)
    checkpoint = load_checkpoint(tmp_path / "whole/export")
    assert checkpoint.config == salm_tiny()


def test_unknown_subcommand_is_refused():
    with pytest.raises(ConfigError, match="salm train dance: unknown; expected fit, validate or text"):
        main(["dance"])


@pytest.mark.filterwarnings("ignore")
def test_a_text_tower_of_another_size_is_refused(configure):
    with pytest.raises(ConfigError, match="its text tower has other sizes than salm-small; run salm train text"):
        main(["fit", "--config", configure(1, "other", size="salm-small")])


def test_text_training_runs_from_a_configuration(tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    teacher = tmp_path / "teacher"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain", "dog", "bell"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(teacher)
    BertModel(
        BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(teacher)
    (tmp_path / "captions.csv").write_text("caption\nrain\ndog\nbell\n")
    settings = {
        "size": "salm-tiny",
        "corpora": [str(tmp_path / "captions.csv")],
        "teacher": str(teacher),
        "cache": str(tmp_path / "cache"),
        "export_to": str(tmp_path / "out"),
        "training": {"num_steps": 3, "batch_size": 8},
    }
    config = tmp_path / "text.yaml"
    config.write_text(yaml.safe_dump(settings))
    main(["text", "--config", str(config)])
    assert load_checkpoint(tmp_path / "out").config == salm_tiny()
    config.write_text(yaml.safe_dump(settings | {"colour": "red"}))
    with pytest.raises(ConfigError, match="expected the keys cache, corpora"):
        main(["text", "--config", str(config)])

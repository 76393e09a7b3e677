"""Training through its own command line, small: it learns, resumes to the same weights, and exports a checkpoint."""

import csv
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from salm.data.audio_teacher import AudioTeacher
from salm.data.shards import pack_scenes
from salm.errors import ConfigError
from salm.models.builders import salm_tiny
from salm.models.losses import LossWeights
from salm.processor import has_bf16_units
from salm.scenes.dataset_writer import simulate_dataset
from salm.train.cli import main
from salm.train.module import SalmTraining
from salm.weights.checkpoint import load_checkpoint


@pytest.fixture
def configure(dry_folder, start, tmp_path):
    def write(epochs: int, name: str, trainer: dict | None = None, data: dict | None = None, **model: object) -> str:
        settings = {
            "ckpt_path": "last",
            "run": str(tmp_path / name),
            "trainer": {
                "accelerator": "cpu",
                "precision": "bf16-mixed" if has_bf16_units() else "32-true",
                "max_epochs": epochs,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 1,
                "check_val_every_n_epoch": 2,
                **(trainer or {}),
            },
            "model": {
                "start": str(start),
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
                **(data or {}),
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    return write


def losses(folder):
    files = sorted(folder.rglob("metrics.csv"))
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
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


@pytest.mark.filterwarnings("ignore")
def test_a_training_on_scenes_made_on_its_device_is_resumed(configure, tmp_path):
    on_device = {"on_device": True}
    main(["fit", "--config", configure(2, "whole", data=on_device)])
    main(["fit", "--config", configure(1, "parts", data=on_device)])
    main(["fit", "--config", configure(2, "parts", data=on_device)])
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == 6
    assert whole == pytest.approx(parts)
    elsewhere = configure(2, "elsewhere")
    main(["fit", "--config", elsewhere])
    assert losses(tmp_path / "elsewhere") != pytest.approx(whole)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("units", [True, False])
def test_bf16_without_units_for_it_is_noted(units, configure, monkeypatch, capsys):
    monkeypatch.setattr("salm.train.cli.has_bf16_units", lambda: units)
    trainer = {"precision": "bf16-mixed", "limit_val_batches": 0}
    main(["fit", "--config", configure(1, "noted", trainer=trainer, data={"batches_per_epoch": 1})])
    noted = "no bf16 units, so bf16-mixed is several times slower than --trainer.precision 32-true"
    assert (noted in capsys.readouterr().err) != units


def test_unknown_subcommand_is_refused():
    with pytest.raises(
        ConfigError, match="salm train dance: unknown; expected fit, validate, text, phrasing or balance"
    ):
        main(["dance"])


@pytest.mark.filterwarnings("ignore")
def test_steps_of_the_semantic_branch_alone_leave_the_others_alone(configure, tmp_path, start):
    main(["fit", "--config", configure(1, "semantic", semantic_steps=3, freeze_text=True)])
    before, after = (load_file(folder / "model.safetensors") for folder in (start, tmp_path / "semantic/export"))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    for part, should_change in {"semantic": True, "stitches": True, "spatial": False}.items():
        assert any(name.startswith(f"audio_encoder.{part}.") for name in changed) == should_change
    assert not any(name.startswith("text_") for name in changed)


@pytest.mark.filterwarnings("ignore")
def test_a_training_can_add_the_weighted_intensity(configure, tmp_path, start):
    """The rest of the model starts as it was; the new networks have a term of their own and are exported."""
    module = SalmTraining(start=str(start), export_to=str(tmp_path), arrival_channels=4)
    before, given = load_file(start / "model.safetensors"), module.model.state_dict()
    width = module.model.audio_encoder.out_width
    for name, value in before.items():
        known = given[name][:, :width] if name == "spatial_projection.0.weight" else given[name]
        torch.testing.assert_close(known, value.to(known.dtype), msg=name)
    main(["fit", "--config", configure(1, "arrival", arrival_channels=4, loss={"arrival": 1.0})])
    checkpoint = load_checkpoint(tmp_path / "arrival/export")
    assert checkpoint.config.audio.arrival_channels == 4
    assert checkpoint.model.spatial_projection[0].in_features == width + 3
    (metrics,) = (tmp_path / "arrival").rglob("metrics.csv")
    assert "train/arrival" in metrics.read_text().splitlines()[0].split(",")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", [None, ["audio_encoder.timbre", "timbre_projection"]])
def test_the_convolutional_network_can_be_added_and_trained_alone(configure, tmp_path, start, trained):
    """From scenes of which only W is made; the branches stay as they were, and with `trained` everything else, too."""
    before = load_file(start / "model.safetensors")
    data = {"mixes": [{"num_sounds": 2, "omni": True, "distinct": 4}]}
    alone = {"timbre_channels": 4, "semantic_steps": 3, "timbre_steps": 3, "freeze_text": True}
    main(["fit", "--config", configure(1, "timbre", data=data, trained=trained, **alone)])
    checkpoint = load_checkpoint(tmp_path / "timbre/export")
    assert checkpoint.config.audio.timbre_channels == 4
    after = load_file(tmp_path / "timbre/export/model.safetensors")
    for name, value in before.items():
        if trained or name.startswith(("audio_encoder.", "text_", "spatial_")):
            assert torch.equal(value, after[name]), name
    assert int(after["audio_encoder.timbre.norm.num_batches_tracked"]) == 3
    assert after["timbre_projection.0.weight"].shape[1] == checkpoint.model.audio_encoder.timbre.out_width
    (metrics,) = (tmp_path / "timbre").rglob("metrics.csv")
    logged = metrics.read_text().splitlines()[0].split(",")
    assert "train/teacher" in logged
    assert "train/doa" not in logged


@pytest.mark.filterwarnings("ignore")
def test_the_convolutional_network_learns_from_hints(configure, tmp_path):
    """In the batches of scenes with hints alone; what only the training needs is not exported."""
    torch.manual_seed(0)
    torch.save(AudioTeacher().state_dict(), tmp_path / "tagger.pt")
    mixes = [
        {"num_sounds": 1, "dry": True, "hints": True, "mask_mels": 0},
        {"num_sounds": 2, "dry": False, "hints": False, "omni": True},
    ]
    data = {"mixes": mixes, "teacher_model": str(tmp_path / "tagger.pt"), "batches_per_epoch": 4}
    alone = {"timbre_channels": 4, "semantic_steps": 8, "timbre_steps": 8, "freeze_text": True}
    loss = {"semantic": 0.0, "hints": 10.0, "teacher": 1.0}
    main(["fit", "--config", configure(2, "hints", data=data, **alone, loss=loss)])
    (metrics,) = (tmp_path / "hints").rglob("metrics.csv")
    rows = [row for row in csv.DictReader(metrics.read_text().splitlines()) if row["train/loss"]]
    given = [float(row["train/hints"]) for row in rows]
    assert given[::2] == given[1::2]  # Lightning repeats what the batch with hints before said
    assert len(set(given)) == 4
    assert given[-1] < given[0]
    assert not [name for name in load_file(tmp_path / "hints/export/model.safetensors") if "hint" in name]


@pytest.mark.filterwarnings("ignore")
def test_hints_for_scenes_made_on_the_device_that_trains(configure, tmp_path):
    torch.manual_seed(0)
    torch.save(AudioTeacher().state_dict(), tmp_path / "tagger.pt")
    mixes = [{"num_sounds": 1, "dry": True, "hints": True, "mask_mels": 0}]
    data = {"mixes": mixes, "teacher_model": str(tmp_path / "tagger.pt"), "on_device": True}
    alone = {"timbre_channels": 4, "semantic_steps": 3, "timbre_steps": 3, "freeze_text": True}
    loss = {"semantic": 0.0, "hints": 10.0, "teacher": 1.0}
    main(["fit", "--config", configure(1, "hints", data=data, **alone, loss=loss)])
    (metrics,) = (tmp_path / "hints").rglob("metrics.csv")
    given = [row for row in csv.DictReader(metrics.read_text().splitlines()) if row["train/loss"]]
    assert all(float(row["train/hints"]) > 0 and float(row["train/teacher"]) > 0 for row in given)
    assert len({row["train/hints"] for row in given}) == len(given) > 1


@pytest.mark.filterwarnings("ignore")
def test_hints_without_a_teacher_are_refused(configure):
    alone = {"timbre_channels": 4, "semantic_steps": 3, "timbre_steps": 3, "loss": {"hints": 1.0}}
    mixes = [{"num_sounds": 1, "dry": True, "hints": True}]
    with pytest.raises(ConfigError, match="loss.hints needs data.teacher_model, and hints: true"):
        main(["fit", "--config", configure(1, "deaf", data={"mixes": mixes}, **alone)])


@pytest.mark.filterwarnings("ignore")
def test_only_the_parts_that_are_named_learn(configure, tmp_path, start):
    before = load_file(start / "model.safetensors")
    main(["fit", "--config", configure(1, "part", trained=["semantic_projection"])])
    after = load_file(tmp_path / "part/export/model.safetensors")
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"semantic_projection"}


def test_parts_and_hints_that_the_model_does_not_have_are_refused(start, tmp_path):
    with pytest.raises(ConfigError, match="no part 'projection'; expected some of .*semantic_projection"):
        SalmTraining(start=str(start), export_to=str(tmp_path), trained=("projection",))
    with pytest.raises(ConfigError, match="loss.hints is for the network of timbre_channels"):
        SalmTraining(start=str(start), export_to=str(tmp_path), loss=LossWeights(hints=1.0))


def test_more_steps_of_the_convolutional_network_than_of_the_semantic_side_are_refused(start, tmp_path):
    with pytest.raises(ConfigError, match=r"at most semantic_steps \(2\).*got 3 and 4"):
        SalmTraining(start=str(start), export_to=str(tmp_path), timbre_channels=4, semantic_steps=2, timbre_steps=3)


@pytest.mark.filterwarnings("ignore")
def test_the_branches_cannot_learn_from_scenes_of_w_alone(configure):
    alone = {"timbre_channels": 4, "semantic_steps": 1, "timbre_steps": 1}
    with pytest.raises(ConfigError, match="only the first 1 steps"):
        main(["fit", "--config", configure(1, "omni", data={"mixes": [{"num_sounds": 2, "omni": True}]}, **alone)])


def test_each_part_learns_at_its_own_rate(start, tmp_path):
    factors = {"text_rate_factor": 0.1, "arrival_rate_factor": 10.0}
    module = SalmTraining(start=str(start), export_to=str(tmp_path), arrival_channels=4, schedule_steps=6, **factors)
    groups = module.configure_optimizers()["optimizer"].param_groups
    rates = {id(parameter): group["initial_lr"] for group in groups for parameter in group["params"]}
    for name, parameter in module.named_parameters():
        factor = 0.1 if name.startswith("model.text_") else 10.0 if ".arrival." in name else 1.0
        assert rates[id(parameter)] == pytest.approx(1e-3 * factor), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("branch", ["semantic", "spatial"])
def test_a_model_with_one_branch_is_trained_and_loaded(configure, tmp_path, branch):
    main(["fit", "--config", configure(1, branch, branches=[branch])])
    checkpoint = load_checkpoint(tmp_path / branch / "export")
    assert checkpoint.config.audio.branches == (branch,)
    (other,) = {"semantic", "spatial"} - {branch}
    assert not any(name.startswith(f"audio_encoder.{other}.") for name in checkpoint.model.state_dict())
    assert losses(tmp_path / branch)


EXACT = {"precision": "32-true", "limit_val_batches": 0, "gradient_clip_val": None}


def gradients(run):
    """Of the first step: Adam's first moment after it is a tenth of them."""
    state = torch.load(run / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    return [entry["exp_avg"] * 10 for entry in state.values()]


def assert_same_step(first, second):
    assert losses(first) == pytest.approx(losses(second), rel=1e-5)
    pairs = list(zip(gradients(first), gradients(second), strict=True))
    assert len(pairs) > 100
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_micro_batches_give_the_same_gradients(configure, tmp_path):
    main(["fit", "--config", configure(1, "whole", EXACT, {"batches_per_epoch": 1})])
    main(["fit", "--config", configure(1, "micro", EXACT, {"batches_per_epoch": 1}, micro_batch=3)])
    assert_same_step(tmp_path / "whole", tmp_path / "micro")


def test_two_processes_give_the_gradients_of_one_on_their_joint_batch(configure, tmp_path):
    """Through the real command: Lightning starts the second process itself."""
    alone = configure(1, "one", EXACT, {"batches_per_epoch": 1})
    halves = {"batches_per_epoch": 1, "batch_size": 2}
    together = configure(1, "two", EXACT | {"devices": 2, "strategy": "ddp"}, halves)
    network = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    for config in (alone, together):
        command = [sys.executable, "-m", "salm", "train", "fit", "--config", config]
        done = subprocess.run(command, env=os.environ | network, check=False, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
    assert_same_step(tmp_path / "one", tmp_path / "two")


@pytest.mark.filterwarnings("ignore")
def test_fixed_sentences_need_a_frozen_text_tower(configure):
    with pytest.raises(ConfigError, match="need freeze_text: true"):
        main(["fit", "--config", configure(1, "thawed", loss={"labels": 1.0})])


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


@pytest.mark.filterwarnings("ignore")
def test_training_from_packed_scenes(configure, dry_sounds, tmp_path):
    scenes = simulate_dataset(dry_sounds, tmp_path / "scenes", seed=1, num_scenes=8, duration_s=1.0)
    pack_scenes(scenes, tmp_path / "shards", scenes_per_shard=4)
    folder = str(tmp_path / "shards")
    data = {"manifest": None, "teacher": None, "shards": folder, "validation_shards": folder}
    main(["fit", "--config", configure(2, "packed", data=data, loss={"prompts": 0.5})])
    assert len(losses(tmp_path / "packed")) == 6
    assert (tmp_path / "packed/export/model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore")
def test_data_come_from_sounds_or_from_shards(configure):
    with pytest.raises(ConfigError, match="expected either manifest, or shards and validation_shards"):
        main(["fit", "--config", configure(1, "both", data={"shards": "somewhere"})])

"""README's "Reproduce the paper", command by command on small stand-ins; a killed training ends as an unbroken one."""

import csv
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from salm.config import FeatureConfig
from salm.data.shards import ShardedScenes, interleave, pack_scenes
from salm.errors import ManifestError
from salm.geometry import find_sector, sector_of
from salm.manifest import read_scenes
from salm.weights.checkpoint import load_checkpoint
from salm.weights.convert import clap_from_hf
from tests.cli.test_convert_command import clap_folder, pseldnets, roberta_folder
from tests.preloaded import Preloaded, clean_environment
from tests.prepare.layouts import TauFolder, write_sound, write_table
from tests.text.test_rewrite import save_language_model

__all__ = ["clap_folder", "pseldnets", "roberta_folder"]

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "README.md").read_text().partition("\n## Reproduce the paper\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```sh\n(.*?)```", SECTION, flags=re.DOTALL)
MODELS = ("salm-base", "salm-s", "clap-omni", "salm-no-lcl")
TEST_SETS = ("saudiocaps-test", "sclotho-evaluation", "saudiocaps-test-R", "sclotho-evaluation-R")
CLIPS = {"train": 3, "val": 2, "test": 2, "development": 3, "validation": 2, "evaluation": 2}
SMALL = {
    "captions": ["--batch-size", "64"],
    "train": [
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"),
        *("--data.batch_size", "4", "--data.batches_per_epoch", "2", "--data.validation_clips", "4"),
        *("--data.num_workers", "0", "--model.warmup_steps", "2", "--model.learning_rate", "1e-3"),
    ],
}
"""Sizes that a stand-in needs, appended to README's own words."""
LIBRARIES = (
    *("salm.evaluate.suite", "salm.prepare.tau_srir", "salm.scenes.dataset_writer", "salm.train.cli"),
    *("salm.train.module", "salm.data.datamodule", "salm.weights.initialise", "lightning.pytorch.cli"),
    *("pyroomacoustics", "h5py", "transformers.models.clap.modeling_clap", "transformers.models.llama.modeling_llama"),
    *("transformers.models.roberta.modeling_roberta", "transformers.models.auto.modeling_auto"),
)


class Workspace:
    """A folder with stand-ins under the names of README, and `salm` run in it."""

    def __init__(self, folder: Path, salm: Preloaded) -> None:
        self.folder, self._salm = folder, salm

    def run(self, *words: str) -> str:
        """What `salm` with these words prints; it must succeed."""
        done = self._salm.run("salm", *words, cwd=self.folder)
        assert done.code == 0, (words, done)
        return done.stdout + done.stderr

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The same as a fresh process that goes on by itself; what it prints is in output.txt."""
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "salm", *words],
                cwd=self.folder, env=self._salm.environment, text=True, stdout=output, stderr=output,
            )  # fmt: skip

    def expand(self, block: str) -> list[list[str]]:
        """The words of every `salm` command of a shell block, loops unrolled."""
        shell = 'salm() { printf "%s\\t" "$@"; echo; }\n' + block
        done = subprocess.run(["bash", "-euc", shell], cwd=self.folder, check=True, capture_output=True, text=True)
        return [line.rstrip("\t").split("\t") for line in done.stdout.splitlines()]


def write_audiocaps(folder: Path, split: str) -> None:
    """A table with one clip more than there are files; the test split has two captions a clip."""
    rows: list[Sequence[object]] = [("audiocap_id", "youtube_id", "start_time", "caption")]
    for clip in range(CLIPS[split] + 1):
        video = f"{split}{clip}".rjust(11, "a")
        rows += [(10 * clip, video, 30, f"A {video} barks"), (10 * clip + 1, video, 30, "Wind")][
            : 1 + (split == "test")
        ]
        if clip:
            write_sound(folder / split / f"Y{video}.wav", seed=sum(map(ord, video)))
    write_table(folder / f"{split}.csv", rows)


def write_clotho(folder: Path, split: str) -> None:
    """A table with one clip more than there are files, five captions each."""
    rows = [["file_name", *(f"caption_{number}" for number in range(1, 6))]]
    for clip in range(CLIPS[split] + 1):
        rows.append([f"{split} {clip}.wav", *(f"Bell {clip} of {split} rings {number} times." for number in "12345")])
        if clip:
            write_sound(folder / split / f"{split} {clip}.wav", seed=sum(map(ord, split)) + clip)
    write_table(folder / f"clotho_captions_{split}.csv", rows)


def write_laion_clap(clap_folder: Path, path: Path) -> None:
    """The weights of a `ClapModel` under LAION-CLAP's keys, with what else its files hold."""
    prefixes = {
        "htsat.": "audio_branch.",
        "map_norm.norm.": "audio_branch.bn0.",
        "text_encoder.roberta.": "text_branch.",
    }
    state = {"logit_scale_a": torch.ones(()), "text_branch.embeddings.position_ids": torch.arange(9)[None]}
    state["audio_transform.sequential.0.weight"] = torch.zeros(2, 2)
    for key, value in clap_from_hf(clap_folder).state_dict().items():
        own = next((own for own in prefixes if key.startswith(own)), "")
        state[prefixes.get(own, "") + key.removeprefix(own)] = value
    path.parent.mkdir()
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, clap_folder, roberta_folder, pseldnets):
    folder = tmp_path_factory.mktemp("reproduce")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for split in ("train", "val", "test"):
        write_audiocaps(folder / "audiocaps", split)
    for split in ("development", "validation", "evaluation"):
        write_clotho(folder / "clotho", split)
    TauFolder(folder / "TAU-SRIR_DB").write()
    write_laion_clap(clap_folder, folder / "weights" / "630k-audioset-best.pt")
    shutil.copy(pseldnets, folder / "weights" / "EINV2-HTSAT.ckpt")
    shutil.copytree(clap_folder, folder / "laion" / "clap-htsat-unfused")
    shutil.copytree(roberta_folder, folder / "roberta-base")
    (folder / "meta-llama" / "Llama-3.2-3B-Instruct").mkdir(parents=True)
    save_language_model(folder / "meta-llama" / "Llama-3.2-3B-Instruct", context=1024)
    with Preloaded(LIBRARIES, clean_environment(XDG_CACHE_HOME=str(folder / "cache"))) as salm:
        yield Workspace(folder, salm)


@pytest.fixture(scope="module")
def reproduced(workspace):
    """After all commands of README: what each of them printed."""
    outputs = {}
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        for words in workspace.expand(block):
            outputs[" ".join(words)] = workspace.run(*words, *SMALL.get(words[0], []))
    return outputs


def test_the_commands_of_readme_make_models_and_tables(workspace, reproduced):
    folder = workspace.folder
    assert len(reproduced) == 7 + 8 + 8 + 2 + 1 + 4 + 16
    for split, clips in CLIPS.items():
        (told,) = (text for words, text in reproduced.items() if re.search(rf"^prepare \w+ \S+[/_]{split}\.csv", words))
        assert f"{clips} of {clips + 1} (1 missing, 0 unusable), sounds" in told
    for name in MODELS:
        for test_set in TEST_SETS:
            document = json.loads((folder / "results" / f"{name}-{test_set}.json").read_text())
            assert set(document["results"]) == {"retrieval", "direction", "classify", "editing"}
            assert document["num_scenes"] == 6
    branches = [load_checkpoint(folder / "runs" / name / "export").config.audio.branches for name in MODELS]
    assert branches == [("semantic", "spatial"), ("spatial",), ("semantic",), ("semantic", "spatial")]


def test_the_scenes_are_the_papers(workspace, reproduced):
    folder = workspace.folder / "scenes"
    assert len(list(folder.iterdir())) == 8
    for path in folder.iterdir():
        scenes = read_scenes(path / "scenes.jsonl", check_files=True)
        sounds = [scene.sources[0].path for scene in scenes]
        assert {sounds.count(sound) for sound in sounds} == {3}
        assert {scene.duration_s for scene in scenes} == {10.0}
        assert {scene.room is None for scene in scenes} == {path.name.endswith("-R")}
        for scene in scenes:
            sector = sector_of(math.radians(scene.sources[0].azimuth_deg))
            assert {find_sector(caption) for caption in scene.spatial_captions} == {sector}


def test_training_meets_the_scenes_with_the_captions_they_came_with(workspace, reproduced):
    assert "turn_scenes: false" in (ROOT / "configs" / "salm-base.yaml").read_text()
    rows = [
        scene
        for name in ("saudiocaps-train", "sclotho-development")
        for scene in read_scenes(workspace.folder / "scenes" / name / "scenes.jsonl")
    ]
    known = {pair for scene in rows for pair in zip(scene.captions, scene.spatial_captions, strict=True)}
    packed = ShardedScenes(workspace.folder / "shards" / "train", FeatureConfig(), turn=False, mask_mels=0)
    assert len(packed) == len(rows) == 18
    met = [packed[number] for number in range(18)]
    assert {(item.captions[0], item.spatial_captions[0]) for item in met} <= known
    true = sorted(round(scene.sources[0].azimuth_deg, 1) for scene in rows)
    azimuths = torch.stack([torch.atan2(item.doa[0, 1], item.doa[0, 0]) for item in met]).rad2deg()
    assert sorted(azimuths.tolist()) == pytest.approx(true, abs=0.1)


def test_several_sets_are_packed_evenly(workspace, reproduced):
    assert interleave([range(6), "abc"]) == [0, "a", 1, 2, "b", 3, 4, "c", 5]
    scenes = read_scenes(workspace.folder / "scenes" / "saudiocaps-val" / "scenes.jsonl")
    with pytest.raises(ManifestError, match="this scene comes twice; name each manifest once"):
        pack_scenes(interleave([scenes, scenes]), workspace.folder / "shards" / "twice")


def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(workspace, reproduced):
    """From the Hugging Face layout here, from LAION-CLAP's own in the commands above; on scenes of all three sets."""
    folder = workspace.folder
    sources = ("--clap", "laion/clap-htsat-unfused", "--pseldnets", "weights/EINV2-HTSAT.ckpt")
    workspace.run("convert", *sources, "--out", "runs/start")
    start = load_file(folder / "runs/start/model.safetensors")
    assert_same_weights(start, load_file(folder / "runs/salm-base-start/model.safetensors"))
    names = ("saudiocaps-train", "sclotho-development", "saudiocaps-test-R", "sclotho-evaluation-R")
    workspace.run("pack", *(f"scenes/{name}" for name in names), "--out", "shards/all")
    command = ["train", "fit", "--config", "configs/salm-base.yaml", *SMALL["train"]]
    command += ["--data.shards", "shards/all", "--model.start", "runs/start", "--trainer.max_epochs", "3"]
    workspace.run(*command, "--run", "runs/whole")
    killed = workspace.start(*command, "--run", "runs/killed")
    while killed.poll() is None and not (folder / "runs/killed/last.ckpt").exists():
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, (folder / "output.txt").read_text()
    assert not (folder / "runs/killed/export").exists()
    resumed = workspace.start(*command, "--run", "runs/killed")
    assert resumed.wait(timeout=300) == 0, (folder / "output.txt").read_text()
    assert steps(folder / "runs/whole/log/version_0") == list(range(6))
    again = steps(folder / "runs/killed/log/version_1")
    assert again in ([2, 3, 4, 5], [4, 5])
    whole, parts = (load_file(folder / f"runs/{run}/export/model.safetensors") for run in ("whole", "killed"))
    assert_same_weights(whole, parts)
    for part in ("audio_encoder.semantic.", "audio_encoder.spatial.", "text_encoder.", "doa_head."):
        assert any(not torch.equal(value.half(), whole[name]) for name, value in start.items() if name.startswith(part))


def steps(log: Path) -> list[int]:
    with (log / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first and first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=name)

"""Manifest, room responses and teacher -> batches for Lightning."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import lightning
from torch.utils.data import DataLoader, Dataset

from salm.audio.io import SAMPLE_RATE_HZ
from salm.config import FeatureConfig
from salm.data.audio_teacher import AudioTeacher
from salm.data.batches import EpochSampler, collate
from salm.data.dataset import Example, SceneDataset
from salm.data.device_scenes import DeviceScenes
from salm.data.scene_mix import SceneMix
from salm.data.shards import ShardedScenes
from salm.data.sounds import SoundBank, Teacher, read_teacher
from salm.errors import ConfigError
from salm.manifest import DrySound, read_dry_sounds, split_by_group
from salm.progress import progress_on_stderr
from salm.scenes.rooms import WALL_SPREAD
from salm.scenes.srir_bank import SrirBank


class SceneDataModule(lightning.LightningDataModule):
    """Scenes on the fly from a dry-sound manifest, or rendered ones from packed shards.

    Validation sounds and rooms are never trained on. The module gives each of several processes its own part of the
    batches: `trainer.use_distributed_sampler` must be false.

    Args:
        manifest: dry-sound manifest (CSV) of the training split; or
        shards: folder of rendered scenes (`salm pack`), and `validation_shards`: folder of those to validate on.
        turn_scenes: meet rendered scenes under the 16 exact symmetries of the field, with captions from templates;
            false: as they were rendered, with the captions that they came with (`salm captions`), as in the paper.
        teacher: `.npz` of an audio teacher's outputs for these sounds, or None to train without.
        teacher_model: weights of that teacher (`AudioTeacher`), which then hears every training sound as it comes into
            its scene, without the room: at another speed, filtered, beside another sound.
        cache: folder for decoded sounds and room responses; safe to delete.
        num_rooms: simulated rooms, with three source positions each.
        rt60_s: shortest and longest reverberation time of the rooms.
        receiver: "centre" of each room, as in the paper, or "anywhere" (`salm.scenes.rooms.sample_positions`).
        wall_spread: how much the walls of a room differ (`salm.scenes.rooms.WALL_SPREAD`).
        mixes: kinds of training scenes, batch by batch in turn.
        batch_size: clips per batch and process. `batches_per_epoch`: an epoch is only a unit for checkpoints.
        validation_share: share of the recording groups kept for validation. `validation_clips`: their scenes.
        everyday_takes: synthesised sounds of each everyday kind that are added to the training sounds.
        on_device: make the scenes in batches on the device that trains (`DeviceScenes`): the sounds and rooms must fit
            there. Every scene is then new, whatever `SceneMix.distinct` says, and `num_workers` makes nothing.
        num_workers: processes that make batches beside the training. `scene_workers`: processes that make the
            scenes that are kept, before the training; 0: this one makes them.
        seed: of the split, the rooms and the scenes.
        repetition: another number is another order of the same scenes, to see how far a score depends on that.
    """

    def __init__(
        self,
        *,
        manifest: str | None = None,
        shards: str | None = None,
        validation_shards: str | None = None,
        turn_scenes: bool = True,
        teacher: str | None = None,
        teacher_model: str | None = None,
        cache: str = ".cache/salm",
        num_rooms: int = 1_000,
        rt60_s: tuple[float, float] = (0.1, 0.8),
        receiver: str = "centre",
        wall_spread: float = WALL_SPREAD,
        mixes: Sequence[SceneMix] = (SceneMix(),),
        batch_size: int = 32,
        batches_per_epoch: int = 100,
        validation_share: float = 0.08,
        validation_clips: int = 256,
        everyday_takes: int = 0,
        on_device: bool = False,
        num_workers: int = 1,
        scene_workers: int = 2,
        seed: int = 0,
        repetition: int = 0,
    ) -> None:
        super().__init__()
        if (manifest is None) == (shards is None) or (shards is None) != (validation_shards is None):
            raise ConfigError(
                "data: expected either manifest, or shards and validation_shards; set what a configuration names and "
                "this run does not use to null"
            )
        self.manifest, self.shards, self.validation_shards = manifest, shards, validation_shards
        self.turn_scenes = turn_scenes
        if teacher_model is not None and teacher is None:
            raise ConfigError("data.teacher_model: needs data.teacher, which says how its embeddings are distributed")
        self.teacher, self.teacher_model, self.cache = teacher, teacher_model, Path(cache)
        self.num_rooms, self.rt60_s, self.mixes = num_rooms, rt60_s, tuple(mixes)
        self.receiver, self.wall_spread = receiver, wall_spread
        self.batch_size, self.batches_per_epoch, self.num_workers, self.seed = (
            batch_size, batches_per_epoch, num_workers, seed,
        )  # fmt: skip
        self.on_device, self.repetition = on_device, repetition
        if on_device and manifest is None:
            raise ConfigError("data.on_device: packed scenes are read, not made; leave it out, or set data.manifest")
        self.everyday_takes, self.scene_workers = everyday_takes, scene_workers
        self.validation_share, self.validation_clips = validation_share, validation_clips
        self.training: SceneDataset | ShardedScenes
        self.validation: SceneDataset | ShardedScenes

    def prepare_data(self) -> None:
        """Fill the cache, in the first process alone; the others wait."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Decode the sounds and simulate the rooms, or take both from the cache; or open the shards."""
        if hasattr(self, "training"):
            return
        if self.manifest is None:
            widest = self.mixes[0].mask_mels
            self.training = ShardedScenes(
                self.shards or "", FeatureConfig(), seed=self.seed, mask_mels=widest, turn=self.turn_scenes
            )
            self.validation = ShardedScenes(self.validation_shards or "", FeatureConfig(), augment=False)
            return
        train, held_out = split_by_group(read_dry_sounds(self.manifest), self.validation_share, self.seed)
        hearing = None if self.teacher_model is None else AudioTeacher.load(self.teacher_model)
        scenes = self._dataset(
            train, self.num_rooms, self.mixes, self.seed, self.everyday_takes, hearing, self.repetition
        )
        if not self.on_device:
            with progress_on_stderr("making scenes") as progress:
                scenes.keep_scenes(self.cache, num_workers=self.scene_workers, progress=progress)
        self.training = scenes
        self.validation = self._dataset(
            held_out, max(1, self.num_rooms // 10), (SceneMix(num_sounds=1, mask_mels=0, balance=0.0),), self.seed + 1
        )

    def train_dataloader(self) -> DataLoader[Example] | DataLoader[int]:
        """`batches_per_epoch` batches of training scenes; of those made on the device only the number of the first."""
        if self.on_device:
            sampler = self._sampler(self.batches_per_epoch)
            return DataLoader(_Numbers(), batch_size=self.batch_size, sampler=sampler, collate_fn=min)
        return self._loader(self.training, self.batches_per_epoch)

    def val_dataloader(self) -> DataLoader[Example]:
        """The same validation scenes every time."""
        return self._loader(self.validation, max(1, self.validation_clips // (self.batch_size * self._world_size)))

    @cached_property
    def _device_scenes(self) -> DeviceScenes:
        assert self.trainer is not None
        assert isinstance(self.training, SceneDataset)
        return DeviceScenes(self.training, self.trainer.strategy.root_device)

    def on_after_batch_transfer(self, batch: Example | int, dataloader_idx: int) -> Example:
        """Scenes made on the device are made here."""
        return self._device_scenes.batch(batch, self.batch_size) if isinstance(batch, int) else batch

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _sampler(self, num_batches: int) -> EpochSampler:
        rank = self.trainer.global_rank if self.trainer is not None else 0
        return EpochSampler(num_batches, self.batch_size, rank=rank, world_size=self._world_size)

    def _loader(self, dataset: SceneDataset | ShardedScenes, num_batches: int) -> DataLoader[Example]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=self._sampler(num_batches),
            num_workers=self.num_workers,
            collate_fn=collate,
            persistent_workers=self.num_workers > 0,
        )

    def _dataset(
        self,
        sounds: Sequence[DrySound],
        num_rooms: int,
        mixes: Sequence[SceneMix],
        seed: int,
        everyday_takes: int = 0,
        hearing: AudioTeacher | None = None,
        repetition: int = 0,
    ) -> SceneDataset:
        teacher = read_teacher(self.teacher, sounds) if self.teacher else Teacher.silent(len(sounds))
        teacher = replace(teacher, model=hearing)
        with progress_on_stderr("decoding sounds") as progress:
            bank = SoundBank.read(sounds, cache=self.cache, progress=progress)
        if everyday_takes:
            with progress_on_stderr("synthesising sounds") as progress:
                everyday = SoundBank.everyday(everyday_takes, cache=self.cache, progress=progress)
            bank, teacher = bank + everyday, teacher.extended(len(everyday))
        rooms = self._rooms(num_rooms, seed)
        joint_batch = self.batch_size * self._world_size
        return SceneDataset(
            bank, rooms, teacher, FeatureConfig(), mixes,
            batch_size=joint_batch, seed=seed, repetition=repetition,
        )  # fmt: skip

    def _rooms(self, num_rooms: int, seed: int) -> SrirBank:
        low, high = self.rt60_s
        kind = "" if self.receiver == "centre" else f"-{self.receiver}"
        kind += "" if self.wall_spread == WALL_SPREAD else f"-walls{self.wall_spread:g}"
        stored = self.cache / f"rooms-{num_rooms}-{seed}-{low:g}-{high:g}-{SAMPLE_RATE_HZ}{kind}.npz"
        if stored.is_file():
            return SrirBank.load(stored)
        with progress_on_stderr("simulating rooms") as progress:
            rooms = SrirBank.simulate(
                num_rooms, seed=seed, rt60_range_s=self.rt60_s, receiver=self.receiver, wall_spread=self.wall_spread,
                progress=progress,
            )  # fmt: skip
        self.cache.mkdir(parents=True, exist_ok=True)
        rooms.save(stored)
        return rooms


class _Numbers(Dataset[int]):
    """The numbers themselves: item i is i."""

    def __getitem__(self, index: int) -> int:
        return index

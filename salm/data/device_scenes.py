"""Training scenes made on the device that trains: sounds and rooms are tensors there, every step is batched.

They are of the same kinds as those that `SceneDataset` makes one by one on the processor, by the same steps: excerpt,
speed, filter, room, turn, distractor, level, noise, feature maps. Every scene is new, and has all seven maps.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from salm.audio.augment import axis_turns, mask_mels, octave_gains
from salm.audio.features import FeatureExtractor
from salm.audio.io import SAMPLE_RATE_HZ
from salm.data.dataset import Example, SceneDataset, random_symmetry, random_tilt, token_spans
from salm.data.scene_mix import SceneMix
from salm.data.sounds import FULL_SCALE
from salm.geometry import foa_rotation, unit_vector

AXIS_TURNS = np.stack(axis_turns())
ENERGY_BLOCK = 256
"""Samples whose energy is summed up once, to find the loud pieces of a sound."""
NUM_PIECES = 3
"""Random pieces of a long sound, of which the loudest is taken."""


class Placed(NamedTuple):
    """Sounds (rows of the bank), where they are heard from (responses of the rooms), and how the field is turned."""

    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    turns: NDArray[np.float64]


class DeviceScenes:
    """Batches of scenes on a device.

    Args:
        scenes: sounds, rooms, teacher (whose model moves to the device) and mixes; also says what is true of the
            scenes.
        device: where the sounds (2 bytes a sample) and the responses stay, and the batches are made.
    """

    def __init__(self, scenes: SceneDataset, device: torch.device) -> None:
        self.scenes, self.device = scenes, device
        self.extractor = FeatureExtractor(scenes.features).to(device)
        bank, rooms = scenes.bank, scenes.rooms
        self.samples = torch.from_numpy(np.ascontiguousarray(bank.samples)).to(device)
        self.starts, self.lengths = bank.starts, bank.ends - bank.starts
        self.energy = self._energy_of_blocks()
        self.responses = torch.from_numpy(rooms.samples).to(device)
        self.taps = np.diff(rooms.offsets)
        if scenes.teacher.model is not None:
            scenes.teacher.model.to(device)
        _, self.first_of_room, self.places_in_room = np.unique(rooms.room_index, return_index=True, return_counts=True)

    def batch(self, first: int, num_clips: int) -> Example:
        """The clips `first`, `first + 1`, ...; they depend on the seed, `first` and `num_clips` alone."""
        generator = self.scenes.generator(first)
        noise = torch.Generator(self.device).manual_seed(int(generator.integers(2**63)))
        mix = self.scenes.mixes[(first // self.scenes.batch_size) % len(self.scenes.mixes)]
        joints = self.scenes.joints(mix)
        placed = self._place(mix, num_clips * mix.num_sounds, generator)
        fields, dry = self._record(placed, int(np.diff(joints).max()), mix, generator, noise)
        foa = fields.new_zeros(num_clips, 4, int(joints[-1]))
        by_clip = fields.unflatten(0, (num_clips, mix.num_sounds))
        for number, (start, end) in enumerate(zip(joints[:-1].tolist(), joints[1:].tolist(), strict=True)):
            foa[:, :, start:end] = by_clip[:, number, :, : end - start]
        features = self.extractor(foa)
        directions = np.einsum("nij,nj->ni", placed.turns, self._directions(placed.places))
        truth = self.scenes.describe(placed.rows, directions, generator)
        heard = None
        if self.scenes.teacher.model is not None:
            shortest = int(np.diff(joints).min())
            truth["teacher"], truth["tags"], heard = self.scenes.teacher.listen_on_device(dry[:, :shortest])
        else:
            truth["teacher"] = torch.from_numpy(self.scenes.teacher.embeddings[placed.rows])
            truth["tags"] = torch.from_numpy(self.scenes.teacher.tags[placed.rows])
        for name in ("doa", "labels", "sectors", "teacher", "tags"):
            truth[name] = truth[name].unflatten(0, (num_clips, mix.num_sounds)).to(self.device)
        return Example(
            features=torch.stack([mask_mels(clip, mix.mask_mels, generator) for clip in features]),
            spans=torch.tensor(token_spans(joints, self.scenes.features.hop_samples)),
            heard=heard if mix.hints else None,
            **truth,
        )

    def _place(self, mix: SceneMix, count: int, generator: np.random.Generator) -> Placed:
        """Random sounds at random places, with random turns."""
        turns = np.stack([random_tilt(mix.tilt_deg, generator) @ random_symmetry(generator) for _ in range(count)])
        chosen = generator.random(count) < mix.any_axis
        turns[chosen] = AXIS_TURNS[generator.integers(len(AXIS_TURNS), size=int(chosen.sum()))] @ turns[chosen]
        rows = self.scenes.choose(mix, count, generator)
        return Placed(rows, generator.integers(len(self.scenes.rooms), size=count), turns)

    def _directions(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        rooms = self.scenes.rooms
        return unit_vector(rooms.azimuth_rad[places].astype(float), rooms.elevation_rad[places].astype(float))

    def _record(
        self, placed: Placed, length: int, mix: SceneMix, generator: np.random.Generator, noise: torch.Generator
    ) -> tuple[Float[Tensor, "sounds 4 samples"], Float[Tensor, "sounds samples"]]:
        """What the microphone records of each sound, at its level, with sensor noise; and the sound without its room.

        The distractor is in both.
        """
        fields, dry = self._hear(placed, length, mix, generator)
        crowded = np.flatnonzero(generator.random(len(placed.rows)) < mix.distractor)
        if len(crowded):
            others = Placed(
                self.scenes.choose(mix, len(crowded), generator),
                self._elsewhere(placed.places[crowded], generator),
                placed.turns[crowded],
            )
            gains = 10 ** (-generator.uniform(*mix.distractor_db, size=len(crowded)) / 20)
            other_fields, other_dry = self._hear(others, length, mix, generator)
            fields[crowded] += self._column(gains) * other_fields
            dry[crowded] += self._column(gains)[:, 0] * other_dry
        fields *= self._column(10 ** (generator.uniform(*mix.level_dbfs, size=len(fields)) / 20))
        deviation = self._column(10 ** (-generator.uniform(*mix.snr_db, size=len(fields)) / 20)) * _level(fields[:, :1])
        return fields + deviation * torch.randn(fields.shape, generator=noise, device=self.device), dry

    def _elsewhere(self, places: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """For each place another one in the same room, or the same where a room has only one."""
        rooms = self.scenes.rooms.room_index[places]
        first, count = self.first_of_room[rooms], self.places_in_room[rooms]
        steps = generator.integers(1, np.maximum(count, 2))
        return first + (places - first + np.where(count > 1, steps, 0)) % count

    def _hear(
        self, placed: Placed, length: int, mix: SceneMix, generator: np.random.Generator
    ) -> tuple[Float[Tensor, "sounds 4 samples"], Float[Tensor, "sounds samples"]]:
        """The field of each sound in its room, and the dry sound. W and the dry sound have a root mean square of 1."""
        speed = generator.uniform(*mix.speed, size=len(placed.rows))
        dry = self._excerpts(placed.rows, length, speed, generator)
        responses = self._omni_pulses(len(dry)) if mix.dry else self._turned_responses(placed)
        size = _fast_size(length + responses.shape[-1] - 1)
        spectrum = torch.fft.rfft(dry, size)
        if mix.colour_db:
            gains = octave_gains(size, SAMPLE_RATE_HZ, mix.colour_db, generator, count=len(dry))
            spectrum = spectrum * torch.from_numpy(gains).to(self.device)
            dry = torch.fft.irfft(spectrum, size)[..., :length]
        fields = torch.fft.irfft(spectrum[:, None] * torch.fft.rfft(responses, size), size)[..., :length]
        return fields / _level(fields[:, :1]).clamp_min(1e-9), dry / _level(dry).clamp_min(1e-9)

    def _omni_pulses(self, count: int) -> Float[Tensor, "sounds 4 1"]:
        """Responses of no room and no direction."""
        pulses = torch.zeros(count, 4, 1, device=self.device)
        pulses[:, 0] = 1.0
        return pulses

    def _turned_responses(self, placed: Placed) -> Float[Tensor, "sounds 4 taps"]:
        taps = torch.from_numpy(self.taps[placed.places]).to(self.device)
        offsets = torch.from_numpy(self.scenes.rooms.offsets[placed.places]).to(self.device)
        index = torch.arange(int(taps.max()), device=self.device)
        inside = index < taps[:, None]
        gathered = self.responses[:, torch.where(inside, offsets[:, None] + index, 0)].float() * inside
        turns = torch.from_numpy(np.stack([foa_rotation(turn) for turn in placed.turns])).float().to(self.device)
        return torch.einsum("nij,jnt->nit", turns, gathered)

    def _excerpts(
        self, rows: NDArray[np.int64], length: int, speed: NDArray[np.float64], generator: np.random.Generator
    ) -> Float[Tensor, "sounds samples"]:
        """A loud piece of each sound, `speed` times as fast; a shorter sound is repeated, with random gaps."""
        lengths = self.lengths[rows]
        needed = np.ceil(length * speed).astype(np.int64)
        is_long = lengths >= needed
        begin = self._loud_starts(rows, np.minimum(needed, lengths), generator)
        silence = generator.uniform(0, np.maximum(1, (needed - lengths) // 4))
        gaps = np.where(generator.random(len(rows)) < 0.5, generator.uniform(0, lengths / 2), 0.0).round()
        # Places in float64: float32 would shift the samples of a long sound by a hundredth of their distance.
        origin, period, step = (
            torch.from_numpy(values).to(self.device)[:, None]
            for values in (np.where(is_long, begin, -silence), np.where(is_long, np.inf, lengths + gaps), speed)
        )
        at = torch.arange(length, device=self.device) * step + origin
        return self._interpolated(rows, at.remainder(period)) * (at >= 0)

    def _interpolated(
        self, rows: NDArray[np.int64], at: Float[Tensor, "sounds samples"]
    ) -> Float[Tensor, "sounds samples"]:
        """Samples between the samples of each sound, by cubic (Catmull-Rom) splines; silence beyond its end."""
        last = torch.from_numpy(self.lengths[rows] - 1).to(self.device)[:, None]
        start = torch.from_numpy(self.starts[rows]).to(self.device)[:, None]
        whole = at.floor()
        t, index = (at - whole).float(), whole.long()

        def sample(shift: int) -> Tensor:
            place = index + shift
            return self.samples[start + place.clamp(min=0).minimum(last)].float() * (place <= last) / FULL_SCALE

        a, b, c, d = (sample(shift) for shift in (-1, 0, 1, 2))
        return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))

    def _loud_starts(
        self, rows: NDArray[np.int64], lengths: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """First sample of the loudest of some random pieces of these lengths, relative to each sound."""
        starts = generator.integers((self.lengths[rows] - lengths + 1)[:, None], size=(len(rows), NUM_PIECES))
        begin = (self.starts[rows][:, None] + starts) // ENERGY_BLOCK
        end = (self.starts[rows][:, None] + starts + lengths[:, None]) // ENERGY_BLOCK
        loudest = np.argmax(self.energy[end] - self.energy[begin], axis=1)
        return starts[np.arange(len(rows)), loudest]

    def _energy_of_blocks(self) -> NDArray[np.float64]:
        """Energy of all blocks before each, over the whole bank."""
        samples, step = self.scenes.bank.samples, ENERGY_BLOCK * 4096
        sums = [np.zeros(1)]
        for start in range(0, len(samples), step):
            squares = np.square(samples[start : start + step].astype(np.float32))
            sums.append(np.add.reduceat(squares, np.arange(0, len(squares), ENERGY_BLOCK)).astype(np.float64))
        return np.cumsum(np.concatenate(sums))

    def _column(self, values: NDArray) -> Float[Tensor, "sounds 1 1"]:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)[:, None, None]


def _level(samples: Float[Tensor, "*channels samples"]) -> Float[Tensor, "*channels 1"]:
    """Root mean square."""
    return samples.square().mean(dim=-1, keepdim=True).sqrt()


def _fast_size(size: int) -> int:
    """The next length whose prime factors are 2 and 3 alone, for the FFT."""
    fitting = (2**a * 3**b for a in range(24) for b in range(4))
    return min(candidate for candidate in fitting if candidate >= size)

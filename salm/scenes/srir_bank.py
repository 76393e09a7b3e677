"""Many room responses in memory, packed: what training convolves its dry sounds with."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from salm.errors import SceneError
from salm.scenes.rooms import WALL_SPREAD, Room, sample_positions, sample_room
from salm.scenes.srir import Srir, simulate_srir


@dataclass(frozen=True, eq=False)
class SrirBank:
    """Responses of different lengths, end to end.

    Args:
        samples: (4, total taps), float16 or float32; response i is ``samples[:, offsets[i]:offsets[i + 1]]``.
        offsets: (count + 1,) int64.
        azimuth_rad, elevation_rad, distance_m, rt60_s: (count,) float32, see `Srir`.
        room_index: (count,) int64 into `rooms`; the responses of one room are neighbours.
        rooms: the rooms.
        sample_rate: of all responses, in Hz.
    """

    samples: NDArray
    offsets: NDArray[np.int64]
    azimuth_rad: NDArray[np.float32]
    elevation_rad: NDArray[np.float32]
    distance_m: NDArray[np.float32]
    rt60_s: NDArray[np.float32]
    room_index: NDArray[np.int64]
    rooms: tuple[Room, ...]
    sample_rate: int

    def __len__(self) -> int:
        return len(self.azimuth_rad)

    def __getitem__(self, index: int) -> Srir:
        """Response `index` as float32; negative indices count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"response {index} of a bank of {len(self)}")
        index %= len(self)
        return Srir(
            response=self.samples[:, self.offsets[index] : self.offsets[index + 1]].astype(np.float32),
            azimuth_rad=float(self.azimuth_rad[index]),
            elevation_rad=float(self.elevation_rad[index]),
            distance_m=float(self.distance_m[index]),
            rt60_s=float(self.rt60_s[index]),
            room=self.rooms[self.room_index[index]],
        )

    @classmethod
    def simulate(
        cls,
        num_rooms: int,
        positions_per_room: int = 3,
        seed: int = 0,
        *,
        sample_rate: int = 24000,
        rt60_range_s: tuple[float, float] = (0.1, 0.8),
        receiver: str = "centre",
        wall_spread: float = WALL_SPREAD,
        workers: int = 1,
        dtype: str = "float16",
        progress: Callable[[int, int], None] | None = None,
    ) -> "SrirBank":
        """Simulate the responses of random rooms.

        Room i and its positions depend on `seed` and i alone: the same for any number of workers, and the first rooms
        of a larger bank.

        Args:
            receiver: see `sample_positions`. `wall_spread`: see `sample_room`.
            workers: processes; with 1 everything runs in this one.
            dtype: "float16" halves the memory; its rounding error is 66 dB under each sample.
            progress: called with the number of finished rooms and `num_rooms`.

        Raises:
            SceneError: a count is not positive, or the RT60 range is impossible.
        """
        if num_rooms < 1 or positions_per_room < 1:
            raise SceneError(f"expected at least one room and position, got {num_rooms} and {positions_per_room}")
        job = partial(
            _simulate_room, seed=seed, count=positions_per_room, sample_rate=sample_rate, rt60_range_s=rt60_range_s,
            receiver=receiver, wall_spread=wall_spread, dtype=dtype,
        )  # fmt: skip
        srirs: list[Srir] = []
        for done, of_room in enumerate(_run(job, num_rooms, workers), start=1):
            srirs.extend(of_room)
            if progress is not None:
                progress(done, num_rooms)
        return cls.pack(srirs, sample_rate, dtype)

    @classmethod
    def pack(cls, srirs: Sequence[Srir], sample_rate: int, dtype: str = "float16") -> "SrirBank":
        """A bank of given responses, in their order."""
        if not srirs:
            raise SceneError("a bank needs at least one response")
        rooms = tuple(dict.fromkeys(srir.room for srir in srirs))
        number = {room: index for index, room in enumerate(rooms)}
        return cls(
            samples=np.concatenate([srir.response.astype(dtype) for srir in srirs], axis=1),
            offsets=np.cumsum([0, *(srir.response.shape[1] for srir in srirs)], dtype=np.int64),
            azimuth_rad=np.array([srir.azimuth_rad for srir in srirs], np.float32),
            elevation_rad=np.array([srir.elevation_rad for srir in srirs], np.float32),
            distance_m=np.array([srir.distance_m for srir in srirs], np.float32),
            rt60_s=np.array([srir.rt60_s for srir in srirs], np.float32),
            room_index=np.array([number[srir.room] for srir in srirs], np.int64),
            rooms=rooms,
            sample_rate=sample_rate,
        )

    def save(self, path: str | Path) -> None:
        """Write the bank as an uncompressed `.npz` file; a half-written file never takes the name."""
        path = Path(path)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        partial_path = path.with_name(path.name + ".partial")
        with partial_path.open("wb") as file:
            np.savez(
                file,
                **arrays,
                dimensions_m=np.array([room.dimensions_m for room in self.rooms]),
                absorption=np.array([room.absorption for room in self.rooms]),
                sample_rate=self.sample_rate,
            )
        partial_path.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "SrirBank":
        """Read a bank that `save` wrote.

        Raises:
            SceneError: the file is missing or is no bank.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                rooms = tuple(
                    Room(tuple(size), tuple(tuple(wall) for wall in walls))
                    for size, walls in zip(stored["dimensions_m"].tolist(), stored["absorption"].tolist(), strict=True)
                )
                arrays = {name: stored[name] for name in _ARRAYS}
                return cls(**arrays, rooms=rooms, sample_rate=int(stored["sample_rate"]))
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise SceneError(
                f"{path}: not a bank of room responses ({error}); make one with SrirBank.simulate"
            ) from error


_ARRAYS = ("samples", "offsets", "azimuth_rad", "elevation_rad", "distance_m", "rt60_s", "room_index")


def _run(job: Callable[[int], list[Srir]], num_rooms: int, workers: int) -> Iterator[list[Srir]]:
    if workers <= 1:
        yield from map(job, range(num_rooms))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(job, range(num_rooms), chunksize=8)


def _simulate_room(
    index: int,
    *,
    seed: int,
    count: int,
    sample_rate: int,
    rt60_range_s: tuple[float, float],
    receiver: str,
    wall_spread: float,
    dtype: str,
) -> list[Srir]:
    """The responses of room `index` of the bank with this seed, rounded to `dtype`."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    room = sample_room(generator, rt60_range_s, wall_spread)
    srirs = [
        simulate_srir(room, place.source_m, place.receiver_m, sample_rate, generator=generator)
        for place in sample_positions(room, generator, count, receiver)
    ]
    return [
        Srir(s.response.astype(dtype), s.azimuth_rad, s.elevation_rad, s.distance_m, s.rt60_s, s.room) for s in srirs
    ]

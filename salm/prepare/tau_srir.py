"""The TAU-SRIR DB's measured room responses -> a bank of responses for `salm simulate --srirs`.

Each response is shifted and scaled like the simulated ones (`scenes.srir`): its direct sound comes at `DIRECT_S` and
has the energy of a unit impulse. Its direction is the measured one of the database. It is compared with that of the
intensity of the direct sound, so that another channel order, swapped axes or shifted positions do not go unnoticed.

The bank's rooms are stand-ins: boxes of the measured size whose walls all absorb what gives the measured reverberation
time (Sabine). Responses of 0.3 s bound the reverberation times that can be measured on them.
"""

from collections.abc import Collection as AnyCollection
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from salm.errors import SceneError
from salm.geometry import angle_between, azimuth_elevation
from salm.prepare.report import Problem, Report
from salm.prepare.sounds import require_folder
from salm.prepare.tau_files import MeasuredRoom, read_responses, read_rooms, room_file
from salm.progress import Progress
from salm.scenes.rooms import Room
from salm.scenes.srir import DIRECT_S, decay_time
from salm.scenes.srir_bank import SrirBank

MAX_MEDIAN_ERROR_DEG = 30.0
"""Median angle between the intensity of the direct sound and the given direction, above which a room is refused."""
RT60_BAND_HZ = (354.0, 1414.0)
"""The 500 Hz and 1 kHz octaves, in which `Srir.rt60_s` is measured."""
BEFORE_S, AFTER_S = 0.001, 0.0015
"""What is taken as direct sound, before and after its peak; the floor's reflection comes later than that."""
UNKNOWN_SIZE_M = (10.0, 10.0, 10.0)


@dataclass
class _Gathered:
    """The usable responses so far: an item for each response, trajectory or room."""

    samples: list[NDArray] = field(default_factory=list)
    directions: list[NDArray[np.float64]] = field(default_factory=list)
    distances_m: list[NDArray[np.float64]] = field(default_factory=list)
    rt60_s: list[NDArray[np.float64]] = field(default_factory=list)
    room_index: list[NDArray[np.int64]] = field(default_factory=list)
    rooms: list[Room] = field(default_factory=list)


def prepare_tau_srir(
    folder: str | Path,
    *,
    rooms: AnyCollection[str] = (),
    every: int = 1,
    dtype: str = "float16",
    progress: Progress | None = None,
) -> tuple[SrirBank, Report]:
    """A bank of the measured responses; its memory is 58 kB a response in float16 (2.2 GB for all 38,530).

    Args:
        folder: ``TAU-SRIR_DB``, with ``rirdata.mat``, ``measinfo.mat`` and the rooms' files.
        rooms: names, such as "gym"; by default all. Training and test take different rooms.
        every: takes every n-th position of a trajectory; neighbours are about 1 degree apart.
        dtype: of the responses in the bank, "float16" or "float32".
        progress: called with the number of finished trajectories and of all.

    Returns:
        The bank, and the report: rooms without file are missing, silent or broken responses are unusable.

    Raises:
        SceneError: a file is not as `tau_files` describes it, the directions do not fit, or no response is left.
        ManifestError: no such folder.
        DependencyError: h5py or scipy is not installed.
    """
    folder = require_folder(folder, "the folder TAU-SRIR_DB")
    known, rate = read_rooms(folder)
    names = [room.name for room in known]
    if not set(rooms) <= set(names) or every < 1 or dtype not in ("float16", "float32"):
        raise SceneError(
            f"expected rooms out of {', '.join(names)}, every >= 1 and float16 or float32; got "
            f"{', '.join(rooms) or 'all'}, {every} and {dtype}"
        )
    chosen = [room for room in known if not rooms or room.name in rooms]
    report, gathered = Report("TAU-SRIR DB"), _Gathered()
    total, done = sum(len(_positions(room, every)) for room in chosen), 0
    for room in chosen:
        count = sum(_positions(room, every))
        report.listed += count
        path = room_file(folder, room.name)
        if path is None:
            report.missing.append(Problem(f"room {room.name}", f"no file rirs_XX_{room.name}.mat in {folder}", count))
            done += len(_positions(room, every))
            continue
        for _ in _gather(path, room, every, rate, dtype, gathered, report):
            done += 1
            if progress is not None:
                progress(done, total)
    if not gathered.samples:
        raise SceneError(f"{folder}: no response in {', '.join(room.name for room in chosen)}: {report.summary}")
    bank = _bank(gathered, rate)
    report.kept = len(bank)
    return bank, report


def align(response: NDArray[np.float32], sample_rate: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A response (4, samples) as those of `scenes.srir` are, and the intensity (x, y, z) of its direct sound.

    The direct sound is the first peak of W of at least half its highest magnitude. It is moved to `DIRECT_S` and,
    summed over `BEFORE_S` before to `AFTER_S` behind it, gets the energy 1. What is moved out at the front is cut, at
    the end zeros follow.

    Raises:
        SceneError: the response is silent or not finite.
    """
    w = np.abs(response[0])
    if not np.isfinite(response).all() or not w.any():
        raise SceneError(f"{'silent' if np.isfinite(response).all() else 'not finite'}; expected an impulse response")
    onset = int(np.argmax(w >= 0.5 * w.max()))
    peak = onset + int(np.argmax(w[onset : onset + max(1, round(BEFORE_S * sample_rate))]))
    direct = response[:, max(0, peak - round(BEFORE_S * sample_rate)) : peak + round(AFTER_S * sample_rate)]
    w, y, z, x = direct.astype(np.float64)
    aligned = np.zeros_like(response)
    target = round(DIRECT_S * sample_rate)
    taken = response[:, max(0, peak - target) : peak - target + response.shape[1]]
    first = max(0, target - peak)
    aligned[:, first : first + taken.shape[1]] = taken[:, : response.shape[1] - first] / np.sqrt(np.sum(w**2))
    return aligned, np.array([np.sum(w * x), np.sum(w * y), np.sum(w * z)])


def _positions(room: MeasuredRoom, every: int) -> list[int]:
    """How many responses are taken of each trajectory that was measured."""
    return [len(directions[::every]) for row in room.directions for directions in row if len(directions)]


def _gather(
    path: Path, room: MeasuredRoom, every: int, rate: int, dtype: str, gathered: _Gathered, report: Report
) -> Iterator[None]:
    """Add the responses of one room; yields after each trajectory.

    Raises:
        SceneError: the file is not as expected, or the directions are not those of the responses.
    """
    band = butter(4, RT60_BAND_HZ, "bandpass", fs=rate, output="sos")
    errors: list[float] = []
    rt60_s: list[float] = []
    estimated = 0
    for trajectory, height, directions, responses in read_responses(path, room, every):
        kept, aligned = [], []
        for number, response in enumerate(responses):
            try:
                shifted, intensity = align(response, rate)
            except SceneError as error:
                name = f"room {room.name} trajectory {trajectory + 1} height {height + 1} position {1 + every * number}"
                report.unusable.append(Problem(name, str(error)))
                continue
            kept.append(number)
            aligned.append(shifted.astype(dtype))
            errors.append(float(np.degrees(angle_between(intensity, directions[number]))) if intensity.any() else 180.0)
            rt60_s.append(decay_time(sosfilt(band, shifted[0]), rate))
        if kept:
            distances_m, known = room.distances_m(trajectory, directions[kept])
            estimated += 0 if known else len(kept)
            gathered.samples += aligned
            gathered.directions.append(directions[kept])
            gathered.distances_m.append(distances_m)
        yield
    if not errors:
        return
    gathered.rt60_s.append(np.array(rt60_s))
    gathered.room_index.append(np.full(len(errors), len(gathered.rooms)))
    gathered.rooms.append(_stand_in(room, float(np.median(rt60_s))))
    _check_directions(path, room, float(np.median(errors)))
    note = f"room {room.name}: {len(errors)} responses, RT60 {np.median(rt60_s):.2f} s, directions agree within "
    report.notes.append(note + f"{np.median(errors):.1f} degrees (median)")
    if room.dimensions_m is None:
        report.notes.append(f"room {room.name}: measinfo.mat gives no three dimensions; the bank holds a 10 m cube")
    if estimated:
        report.notes.append(f"room {room.name}: {estimated} distances are those of the path, not of the position")


def _check_directions(path: Path, room: MeasuredRoom, median_error_deg: float) -> None:
    if median_error_deg > MAX_MEDIAN_ERROR_DEG:
        raise SceneError(
            f"{path}: room {room.name}: the direct sounds come from elsewhere than rirdata.mat says: median error "
            f"{median_error_deg:.0f} degrees, expected at most {MAX_MEDIAN_ERROR_DEG:.0f}; expected channels W, Y, Z, "
            "X and directions x front, y left, z up, in the same order; is it version 1 of the database?"
        )


def _stand_in(room: MeasuredRoom, rt60_s: float) -> Room:
    """A box of the room's size with the uniform absorption that gives this reverberation time. Source: Sabine."""
    length, width, height = size = room.dimensions_m or UNKNOWN_SIZE_M
    surface = 2 * (length * width + length * height + width * height)
    absorption = 0.161 * length * width * height / (surface * max(rt60_s, 1e-3))
    return Room.uniform(size, float(np.clip(absorption, 0.01, 1.0)))


def _bank(gathered: _Gathered, rate: int) -> SrirBank:
    azimuth, elevation = azimuth_elevation(np.concatenate(gathered.directions))
    return SrirBank(
        samples=np.concatenate(gathered.samples, axis=1),
        offsets=np.cumsum([0, *(response.shape[1] for response in gathered.samples)], dtype=np.int64),
        azimuth_rad=azimuth.astype(np.float32),
        elevation_rad=elevation.astype(np.float32),
        distance_m=np.concatenate(gathered.distances_m).astype(np.float32),
        rt60_s=np.concatenate(gathered.rt60_s).astype(np.float32),
        room_index=np.concatenate(gathered.room_index).astype(np.int64),
        rooms=tuple(gathered.rooms),
        sample_rate=rate,
    )

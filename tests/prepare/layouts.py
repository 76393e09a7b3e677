"""Tiny folders in the layouts of public data sets."""

import csv
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.io import savemat

from salm.geometry import foa_gains, unit_vector

RATE = 24_000
TAPS = 2_400
DELAY = 130


def write_table(path: Path, rows: Sequence[Sequence[object]], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def write_sound(path: Path, seed: int, seconds: float = 0.1, rate: int = 8_000) -> Path:
    """Noise, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-9000, 9000, round(seconds * rate), dtype=np.int16)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def write_clotho(folder: Path) -> tuple[Path, Path]:
    """Four clips, one missing, one silent; one name begins with a space. Captions table and folder of audio."""
    names = ["Rain on roof.wav", " Ambience Birds.wav", "gone.wav", "silent.wav"]
    header = ["file_name", *(f"caption_{number}" for number in range(1, 6))]
    rows = [[name, *(f"{name[:4].strip()} is heard, {number}." for number in range(1, 6))] for name in names]
    table = write_table(folder / "clotho_captions_development.csv", [header, *rows])
    audio = folder / "development"
    write_sound(audio / names[0], 0)
    write_sound(audio / names[1], 1)
    soundfile.write(audio / names[3], np.zeros(800), 8_000)
    return table, audio


def write_clotho_metadata(folder: Path) -> None:
    """In Latin-1, as Zenodo has it; one sound has no Freesound id."""
    header = ["file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"]
    rows = [
        ["Rain on roof.wav", "rain;roof", "120383", "https://freesound.org/s/120383", "[0, 9]", "Åsa", "CC0 1.0"],
        [" Ambience Birds.wav", "birds", "Not found", "Not found", "", "Not found", ""],
    ]
    write_table(folder / "clotho_metadata_development.csv", [header, *rows], encoding="latin-1")


def write_esc50(folder: Path) -> Path:
    """Five clips of three recordings in two folds, one of them missing."""
    rows = [
        ("1-100032-A-0.wav", 1, 0, "dog", True, 100032, "A"),
        ("1-100032-B-0.wav", 1, 0, "dog", True, 100032, "B"),
        ("1-17124-A-43.wav", 1, 43, "car_horn", False, 17124, "A"),
        ("2-9-A-12.wav", 2, 12, "crackling_fire", True, 9, "A"),
        ("2-10-A-12.wav", 2, 12, "crackling_fire", True, 10, "A"),
    ]
    write_table(
        folder / "meta" / "esc50.csv", [("filename", "fold", "target", "category", "esc10", "src_file", "take"), *rows]
    )
    for seed, row in enumerate(rows[:4]):
        write_sound(folder / "audio" / str(row[0]), seed, seconds=0.05 * (seed + 1))
    return folder


def circle(num_positions: int, elevation_deg: float) -> NDArray[np.float64]:
    """Unit vectors around the microphone."""
    return unit_vector(np.arange(num_positions) * 2 * np.pi / num_positions - 3.0, np.radians(elevation_deg))


def line(num_positions: int, x_m: float, z_m: float) -> NDArray[np.float64]:
    """Unit vectors to points of a path that is parallel to y."""
    points = np.stack([np.full(num_positions, x_m), np.linspace(-2, 2, num_positions), np.full(num_positions, z_m)], 1)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def responses(directions: NDArray[np.float64], seed: int, rt60_s: float = 0.1) -> NDArray[np.float64]:
    """Responses (samples, 4, positions): a direct sound of -0.25 at `DELAY` and a weak decaying tail."""
    generator = np.random.default_rng(seed)
    azimuth, elevation = np.arctan2(directions[:, 1], directions[:, 0]), np.arcsin(directions[:, 2])
    after = np.arange(TAPS) - DELAY
    tail = (
        generator.standard_normal((TAPS, 4, len(directions)))
        * np.where(after > 60, 10 ** (-3 * after / RATE / rt60_s), 0)[:, None, None]
    )
    foa = 0.01 * tail
    foa[DELAY] -= 0.25 * foa_gains(azimuth, elevation).T
    return foa


class TauFolder:
    """The database with a circular room "gym" (two groups, two heights, one of them unmeasured) and a linear "tb103".

    What a test changes in `data`, `info` and `rirs` before `write` is in the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        empty = np.zeros((0, 3))
        self.directions = {
            "gym": [[circle(12, -20.0), circle(12, 30.0)], [circle(8, 0.0), empty]],
            "tb103": [[line(5, 3.0, 0.5)], [line(5, -1.5, 0.2)]],
        }
        self.files = {"gym": "rirs_02_gym.mat", "tb103": "rirs_09_tb103.mat"}
        self.rirs = {
            name: [
                [responses(cell, 10 * row + column) for column, cell in enumerate(cells)]
                for row, cells in enumerate(rows)
            ]
            for name, rows in self.directions.items()
        }
        self.fs: object = 24000.0
        self.distances: dict[str, object] = {"gym": np.array([[2.0, 4.0]]), "tb103": np.zeros((1, 3, 2))}
        self.distances["tb103"][0, 0] = [3.0, 1.5]  # type: ignore[index]
        self.dimensions: dict[str, object] = {"gym": np.array([[26.0, 16.0, 9.0]]), "tb103": np.zeros((0, 0))}
        self.kinds = {"gym": "circular", "tb103": "linear"}

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        savemat(self.folder / "rirdata.mat", {"rirdata": self._rirdata()})
        savemat(self.folder / "measinfo.mat", {"measinfo": self._measinfo()})
        for name, file_name in self.files.items():
            write_rirs(self.folder / file_name, self.rirs[name])
        return self.folder

    def _rirdata(self) -> dict[str, object]:
        rooms = np.empty((len(self.directions), 1), [(key, object) for key in ("name", "year", "rirs", "nRirs")])
        for number, (name, rows) in enumerate(self.directions.items()):
            cells = np.empty((len(rows), len(rows[0])), [("doa_xyz", object)])
            for row, trajectory in enumerate(rows):
                for column, directions in enumerate(trajectory):
                    cells[row, column]["doa_xyz"] = directions
            rooms[number, 0] = (name, 2019.0, cells, np.array([[len(cell) for cell in row] for row in rows], float))
        return {"fs": self.fs, "room": rooms, "tetra_mic_radius_m": 0.042, "norm": "sn3d", "order": "wyzx"}

    def _measinfo(self) -> NDArray:
        keys = ("room", "dimensions", "distances", "trajectoryType")
        rows = np.empty((len(self.directions), 1), [(key, object) for key in keys])
        for number, name in enumerate(self.directions):
            rows[number, 0] = (name, self.dimensions[name], self.distances[name], self.kinds[name])
        return rows


def write_rirs(path: Path, rirs: Sequence[Sequence[NDArray[np.float64]]]) -> None:
    """A MATLAB 7.3 file as MATLAB writes structure arrays: references, every axis reversed, empties marked."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name in ("foa", "mic"):
            cells = file.create_dataset(f"rirs/{name}", (len(rirs[0]), len(rirs)), h5py.ref_dtype)
            for row, trajectory in enumerate(rirs):
                for column, foa in enumerate(trajectory):
                    if foa.size:
                        stored = file.create_dataset(f"#refs#/{name}{row}_{column}", data=foa.T)
                    else:
                        stored = file.create_dataset(f"#refs#/{name}{row}_{column}", data=np.zeros(2, np.uint64))
                        stored.attrs["MATLAB_empty"] = np.uint8(1)
                    stored.attrs["MATLAB_class"] = np.bytes_("double")
                    cells[column, row] = stored.ref
        file["rirs"].attrs["MATLAB_class"] = np.bytes_("struct")

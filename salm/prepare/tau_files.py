"""The MATLAB files of the TAU Spatial Room Impulse Response Database (TAU-SRIR DB, Zenodo 6408611), as they are stored.

Known from the database's own description: the folder ``TAU-SRIR_DB`` has one ``rirs_XX_<room>.mat`` a room with an
array `rirs` (trajectory groups x heights) of structures whose field `foa` is (samples, 4, positions); ``rirdata.mat``
has `rirdata.room`, one structure a room, whose first field is the room's name and whose field `rirs` (trajectory groups
x heights) holds `doa_xyz` (positions, 3): unit vectors, x front, y left, z up. The FOA channels are W, Y, Z, X with
SN3D gains. ``measinfo.mat`` has the rooms' sizes and the trajectories' distances.

Known only from programs that others published: the rooms' files are HDF5 (MATLAB 7.3), in which the axes of `rirs` and
of `foa` are reversed and `rirs/foa` holds references; the two others are MATLAB 5; the sampling rate is `rirdata.fs`;
`measinfo` (rooms x 1) has the fields `room`, `dimensions`, `distances` (circular: the radius about the vertical axis of
the microphone, one for each trajectory group; linear: (3, groups), of which the first row is the distance from the
microphone of a path that is parallel to y) and `trajectoryType` ("circular", "linear").

No file of the database was at hand when this was written. So whatever is used is checked, and a file that differs is
refused with what was expected; `tau_srir` also compares the directions with the responses themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from salm.errors import DependencyError, SceneError

_DOWNLOAD = "is it TAU-SRIR_DB of Zenodo 6408611, unpacked whole?"
_MIN_LATERAL = 0.05  # |x| of a unit vector, below which a path parallel to y cannot be told from one that is not


@dataclass(frozen=True)
class MeasuredRoom:
    """One room of the database.

    Args:
        directions: unit vectors (positions, 3) by trajectory group and height; (0, 3) where nothing was measured.
        dimensions_m: length, width, height; None where the database does not give three.
        trajectory_type: "circular" or "linear".
        distances: (rows, trajectory groups) as stored.
    """

    name: str
    directions: tuple[tuple[NDArray[np.float64], ...], ...]
    dimensions_m: tuple[float, float, float] | None
    trajectory_type: str
    distances: NDArray[np.float64]

    def distances_m(self, trajectory: int, directions: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
        """Distances of positions in these directions (positions, 3), and whether they are more than an estimate.

        On a circle about the vertical axis the distance follows from the elevation, on a path parallel to y from the
        azimuth and the elevation. Directions that fit no such path get the path's own distance, which is the shortest.
        """
        reach = float(abs(self.distances[0, trajectory]))
        across = np.hypot(directions[:, 0], directions[:, 1])
        if self.trajectory_type == "linear":
            across = np.abs(directions[:, 0])
            if np.ptp(np.sign(directions[:, 0])) > 0:
                return np.full(len(directions), reach), False
        known = bool(np.all(across >= _MIN_LATERAL))
        return (reach / across, True) if known else (np.full(len(directions), reach), False)


def read_rooms(folder: Path) -> tuple[list[MeasuredRoom], int]:
    """The rooms that the database lists, and its sampling rate in Hz.

    Raises:
        SceneError: ``rirdata.mat`` or ``measinfo.mat`` is missing or not as described above.
    """
    data_path, info_path = folder / "rirdata.mat", folder / "measinfo.mat"
    data = _structures(_load_mat(data_path), "rirdata", data_path)[0]
    rate = _numbers(_field(data, "fs", data_path), data_path)
    if rate.size != 1 or not 1000 <= rate[0] == round(rate[0]):
        raise SceneError(f"{data_path}: rirdata.fs is {rate.tolist()}; expected one sampling rate in Hz; {_DOWNLOAD}")
    measured = {
        _text(_field(row, "room", info_path), info_path): row
        for row in _structures(_load_mat(info_path), "measinfo", info_path)
    }
    rooms = []
    for room in _field(data, "room", data_path).ravel():
        name = _text(room[room.dtype.names[0]] if getattr(room.dtype, "names", None) else room, data_path)
        cells = _field(room, "rirs", data_path)
        directions = tuple(
            tuple(_directions(cell, f"{data_path}: room {name}") for cell in trajectory)
            for trajectory in np.atleast_2d(cells)
        )
        if name not in measured:
            raise SceneError(f"{info_path}: no room {name}, which {data_path.name} has; {_DOWNLOAD}")
        rooms.append(_room(name, directions, measured[name], info_path))
    if not rooms or len({room.name for room in rooms}) < len(rooms):
        raise SceneError(f"{data_path}: expected rooms of different names, got {[room.name for room in rooms]}")
    return rooms, int(rate[0])


def room_file(folder: Path, name: str) -> Path | None:
    """``rirs_XX_<name>.mat``; None if it is not there.

    Raises:
        SceneError: there are several.
    """
    found = sorted(folder.glob(f"rirs_*_{name}.mat"))
    if len(found) > 1:
        raise SceneError(f"{folder}: several files of room {name}: {', '.join(path.name for path in found)}; keep one")
    return found[0] if found else None


def read_responses(
    path: Path, room: MeasuredRoom, every: int
) -> Iterator[tuple[int, int, NDArray[np.float64], NDArray[np.float32]]]:
    """Trajectory group, height, directions (positions, 3), responses (positions, 4, samples) of every n-th position.

    Raises:
        SceneError: the file is no HDF5, or not as described above, or does not fit the directions.
        DependencyError: h5py is not installed.
    """
    h5py = _h5py()
    shape = (len(room.directions), len(room.directions[0]))
    try:
        with h5py.File(path, "r") as file:
            cells = file.get("rirs/foa")
            if not isinstance(cells, h5py.Dataset) or h5py.check_ref_dtype(cells.dtype) is not h5py.Reference:
                raise SceneError(f"{path}: expected a structure array rirs with a field foa; {_DOWNLOAD}")
            if cells.shape != shape[::-1]:
                raise SceneError(
                    f"{path}: rirs is {cells.shape[::-1]}, expected {shape} trajectory groups and heights as in "
                    f"rirdata.mat; {_DOWNLOAD}"
                )
            for trajectory, row in enumerate(room.directions):
                for height, directions in enumerate(row):
                    stored = file[cells[height, trajectory]]
                    where = f"{path}: rirs({trajectory + 1},{height + 1}).foa"
                    empty = bool(stored.attrs.get("MATLAB_empty", 0)) or stored.size == 0
                    if empty and not len(directions):
                        continue
                    if empty or stored.ndim != 3 or stored.shape[:2] != (len(directions), 4):
                        got = "nothing" if empty else str(stored.shape[::-1])
                        raise SceneError(
                            f"{where}: expected (samples, 4, {len(directions)}), got {got}; rirdata.mat has "
                            f"{len(directions)} directions; {_DOWNLOAD}"
                        )
                    yield trajectory, height, directions[::every], stored[::every].astype(np.float32)
    except OSError as error:
        raise SceneError(f"{path}: not a readable MATLAB 7.3 (HDF5) file ({error}); download it again") from error


def _room(name: str, directions: tuple, info: Any, path: Path) -> MeasuredRoom:
    kind = _text(_field(info, "trajectoryType", path), path)
    stored = _numbers(_field(info, "distances", path), path)
    if kind not in ("circular", "linear") or not stored.size or stored.size % len(directions):
        raise SceneError(
            f"{path}: room {name}: expected a circular or linear trajectoryType and distances for {len(directions)} "
            f"trajectory groups, got {kind!r} and {stored.size} numbers; {_DOWNLOAD}"
        )
    distances = stored.reshape(-1, len(directions))
    if not np.all(np.isfinite(distances[0]) & (distances[0] != 0)):
        raise SceneError(f"{path}: room {name}: expected distances in metres, got {distances[0].tolist()}; {_DOWNLOAD}")
    size = _numbers(_field(info, "dimensions", path), path).tolist()
    measured = len(size) == 3 and all(0 < value < 1000 for value in size)
    return MeasuredRoom(name, directions, (size[0], size[1], size[2]) if measured else None, kind, distances)


def _directions(cell: Any, where: str) -> NDArray[np.float64]:
    stored = np.asarray(_field(cell, "doa_xyz", where))
    if stored.size == 0:
        return np.zeros((0, 3))
    if stored.ndim != 2 or stored.shape[1] != 3 or stored.dtype.kind not in "iuf":
        raise SceneError(
            f"{where}: doa_xyz is {stored.dtype} {stored.shape}, expected numbers (positions, 3); {_DOWNLOAD}"
        )
    lengths = np.linalg.norm(stored, axis=1)
    if not np.all(np.abs(lengths - 1) < 0.01):
        raise SceneError(
            f"{where}: expected unit vectors in doa_xyz, got lengths from {lengths.min():.3g} to "
            f"{lengths.max():.3g}; {_DOWNLOAD}"
        )
    return np.asarray(stored / lengths[:, None], np.float64)


def _load_mat(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SceneError(f"{path}: no such file; expected the folder TAU-SRIR_DB with rirdata.mat and measinfo.mat")
    try:
        return dict(loadmat(path))
    except NotImplementedError as error:
        raise SceneError(f"{path}: a MATLAB 7.3 file, expected MATLAB 5; {_DOWNLOAD}") from error
    except Exception as error:  # a damaged file makes loadmat raise almost anything
        raise SceneError(f"{path}: not a readable MATLAB 5 file ({error}); download it again") from error


def _structures(document: dict[str, Any], name: str, path: Path) -> NDArray:
    value = document.get(name)
    if value is None or value.dtype.names is None or not value.size:
        held = ", ".join(key for key in document if not key.startswith("__")) or "nothing"
        raise SceneError(f"{path}: expected a structure {name}, got {held}; {_DOWNLOAD}")
    return value.ravel()


def _field(structure: Any, name: str, where: object) -> Any:
    names = getattr(getattr(structure, "dtype", None), "names", None) or ()
    if name not in names:
        raise SceneError(f"{where}: expected a field {name}, got {', '.join(names) or 'no structure'}; {_DOWNLOAD}")
    return structure[name]


def _text(value: Any, where: object) -> str:
    array = np.asarray(value)
    while array.dtype.kind == "O" and array.size == 1:
        array = np.asarray(array.ravel()[0])
    if array.dtype.kind != "U" or array.size != 1:
        raise SceneError(f"{where}: expected a word, got {array.dtype} {array.shape}; {_DOWNLOAD}")
    return str(array.ravel()[0])


def _numbers(value: Any, where: object) -> NDArray[np.float64]:
    """The numbers of an array, or of the cells of a cell array, in storage order."""
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return np.concatenate([np.zeros(0), *(_numbers(item, where) for item in array.ravel())])
    if array.dtype.kind not in "iuf":
        raise SceneError(f"{where}: expected numbers, got {array.dtype} {array.shape}; {_DOWNLOAD}")
    return array.astype(np.float64).ravel()


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise DependencyError('reading the TAU-SRIR DB needs h5py: pip install "salm[tau]"') from error
    return h5py

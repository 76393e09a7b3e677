"""Training scenes made once and kept on disk, as half-precision feature maps."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

SCENES_AT_A_TIME = 8
STORED_AS = {
    "features": np.float16,
    "rows": np.int64,
    "directions": np.float32,
    "teacher": np.float16,
    "tags": np.float16,
    "heard": np.float16,
}


class Scene(NamedTuple):
    """One clip.

    Attributes:
        features: its maps.
        rows: the sounds in it, as rows of the sound bank, (sounds,).
        directions: of each, (sounds, 3).
        teacher, tags: what the audio teacher says of each, (sounds, width) and (sounds, 527).
        heard: the teacher's own log-mel map of the dry clip, (128, frames), of `SceneMix.hints`.
    """

    features: Float[Tensor, "maps frames mels"]
    rows: NDArray[np.int64]
    directions: NDArray[np.float64]
    teacher: NDArray[np.float32]
    tags: NDArray[np.float32]
    heard: NDArray[np.float32] | None = None


class SceneStore:
    """A fixed number of scenes in one folder.

    Args:
        folder: of this store alone; `create_or_resume` fills it.
    """

    def __init__(self, folder: Path) -> None:
        files = {name: folder / f"{name}.npy" for name in Scene._fields}
        self.arrays = {name: np.load(file, mmap_mode="r") for name, file in files.items() if file.is_file()}

    def __len__(self) -> int:
        return len(self.arrays["rows"])

    def __getitem__(self, number: int) -> Scene:
        stored = {name: np.array(array[number]) for name, array in self.arrays.items()}
        return Scene(
            torch.from_numpy(stored["features"].astype(np.float32)),
            stored["rows"],
            stored["directions"].astype(np.float64),
            stored["teacher"].astype(np.float32),
            stored["tags"].astype(np.float32),
            stored["heard"].astype(np.float32) if "heard" in stored else None,
        )

    @classmethod
    def create_or_resume(
        cls,
        cache: Path,
        recipe: str,
        scenes: Dataset[Scene],
        count: int,
        *,
        num_workers: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> "SceneStore":
        """The store of `recipe` in `cache`; scenes that an interrupted run left out are made now.

        Args:
            recipe: everything that the scenes depend on; another recipe is another folder.
            scenes: item i is scene i, for i below `count`.
        """
        folder = cache / f"scenes-{hashlib.sha256(f'{recipe} {count}'.encode()).hexdigest()[:16]}"
        if not (folder / "done.npy").is_file():
            _allocate(folder, scenes[0], count)
        done = open_memmap(folder / "done.npy", mode="r+")
        missing = np.flatnonzero(~done).tolist()
        if missing:
            arrays = {name: open_memmap(folder / f"{name}.npy", mode="r+") for name in cls(folder).arrays}
            batches = DataLoader(Subset(scenes, missing), SCENES_AT_A_TIME, num_workers=num_workers, collate_fn=list)
            for start, batch in zip(range(0, len(missing), SCENES_AT_A_TIME), batches, strict=True):
                numbers = missing[start : start + SCENES_AT_A_TIME]
                for number, scene in zip(numbers, batch, strict=True):
                    for name, array in arrays.items():
                        array[number] = getattr(scene, name)
                for array in arrays.values():
                    array.flush()
                done[numbers] = True
                done.flush()
                if progress is not None:
                    progress(count - len(missing) + start + len(numbers), count)
        return cls(folder)


def _allocate(folder: Path, first: Scene, count: int) -> None:
    """Empty files of the final size; `done.npy`, the last one, says that all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, dtype in STORED_AS.items():
        if (array := getattr(first, name)) is not None:
            open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, *array.shape))
    partial = folder / "done.partial.npy"
    np.save(partial, np.zeros(count, dtype=bool))
    partial.replace(folder / "done.npy")

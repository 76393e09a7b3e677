"""What `benchmarks/search.py` searches: synthetic vectors, those of an archive, or real ones and sentences."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DIMENSION = 512
NUM_CENTRES = 1000
SPREAD = 0.8
RECIPE = "centre-v1"
Vectors = NDArray[np.float32]
Searched = tuple[Vectors, Vectors, str]
"""Windows, queries, and what they are."""


def clustered(num_windows: int, num_queries: int) -> Searched:
    """Unit vectors around the same centres every time."""
    rng = np.random.default_rng(num_windows)
    centres = np.random.default_rng(0).standard_normal((NUM_CENTRES, DIMENSION), dtype=np.float32)

    def draw(count: int) -> Vectors:
        vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
        vectors *= SPREAD
        vectors += centres[rng.integers(0, NUM_CENTRES, count)]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return draw(num_windows), draw(num_queries), "synthetic, clustered around 1,000 centres"


def exported(path: Path, num_windows: int, num_queries: int) -> Searched:
    """Those of an npy file, the last of which are the queries."""
    vectors = np.load(path, mmap_mode="r")[: num_windows + num_queries].astype(np.float32)
    return vectors[:-num_queries], vectors[-num_queries:], path.name


def real(data: Path, cache: Path, model_name: str, num_queries: int) -> Searched:
    """The frozen test scenes (1,422) as a model embeds them, in all directions (equation 3), and sentences as queries.

    The first vectors are those of the scenes as they are.

    Args:
        data: folder with `sounds/test`.
        cache: folder for the scenes; made if they are not there.
    """
    from frozen_scenes import build

    import salm
    from salm.evaluate.editing import change
    from salm.evaluate.scenes import azimuths_rad, load_gallery
    from salm.geometry import SECTORS, sector_index
    from salm.progress import progress_on_stderr

    model, folder = salm.load(model_name), cache / RECIPE
    with progress_on_stderr(f"simulating {RECIPE}") as progress:
        build(data / "sounds/test/manifest.csv", folder, RECIPE, progress)
    with progress_on_stderr("encoding") as progress:
        gallery = load_gallery(folder, model, progress=progress)
    sectors = sector_index(azimuths_rad(gallery.scenes))
    parts = [np.asarray(gallery.embedding("joint"))]
    for sector in SECTORS:
        parts.append(np.asarray(change(gallery, model, np.flatnonzero(sectors != sector.index), sector)))
    vectors = np.concatenate(parts).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    captions = sorted({caption for scene in gallery.scenes for caption in scene.spatial_captions})
    chosen = np.random.default_rng(0).permutation(captions)[:num_queries].tolist()
    origin = f"{len(gallery.scenes)} scenes of real sounds by {model.model_id}, each also moved to seven directions"
    return vectors, model.encode_text(chosen), origin

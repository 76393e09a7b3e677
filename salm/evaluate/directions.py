"""Where a sound comes from: zero-shot over eight prompts, and localisation beside an estimate that learned nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import salm.metrics as metrics
from salm.audio.io import SAMPLE_RATE_HZ, read_foa
from salm.errors import AudioFormatError
from salm.evaluate.report import Table, percent
from salm.evaluate.scenes import (
    EMBEDDINGS,
    Gallery,
    Model,
    azimuths_rad,
    directions,
    kept_arrays,
    single_source_rows,
    text_embeddings,
)
from salm.geometry import SECTORS, direction_prompt, sector_index
from salm.manifest import Scene
from salm.metrics import AngularErrors
from salm.progress import Progress

BORDER_MARGIN_DEG = 5.0
"""Sources nearer than this to a border are left out of the second accuracy: there a small error flips the class."""
AZIMUTH_BIN_DEG = 15
"""Width of the bins of `Localisation.by_azimuth`: three in each sector, one of them around its centre."""
PLAIN_ESTIMATES = ("intensity", "unit intensity")
_FFT_SAMPLES = 1024
_LOWEST_HZ = 100.0
_BINS: dict[str, tuple[tuple[float, ...], Callable[[Scene], float | None]]] = {
    "RT60 (s)": ((0.0, 0.2, 0.4, 0.6), lambda scene: scene.room.rt60_s if scene.room else None),
    "distance (m)": ((0.0, 1.0, 2.0, 3.0, 5.0), lambda scene: scene.sources[0].distance_m),
    "SNR (dB)": ((-math.inf, 10.0, 20.0, 30.0), lambda scene: scene.snr_db),
}
"""Lower edges of the bins, each closed below; the last is open above. Scenes without the value are in none."""


@dataclass(frozen=True)
class EightWay:
    """Zero-shot accuracy of one embedding; row of `confusion` = true sector, in the order of `geometry.SECTORS`."""

    count: int
    accuracy: float
    count_away_from_borders: int
    accuracy_away_from_borders: float | None
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class Localisation:
    """Errors of one estimate: over all scenes, per bin of each quantity, and over the true azimuth.

    Attributes:
        azimuth: of the azimuth alone, whatever the elevation.
        by_azimuth: by the centre of the bin in degrees, from -165 to 180; bins without scenes are left out.
    """

    all: AngularErrors
    azimuth: AngularErrors
    bins: dict[str, dict[str, AngularErrors]]
    by_azimuth: dict[int, AngularErrors]


@dataclass(frozen=True)
class DirectionResult:
    """Everything `salm eval direction` prints; scenes with several sources are left out and counted."""

    num_left_out: int
    zero_shot: dict[str, EightWay]
    localisation: dict[str, Localisation]

    def tables(self) -> list[Table]:
        """Zero-shot accuracy, the joint embedding's confusion matrix, localisation."""
        return [_zero_shot_table(self), _confusion_table(self.zero_shot["joint"]), *_localisation_tables(self)]


def evaluate_directions(
    gallery: Gallery, model: Model, *, cache: bool = True, progress: Progress | None = None
) -> DirectionResult:
    """Zero-shot direction of every embedding, and the localisation of the model and of the intensity vectors.

    Args:
        cache: keep the intensity vectors beside the manifest.
        progress: called while those are computed.

    Raises:
        ManifestError: no scene has a single source.
        AudioFormatError: a scene cannot be read, or is silent.
    """
    rows = single_source_rows(gallery.scenes, gallery.manifest)
    scenes = [gallery.scenes[row] for row in rows]
    azimuth = azimuths_rad(scenes)
    prompts = text_embeddings(model, [direction_prompt(sector) for sector in SECTORS])
    zero_shot = {name: eight_way(gallery.embedding(name)[rows] @ prompts.T, azimuth) for name in EMBEDDINGS}
    plain = kept_arrays(
        gallery.manifest, gallery.scenes, "intensity", lambda: intensity_directions(gallery.scenes, progress),
        names=PLAIN_ESTIMATES, enabled=cache,
    )  # fmt: skip
    estimates = {"model": gallery.doa[rows]} | {name: plain[name][rows] for name in PLAIN_ESTIMATES}
    localisation = {name: localisation_errors(doa, scenes) for name, doa in estimates.items()}
    return DirectionResult(len(gallery.scenes) - len(rows), zero_shot, localisation)


def eight_way(scores: NDArray, azimuth_rad: NDArray) -> EightWay:
    """Accuracies of scores (scenes, 8) of the prompts of `geometry.SECTORS`."""
    true, predicted = sector_index(azimuth_rad), scores.argmax(axis=1)
    away = metrics.away_from_borders(azimuth_rad, math.radians(BORDER_MARGIN_DEG))
    return EightWay(
        count=len(true),
        accuracy=metrics.accuracy(true, predicted),
        count_away_from_borders=int(away.sum()),
        accuracy_away_from_borders=metrics.accuracy(true[away], predicted[away]) if away.any() else None,
        confusion=metrics.confusion_matrix(true, predicted, len(SECTORS)),
    )


def intensity_directions(scenes: Sequence[Scene], progress: Progress | None = None) -> dict[str, NDArray[np.float64]]:
    """Directions (scenes, 3) of each file's active intensity ``Re(conj(W) [X, Y, Z])``: the estimates without learning.

    "intensity" sums it over times and frequencies from 100 Hz, so that each cell counts with its energy; "unit
    intensity" sums its direction alone, so that loud resonances of the room weigh no more than anything else.

    Raises:
        AudioFormatError: a file cannot be read, or its intensity is zero (silence).
    """
    estimates = {name: np.empty((len(scenes), 3)) for name in PLAIN_ESTIMATES}
    for row, scene in enumerate(scenes):
        intensity = _active_intensity(read_foa(scene.path))
        length = np.linalg.norm(intensity, axis=0)
        sums = intensity.sum(axis=(1, 2)), (intensity / np.where(length > 0, length, 1.0)).sum(axis=(1, 2))
        for name, vector in zip(PLAIN_ESTIMATES, sums, strict=True):
            norm = np.linalg.norm(vector)
            if norm == 0:
                raise AudioFormatError(f"{scene.path}: expected a sound from somewhere, got silence; remove its row")
            estimates[name][row] = vector / norm
        if progress is not None:
            progress(row + 1, len(scenes))
    return estimates


def _active_intensity(foa: NDArray[np.float32]) -> NDArray[np.float64]:
    """Active intensity (3, frames, bins) in x, y, z of FOA (4, samples): Hann windows of 43 ms, half overlapping."""
    size = _FFT_SAMPLES
    foa = np.pad(foa, ((0, 0), (0, max(0, size - foa.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(foa, size, axis=1)[:, :: size // 2]
    spectra = np.fft.rfft(frames * np.hanning(size), axis=-1)
    spectra = spectra[..., np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ) >= _LOWEST_HZ]
    return np.asarray(np.real(np.conj(spectra[0]) * spectra[[3, 1, 2]]))


def localisation_errors(estimated: NDArray, scenes: Sequence[Scene]) -> Localisation:
    """Errors of directions (scenes, 3) against the scenes' first sources."""
    true = directions(scenes)
    bins: dict[str, dict[str, AngularErrors]] = {}
    for quantity, (edges, value_of) in _BINS.items():
        values = np.array([math.nan if (value := value_of(scene)) is None else value for scene in scenes])
        for low, high in zip(edges, (*edges[1:], math.inf), strict=True):
            inside = (values >= low) & (values < high)
            if inside.any():
                errors = metrics.angular_errors(estimated[inside], true[inside])
                bins.setdefault(quantity, {})[_bin_name(low, high)] = errors
    flat = np.array([1.0, 1.0, 0.0])
    return Localisation(
        all=metrics.angular_errors(estimated, true),
        azimuth=metrics.angular_errors(estimated * flat, true * flat),
        bins=bins,
        by_azimuth=_errors_by_azimuth(estimated, true, azimuths_rad(scenes)),
    )


def _errors_by_azimuth(estimated: NDArray, true: NDArray, azimuth_rad: NDArray) -> dict[int, AngularErrors]:
    centre_deg = AZIMUTH_BIN_DEG * np.floor(np.degrees(azimuth_rad) / AZIMUTH_BIN_DEG + 0.5).astype(int)
    centre_deg[centre_deg == -180] = 180
    return {
        centre: metrics.angular_errors(estimated[centre_deg == centre], true[centre_deg == centre])
        for centre in np.unique(centre_deg).tolist()
    }


def _bin_name(low: float, high: float) -> str:
    if low in (0.0, -math.inf):
        return f"below {high:g}"
    return f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"


def _zero_shot_table(result: DirectionResult) -> Table:
    rows = [
        (name, percent(scores.accuracy), _optional_percent(scores.accuracy_away_from_borders))
        for name, scores in result.zero_shot.items()
    ]
    scores = result.zero_shot["joint"]
    left_out = f"; {result.num_left_out} with several sources left out" if result.num_left_out else ""
    title = (
        f"Zero-shot direction, eight prompts, in %: {scores.count} scenes, {scores.count_away_from_borders} of them "
        f"{BORDER_MARGIN_DEG:g}° or more from a border{left_out}"
    )
    return Table(title, ("embedding", "all", "away from borders"), (*rows, ("chance", "12.5", "12.5")))


def _confusion_table(scores: EightWay) -> Table:
    rows = tuple(
        (sector.compass, *map(str, counts))
        for sector, counts in zip(SECTORS, scores.confusion.tolist(), strict=True)
    )  # fmt: skip
    title = "Joint embedding: scenes by true sector (rows) and predicted sector (columns)"
    return Table(title, ("true", *(sector.compass for sector in SECTORS)), rows)


def _localisation_tables(result: DirectionResult) -> list[Table]:
    header = ("median", "mean", "p90")
    rows = []
    for name, found in result.localisation.items():
        rows.append((name, str(found.all.count), *_cells(found.all), *_cells(found.azimuth)))
    columns = ("estimate", "scenes", *header, *(f"azimuth {name}" for name in header))
    title = "Localisation error in degrees; the intensity vectors are estimates without learning"
    learned = result.localisation["model"]
    binned = [
        (f"{quantity} {name}", str(errors.count), *_cells(errors),
         *(f"{result.localisation[plain].bins[quantity][name].median_deg:.1f}" for plain in PLAIN_ESTIMATES))
        for quantity, bins in learned.bins.items()
        for name, errors in bins.items()
    ]  # fmt: skip
    columns_of_bins = ("model", "scenes", *header, *(f"{name}: median" for name in PLAIN_ESTIMATES))
    return [
        Table(title, columns, tuple(rows)),
        Table("Localisation error of the model in degrees, by condition", columns_of_bins, tuple(binned)),
    ]


def _cells(errors: AngularErrors) -> tuple[str, ...]:
    return tuple(f"{value:.1f}" for value in (errors.median_deg, errors.mean_deg, errors.p90_deg))


def _optional_percent(share: float | None) -> str:
    return "" if share is None else percent(share)

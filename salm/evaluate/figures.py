"""The figures of `salm eval`: each is drawn from an evaluation's result alone and returned as a matplotlib `Figure`.

Colours are Okabe and Ito's, which colour-blind readers tell apart; every line has its own dashes and markers as well.
matplotlib (extra `plot`) is imported only when something is drawn, and never through pyplot, so no display is needed
and no global state changes.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from salm.errors import ConfigError, DependencyError
from salm.evaluate.classify import ClassifyResult
from salm.evaluate.directions import AZIMUTH_BIN_DEG, PLAIN_ESTIMATES, DirectionResult, Localisation
from salm.evaluate.editing import EditingResult
from salm.evaluate.report import percent
from salm.evaluate.retrieval import KS, RetrievalResult
from salm.geometry import SECTORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.projections.polar import PolarAxes

_BLUE, _VERMILLION, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#6E6E6E"
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": _BLUE, "linestyle": "-", "marker": "o"},
    {"color": _VERMILLION, "linestyle": "--", "marker": "s"},
    {"color": _GREEN, "linestyle": "-.", "marker": "^"},
)
_DOTS_PER_INCH = 200
_MOST_NUMBERED_CLASSES = 12
"""A larger confusion matrix has no room for numbers in its cells."""


def direction_confusion(result: DirectionResult, model_id: str) -> "Figure":
    """Zero-shot direction: one confusion matrix per embedding, each row in % of its true sector's scenes."""
    title = f"Zero-shot direction: gallery of {result.zero_shot['joint'].count} scenes"
    figure = _new_figure(title, model_id, width=3.9 * len(result.zero_shot) + 1.6, height=5.6, layout="compressed")
    panels = figure.subplots(1, len(result.zero_shot), sharey=True, squeeze=False)[0].tolist()
    names = [sector.compass for sector in SECTORS]
    for axes, (name, scores) in zip(panels, result.zero_shot.items(), strict=True):
        image = _draw_confusion(axes, scores.confusion, names)
        axes.set(title=f"{name}: {percent(scores.accuracy)} % right", xlabel="predicted sector")
    panels[0].set_ylabel("true sector")
    figure.colorbar(image, ax=panels, label="share of the true sector (%)", shrink=0.8)
    return figure


def direction_error(result: DirectionResult, model_id: str) -> "Figure":
    """Median and 90th percentile of the localisation error over the true azimuth, beside the estimates not learned."""
    counts = [errors.count for errors in result.localisation["model"].by_azimuth.values()]
    title = (
        f"Localisation error over the true azimuth: gallery of {sum(counts)} scenes, "
        f"{_span(counts)} in each {AZIMUTH_BIN_DEG}° bin"
    )
    figure = _new_figure(title, model_id, width=10.4, height=6.2)
    for column, (quantity, name) in enumerate((("median_deg", "median"), ("p90_deg", "90th percentile")), start=1):
        axes = cast("PolarAxes", figure.add_subplot(1, 2, column, projection="polar"))
        _lay_out_compass(axes)
        highest = 0.0
        for style, (estimate, found) in zip(_STYLES, result.localisation.items(), strict=True):
            angles, errors = _over_azimuth(found, quantity)
            axes.plot(angles, errors, label=_estimate_name(estimate), markersize=3.5, linewidth=1.6, **style)
            highest = max(highest, float(np.nanmax(errors)))
        # An estimate without error still needs a radius to be drawn on.
        axes.set_ylim(0.0, max(1.0, 1.08 * highest))
        axes.set_title(f"{name} of the error (degrees)", pad=14)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def retrieval_recall(result: RetrievalResult, model_id: str) -> "Figure":
    """Recall@k and precision@k of the label-and-sector queries of each phrasing, and recall@k of the captions."""
    scores = next(iter(result.queries.values()))
    title = f"Retrieval with the {result.embedding} embedding: gallery of {scores.gallery_size} scenes"
    num_panels = 3 if result.captions else 2
    figure = _new_figure(title, model_id, width=4.4 * num_panels, height=4.6)
    panels = figure.subplots(1, num_panels, sharey=True).tolist()
    curves = {f"{name} ({found.num_queries} queries)": found.curves for name, found in result.queries.items()}
    _draw_curves(panels[0], {name: curve.recall for name, curve in curves.items()})
    _draw_reference(panels[0], scores.curves.chance_recall, "chance", ":")
    panels[0].set(title="Label and direction: recall", ylabel="recall@k (% of queries)")
    _draw_curves(panels[1], {name: curve.precision for name, curve in curves.items()})
    _draw_reference(panels[1], scores.curves.best_precision, "best possible", "--")
    _draw_reference(panels[1], [scores.chance_precision] * len(scores.curves.precision), "chance", ":")
    panels[1].set(title="Label and direction: precision", ylabel="precision@k (% of the first k)")
    if result.captions:
        _draw_curves(panels[2], {name.replace("_", "-"): s.curves.recall for name, s in result.captions.items()})
        by_text = result.captions["text_to_audio"]
        _draw_reference(panels[2], by_text.curves.chance_recall, "chance, text-to-audio", ":")
        panels[2].set(title=f"Captions of {by_text.gallery_size} scenes: recall", ylabel="recall@k (% of queries)")
    for axes in panels:
        axes.legend(fontsize="small", loc="best", framealpha=0.85)
    return figure


def classify_confusion(result: ClassifyResult, model_id: str) -> "Figure":
    """Zero-shot label: one confusion matrix per embedding, each row in % of its true label's scenes."""
    title = f"Zero-shot label: gallery of {result.count} scenes, {len(result.labels)} labels"
    side = min(20.0, 2.6 + 0.125 * len(result.labels))
    figure = _new_figure(title, model_id, width=2 * side + 2.8, height=side + 2.2, layout="compressed")
    panels = figure.subplots(1, len(result.scores), sharey=True, squeeze=False)[0].tolist()
    for axes, (name, scores) in zip(panels, result.scores.items(), strict=True):
        image = _draw_confusion(axes, scores.confusion, result.labels)
        right = f"{percent(scores.accuracy)} % right, {percent(scores.balanced_accuracy)} % mean over labels"
        axes.set(title=f"{name}: {right}", xlabel="predicted label")
    panels[0].set_ylabel("true label")
    figure.colorbar(image, ax=panels, label="share of the true label (%)", shrink=0.8)
    return figure


def editing_bars(result: EditingResult, model_id: str) -> "Figure":
    """Recall of the wanted caption after each way of editing, and how often direction and caption of the first fit."""
    title = f"Direction editing: gallery of {result.num_captions} captions, {result.num_scenes} scenes"
    figure = _new_figure(title, model_id, width=8.4, height=4.8)
    axes = figure.subplots()
    explained = "None: not edited.  Swap: another scene's spatial part.  Change: the direction's sentence."
    axes.set_title(explained, fontsize="small")
    chance = [*(k / result.num_captions for k in KS), 1 / len(SECTORS), len(SECTORS) / result.num_captions]
    groups = (*(f"R@{k}" for k in KS), "direction\nof the first", "caption\nof the first")
    width = 0.8 / len(result.ways)
    colours = {"None": _GREY, "Swap": _VERMILLION, "Change": _BLUE}
    for number, (way, scores) in enumerate(result.ways.items()):
        shares = 100.0 * np.array([*scores.recall.values(), scores.direction_at_1, scores.caption_at_1])
        places = np.arange(len(groups)) + (number - (len(result.ways) - 1) / 2) * width
        label = f"{way} ({scores.num_edits} queries)"
        bars = axes.bar(places, shares, 0.92 * width, label=label, color=colours[way], edgecolor="black", linewidth=0.5)
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize="small")
    for place, share in enumerate(chance):
        line = axes.hlines(min(100.0, 100.0 * share), place - 0.45, place + 0.45, colors="black", linestyles=":")
    line.set_label("chance")
    axes.set(xticks=range(len(groups)), xticklabels=groups, ylim=(0, 110), yticks=range(0, 101, 20))
    axes.set_ylabel("share of the queries (%)")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(result.ways) + 1, frameon=False)
    return figure


FIGURES: dict[str, dict[str, Callable[[Any, str], "Figure"]]] = {
    "retrieval": {"retrieval-recall.png": retrieval_recall},
    "direction": {"direction-confusion.png": direction_confusion, "direction-error.png": direction_error},
    "classify": {"classify-confusion.png": classify_confusion},
    "editing": {"editing.png": editing_bars},
}
"""By evaluation: the files that it draws, and what draws each from its result and the model's name."""


def make_figure_folder(folder: str | Path) -> Path:
    """The folder, made if it is not there. Call it before a long evaluation: what would fail after it fails now.

    Raises:
        DependencyError: matplotlib is not installed.
        ConfigError: nothing can be written there.
    """
    folder = Path(folder)
    _figure_classes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_written(folder, error) from error
    return folder


def write_figures(folder: str | Path, results: Mapping[str, Any], model_id: str) -> list[Path]:
    """Draw the results of `salm.evaluate.suite.evaluate` into a folder, as PNG files; older ones are replaced.

    Returns:
        The files, as `FIGURES` names them.

    Raises:
        DependencyError: matplotlib is not installed.
        ConfigError: a file cannot be written.
    """
    folder = make_figure_folder(folder)
    written = []
    for evaluation, result in results.items():
        for name, draw in FIGURES[evaluation].items():
            path, partial = folder / name, folder / f"{name}.partial"
            figure = draw(result, model_id)
            try:
                figure.savefig(partial, format="png", dpi=_DOTS_PER_INCH)
                partial.replace(path)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise _not_written(path, error) from error
            written.append(path)
    return written


def _not_written(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be written ({error.strerror}); choose another folder with --figures")


def _figure_classes() -> tuple[type, type]:
    """The `Figure` of matplotlib and its PNG canvas."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError('drawing figures needs matplotlib: pip install "salm[plot]"') from error
    return Figure, FigureCanvasAgg


def _new_figure(title: str, model_id: str, *, width: float, height: float, layout: str = "constrained") -> "Figure":
    """An empty figure, width and height in inches, with its headline; "compressed" is the layout of square panels."""
    figure_class, canvas_class = _figure_classes()
    figure: Figure = figure_class(figsize=(width, height), layout=layout)
    canvas_class(figure)
    figure.suptitle(f"{title}\nmodel {model_id}")
    return figure


def _draw_confusion(axes: "Axes", confusion: NDArray[np.int64], names: Sequence[str]) -> "AxesImage":
    """Rows in % of their sum; a class without scenes is a grey row."""
    counts = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(100.0 * confusion, counts, out=np.full(confusion.shape, np.nan), where=counts > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=100.0)
    axes.set_facecolor("0.85")
    size = min(9.0, 260 / len(names))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    if len(names) <= _MOST_NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                colour = "white" if share > 55 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour, fontsize=8)
    return image


def _lay_out_compass(axes: "PolarAxes") -> None:
    """The convention as seen from above: front at the top, left at the left."""
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(1)
    names = [f"{sector.azimuth_deg:+g}°\n{sector.body}" if sector.index else f"0°\n{sector.body}" for sector in SECTORS]
    axes.set_xticks([sector.azimuth_rad % (2 * np.pi) for sector in SECTORS], names)
    axes.tick_params(axis="x", pad=13)
    axes.set_rlabel_position(-157.5)
    axes.yaxis.set_major_formatter("{x:g}°")
    for label in axes.get_yticklabels():
        label.set(fontsize="small", zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1})


def _over_azimuth(found: Localisation, quantity: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles and errors of all bins, closed to a ring; NaN where no scene lies."""
    centres = [*range(-180 + AZIMUTH_BIN_DEG, 181, AZIMUTH_BIN_DEG), -180 + AZIMUTH_BIN_DEG]
    bins = found.by_azimuth
    errors = [getattr(bins[centre], quantity) if centre in bins else np.nan for centre in centres]
    return np.radians(centres), np.array(errors)


def _draw_curves(axes: "Axes", curves: Mapping[str, Sequence[float]]) -> None:
    """Shares over k = 1, 2, ..., marked where the tables print them."""
    for style, (name, shares) in zip(_STYLES, curves.items(), strict=False):
        ks = np.arange(1, len(shares) + 1)
        marked = [k - 1 for k in KS if k <= len(shares)]
        axes.plot(ks, 100.0 * np.array(shares), label=name, markevery=marked, markersize=6, **style)
    largest = len(shares)
    axes.set_xscale("log")
    ticks = [k for k in (1, 2, 5, 10, 20, 50) if k <= largest]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlim=(0.92, 1.08 * largest), ylim=(-2, 102), xlabel="k (nearest items)")
    axes.tick_params(labelleft=True)
    axes.grid(color="0.9")


def _draw_reference(axes: "Axes", shares: Sequence[float], name: str, dashes: str) -> None:
    values = 100.0 * np.array(shares)
    axes.plot(np.arange(1, len(values) + 1), values, label=name, color=_GREY, linestyle=dashes, linewidth=1.2)


def _estimate_name(estimate: str) -> str:
    return f"{estimate} (no learning)" if estimate in PLAIN_ESTIMATES else estimate


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"

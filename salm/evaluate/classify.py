"""What a sound is: zero-shot label accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import salm.metrics as metrics
from salm.errors import ManifestError
from salm.evaluate.report import Table, percent
from salm.evaluate.scenes import Gallery, Model, normalised, single_source_rows, text_embeddings

TEMPLATES = ("{label}", "the sound of {label}", "{label} can be heard", "this is a sound of {label}")
"""A label's prototype is the mean of these sentences' embeddings, normalised again (as CLIP's prompt ensembles)."""
_WORST = 10


@dataclass(frozen=True)
class LabelScores:
    """Accuracy of one embedding; `balanced_accuracy` is the mean over the labels.

    Attributes:
        confused: the most frequent confusions, as "true -> predicted".
        confusion: scenes by true label (row) and predicted label (column), in the order of `ClassifyResult.labels`.
    """

    accuracy: float
    balanced_accuracy: float
    top5_accuracy: float
    accuracy_by_label: dict[str, float]
    confused: dict[str, int]
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class ClassifyResult:
    """Everything `salm eval classify` prints."""

    labels: tuple[str, ...]
    count: int
    templates: tuple[str, ...]
    scores: dict[str, LabelScores]

    def tables(self) -> list[Table]:
        """Accuracies, and the labels that do worst."""
        title = f"Zero-shot label, {len(self.labels)} labels, {self.count} scenes, in %"
        chance = 1 / len(self.labels)
        shares = {name: (s.accuracy, s.balanced_accuracy, s.top5_accuracy) for name, s in self.scores.items()}
        shares["chance"] = (chance, chance, min(1.0, 5 * chance))
        rows = tuple((name, *map(percent, values)) for name, values in shares.items())
        joint = self.scores["joint"]
        worst = sorted(joint.accuracy_by_label.items(), key=lambda item: item[1])[:_WORST]
        tables = [
            Table(title, ("embedding", "top 1", "mean over labels", "top 5"), rows),
            Table(
                "Joint embedding: labels that do worst, in %",
                ("label", "top 1"),
                tuple((label, percent(share)) for label, share in worst),
            ),
        ]
        if joint.confused:
            confused = tuple((pair, str(count)) for pair, count in joint.confused.items())
            tables.append(Table("Joint embedding: most frequent confusions", ("true -> predicted", "scenes"), confused))
        return tables


def evaluate_labels(gallery: Gallery, model: Model, labels: Sequence[str]) -> ClassifyResult:
    """Zero-shot accuracy over `labels`, on the scenes whose only source has one of them.

    Raises:
        ManifestError: there is no such scene.
    """
    number = {label: index for index, label in enumerate(labels)}
    rows = single_source_rows(gallery.scenes, gallery.manifest)
    rows = np.array([row for row in rows if gallery.scenes[row].sources[0].label in number], np.int64)
    if not len(rows):
        raise ManifestError(f"{gallery.manifest}: no scene of any of the {len(labels)} labels; name others")
    true = np.array([number[gallery.scenes[row].sources[0].label] for row in rows])
    sentences = [template.format(label=label) for label in labels for template in TEMPLATES]
    vectors = text_embeddings(model, sentences).reshape(len(labels), len(TEMPLATES), -1)
    prototypes = normalised(vectors.mean(axis=1))
    scores = {
        name: _label_scores(gallery.embedding(name)[rows] @ prototypes.T, true, labels)
        for name in ("semantic", "joint")
    }
    return ClassifyResult(tuple(labels), len(rows), TEMPLATES, scores)


def _label_scores(similarity: np.ndarray, true: np.ndarray, labels: Sequence[str]) -> LabelScores:
    predicted = similarity.argmax(axis=1)
    relevance = true[:, None] == np.arange(len(labels))
    confusion = metrics.confusion_matrix(true, predicted, len(labels))
    present = np.flatnonzero(confusion.sum(axis=1)).tolist()
    wrong = confusion - np.diag(np.diag(confusion))
    frequent = [divmod(place, len(labels)) for place in np.argsort(-wrong, axis=None, kind="stable")[:_WORST].tolist()]
    return LabelScores(
        accuracy=metrics.accuracy(true, predicted),
        balanced_accuracy=metrics.balanced_accuracy(true, predicted),
        top5_accuracy=metrics.recall_at_k(metrics.rank_relevance(similarity, relevance), 5),
        accuracy_by_label={labels[i]: float(confusion[i, i] / confusion[i].sum()) for i in present},
        confused={f"{labels[i]} -> {labels[j]}": int(wrong[i, j]) for i, j in frequent if wrong[i, j]},
        confusion=confusion,
    )

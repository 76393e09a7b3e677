"""Search by example with another direction (equation 3 on the query) over the frozen test scenes. Prints JSON.

python benchmarks/query_by_example.py --data ../shared/data --model salm-small

Every scene of the labels is asked for from each of the seven other sectors, as
`salm-retrieve --like SCENE --direction SECTOR` does, in a real index of all scenes. Scenes of the example's own
recording are left out of the answer. A hit is right if it has the example's label and lies in the wanted sector;
queries to which no scene is right are not counted.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from frozen_scenes import build
from numpy.typing import NDArray
from salm_index import Hit, Index

import salm
from salm.evaluate.editing import change
from salm.evaluate.scenes import Gallery, azimuths_rad, load_gallery, read_labels
from salm.geometry import SECTORS, sector_index
from salm.progress import progress_on_stderr
from salm.queries import with_equal_parts

RECIPE = "centre-v1"
K = 5


@dataclass(frozen=True)
class Answer:
    """What came back for one query: is hit i of the first K right, of the right label, from the right sector?"""

    label: str
    sector: str
    is_right: tuple[bool, ...]
    has_label: tuple[bool, ...]
    has_sector: tuple[bool, ...]


def main() -> None:
    """Print the scores over all labels, those of each label, and those of dogs in the southwest."""
    parser = argparse.ArgumentParser(description="Search by example with another direction.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with sounds/test")
    parser.add_argument("--model", default="salm-small", help="bundled model, checkpoint folder or repo id")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"), help="folder for the scenes")
    arguments = parser.parse_args()
    folder, model = arguments.cache / RECIPE, salm.load(arguments.model)
    with progress_on_stderr(f"simulating {RECIPE}") as progress:
        build(arguments.data / "sounds/test/manifest.csv", folder, RECIPE, progress)
    with progress_on_stderr("encoding") as progress:
        gallery = load_gallery(folder, model, progress=progress)
    labels = read_labels(arguments.data / "core_labels.txt", gallery.scenes)
    with tempfile.TemporaryDirectory() as temporary:
        answers = list(ask(fill(Path(temporary) / "index", gallery), gallery, model, labels))
    dogs = [answer for answer in answers if (answer.label, answer.sector) == ("dog barking", "southwest")]
    document = {
        "command": shlex.join(["python", "benchmarks/query_by_example.py", *sys.argv[1:]]),
        "model": model.model_id,
        "manifest_sha256": gallery.manifest_sha256,
        "scenes": len(gallery.scenes),
        "all": scores(answers),
        "dog barking, southwest": scores(dogs),
        "by label": {label: scores([answer for answer in answers if answer.label == label]) for label in labels},
    }
    print(json.dumps(document, indent=2, ensure_ascii=False))


def fill(path: Path, gallery: Gallery) -> Index:
    """An index of all scenes; each row knows the scene's number."""
    index = Index.create(path, gallery.joint.shape[1], model=gallery.model_id)
    index.add(
        gallery.embedding("joint"),
        [
            {"path": scene.path.name, "start_s": 0.0, "end_s": scene.duration_s, "number": number}
            for number, scene in enumerate(gallery.scenes)
        ],
    )
    return index


def ask(index: Index, gallery: Gallery, model: salm.SALM, labels: list[str]) -> Iterator[Answer]:
    """One answer for each scene of these labels and each other sector."""
    label = np.array([scene.sources[0].label for scene in gallery.scenes])
    recording = np.array([scene.sources[0].path for scene in gallery.scenes])
    sector = sector_index(azimuths_rad(gallery.scenes))
    for wanted in SECTORS:
        rows = np.flatnonzero(np.isin(label, labels) & (sector != wanted.index))
        queries = with_equal_parts(gallery.semantic[rows], change(gallery, model, rows, wanted))
        most = int(np.unique(recording, return_counts=True)[1].max())
        for row, hits in zip(rows, index.search_many(queries, K + most), strict=True):
            others = recording != recording[row]
            if not np.any(others & (label == label[row]) & (sector == wanted.index)):
                continue
            found = others_of(hits, others)
            has_label, has_sector = label[found] == label[row], sector[found] == wanted.index
            yield Answer(
                label[row],
                wanted.compass,
                tuple((has_label & has_sector).tolist()),
                tuple(has_label.tolist()),
                tuple(has_sector.tolist()),
            )


def others_of(hits: list[Hit], others: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first K hits that are of other recordings, as numbers of scenes."""
    found = [hit.metadata["number"] for hit in hits if others[hit.metadata["number"]]]
    return np.array(found[:K])


def scores(answers: list[Answer]) -> dict[str, float | int]:
    """Number of queries, and precision at 1 and at K of label and sector, and of each alone."""
    if not answers:
        return {"queries": 0}
    columns = [asdict(answer) for answer in answers]
    result: dict[str, float | int] = {"queries": len(answers)}
    for name in ("is_right", "has_label", "has_sector"):
        table = np.array([column[name] for column in columns], float)
        result[f"{name}@1"] = round(float(table[:, 0].mean()), 3)
        result[f"{name}@{K}"] = round(float(table.mean()), 3)
    return result


if __name__ == "__main__":
    main()

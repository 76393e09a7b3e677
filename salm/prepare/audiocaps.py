"""AudioCaps: a table of captions; the audio is the user's, under one of the names that are common.

Layout (github.com/cdjkim/audiocaps): ``train.csv``, ``val.csv``, ``test.csv`` with `audiocap_id`, `youtube_id`,
`start_time` (seconds), `caption`; one row a clip in the training split, five in the others. The audio of the
10 s clips is not part of it.
"""

from pathlib import Path

from salm.errors import ManifestError
from salm.prepare.report import Problem, Report
from salm.prepare.sounds import Collection, Entry, caption_label, collect, files_by_stem, find_one, require_folder
from salm.prepare.tables import TableRow, read_table
from salm.progress import Progress

CLIP_S = 10
LICENCE = "audio: of the owner of each video; captions: MIT"


def prepare_audiocaps(
    captions_csv: str | Path, audio_dir: str | Path, *, progress: Progress | None = None
) -> Collection:
    """The clips of one split of AudioCaps; the captions of one clip are put together.

    A clip's file is looked for in `audio_dir` and the folders in it, see `file_stems`.

    Raises:
        ManifestError: the table or the folder is missing, or the table is not AudioCaps'.
    """
    captions_csv = Path(captions_csv)
    clips: dict[tuple[str, str], list[TableRow]] = {}
    for row in read_table(captions_csv, ["audiocap_id", "youtube_id", "start_time", "caption"], "AudioCaps"):
        video, start = row["youtube_id"].strip(), row["start_time"].strip()
        if not video or not _is_seconds(start):
            raise ManifestError(
                f"{captions_csv}:{row.line}: expected a youtube_id and a start_time in seconds, got {video!r} and "
                f"{start!r}; download the file again"
            )
        clips.setdefault((video, start), []).append(row)
    files = files_by_stem(require_folder(audio_dir, "the folder of the audio files of AudioCaps"))
    report, entries = Report("AudioCaps"), []
    for (video, start), rows in clips.items():
        name = f"{video} at {start} s"
        stems = file_stems(video, start, [row["audiocap_id"].strip() for row in rows])
        try:
            path = find_one(files, stems)
        except ManifestError as error:
            report.unusable.append(Problem(name, str(error)))
            continue
        if path is None:
            report.missing.append(Problem(name, f"no file in {audio_dir} called {', '.join(stems)} (.wav or alike)"))
            continue
        captions = tuple(row["caption"] for row in rows)
        source = f"AudioCaps, youtube.com/watch?v={video} from {start} s"
        entries.append(Entry(name, path, caption_label(captions), captions, f"yt:{video}", source, LICENCE))
    return collect(entries, report, progress=progress)


def file_stems(video: str, start: str, audiocap_ids: list[str]) -> list[str]:
    """Names without suffix under which a clip's file is looked for, the most telling first."""
    begin = float(start)
    times = [f"{begin:g}", f"{begin:g}_{begin + CLIP_S:g}", f"{1000 * begin:.0f}_{1000 * (begin + CLIP_S):.0f}"]
    timed = [f"{prefix}{video}_{time}" for time in times for prefix in ("", "Y")]
    return [*timed, f"Y{video}", video, *audiocap_ids]


def _is_seconds(text: str) -> bool:
    try:
        return 0 <= float(text) < 1e6
    except ValueError:
        return False

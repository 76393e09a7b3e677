"""What every data set of dry sounds shares: its files are found and checked, groups closed, a manifest written.

A captioned data set has no classes: `caption_label` makes a clip's first caption its label. Groups name the original
recording across data sets (``fs:100032`` is a Freesound id, ``yt:...`` a YouTube id), so that manifests can be put
together and split by group.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from salm.audio.containers import open_audio, read_blocks
from salm.errors import AudioFormatError, ManifestError
from salm.manifest import DrySound, write_dry_sounds
from salm.prepare.report import Problem, Report, new_file
from salm.progress import Progress

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Entry:
    """One clip that a data set lists, with a file that is there."""

    name: str
    path: Path
    label: str
    captions: tuple[str, ...]
    group: str
    source: str
    licence: str


@dataclass(frozen=True)
class Collection:
    """The sounds of a data set that can be used, and the report of all."""

    sounds: tuple[DrySound, ...]
    report: Report

    def write(self, manifest: str | Path) -> None:
        """Write the dry-sound manifest; its folder is made, a half-written file never takes the name.

        Raises:
            ManifestError: there is no sound to write, or a manifest in this folder cannot hold the name of one.
        """
        if not self.sounds:
            lost = [*self.report.missing, *self.report.unusable]
            first = f"; the first: {lost[0].entry}: {lost[0].reason}" if lost else ""
            raise ManifestError(f"{manifest}: not written: of {self.report.data_set} kept {self.report.summary}{first}")
        manifest = new_file(manifest)
        for sound in self.sounds:
            name = os.path.relpath(sound.path, manifest.parent)
            if name != name.strip():
                raise ManifestError(
                    f"{manifest}: not written: {name!r} begins or ends with a space, which a manifest beside it cannot "
                    "say; write the manifest into another folder"
                )
        write_dry_sounds(manifest, self.sounds)


def collect(entries: Iterable[Entry], report: Report, *, progress: Progress | None = None) -> Collection:
    """Open and read every entry's file, and keep those that can be used, in their order.

    Unusable are files that cannot be read whole, are empty, hold a value that is not finite, or are silent when their
    channels are averaged, and entries of a file that another entry has already taken. Sounds with the same samples get
    the same group, whatever the data set says.

    Args:
        report: is completed; the missing entries are already in it.
        progress: called with the number of checked entries and of all.
    """
    entries = list(entries)
    kept: list[DrySound] = []
    digests: list[str] = []
    owners: dict[Path, str] = {}
    for done, entry in enumerate(entries, start=1):
        try:
            owner = owners.setdefault(entry.path, entry.name)
            if owner != entry.name:
                raise ManifestError(f"{entry.path}: is also the file of {owner}; give each entry its own file")
            duration_s, digest = _measure(entry.path)
            captions = tuple(dict.fromkeys(filter(None, map(one_line, entry.captions))))
            kept.append(
                DrySound(entry.path, one_line(entry.label), captions, entry.group, one_line(entry.source),
                         one_line(entry.licence), duration_s)
            )  # fmt: skip
            digests.append(digest)
        except (AudioFormatError, ManifestError) as error:
            report.unusable.append(Problem(entry.name, str(error)))
        if progress is not None:
            progress(done, len(entries))
    copies = len(digests) - len(set(digests))
    if copies:
        report.notes.append(f"{copies} sounds have exactly the samples of another one; such sounds share a group")
    report.kept = len(kept)
    report.listed = report.kept + report.num_missing + report.num_unusable
    return Collection(tuple(_close_groups(kept, digests)), report)


def one_line(text: str) -> str:
    """A text as one line without `|`, which separates the captions of a manifest."""
    return " ".join(text.replace("|", ",").split())


def caption_label(captions: Sequence[str]) -> str:
    """The first caption that is not empty, without its full stop; empty if there is none."""
    return next(filter(None, map(one_line, captions)), "").rstrip(".").rstrip()


def words(name: str) -> str:
    """The words of a file's, folder's or category's name: ``door_wood-knock`` is "door wood knock"."""
    return " ".join(re.split(r"[\s_-]+", name)).strip()


def require_folder(folder: str | Path, expected: str) -> Path:
    """`folder` as a path.

    Raises:
        ManifestError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        problem = "a file" if folder.exists() else "no such folder"
        raise ManifestError(f"{folder}: {problem}; expected {expected}; check the path")
    return folder


def files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """All files under a folder, by their name without its suffix; where one is audio, only those that are."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.setdefault(path.stem, []).append(path)
    return {
        stem: [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES] or paths
        for stem, paths in found.items()
    }


def find_one(files: Mapping[str, list[Path]], stems: Sequence[str]) -> Path | None:
    """The file of the first of these names that is there; None if none is.

    Raises:
        ManifestError: several files have that name.
    """
    for stem in stems:
        paths = files.get(stem, [])
        if len(paths) > 1:
            raise ManifestError(f"several files of this name: {', '.join(map(str, paths))}; keep one")
        if paths:
            return paths[0]
    return None


def _measure(path: Path) -> tuple[float, str]:
    """Length in seconds and a digest of the samples and their rate.

    Raises:
        AudioFormatError: the file cannot be read whole, or is silent.
    """
    digest, heard = hashlib.sha256(), False
    with open_audio(path) as file:
        digest.update(f"{file.samplerate} {file.channels}".encode())
        samples = 0
        for block in read_blocks(path, file):
            digest.update(block.tobytes())
            samples += block.shape[1]
            heard = heard or bool(block.mean(axis=0).any())
        if not heard:
            raise AudioFormatError(f"{path}: expected a sound, got digital silence; replace the file")
        return samples / file.samplerate, digest.hexdigest()


def _close_groups(sounds: Sequence[DrySound], digests: Sequence[str]) -> list[DrySound]:
    """The sounds, where groups that share a digest are one, under the name that sorts first."""
    parents: dict[str, str] = {}

    def root(group: str) -> str:
        while group in parents:
            group = parents[group]
        return group

    first: dict[str, str] = {}
    for sound, digest in zip(sounds, digests, strict=True):
        one, other = sorted((root(first.setdefault(digest, sound.group)), root(sound.group)))
        if one != other:
            parents[other] = one
    return [replace(sound, group=root(sound.group)) for sound in sounds]

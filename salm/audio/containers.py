"""Audio files on disk: opened with every defect that libsndfile passes over named."""

import os
from pathlib import Path

import soundfile

from salm.errors import AudioFormatError

MIN_SAMPLE_RATE_HZ = 1_000


def open_audio(path: Path) -> soundfile.SoundFile:
    """Open an audio file for reading.

    Raises:
        AudioFormatError: the file is missing, unreadable, empty, no audio, or shorter than its own header says.
    """
    if path.is_dir():
        raise AudioFormatError(f"{path}: a folder, expected an audio file; `salm index` takes folders")
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise AudioFormatError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise AudioFormatError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if size == 0:
        raise AudioFormatError(f"{path}: empty file (0 bytes); copy or record it again")
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise AudioFormatError(
            f"{path}: not a readable audio file ({error.error_string.rstrip('.')}); expected wav, flac, ogg or mp3"
        ) from error
    complete = {"OGG": _ogg_is_complete, "WAV": _wav_is_complete, "WAVEX": _wav_is_complete}
    if file.format in complete and not complete[file.format](path):
        file.close()
        raise AudioFormatError(f"{path}: truncated: it ends before its header says; copy the file again")
    if file.samplerate < MIN_SAMPLE_RATE_HZ:
        file.close()
        raise AudioFormatError(f"{path}: sample rate {file.samplerate} Hz; expected at least {MIN_SAMPLE_RATE_HZ} Hz")
    return file


def _wav_is_complete(path: Path) -> bool:
    """Whether the data chunk is all there; libsndfile itself silently shortens a cut file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                unknown = length in (0, 0xFFFFFFFF)  # written by a stream that could not go back
                return unknown or file.tell() + length <= size
            file.seek(length + length % 2, os.SEEK_CUR)
    return True


def _ogg_is_complete(path: Path) -> bool:
    """Whether the file's last Ogg page is marked as the end of its stream (RFC 3533, section 6: header type 4)."""
    longest_page = 65_307
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - longest_page))
        tail = file.read()
    page = tail.rfind(b"OggS")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)

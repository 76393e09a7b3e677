"""Audio files on disk: opened and read with every defect named, those that libsndfile passes over as well."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from salm.errors import AudioFormatError

MIN_SAMPLE_RATE_HZ = 1_000
BLOCK_S = 20.0
"""Length of the blocks in which files are read: bounds the memory that an hours-long file takes."""
_UNKNOWN_FRAMES = 2**62
_Check = Callable[[Path], bool]


def open_audio(path: Path) -> soundfile.SoundFile:
    """Open an audio file for reading.

    Raises:
        AudioFormatError: the file is missing, unreadable, empty, no audio, or shorter than its own header says.
    """
    try:
        if path.is_dir():
            raise AudioFormatError(f"{path}: a folder, expected an audio file; `salm index` takes folders")
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise AudioFormatError(f"{path}: no such file; check the path") from error
    except ValueError as error:
        raise AudioFormatError(f"{str(path)!r}: not a file name ({error}); check the path") from error
    except OSError as error:
        raise AudioFormatError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error
    if size == 0:
        raise AudioFormatError(f"{path}: empty file (0 bytes); copy or record it again")
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        raise AudioFormatError(
            f"{path}: not a readable audio file ({error.error_string.rstrip('.')}); expected wav, flac, ogg or mp3"
        ) from error
    complete = _IS_COMPLETE.get(file.format)
    if complete is not None and not complete(path):
        file.close()
        raise AudioFormatError(f"{path}: truncated: it ends before its header says; copy the file again")
    if file.frames >= _UNKNOWN_FRAMES:
        file.close()
        raise AudioFormatError(
            f"{path}: the header does not say how long it is (a stream that was cut off?); rewrite it, e.g. with "
            "`flac -d` and `flac`, or ffmpeg"
        )
    if file.samplerate < MIN_SAMPLE_RATE_HZ:
        file.close()
        raise AudioFormatError(f"{path}: sample rate {file.samplerate} Hz; expected at least {MIN_SAMPLE_RATE_HZ} Hz")
    return file


def read_blocks(path: Path, file: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    """Samples (channels, n) of an opened file at its own rate, in blocks of `BLOCK_S`.

    Raises:
        AudioFormatError: there are none, fewer than the header says, or one is not finite.
    """
    size, position = round(BLOCK_S * file.samplerate), 0
    while True:
        try:
            block = file.read(size, dtype="float32", always_2d=True).T
        except soundfile.LibsndfileError as error:
            raise AudioFormatError(
                f"{path}: damaged after {position / file.samplerate:.2f} s ({error}); copy the file again"
            ) from error
        finite = np.isfinite(block).all(axis=0)
        if not finite.all():
            bad = position + int(np.argmin(finite))
            raise AudioFormatError(
                f"{path}: NaN or infinite sample at {bad / file.samplerate:.3f} s; repair or cut the recording there"
            )
        position += block.shape[1]
        if block.shape[1]:
            yield block
        if block.shape[1] < size:
            break
    if position == 0:
        raise AudioFormatError(f"{path}: no samples; expected at least one")
    if position < file.frames and (file.format != "MP3" or _mp3_knows_its_length(path)):
        raise AudioFormatError(
            f"{path}: truncated: the header promises {file.frames} samples per channel, {position} are there; "
            "copy the file again"
        )


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


def _mp3_knows_its_length(path: Path) -> bool:
    """Whether the first frame holds a Xing or Info header; without one the length is an estimate."""
    with path.open("rb") as file:
        start = file.read(10)
        if start[:3] == b"ID3":  # its length in four bytes of seven bits
            file.seek(10 + sum(byte << 7 * place for place, byte in enumerate(reversed(start[6:]))))
        else:
            file.seek(0)
        frame = file.read(200)
    return b"Xing" in frame or b"Info" in frame


def _outer_chunk_is_complete(offset: int, num_bytes: int, byteorder: Literal["little", "big"], outside: int) -> _Check:
    """Whether the file is as long as the length of its outermost chunk; `outside`: bytes that it does not count."""

    def check(path: Path) -> bool:
        with path.open("rb") as file:
            file.seek(offset)
            length = int.from_bytes(file.read(num_bytes), byteorder)
        return length + outside <= path.stat().st_size

    return check


_IS_COMPLETE: dict[str, _Check] = {
    "OGG": _ogg_is_complete,
    "WAV": _wav_is_complete,
    "WAVEX": _wav_is_complete,
    # Recordings over 4 GB.
    "RF64": _outer_chunk_is_complete(20, 8, "little", outside=8),
    "W64": _outer_chunk_is_complete(16, 8, "little", outside=0),
    "AIFF": _outer_chunk_is_complete(4, 4, "big", outside=8),
}

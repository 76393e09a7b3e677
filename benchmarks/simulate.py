"""Room responses and FOA scenes per second: `salm.scenes` beside pyroomacoustics (and torchrir), and how they differ.

    python benchmarks/simulate.py > simulate.json        # about 4 minutes on 2 idle cores

One shoebox room per reverberation time. All simulators get the same walls, source and receiver, and use every image
that arrives within the reverberation time (pyroomacoustics: the order that its `inverse_sabine` recommends), but for
`salm`, which takes the nearest 2,500 and continues them with its diffuse tail: that is what scenes are made with.
pyroomacoustics' FOA microphone is an omnidirectional one and three figures of eight in one place, which is SN3D.

- `pyroomacoustics, flat`: walls without frequency dependence, its fastest setting; `7 bands`: octave bands and air.
- `salm all images`: octave bands and air; `salm flat all images`: neither, as `pyroomacoustics, flat`.
- `torchrir flat`: if it is installed (`pip install "torchrir>=3"`), at pyroomacoustics' order, walls as in `flat`.

The error is that of SALM's images (no tail, no air) against pyroomacoustics' response, all four channels, in the band
that both reproduce (100 Hz to 8 kHz), up to 20 ms before the end; 0 dB would be a difference as large as the response.
Medians of interleaved repetitions. JSON goes to stdout, tables to stderr.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyroomacoustics as pra
from scipy.signal import butter, sosfiltfilt

from salm.geometry import unit_vector
from salm.scenes.rooms import OCTAVE_BANDS_HZ, SPEED_OF_SOUND_M_S, Room
from salm.scenes.spatialize import spatialize
from salm.scenes.srir import DIRECT_S, simulate_srir

RATE_HZ = 24_000
SIZE_M = (5.0, 4.0, 3.0)
RECEIVER_M = (2.2, 1.7, 1.4)
DISTANCE_SAMPLES = 112
"""Of source and receiver: whole, so that both direct sounds lie on the sampling grid."""
ALL_IMAGES = 10**7
COMMON_BAND_HZ = (100.0, 8000.0)
CUT_END_S = 0.02
SCENE_S = 10.0
BAR_DB = -40.0
BAR_TIMES = 10.0


def source_m() -> tuple[float, float, float]:
    """Where the source is: ahead, to the left, a little above."""
    direction = unit_vector(0.6, 0.2)
    place = np.array(RECEIVER_M) + DISTANCE_SAMPLES * SPEED_OF_SOUND_M_S / RATE_HZ * direction
    return float(place[0]), float(place[1]), float(place[2])


def absorption_of(rt60_s: float) -> tuple[float, int]:
    """Walls' absorption and image order for a reverberation time, by pyroomacoustics (Sabine)."""
    return pra.inverse_sabine(rt60_s, SIZE_M, c=SPEED_OF_SOUND_M_S)


def salm_response(rt60_s: float, *, tail: bool, air: bool = True) -> np.ndarray:
    """(4, taps) of SALM: 2,500 images and the tail, or all images that arrive within the reverberation time.

    Without air all octave bands are alike here, and SALM computes one.
    """
    room = Room.uniform(SIZE_M, absorption_of(rt60_s)[0])
    generator = np.random.default_rng(0) if tail else None
    options: dict[str, Any] = {} if tail else {"max_images": ALL_IMAGES}
    srir = simulate_srir(
        room, source_m(), RECEIVER_M, RATE_HZ, generator=generator, duration_s=rt60_s, air_absorption=air, **options
    )
    return srir.response


def foa_room(rt60_s: float, *, bands: bool, order: int | None = None, signal: np.ndarray | None = None) -> Any:
    """A room of pyroomacoustics with a source and an FOA microphone (W, Y, Z, X)."""
    absorption, recommended = absorption_of(rt60_s)
    coefficients = {"coeffs": [absorption] * len(OCTAVE_BANDS_HZ), "center_freqs": list(OCTAVE_BANDS_HZ)}
    room = pra.ShoeBox(
        SIZE_M,
        fs=RATE_HZ,
        materials=pra.Material(coefficients if bands else absorption),
        max_order=recommended if order is None else order,
        air_absorption=bands,
    )
    room.add_source(source_m(), signal=signal)
    axes = [pra.directivities.DirectionVector(*angles, degrees=True) for angles in ((90, 90), (0, 0), (0, 90))]
    patterns = [pra.directivities.Omnidirectional(), *map(pra.directivities.FigureEight, axes)]
    room.add_microphone_array(np.tile(np.array(RECEIVER_M)[:, None], 4), directivity=patterns)
    return room


def pra_response(rt60_s: float, *, bands: bool, order: int | None = None) -> np.ndarray:
    """(4, taps) of pyroomacoustics, time as it is there."""
    room = foa_room(rt60_s, bands=bands, order=order)
    room.compute_rir()
    taps = min(len(channel[0]) for channel in room.rir)
    return np.stack([channel[0][:taps] for channel in room.rir])


def band_error_db(rt60_s: float) -> float:
    """Error of SALM's images against pyroomacoustics' response in the common band, relative to the latter."""
    ours = salm_response(rt60_s, tail=False, air=False)
    reach_m = rt60_s * SPEED_OF_SOUND_M_S + DISTANCE_SAMPLES * SPEED_OF_SOUND_M_S / RATE_HZ
    order = math.ceil(reach_m * math.sqrt(sum(1 / size**2 for size in SIZE_M))) + 3
    theirs = pra_response(rt60_s, bands=False, order=order)
    start = DISTANCE_SAMPLES + pra.constants.get("frac_delay_length") // 2 - round(DIRECT_S * RATE_HZ)
    theirs = theirs[:, start : start + ours.shape[1]] * (DISTANCE_SAMPLES * SPEED_OF_SOUND_M_S / RATE_HZ)
    band = butter(8, COMMON_BAND_HZ, "bandpass", fs=RATE_HZ, output="sos")
    clear = slice(0, ours.shape[1] - round(CUT_END_S * RATE_HZ))
    ours, theirs = (sosfiltfilt(band, response)[:, clear] for response in (ours, theirs))
    return float(20 * np.log10(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)))


def torchrir_response(rt60_s: float) -> np.ndarray:
    """(4, taps) of torchrir (3.0), time as it is there: an omnidirectional microphone, then three figures of eight."""
    import torch
    from torchrir import MicrophoneArray, Room, Source, StaticScene
    from torchrir.config import SimulationConfig
    from torchrir.sim import simulate

    absorption, order = absorption_of(rt60_s)
    room = Room.shoebox(list(SIZE_M), fs=RATE_HZ, c=SPEED_OF_SOUND_M_S, beta=[math.sqrt(1 - absorption)] * 6)
    source = Source.from_positions([list(source_m())])
    axes = [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    place = [list(RECEIVER_M)]
    microphones = (
        MicrophoneArray.from_positions(place),
        MicrophoneArray.from_positions(place * 3, orientation=axes, directivity="bidir"),
    )
    settings = SimulationConfig(max_order=order, nsample=DISTANCE_SAMPLES + round(rt60_s * RATE_HZ))
    with torch.inference_mode():
        scenes = [StaticScene(room=room, sources=source, mics=each) for each in microphones]
        return torch.cat([simulate(scene, settings).rirs.flatten(0, 1) for scene in scenes]).numpy()


def runs_of(rt60_s: float, dry: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Everything that is timed at one reverberation time, by name."""
    response = salm_response(rt60_s, tail=True)
    runs: dict[str, Callable[[], Any]] = {
        "response, salm": lambda: salm_response(rt60_s, tail=True),
        "response, salm all images": lambda: salm_response(rt60_s, tail=False),
        "response, salm flat all images": lambda: salm_response(rt60_s, tail=False, air=False),
        "response, pyroomacoustics flat": lambda: pra_response(rt60_s, bands=False),
        "response, pyroomacoustics 7 bands": lambda: pra_response(rt60_s, bands=True),
        "scene, salm": lambda: spatialize(dry, salm_response(rt60_s, tail=True)),
        "scene, salm all images": lambda: spatialize(dry, salm_response(rt60_s, tail=False)),
        "scene, salm flat all images": lambda: spatialize(dry, salm_response(rt60_s, tail=False, air=False)),
        "scene, pyroomacoustics flat": lambda: foa_room(rt60_s, bands=False, signal=dry).simulate(),
        "convolution alone, salm": lambda: spatialize(dry, response),
    }
    if find_spec("torchrir") is not None:
        runs["response, torchrir flat"] = lambda: torchrir_response(rt60_s)
    return runs


def measure(rt60_s: float, repetitions: int) -> list[dict[str, Any]]:
    """Median seconds of every run, interleaved, and how many times faster than pyroomacoustics the run is."""
    dry = np.random.default_rng(1).standard_normal(round(SCENE_S * RATE_HZ)).astype(np.float32) * 0.1
    runs = runs_of(rt60_s, dry)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for name, median in medians.items():
        row = {"rt60_s": rt60_s, "run": name, "per_s": round(1 / median, 2), "ms": round(1000 * median, 2)}
        for setting in ("flat", "7 bands"):
            reference = f"{name.partition(',')[0]}, pyroomacoustics {setting}"
            row[f"times {setting}"] = round(medians[reference] / median, 1) if reference in medians else ""
        rows.append(row)
    return rows


def main() -> None:
    """Print one document, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rt60", type=float, nargs="+", default=[0.2, 0.4, 0.6], help="seconds")
    parser.add_argument("--repetitions", type=int, default=3, help="after one as warm-up")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of pyroomacoustics and torch")
    arguments = parser.parse_args()
    pra.constants.set("rir_hpf_enable", False)  # its high-pass filter is no part of the room, and takes time
    pra.constants.set("num_threads", arguments.threads)
    if find_spec("torchrir") is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    rows, errors = [], {}
    for rt60_s in arguments.rt60:
        print(f"RT60 {rt60_s} s", file=sys.stderr)
        errors[f"{rt60_s} s"] = round(band_error_db(rt60_s), 1)
        rows += measure(rt60_s, arguments.repetitions)
    columns = list(rows[0])
    cells = [columns, *([str(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=sys.stderr)
    print(f"error against pyroomacoustics in the common band, dB: {errors}", file=sys.stderr)
    machine: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    machine["load_average_at_end"] = os.getloadavg()
    settings = {"size_m": SIZE_M, "rate_hz": RATE_HZ, "scene_s": SCENE_S, "threads": arguments.threads}
    bars = {"error_db": BAR_DB, "times_at_0.4_s": BAR_TIMES}
    document = {"rows": rows, "error_db": errors, "bars": bars, "settings": settings, "machine": machine}
    print(json.dumps(document | {"versions": {"pyroomacoustics": pra.__version__, "numpy": np.__version__}}, indent=2))


if __name__ == "__main__":
    main()

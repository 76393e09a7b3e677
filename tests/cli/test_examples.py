"""The last line of each command's help runs as it stands."""

import re
import shlex
from pathlib import Path

from tests.cli.commands import Run, write_recording

# Each needs what those before it made.
COMMANDS = ("simulate", "doctor", "direction", "index", "salm-retrieve")


def test_examples_run_in_order(run: Run, tiny: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "recordings" / "scene.flac")
    write_recording(tmp_path / "sounds" / "rain.wav")
    (tmp_path / "sounds" / "manifest.csv").write_text(
        "path,label,caption,group,source,licence,duration_s\nrain.wav,rain,It rains.,g1,made,CC0,2.0\n"
    )
    for command in COMMANDS:
        example = re.search(r"Example: (.*)$", run(command, "--help").stdout.rstrip())
        assert example, command
        words = shlex.split(example[1])
        assert words[0] == ("salm-retrieve" if command == "salm-retrieve" else "salm")
        result = run(*words[words[0] == "salm" :], cwd=tmp_path, SALM_MODEL=str(tiny))
        assert result.code == 0, result
        assert result.stdout, result
    assert (tmp_path / "scenes" / "scenes.jsonl").is_file()

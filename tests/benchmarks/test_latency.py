"""What the command line's benchmark runs does what it says; no test asserts a time."""

import subprocess
import sys

from salm_index import Index

from benchmarks import latency


def test_index_of_the_benchmark_is_the_models(tiny, tiny_checkpoint, tmp_path):
    latency.make_index(tmp_path / "a.index", 30, str(tiny_checkpoint))
    with Index.open(tmp_path / "a.index") as index:
        assert len(index) == 30
        assert index.model == tiny.model_id
    stages = latency.query_stages(str(tmp_path / "a.index"), str(tiny_checkpoint), repetitions=1)
    assert list(stages) == ["imports", "open index", "load model", "encode sentence", "search"]


def test_a_query_imports_neither_torch_nor_scipy(tiny_checkpoint, tmp_path):
    latency.make_index(tmp_path / "a.index", 30, str(tiny_checkpoint))
    code = (
        "import sys; from salm.cli.retrieve import main\n"
        f"sys.argv = ['salm-retrieve', {latency.QUERY!r}, '--index', {str(tmp_path / 'a.index')!r}, "
        f"'--model', {str(tiny_checkpoint)!r}]\n"
        "try:\n    main()\n"
        "finally:\n    print('modules:', *sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    hits, _, modules = answer.partition("modules:")
    assert len(hits.splitlines()) > 10
    assert "faiss" in modules.split()
    assert not {"torch", "transformers", "scipy", "torchvision", "torchaudio", "pyroomacoustics"} & set(modules.split())


def test_commands_are_timed():
    waits = latency.time_commands({"help": [sys.executable, "-S", "-c", "pass"]}, repetitions=2)
    assert waits["help"]["bar_s"] == 0.5
    assert 0 < waits["help"]["wall_s"] <= waits["help"]["slowest_s"]


def test_imports_are_summed_by_package():
    seconds = latency.import_seconds("import json.decoder, email.message")
    assert {"all", "json", "email"} <= set(seconds)
    assert seconds["all"] >= seconds["json"] + seconds["email"]

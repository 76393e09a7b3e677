"""Both kinds of feature maps are measured and compared; no test asserts a time."""

from benchmarks import features


def test_both_kinds_are_compared():
    document = features.measure(threads=[1], repetitions=1)
    kinds = {"torch", "compiled"} - set(document["errors"])
    rows = {(row["maps by"], row["channels"], row["threads"]) for row in document["ms_per_clip"]}
    assert rows == {(kind, channels, 1) for kind in kinds for channels in (1, 4)}
    if not document["errors"]:
        assert 0 < document["largest_difference"]["log_mel_db"] < 1e-3
        assert document["largest_difference"]["intensity"] < 1e-6

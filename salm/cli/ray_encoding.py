"""Encoding by workers of Ray: `salm index --workers ray`.

The recordings are a Ray Data set, and each worker is an actor that has loaded the model once. This process alone
writes the index. Vectors are those that it would have made itself; the order of the recordings is Ray's.

Without RAY_ADDRESS a cluster of this machine's CPUs is started for as long as it takes, on the loopback device alone.
On a cluster every node needs salm, the model and the recordings under the same names.
"""

import logging
import os
import pickle
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import salm
from salm.cli.encoding import encode_jobs
from salm.cli.jobs import Encoding, Job, Outcome
from salm.errors import CheckpointError, DependencyError, SalmError

RECORDINGS_AT_ONCE = 4


class Worker:
    """What Ray Data calls with a few recordings at a time, in an actor."""

    def __init__(self, model: str, model_id: str, encoding: Encoding) -> None:
        self.embedder, self.encoding = salm.load(model, precision=encoding.precision), encoding
        if self.embedder.model_id != model_id:
            raise CheckpointError(f"{model}: expected {model_id} as on the driver, got {self.embedder.model_id}")

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Outcomes of jobs, both pickled: Arrow has no column for them."""
        outcomes = encode_jobs(self.embedder, self.encoding, map(pickle.loads, batch["job"]))
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}


def encode_with_ray(
    model: str, model_id: str, encoding: Encoding, jobs: Sequence[Job], num_workers: int
) -> Generator[Outcome, None, None]:
    """Outcomes of all jobs, in the order in which they are done. Closing the iterator stops the workers.

    Args:
        model: what `salm.load` takes on every node.
        model_id: which model that must be.
        num_workers: 0 for as many as the cluster has CPUs.

    Raises:
        DependencyError: Ray is not installed.
        SalmError: a worker failed.
    """
    ray = _import_ray()
    if not jobs:
        return
    model = str(Path(model).resolve()) if Path(model).exists() else model
    with _cluster(ray):
        count = num_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        count = min(count, -(-len(jobs) // RECORDINGS_AT_ONCE))
        data = ray.data.from_items([{"job": pickle.dumps(job)} for job in jobs], override_num_blocks=4 * count)
        encoded = data.map_batches(
            Worker,
            fn_constructor_args=(model, model_id, encoding),
            batch_size=RECORDINGS_AT_ONCE,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=count),
        )
        try:
            for row in encoded.iter_rows():
                yield pickle.loads(row["outcome"])
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise SalmError(
                f"Ray: a worker failed ({reason}); what was done is kept: run the same command again"
            ) from error


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Ray as it runs already, or as RAY_ADDRESS says, or on this machine for a while."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not os.environ.get("RAY_ADDRESS"):
        options["include_dashboard"] = False
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    # Ray would report each start to its makers; and it listens on the network, unless it takes this for a desktop.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        # No import statement: Ray is optional.
        ray = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise DependencyError('encoding with Ray needs ray: pip install "salm[ray]"') from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray

"""Runs a job of independent blocks: in this process, in several processes of this machine, or on Ray.

A block is a fixed range of the work, such as the latents of one shard. Its result depends on nothing but the job and
its number, and is written as a whole, by a rename. So a job that was killed goes on with the blocks that are missing,
and it does not matter which process makes a block, when, or whether two of them make the same one.

On Ray the job is a Ray Data pipeline: tasks read, one actor a worker holds the net, tasks write. The cluster is that of
`RAY_ADDRESS`, or else one that is started on 127.0.0.1, without a dashboard, and ends with this process.
"""

import logging
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import torch

from jeppa.errors import ConfigError, JeppaError

Engine = Literal["local", "ray"]
Make = Callable[[int, Any], Any]
OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory of a local Ray; what does not fit goes to the disk."""
ACTOR_CPUS, TASK_CPUS = 0.5, 0.25
"""Of Ray's count of processors: two workers and what feeds them fit on two cores."""
REACH_SECONDS = 5.0
STAY_HERE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""When this is 0 as Ray is imported, its servers listen on 127.0.0.1 alone, on Linux too. Otherwise Ray replaces that
address by one that other machines reach, whatever `ray.init` is given."""
MOST_RAY_BLOCKS = 4096


class Job(Protocol):
    """Work in blocks; picklable, because other processes do it."""

    def missing(self) -> list[int]:
        """Numbers of the blocks that are not written yet."""

    def read(self, block: int) -> Any:
        """What a block is made of, for which no net is needed."""

    def open(self) -> Make:
        """Load the nets; the result makes a block from its number and what `read` gave."""

    def write(self, block: int, made: Any) -> None:
        """Write a block, as a whole or not at all."""


def require(command: str, *modules: str) -> None:
    """Refuse to go on without packages of the extra `scale`.

    Raises:
        ConfigError: names what is missing and how to install it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{command} needs {', '.join(missing)}: pip install 'jeppa[scale]'")


def allowed_cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def run_blocks(job: Job, engine: Engine, workers: int) -> Iterator[int]:
    """Do the blocks of a job that are missing; yields the number of each when it is written, in any order.

    Args:
        job: what to do.
        engine: where.
        workers: how many hold the nets, each with one thread; one of `local` is this process.

    Raises:
        ConfigError: no worker is asked for, the extra is not installed, or the cluster cannot be reached.
        JeppaError: what the job raises, after the blocks that were done.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, but at least 1 is needed")
    blocks = job.missing()
    if not blocks:
        return
    if engine == "ray":
        yield from _run_on_ray(job, blocks, workers)
    elif workers == 1:
        with _one_thread():
            make = job.open()
            for block in blocks:
                job.write(block, make(block, job.read(block)))
                yield block
    else:
        yield from _run_in_processes(job, blocks, workers)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums have one order with one thread, so that every engine gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_worker: tuple[Job, Make] | None = None


def _start_worker(job: Job) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = job, job.open()


def _do_block(block: int) -> int:
    assert _worker is not None
    job, make = _worker
    job.write(block, make(block, job.read(block)))
    return block


def _run_in_processes(job: Job, blocks: Sequence[int], workers: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (job,)) as pool:
        try:
            for done in as_completed([pool.submit(_do_block, block) for block in blocks]):
                yield done.result()
        except BrokenProcessPool:
            raise JeppaError("a worker process was killed; run the command again, it goes on where it was") from None
        finally:
            pool.shutdown(cancel_futures=True)


class _RayWorker:
    """Actor that holds the nets."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        self._make = job.open()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        made = [self._make(int(block), pickle.loads(data)) for block, data in _pairs(rows)]
        return {"block": rows["block"], "data": [pickle.dumps(one, 5) for one in made]}


class _RayReader:
    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"block": row["block"], "data": pickle.dumps(self._job.read(int(row["block"])), 5)}


class _RayWriter:
    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self._job.write(int(row["block"]), pickle.loads(row["data"]))
        return {"block": row["block"]}


def _pairs(rows: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    return zip(rows["block"], rows["data"], strict=True)


def _run_on_ray(job: Job, blocks: Sequence[int], workers: int) -> Iterator[int]:
    require("--engine ray", "ray", "pyarrow", "pandas")
    with open_cluster(workers):
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current()
        context.enable_progress_bars = False
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        rows = [{"block": block} for block in blocks]
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_RAY_BLOCKS))
        data = data.map(_RayReader(job).__call__, num_cpus=TASK_CPUS)
        data = data.map_batches(
            _RayWorker, fn_constructor_args=(job,), batch_size=1, compute=ActorPoolStrategy(size=workers),
            num_cpus=ACTOR_CPUS, num_gpus=gpus,
        )  # fmt: skip
        data = data.map(_RayWriter(job).__call__, num_cpus=TASK_CPUS)
        try:
            for row in data.iter_rows():
                yield int(row["block"])
        except ray.exceptions.RayError as error:
            raise _error_of_user(error) from None


def _error_of_user(error: BaseException) -> BaseException:
    """The error of ours that Ray carries from a worker, or one line about what Ray says."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, JeppaError):
            return JeppaError(str(seen).splitlines()[-1])
        seen = getattr(seen, "cause", None) or seen.__cause__
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return JeppaError(f"Ray could not finish ({last[0][:200]}); run the command again, it goes on where it was")


@contextmanager
def open_cluster(workers: int) -> Iterator[None]:
    """Within the block, Ray is connected: to what this process is connected to already, to `RAY_ADDRESS`, or to itself.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        check_reachable(address)
    if not address or address == "local":
        os.environ[STAY_HERE] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it logs while all goes well is not for people
    import ray

    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not address or address == "local":
        options |= {
            "address": "local", "num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_STORE,
        }  # fmt: skip
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"Ray cluster {address or 'on this machine'}: cannot be reached ({reason})") from None
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Refuse an address, `HOST:PORT` or `ray://HOST:PORT`, where nothing listens; Ray itself would try for minutes.

    Raises:
        ConfigError: nothing listens there.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 10001), REACH_SECONDS):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Ray cluster {address}: cannot be reached ({error}); check RAY_ADDRESS, or unset it to use this machine"
        ) from None

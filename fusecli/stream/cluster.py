"""Many machines through Ray (``--cluster``): its tasks fuse chunks of pairs on storage that all machines share.

Ray places the tasks, starts workers and repeats the tasks of a worker that died; this module cuts jobs into chunks and
collects outcomes. A worker process loads the model once and keeps it. Results are replaced whole, so a chunk that is
done twice leaves the same files.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import socket
from collections import deque
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

from fusecli import __version__
from fusecli.errors import FusecliError, Stopped, UsageError, counted, first_line
from fusecli.extras import need
from fusecli.images.atomic import sweep
from fusecli.stream.engine import Engine
from fusecli.stream.job import Job, Outcome
from fusecli.stream.run import failed
from fusecli.stream.settings import VolumeSettings
from fusecli.stream.stop import Ended
from fusecli.stream.work import EngineSpec, Work

log = logging.getLogger("fusecli")

CHUNK = 64  # most pairs of a task: bounds the work that dies with a worker, and the time between signs of progress
RETRIES = 3  # of a task whose worker died
ANSWERS = 10.0  # seconds within which the head of a cluster has to answer
GPU_WORKERS = 4  # threads that read and write beside each GPU, where --workers does not say


@dataclass(frozen=True)
class Session:
    """What a worker needs besides the jobs. probe: a file that every machine must see; it holds ``token``.

    inputs: files of the first job, which every machine must see, too.
    """

    spec: EngineSpec
    work: Work
    folder: str
    probe: Path
    token: str
    inputs: tuple[Path, ...]


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as its worker found it; named as the attributes of `Engine` are."""

    host: str
    device: str
    precision: str
    runtime: str
    tile: int
    overlap: int


@dataclass
class Cluster:
    """A connected cluster with its machines checked.

    slots: tasks that run at once. node: what each machine is like. told: messages of workers that were passed on.
    """

    ray: Any
    session: Any
    slots: int
    needs: dict[str, Any]
    node: Node
    chunk: int
    told: set[str] = field(default_factory=set)

    def run(self, jobs: Sequence[Job], *, preview: Container[Path], stop: Event) -> Generator[Outcome, None, None]:
        """Fuse every job and yield its outcome as it comes, until ``stop`` is set; what has begun is then finished.

        A chunk whose worker dies again and again is repeated pair by pair, so that only the pair to blame fails.
        """
        task = self.ray.remote(_fuse).options(max_retries=RETRIES, **self.needs)
        size = max(1, min(self.chunk, len(jobs) // (8 * self.slots)))
        waiting = deque(jobs[start : start + size] for start in range(0, len(jobs), size))
        under_way: dict[Any, Sequence[Job]] = {}
        try:
            while under_way or (waiting and not stop.is_set()):
                while waiting and not stop.is_set() and len(under_way) < self.slots + 1:
                    chunk = waiting.popleft()
                    shown = frozenset(job.output for job in chunk if job.output in preview)
                    under_way[task.remote(self.session, chunk, shown)] = chunk
                ready, _ = self.ray.wait(list(under_way), timeout=1.0)
                for reference in ready:
                    chunk = under_way.pop(reference)
                    for outcome in self._outcomes(reference, chunk, waiting):
                        if outcome.fatal:
                            stop.set()
                        yield outcome
        finally:
            if under_way:  # the consumer left early: tasks are finished, so that no file stays half written
                self.ray.wait(list(under_way), num_returns=len(under_way))
            sweep(job.output for job in jobs)

    def _outcomes(self, reference: Any, chunk: Sequence[Job], waiting: deque[Sequence[Job]]) -> list[Outcome]:
        try:
            outcomes, messages = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # the machine lacks something; nothing of it was begun
            return [failed(job, error.cause or error) for job in chunk]
        except self.ray.exceptions.RayError as error:
            if len(chunk) > 1:
                log.warning(
                    "a worker died %d times on %d pairs, which are now tried one by one", RETRIES + 1, len(chunk)
                )
                waiting.extendleft([job] for job in reversed(chunk))
                return []
            return [failed(chunk[0], FusecliError(f"its worker died {RETRIES + 1} times ({first_line(error)})"))]
        for level, message in messages:
            if message not in self.told:  # what a run says once, each worker says
                self.told.add(message)
                log.log(level, "%s", message)
        own = {job.name: job for job in chunk}
        for outcome in outcomes:
            outcome.job = own[outcome.job.name]  # not the unpickled copy, which the report would keep in memory
        return outcomes


@contextmanager
def connect(
    address: str, spec: EngineSpec, work: Work, jobs: Sequence[Job], folder: Path, *, workers: int | None = None
) -> Iterator[Cluster]:
    """Join the Ray cluster at ``address`` and check that every machine of it can do the jobs.

    address: HOST:PORT of its head, or auto: the cluster that RAY_ADDRESS names or that this machine is part of, else
    one of this machine alone. folder: where results go. workers: cores that a task takes (default 1; with GPUs 4).
    Where the cluster has GPUs, each task takes one, unless ``spec`` says cpu. Raises UsageError: no Ray, no cluster,
    storage that is not shared, other versions, machines whose results would differ.
    """
    ray = _ray()
    if spec.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {spec.device}: with --cluster Ray chooses the device; write auto, cpu or cuda")
    joined = ray.is_initialized()
    probe = folder.absolute() / f".{secrets.token_hex(8)}.probe"
    try:
        if not joined:
            _start(ray, address)
        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        on_gpu = spec.device != "cpu" and gpus > 0
        per_task = workers or (GPU_WORKERS if on_gpu else 1)
        if on_gpu:
            per_task = max(1, min(per_task, cores // gpus))
        needs = {"num_cpus": per_task, "num_gpus": 1 if on_gpu else 0}
        able = [node for node in ray.nodes() if node["Alive"] and _has(node["Resources"], needs)]
        if not able:
            raise UsageError(f"--cluster {address}: no machine of it has {per_task} cores; see --workers")
        slots = min(gpus, cores // per_task) if on_gpu else cores // per_task
        spec = replace(spec, device="cuda" if on_gpu or spec.device == "cuda" else "cpu")
        token = secrets.token_hex(16)
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text(token, encoding="ascii")
        inputs = tuple(path for job in jobs[:1] for path in job.files if path.exists())
        work = replace(work, settings=replace(work.settings, workers=per_task))
        session = Session(spec, work, os.getcwd(), probe, token, inputs)
        node = _check(ray, session, needs, able, address)
        log.info("cluster: %s at once on %s, %s", counted(slots, "task"), node.device, node.precision)
        chunk = 1 if isinstance(work.settings, VolumeSettings) else CHUNK
        yield Cluster(ray, ray.put(session), slots, needs, node, chunk)
    except Ended:
        raise
    except SystemExit as error:  # Ray's handler of SIGTERM raises it
        raise Stopped(f"--cluster {address}: stopped by SIGTERM before any work", signal.SIGTERM) from error
    finally:
        probe.unlink(missing_ok=True)
        if not joined:
            ray.shutdown()


def _ray() -> Any:
    # Send no usage statistics, since batch jobs run in closed networks; silence Ray's hint on tasks without a GPU.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return need("ray", "--cluster needs Ray", "fusecli[cluster]")


def _start(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    host, colon, port = address.rpartition(":")
    try:
        if colon and "/" not in host:  # try first: Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS).close()
        ray.init(address=None if address == "auto" else address, include_dashboard=None, **quiet)
    except (ConnectionError, ValueError, OverflowError, RuntimeError, OSError) as error:
        raise UsageError(
            f"--cluster {address}: cannot be joined ({first_line(error)}); `ray status` on this machine tells more"
        ) from error


def _has(resources: dict[str, float], needs: dict[str, Any]) -> bool:
    return resources.get("CPU", 0) >= needs["num_cpus"] and resources.get("GPU", 0) >= needs["num_gpus"]


def _check(ray: Any, session: Session, needs: dict[str, Any], able: list[dict[str, Any]], address: str) -> Node:
    """Run `_look` on every machine that could get a task. Raises UsageError if one is unfit, or if they differ."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(_look)
    answers = []
    for node in able:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        placed = look.options(max_retries=RETRIES, scheduling_strategy=there, **needs)
        answers.append(placed.remote(session, __version__))
    found: list[Node] = []
    for node, answer in zip(able, answers, strict=True):
        try:
            found.append(ray.get(answer))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause or error
            reason = str(cause) if isinstance(cause, FusecliError) else first_line(cause)
            raise UsageError(f"--cluster {address}, machine {node['NodeManagerHostname']}: {reason}") from error
        except ray.exceptions.RayError as error:
            raise UsageError(
                f"--cluster {address}, machine {node['NodeManagerHostname']}: cannot run fusecli "
                f"({first_line(error)}); it must be installed there as it is here"
            ) from error
    kinds = {replace(one, host="") for one in found}
    if len(kinds) > 1:
        shown = ", ".join(f"{one.host}: {one.device} {one.precision}" for one in found)
        raise UsageError(
            f"--cluster {address}: machines differ, and so would their results ({shown}); name --device and --precision"
        )
    return found[0]


def _look(session: Session, version: str) -> Node:
    """Runs on a worker: what this machine is. Raises UsageError where it lacks what the run needs."""
    if version != __version__:
        raise UsageError(f"has fusecli {__version__}, this is {version}; install one version everywhere")
    engine = _engine(session)
    return Node(platform.node(), engine.device.type, engine.precision, engine.runtime, engine.tile, engine.overlap)


def _fuse(session: Session, jobs: Sequence[Job], shown: frozenset[Path]) -> tuple[list[Outcome], list[tuple[int, str]]]:
    """Runs on a worker: outcomes of the jobs, and what was logged meanwhile."""
    engine = _engine(session)
    messages: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    outcomes = list(session.work(jobs, engine, preview=shown, stop=Event()))
    return outcomes, messages


@cache
def _engine(session: Session) -> Engine:
    """The engine of this worker process, which serves every chunk. Raises UsageError where storage is not shared."""
    with suppress(OSError):
        os.chdir(session.folder)  # so that relative paths mean here what they mean to the user
    try:
        seen = session.probe.read_text(encoding="ascii") == session.token
    except OSError:
        seen = False
    missing = ([] if seen else [session.probe.parent]) + [path for path in session.inputs if not path.exists()]
    if missing:
        raise UsageError(
            f"does not see {missing[0]} as the machine that started the run does; "
            "inputs and output must lie on storage that all machines share, under the same path"
        )
    return session.spec.build()

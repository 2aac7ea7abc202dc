"""What a run does, as values that another process can be handed: how jobs are done, and by which engine."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from threading import Event

from fusecli.models import checkpoint
from fusecli.stream.engine import Engine
from fusecli.stream.run import Job, Outcome, Settings
from fusecli.stream.volumes import VolumeSettings


@dataclass(frozen=True)
class EngineSpec:
    """Options from which an engine is built; see `Engine` and `checkpoint.load`."""

    model: str
    task: str
    device: str = "auto"
    precision: str = "auto"
    tile: str = "auto"
    overlap: str = "auto"

    def build(self) -> Engine:
        """The engine, on this machine. Raises UsageError."""
        return Engine(checkpoint.load(self.model, self.task), self.device, self.precision, self.tile, self.overlap)


@dataclass(frozen=True)
class Work:
    """How jobs of one kind are done: ``run`` of stream.run or of stream.volumes, and its settings."""

    run: Callable[..., Generator[Outcome, None, None]]
    settings: Settings | VolumeSettings

    def __call__(
        self, jobs: Iterable[Job], engine: Engine, *, preview: Callable[[Job], bool], stop: Event
    ) -> Generator[Outcome, None, None]:
        return self.run(jobs, engine, self.settings, preview=preview, stop=stop)

    def with_workers(self, workers: int) -> Work:
        """The same, by as many threads."""
        return replace(self, settings=replace(self.settings, workers=workers))

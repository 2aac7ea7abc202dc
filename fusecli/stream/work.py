"""A run as values that can be sent to another process: how its jobs are done, and by which engine."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from fusecli import registry
from fusecli.stream import choices
from fusecli.stream.job import Job, Outcome

if TYPE_CHECKING:
    from fusecli.stream.engine import Engine


@dataclass(frozen=True)
class EngineSpec:
    """Options from which an engine is built; for the others see `Engine`.

    model: a released one (nano, base) or the path of a weight file. task: ir-vis, ct-mri, pet-mri or spect-mri. look: 0
    (thermal) to 1 (natural), of ir-vis; None: the model's own. runtime: auto (torch), torch, onnxruntime or openvino.
    """

    model: str
    task: str
    look: float | None = None
    device: str = "auto"
    precision: str = "auto"
    tile: str | int = "auto"
    overlap: str | int = "auto"
    runtime: str = "auto"

    def check(self) -> None:
        """Raises UsageError for a name that is mistyped; whether all is available here, only `build` tells."""
        registry.weights_file(self.model, self.task)
        choices.check_device(self.device)
        choices.check_precision(self.precision)
        choices.check_runtime(self.runtime)
        for option, value in (("--tile", self.tile), ("--tile-overlap", self.overlap)):
            choices.pixels(option, value, 0)

    def build(self) -> Engine:
        """The engine, on this machine. Raises UsageError."""
        from fusecli.stream.engine import Engine
        from fusecli.stream.runtimes import hand_over
        from fusecli.text import guide

        network = guide.load(self.model, self.task, self.look)
        network, device, precision = hand_over(network, self.runtime, self.device, self.precision)
        vivid = registry.TASKS[self.task].second == "mri"  # PET and SPECT come in a colormap's colours
        return Engine(network, device, precision, self.tile, self.overlap, vivid=vivid)


@dataclass(frozen=True)
class Work:
    """How jobs of one kind are done: ``run`` of stream.run, volumes, videos or watch, and its settings.

    divisible: whether the jobs are independent, so that other machines may do them. left: for runs that discover their
    pairs as they go, returns the pairs that were there but not fused when the run ended.
    """

    run: Callable[..., Generator[Outcome, None, None]]
    settings: Any
    divisible: bool = True
    left: Callable[[], list[Job]] | None = None

    def __call__(
        self, jobs: Iterable[Job], engine: Engine, *, preview: Container[Path], stop: Event
    ) -> Generator[Outcome, None, None]:
        """Outcomes as they come, until ``stop`` is set; a fatal one sets it."""
        for outcome in self.run(jobs, engine, self.settings, preview=preview, stop=stop):
            if outcome.fatal:
                stop.set()
            yield outcome

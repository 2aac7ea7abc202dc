"""Training batches: degrade scenes, compute their contexts and targets, cut patches; drawn ahead by processes."""

from __future__ import annotations

import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.images.opencv import cv2
from fusecli.models.mending import mend
from fusecli.models.network import FusionNetwork
from fusecli.stream.stop import heard
from fusecli.text.events import MEDICAL_SIDES, Event, severity_vector
from fusecli.text.sentences import VARIANTS
from fusecli.training.data import (
    PairSet,
    cut_part,
    cut_patch,
    flattened,
    of_another_camera,
    partly_clipped,
    saturated,
    shrunk,
    within_black,
)
from fusecli.training.degrade import degrade
from fusecli.training.looks import between, calmness
from fusecli.training.losses import calmed, event_weights, fusion_loss, restoration_loss, target_loss
from fusecli.training.recipe import Recipe
from fusecli.training.texts import Texts

PERCEPTION = 30.0  # weight of the perception loss
EACH_AHEAD = 2  # batches that a process draws ahead
SHARED = "/dev/shm"
HOT = 0.4  # share of clipped scenes whose second source is clipped: a wall or water may be too warm for a camera


@dataclass
class Batch:
    """Patches as the network sees them (possibly degraded) and as the loss wants them (clean), N×1×H×W in [0, 1]."""

    first: Tensor
    second: Tensor
    clean_first: Tensor
    clean_second: Tensor
    weights: Tensor  # N×9, see LossWeights
    keys: list[str]  # which pairs the patches are from
    events: list[list[Event]]  # what was done to each pair
    wordings: list[int]  # which of the wordings of its description each pair gets
    terms: tuple[str, ...]  # of the loss, those whose weight is not 0
    text: Tensor | None = None  # N×D description vectors, for models that read text
    context: Tensor | None = None  # N×D, what a student knows of the whole pair
    teacher_context: Tensor | None = None  # N×D, what a teacher without text knows of it
    severities: Tensor | None = None  # N×SEVERITY_DIM, the events as numbers
    look: Tensor | None = None  # N, for recipes with looks
    target: Tensor | None = None  # N×1×H×W, the target image for that look
    calm: Tensor | None = None  # N, its calmness, see `looks.calmness`
    clean_context: Tensor | None = None  # N×D, the context of the clean pairs, for networks with ``aims``
    aim: Tensor | None = None  # N×1×H×W, the target that such a network computes

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        waits = device.type != "cuda"  # MPS would still read what has been let go of by then
        return self._each(lambda tensor: tensor.to(device, non_blocking=not waits))

    def pin_memory(self) -> Batch:
        """The same in pinned memory, from which a GPU copies by itself; DataLoader calls this."""
        return self._each(Tensor.pin_memory)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by the names of their fields."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if torch.is_tensor(value)}

    def _each(self, act: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {name: act(value) for name, value in self.tensors().items()}
        return replace(self, **changed)

    def perception_loss(self, network: FusionNetwork) -> Tensor:
        """Error of the severities that a student perceives from its context alone; 0 for networks that cannot."""
        seen = None if self.context is None else network.perceived(self.context)
        if seen is None or self.severities is None:
            return self.first.new_zeros(())
        return PERCEPTION * F.mse_loss(seen, self.severities)

    def aimed_by(self, network: FusionNetwork) -> Batch:
        """The batch with the network's own target (`FusionNetwork.aim`), if it defines one."""
        if self.clean_context is None:
            return self
        return replace(self, aim=network.aim(self.clean_first, self.clean_second, self.clean_context))

    def loss(self, fused: Tensor) -> Tensor:
        """Distance from the aim or the target where there is one, else the fusion loss; mean over the batch.

        Always in float32: variances are small differences of squares.
        """
        with torch.autocast(fused.device.type, enabled=False):
            fused, clean = fused.float(), (self.clean_first, self.clean_second)
            if self.aim is not None:
                return restoration_loss(fused, self.aim, *clean, self.weights, self.terms).mean()
            if self.target is not None and self.calm is not None:
                return target_loss(fused, self.target, *clean, self.calm, self.weights, self.terms).mean()
            return fusion_loss(fused, *clean, self.weights, self.terms).mean()


class Scene(NamedTuple):
    """A pair before patches are cut of it. images: C×H×W, both inputs, both clean sources and the target, if any."""

    images: Tensor
    events: list[Event]  # what was done to it
    key: str
    look: Tensor | None
    context: Tensor | None
    teacher_context: Tensor | None
    clean_context: Tensor | None


class Batches:
    """Batches of a recipe, a pure function of (seed, step, rank): a resumed run draws what an unbroken one would.

    A batch is of one task, drawn in proportion to the pixels of each. Scenes are degraded (by ``recipe.degrade``), and
    ``network`` and ``teacher`` compute their contexts from the whole scenes; then three patches are cut from each. The
    loss refers to the clean sources; where text tells the network what is wrong, its weights depend on the events
    (arXiv 2504.07029).
    """

    def __init__(
        self,
        recipe: Recipe,
        data: dict[str, PairSet],
        rank: int = 0,
        texts: Texts | None = None,
        network: FusionNetwork | None = None,
        teacher: FusionNetwork | None = None,
    ) -> None:
        self.recipe, self.data, self.rank, self.texts = recipe, data, rank, texts
        self.network, self.teacher = network, teacher
        self.areas = torch.tensor([float(pairs.area) for pairs in data.values()])

    def __call__(self, step: int, device: torch.device) -> Batch:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the processes that draw ahead: the last bits of sums depend on it
        try:
            drawn = self.drawn(step)
        finally:
            torch.set_num_threads(threads)
        return self._with_text(drawn).to(device)

    def ahead(self, first: int, last: int, device: torch.device, workers: int = 0) -> Iterator[Batch]:
        """The batches of steps ``first`` … ``last`` − 1, drawn ahead by ``workers`` processes.

        Raises UsageError where shared memory, through which these hand them over, is too small.
        """
        # The first one is drawn here: while a graph is recorded from it, no other thread may pin memory.
        alone = min(first + 1, last) if workers else last
        for step in range(first, alone):
            batch = self(step, device)
            if alone < last:
                _check_shared_memory(workers * EACH_AHEAD * sum(each.nbytes for each in batch.tensors().values()))
            yield batch
        if alone == last:
            return
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores: as was asked for
        # A fork copies no data and starts at once; spawning takes a second each, and a fork server takes fewer tensors
        # than data sets have. It is safe beside this process's threads: the children draw on the CPU with one thread
        # of torch and of OpenCV each, so they wait for no pool whose threads were not forked, and never touch CUDA.
        drawn = DataLoader(
            _Drawn(self),
            batch_size=None,
            sampler=range(alone, last),  # any iterable of indices
            num_workers=workers,
            prefetch_factor=EACH_AHEAD,
            pin_memory=device.type == "cuda",
            worker_init_fn=_work_on,
            multiprocessing_context="fork" if sys.platform == "linux" else None,
        )
        for batch in drawn:
            yield self._with_text(batch).to(device)

    def _with_text(self, batch: Batch) -> Batch:
        """The batch with texts, encoded in this process: the checkpoint keeps the vectors of all texts it has met."""
        if self.texts is None:
            return batch
        return replace(batch, text=self.texts.vectors(batch.keys, batch.events, batch.wordings))

    def drawn(self, step: int) -> Batch:
        """A batch in memory, without texts."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step * 257 + self.rank)
        task = list(self.data)[int(torch.multinomial(self.areas, 1, generator=generator))]
        patches: list[Tensor] = []
        scenes: list[Scene] = []  # of each patch
        while len(patches) < recipe.batch:
            scene = self._scene(task, generator)
            for _ in range(min(3, recipe.batch - len(patches))):
                patches.append(cut_patch(scene.images, recipe.patch, generator))
                scenes.append(scene)
        keys, events = [scene.key for scene in scenes], [scene.events for scene in scenes]
        first, second, clean_first, clean_second, *target = torch.stack(patches).unsqueeze(2).unbind(1)
        loss = recipe.loss_for(task)
        sides = registry.TASKS[task].sides
        described = [self.texts.events(*pair) if self.texts else [] for pair in zip(keys, events, strict=True)]
        rows = [event_weights([event.type for event in row], loss) for row in described]
        looks = _joined(scene.look for scene in scenes)
        calm = [calmness(look) for look in looks.tolist()] if looks is not None and target else []
        if calm:
            rows = [calmed(row, one) for row, one in zip(rows, calm, strict=True)]
        weights = torch.stack([row.tensor() for row in rows])
        wordings = torch.randint(VARIANTS, (len(keys),), generator=generator).tolist()
        return Batch(
            *(first, second, clean_first, clean_second, weights, keys, events, wordings, loss.terms),
            context=_joined(scene.context for scene in scenes),
            teacher_context=_joined(scene.teacher_context for scene in scenes),
            severities=torch.tensor([severity_vector(row, sides) for row in events]),
            look=looks,
            target=target[0] if target else None,
            calm=torch.tensor(calm) if calm else None,
            clean_context=_joined(scene.clean_context for scene in scenes),
        )

    def _sources(self, planes: Tensor, sides: tuple[str, str], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Both sides of a scene (uint8 2×H×W) as 1×1×H×W, with variations that are no faults and are to be kept."""
        recipe = self.recipe
        first, second = (planes.float() / 255)[:, None, None]
        if _happens(recipe.sparse, generator):
            first, second = shrunk([first, second], generator)
        if recipe.varied:
            first, second = (of_another_camera(image, recipe.varied, generator) for image in (first, second))
        if _happens(recipe.dull, generator):
            first, second = (flattened(image, recipe.flat, generator) for image in (first, second))
        if recipe.wear:
            first, second = (
                degrade(image, side, generator, clean_share=1 - recipe.wear, severity=(0, recipe.worn))[0]
                for image, side in zip((first, second), sides, strict=True)
            )
        return first, second

    def _scene(self, task: str, generator: torch.Generator) -> Scene:
        recipe, network = self.recipe, self.network
        planes, key = self.data[task].scene(recipe.patch, generator)
        sides = registry.TASKS[task].sides
        first, second = self._sources(planes, sides, generator)
        mends = network is not None and network.mends
        aims = network is not None and network.aims
        if mends:  # the target must not hold what the network will never see
            first, second = mend(first), mend(second)
        whole, part = first, None
        if _happens(recipe.clipped, generator):
            if _happens(HOT, generator):
                throughout = _happens(0.5, generator)
                second = saturated(second, generator) if throughout else partly_clipped(second, generator)[0]
            else:
                first, part = partly_clipped(first, generator)
        inputs, events = [first, second], []
        if recipe.degrade:
            both = zip(inputs, sides, strict=True)
            made = [degrade(image, side, generator, clean_share=1 - recipe.degrade) for image, side in both]
            events = [event for _, found in made for event in found[0]]
            inputs = [mend(image) if found[0] and mends else image for image, found in made]
        images, look = [*inputs, first, second], None
        if recipe.looks:
            look = (1.3 * torch.rand(1, generator=generator) - 0.15).clamp(0, 1)  # both ends are frequent
        if look is not None and not aims:
            target = _look_target(whole, second, float(look))
            if part is not None:  # the rest looks as in the scene before clipping, and clipped white stays white
                target = target.lerp(torch.maximum(_look_target(first, second, float(look)), first), part)
            images.append(target)
        planes = torch.cat(images)[:, 0]
        if _happens(recipe.parts, generator):
            wider = sides[0] in MEDICAL_SIDES and _happens(0.5, generator)
            planes = within_black(planes, generator) if wider else cut_part(planes, recipe.patch, generator)
        seen = planes[:, None, None]
        context, teacher_context = (
            each.context(seen[0], seen[1], look) if each else None for each in (network, self.teacher)
        )
        clean_context = network.context(seen[2], seen[3], look) if network and aims else None
        return Scene(planes, events, key, look, context, teacher_context, clean_context)


def _check_shared_memory(needed: int) -> None:
    """Raises UsageError where so many bytes do not fit: a process that finds it full would leave the run waiting."""
    if sys.platform != "linux":
        return
    free = shutil.disk_usage(SHARED).free
    if free < needed:
        raise UsageError(
            f"--workers: batches drawn ahead need {needed / 1e6:,.0f} MB of shared memory ({SHARED}), and "
            f"{free / 1e6:,.0f} MB are free; allow more (docker run --shm-size), or fewer --workers (0: none)"
        )


def _happens(chance: float, generator: torch.Generator) -> bool:
    """Whether something of that chance happens this time; at 0 nothing is drawn."""
    return bool(chance and torch.rand((), generator=generator) < chance)


def _look_target(visible: Tensor, infrared: Tensor, look: float) -> Tensor:
    """`looks.between` of 1×1×H×W."""
    return torch.from_numpy(between(visible[0, 0].numpy(), infrared[0, 0].numpy(), look))[None, None]


def _joined(values: Iterable[Tensor | None]) -> Tensor | None:
    """The tensors among them as one batch; None where there are none."""
    found = [value for value in values if value is not None]
    return torch.cat(found) if found else None


def _work_on(_: int) -> None:
    """Leave a stop, which terminals and batch systems send to all processes of a run, to the one that saves."""
    for one in heard():
        signal.signal(one, signal.SIG_IGN)


class _Drawn(Dataset[Batch]):
    """Batches by their step, as a DataLoader wants them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch:
        cv2.setNumThreads(0)  # each process has a core
        return self.batches.drawn(step)

"""Engine: a model on a device. Takes stacks of images as the readers have them, gives results as the writers want."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from fusecli.errors import counted
from fusecli.images.colour import LUMA
from fusecli.machine import cores, keep_freed_pages, out_of_memory
from fusecli.models import mending
from fusecli.models.network import FusionNetwork
from fusecli.stream.choices import pixels
from fusecli.stream.device import pick_device, pick_precision
from fusecli.stream.recording import Recording
from fusecli.stream.tiles import fuse_tiled, tiled

log = logging.getLogger("fusecli")

AUTO_TILE = {"cpu": 1024, "cuda": 4096, "mps": 2048}  # pixels a side; larger frames are cut, which bounds the memory
DEEP = {"mps": torch.int32}  # what holds 16 bits; older versions of MPS have no uint16
SMALLEST_TILE = 64
_SCALED = "; fusecli.images.intensity.frame_range(x).apply(x) scales infrared as --range frame does"
OVER = 1e-3  # how far floats may exceed [0, 1], by what rounding adds

T = TypeVar("T")

Found = dict[str, set[str]]  # what was mended of a pair's ``first`` and ``second``, if anything; see `mending.Faults`


class Mended(NamedTuple):
    """N pairs as the network shall see them."""

    first: Tensor
    second: Tensor
    found: list[Found]


class Begun(NamedTuple):
    """What `Engine.start` has begun. finish: waits for the results."""

    finish: Callable[[], np.ndarray]
    mended: list[Found]


class Engine:
    """Fuse stacks of equal-sized pairs: uint8 goes to the device, luma, network and colour run there, uint8 comes back.

    device: auto, cpu, cuda, cuda:N or mps. precision: auto, fp32, bf16 or fp16. tile, overlap: auto or pixels (tile 0:
    never cut). When the device runs out of memory the tile, or the number of pairs mended at once, is halved and the
    work goes on. vivid: whether colours are as saturated as a colormap's, so that they cannot reach every luma within
    [0, 1]; they are then desaturated with their hue kept, not just clipped. Photographs would hardly differ, and are
    spared the time.
    An engine stays in its process, and in those forked from it; to others send its `EngineSpec`.
    Raises UsageError for a device or precision that this machine does not have.
    """

    def __init__(
        self,
        model: FusionNetwork,
        device: str = "auto",
        precision: str = "auto",
        tile: str | int = "auto",
        overlap: str | int = "auto",
        *,
        vivid: bool = False,
    ) -> None:
        _guard_forks()
        self.vivid = vivid
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.precision = str(self.dtype).removeprefix("torch.")
        if self.device.type == "cpu":
            keep_freed_pages()
            if not torch.backends.nnpack.is_available():  # on old CPUs; each convolution would say so on stderr
                torch.backends.nnpack.set_flags(False)
        self.model = model.eval().to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.tile = pixels("--tile", tile, AUTO_TILE[self.device.type])
        self.overlap = pixels("--tile-overlap", overlap, model.halo)
        if 0 < self.tile < 2 * self.overlap:
            times = (1 + 2 * self.overlap / self.tile) ** 2
            log.warning(
                "--tile %d: with the %d pixels around each, tiles take %.0f times as long; from %d on 4 times at most",
                *(self.tile, self.overlap, times, 2 * self.overlap),
            )
        if self.tile and self.overlap < model.halo:
            log.warning(
                "--tile-overlap %d: the model sees %d pixels around each, so tiles may show seams",
                *(self.overlap, model.halo),
            )
        self._mends: int | None = None  # pairs mended at once; None: all that come
        self.is_steady = False  # whether `keep_steady` was called
        self._steady: Tensor | None = None  # 1×D, one context for every pair; see `keep_steady`
        self._streams = [torch.cuda.Stream(self.device) for _ in range(2)] if self.device.type == "cuda" else []
        self._turn = 0
        self._recordings: dict[int | None, Recording] = {}  # by levels
        if self.device.type == "cpu" and model.recordable:
            self._recordings = {
                levels: Recording(model, partial(self._operate, levels)) for levels in (255, 65535, None)
            }
        self._examine = Recording(model, _examined).run if self._recordings else _examined

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an Engine can be neither copied nor sent to another process; send its EngineSpec, and build there"
        )

    @property
    def runtime(self) -> str:
        """What computes the network: torch, onnxruntime or openvino."""
        return self.model.runtime

    @property
    def batches(self) -> bool:
        """Whether batches are faster. On a CPU they are not; single pairs then keep results independent of batches."""
        return self.device.type != "cpu"

    @contextmanager
    def sharing_threads(self, workers: int) -> Iterator[None]:
        """On a CPU, each of ``workers`` gets its share of torch's threads meanwhile."""
        if self.batches:
            yield
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, min(threads, cores()) // workers))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def stacked(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images of one size as one array; for CUDA in pinned memory, which asynchronous copies need."""
        if not self._streams:
            return np.stack(images)
        kind = torch.from_numpy(np.empty(0, images[0].dtype)).dtype
        pinned = torch.empty((len(images), *images[0].shape), dtype=kind, pin_memory=True)
        return np.stack(images, out=pinned.numpy())

    def fuse(
        self, first: np.ndarray, second: np.ndarray, levels: int | None = 255, context: Tensor | None = None
    ) -> np.ndarray:
        """Results of N pairs, of ``first``'s shape. Several threads may call it at once.

        first: N×H×W or N×H×W×3 (RGB), uint8 or float32 in [0, 1]. second: the same; colour counts as its luma.
        levels: 255 gives uint8, 65535 uint16, None float32 in [0, 1]. A colour result is first's RGB with its luma
        replaced, Cb and Cr kept: R + (fused − Y), and so for G and B. context, errors: see `start`.
        """
        begun = self.start(first, second, levels, context)
        if first.ndim == 3 and first.shape[2] == 3 and len(first) > 1:
            log.warning(
                "%d×%d×3 is taken for %d gray images 3 pixels wide; a colour image needs [None]",
                *(*first.shape[:2], len(first)),
            )
        return begun.finish()

    @torch.inference_mode()
    def keep_steady(self, contexts: Iterable[Tensor]) -> None:
        """From here on use the mean of these contexts for every pair, so that a sequence keeps one exposure.

        contexts: those of some pairs; empty for models that see nothing beyond a pixel's surroundings.
        """
        known = list(contexts)
        self.is_steady = True
        self._steady = torch.cat(known).mean(0, keepdim=True) if known else None

    @torch.inference_mode()
    def mend(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, Found]:
        """A pair (H×W or H×W×3 each) without stripes and strong noise, if the model wants it so; `fuse` does it too."""
        mended = self._mended(*(torch.from_numpy(side[None]).to(self.device) for side in (first, second)))
        return mended.first[0].cpu().numpy(), mended.second[0].cpu().numpy(), mended.found[0]

    @torch.inference_mode()
    def context(self, first: np.ndarray, second: np.ndarray) -> Tensor | None:
        """1×D: the model's context of a whole pair (H×W or H×W×3 each, from `mend`); None for models without one."""
        return self.model.context(*(to_luma(torch.from_numpy(side[None]).to(self.device)) for side in (first, second)))

    def start(
        self,
        first: np.ndarray,
        second: np.ndarray,
        levels: int | None = 255,
        context: Tensor | None = None,
        *,
        mended: bool = False,
    ) -> Begun:
        """Begin what `fuse` does. Raises ValueError for arrays of other types or shapes than it takes.

        context: N×D, or 1×D for all pairs, replaces each pair's own. mended: whether `mend` has seen the pairs already.

        On CUDA two streams take turns, so that one batch is copied while the other is computed.
        """
        first, second = (_taken(side) for side in (first, second))
        if first.shape[:3] != second.shape[:3]:
            raise ValueError(f"N×H×W of both sides must be equal, not {first.shape[:3]} and {second.shape[:3]}")
        if levels not in (255, 65535, None):
            raise ValueError(f"levels must be 255, 65535 or None, not {levels}")
        if not self._streams:
            on_device = [torch.from_numpy(side).to(self.device) for side in (first, second)]
            result, found = self._fuse(on_device[0], on_device[1], levels, context, mended)
            return Begun(lambda: _fetched(result), found)
        stream = self._streams[self._turn]
        self._turn = 1 - self._turn
        stream.wait_stream(torch.cuda.current_stream())  # where the context was computed
        with torch.cuda.stream(stream):
            sources = [torch.from_numpy(side).pin_memory() for side in (first, second)]  # no copy if pinned already
            on_device = [side.to(self.device, non_blocking=True) for side in sources]
            result, found = self._fuse(on_device[0], on_device[1], levels, context, mended)
            host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            host.copy_(result, non_blocking=True)
            done = torch.cuda.Event()
            done.record(stream)

        def finish() -> np.ndarray:
            done.synchronize()
            del sources[:], on_device[:]  # held until here: the copies read them
            return host.numpy()

        return Begun(finish, found)

    @torch.inference_mode()
    def _fuse(
        self, first: Tensor, second: Tensor, levels: int | None, context: Tensor | None, mended: bool
    ) -> tuple[Tensor, list[Found]]:
        found: list[Found] = []
        if not mended:
            first, second, found = self._mended(first, second)
        context = self._steady if context is None else context
        if context is not None:
            context = context.expand(len(first), -1)
        act = partial(self._fuse_tiled, first, second, levels, context)
        return self._within_memory(act, partial(self._smaller_tile, first)), found

    def _fuse_tiled(self, first: Tensor, second: Tensor, levels: int | None, context: Tensor | None) -> Tensor:
        if context is None and tiled(first.shape[1:3], self.tile):
            context = self.model.context(*(to_luma(side) for side in (first, second)))
        act = self._recordings[levels].run if self._recordings else partial(self._operate, levels)

        def piece(first: Tensor, second: Tensor) -> Tensor:
            return act(first, second, *(() if context is None else (context,)))

        return fuse_tiled(piece, first, second, tile=self.tile, overlap=self.overlap, align=self.model.align)

    def _within_memory(self, act: Callable[[], T], reduce: Callable[[], str | None]) -> T:
        """The result of ``act``, tried again with less at once as long as the device runs out of memory.

        reduce: makes ``act`` do less at once and returns what the log shall say; None where less is not possible.
        """
        while True:
            try:
                return act()
            except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
                said = reduce() if out_of_memory(error) else None
                if said is None:
                    raise
                log.warning("out of memory on %s: %s from here on", self.device, said)
            if self.device.type == "cuda":  # here and not in except, whose traceback holds the tensors
                torch.cuda.empty_cache()

    def _smaller_tile(self, image: Tensor) -> str | None:
        longest = max(image.shape[1:3])
        smaller = min(self.tile or longest, longest) // 2
        if smaller < SMALLEST_TILE:
            return None
        self.tile = smaller
        return f"tiles of {smaller} pixels"

    def _fewer_at_once(self, stack: Tensor) -> str | None:
        fewer = min(self._mends or len(stack), len(stack)) // 2
        if not fewer:
            return None
        self._mends = fewer
        return f"mending {counted(fewer, 'pair')} at once"

    def _mended(self, first: Tensor, second: Tensor) -> Mended:
        """Both sides with their luma mended as by `mending.mend`, and all channels shifted by as much.

        Done here and not in the network, since faults show in the whole image, and the network may see only a tile.
        """
        if not self.model.mends:
            return Mended(first, second, [{}] * len(first))

        def in_parts() -> Mended:
            stacks = zip(*(side.split(self._mends or len(side)) for side in (first, second)), strict=True)
            parts = [self._mended_at_once(*stack) for stack in stacks]
            if len(parts) == 1:
                return parts[0]
            firsts, seconds, found = zip(*parts, strict=True)
            return Mended(torch.cat(firsts), torch.cat(seconds), list(chain(*found)))

        return self._within_memory(in_parts, partial(self._fewer_at_once, first))  # smaller tiles would not help

    def _mended_at_once(self, first: Tensor, second: Tensor) -> Mended:
        faults = mending.Faults(*self._examine(first, second))
        if not faults.any():
            return Mended(first, second, [{}] * len(first))
        a, b = (mending.Faults(*halves) for halves in zip(*(value.chunk(2) for value in faults), strict=True))
        (first, firsts), (second, seconds) = _without(a, first), _without(b, second)
        each = (zip(("first", "second"), names, strict=True) for names in zip(firsts, seconds, strict=True))
        return Mended(first, second, [{side: names for side, names in pair if names} for pair in each])

    def _operate(self, levels: int | None, first: Tensor, second: Tensor, context: Tensor | None = None) -> Tensor:
        luma = to_luma(first)
        fused = self._network(luma, to_luma(second), context)
        luma, fused = luma[:, 0], fused[:, 0]
        vivid = self.vivid and first.ndim == 4
        if first.dtype == torch.uint8 and levels == 255 and not vivid:  # integers take a third of the time
            return _moved(first, fused - luma)
        color = to_unit(first)
        # Y alone is fused: R, G and B move by as much.
        fused = _within_reach(color, luma, fused).clamp_(0, 1) if vivid else _moved(color, fused - luma)
        if levels is None:
            return fused
        deep = DEEP.get(fused.device.type, torch.uint16)
        return fused.mul_(levels).round_().to(torch.uint8 if levels == 255 else deep)

    def _network(self, first: Tensor, second: Tensor, context: Tensor | None) -> Tensor:
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half, cache_enabled=False):  # weights: used once
            return self.model(first, second, context).float()


@cache
def _guard_forks() -> None:
    """Let processes forked from here on compute in one thread: torch would wait there for threads not forked."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def _examined(*sides: Tensor) -> tuple[Tensor, ...]:
    """`mending.examine` of both sides, uint8 or float32, the second's images after the first's."""
    parts = [
        torch.cat([to_luma(side[(slice(None), *part)])[:, 0] for side in sides])
        for part in mending.samples(*sides[0].shape[1:3])
    ]
    return mending.examine(*parts)


def _fetched(result: Tensor) -> np.ndarray:
    found = result.cpu().numpy()
    return found.astype(np.uint16) if found.dtype == np.int32 else found


def _taken(images: np.ndarray) -> np.ndarray:
    """Images as torch takes them. Raises ValueError for what would give a wrong picture."""
    wanted = "images must be arrays, uint8 or float32 in [0, 1], of N×H×W or N×H×W×3"
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{wanted}, not {type(images).__name__}; np.asarray makes one of it")
    shape = "×".join(map(str, images.shape))
    if images.dtype not in (np.uint8, np.float32) or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        hint = "; [None] makes a stack of one image" if images.ndim == 2 else ""
        hint += "" if images.dtype in (np.uint8, np.float32) else _SCALED
        raise ValueError(f"{wanted}, not {images.dtype} of {shape}{hint}")
    if 0 in images.shape[1:]:
        raise ValueError(f"{wanted}, H and W at least 1, not {shape}")
    if images.dtype == np.float32 and images.size:
        low, high = images.min(), images.max()
        if not (low >= -OVER and high <= 1 + OVER):  # NaN is neither
            raise ValueError(f"{wanted}, not of values from {low:g} to {high:g}{_SCALED}")
    # Torch takes no negative strides, as [..., ::-1] has, and warns of arrays that are read-only.
    return np.require(images, requirements=("C", "W", "E"))


def to_unit(images: Tensor) -> Tensor:
    """float32 in [0, 1] of uint8 or float images."""
    return images.float().mul_(1 / 255) if images.dtype == torch.uint8 else images.float()


def to_luma(images: Tensor) -> Tensor:
    """N×1×H×W luma in [0, 1] (0.299 R + 0.587 G + 0.114 B) of N×H×W or N×H×W×3, uint8 or float."""
    if images.ndim == 3:
        return to_unit(images).unsqueeze(1)
    red, green, blue = images.unbind(-1)  # summed channel by channel: no float copy of the colour image is made
    if images.device.type == "mps":  # older versions end the process where floats and scaled bytes are added
        green, blue = green.float(), blue.float()
    r, g, b = (share / (255 if images.dtype == torch.uint8 else 1) for share in LUMA)
    return (red * r).add_(green, alpha=g).add_(blue, alpha=b).unsqueeze(1)


def _like(images: Tensor, shift: Tensor) -> Tensor:
    """N×H×W shifts, repeated for each channel of ``images``."""
    return torch.stack([shift] * 3, -1) if images.ndim == 4 else shift


def _moved(images: Tensor, shift: Tensor) -> Tensor:
    """Images, uint8 or float32, with ``shift`` (N×H×W, in luma; overwritten) added to all channels, and clipped."""
    if images.dtype == torch.uint8:
        return _like(images, shift.mul_(255).round_().to(torch.int16)).add_(images).clamp_(0, 255).to(torch.uint8)
    return _like(images, shift).add_(images).clamp_(0, 1)


def _without(faults: mending.Faults, images: Tensor) -> tuple[Tensor, list[set[str]]]:
    """Images, uint8 or float32, with their luma mended and all channels moved by as much; what was mended of each."""
    if not faults.any():
        return images, faults.names()
    luma = to_luma(images)
    mended, found = mending.repaired(luma, faults)
    return _moved(images, mended.sub_(luma)[:, 0]), found.names()


def _within_reach(colors: Tensor, luma: Tensor, fused: Tensor) -> Tensor:
    """N×H×W×3 colours shifted from their luma to ``fused`` (N×H×W), and desaturated until they fit into [0, 1].

    At least half of the saturation stays, even where values then leave [0, 1] and have to be clipped: over a white MRI
    the colours, which carry the information of PET and SPECT, would vanish otherwise.
    """
    red, green, blue = (channel - luma for channel in colors.unbind(-1))  # planes: three times as fast
    highest, lowest = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    share = torch.minimum((1 - fused).div_(highest.clamp_min_(1e-6)), fused / lowest.neg_().clamp_min_(1e-6))
    share.clamp_(0.5, 1)
    return torch.stack([torch.addcmul(fused, channel, share) for channel in (red, green, blue)], -1)

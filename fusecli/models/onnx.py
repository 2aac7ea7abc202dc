"""Networks as ONNX graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from fusecli import __version__
from fusecli.errors import FusecliError, UsageError
from fusecli.images.atomic import replacing
from fusecli.models.network import FusionNetwork

OPSET = 18
SIZES = ((64, 96), (75, 53), (1, 1))  # H×W at which the written graph is compared with torch
TOLERANCE = 1e-4  # of luma in [0, 1]; a level of 8 bits is 4e-3


class _Pair(nn.Module):
    """A network that takes two images and nothing else, as a graph has it."""

    def __init__(self, network: FusionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.network(first, second)


def write(network: FusionNetwork, path: Path, about: dict[str, str]) -> float:
    """Write the network as an ONNX file and return the greatest difference from torch, over several sizes.

    Inputs ``first`` and ``second``, output ``fused``: float32 N×1×H×W with any N, H, W. ``about``: metadata.
    Raises UsageError where the packages for it are missing, FusecliError, with nothing written, where results differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UsageError(f"export needs {error.name}: pip install 'fusecli[onnx]'") from error
    wrapped = _Pair(network).eval()
    example = tuple(torch.rand(2, 2, 1, 64, 96, generator=torch.Generator().manual_seed(0)))  # what is 1 would stay 1
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with _quiet():
        program = torch.onnx.export(
            wrapped,
            example,
            dynamo=True,
            dynamic_shapes=(free, free),
            input_names=["first", "second"],
            output_names=["fused"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # torch returns None for its older exporter alone
    program.model.metadata_props.update({"fusecli": __version__, **about})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        program.save(partial)
        session = onnxruntime.InferenceSession(partial.read_bytes())
        difference = max(_difference(session, wrapped, *size) for size in SIZES)
        if not difference < TOLERANCE:
            raise FusecliError(f"{path}: the ONNX graph differs from torch by {difference:.2g}; nothing was written")
    return difference


@torch.inference_mode()
def _difference(session, network: nn.Module, height: int, width: int) -> float:  # type: ignore[no-untyped-def]
    pair = torch.rand(2, 2, 1, height, width, generator=torch.Generator().manual_seed(height))
    (fused,) = session.run(None, {"first": pair[0].numpy(), "second": pair[1].numpy()})
    return (torch.from_numpy(fused) - network(*pair)).abs().max().item()


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """The exporter talks of what is no concern of the user's."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)

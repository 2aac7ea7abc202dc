"""Networks as ONNX graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusecli import __version__
from fusecli.errors import FusecliError, UsageError
from fusecli.images.atomic import replacing
from fusecli.models.network import FusionNetwork

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18
SIZES = ((64, 96), (75, 53), (1, 1))  # H×W at which the written graph is compared with torch
OLDEST = "2.9"  # of torch: those before cannot write these graphs
TOLERANCE = 1e-4  # of luma in [0, 1]; a level of 8 bits is 4e-3


def write(network: FusionNetwork, path: Path, about: dict[str, str], *, contextual: bool = False) -> float:
    """Write the network as an ONNX file and return the greatest difference from torch, over several sizes.

    Inputs ``first`` and ``second``, output ``fused``: float32 N×1×H×W with any N, H, W. ``contextual``: one input more,
    the ``context`` (N×D) of networks that have one. ``about``: metadata.
    Raises UsageError for networks that have no such graph and where the packages for it are missing or too old,
    FusecliError, with nothing written, where results differ.
    """
    if not network.graph_of_any_size:
        raise UsageError(f"a {type(network).__name__.lower()} has no graph for images of any size; only torch runs it")
    if torch.__version__ < OLDEST:
        raise UsageError(f"ONNX graphs need torch {OLDEST} or newer; here is {torch.__version__}")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UsageError(f"ONNX graphs need {error.name}: pip install 'fusecli[onnx]'") from error
    from torch._dynamo import config as tracing  # here, since it takes seconds

    path.parent.mkdir(parents=True, exist_ok=True)  # before the long work, should it fail
    network.eval()
    any_size = torch.export.Dim.DYNAMIC
    example = _inputs(network, 64, 96, contextual)
    free = {name: dict.fromkeys((0, 2, 3) if each.ndim == 4 else (0,), any_size) for name, each in example.items()}
    # Looking up sizes that are unknown takes its cache longer than working them out anew: a third of the time in all.
    with _quiet(), tracing.patch(fake_tensor_cache_enabled=False):
        program = torch.onnx.export(
            network,
            tuple(example.values()),
            dynamo=True,
            dynamic_shapes=tuple(free.values()),
            input_names=list(example),
            output_names=["fused"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # torch returns None for its older exporter alone
    program.model.metadata_props.update({"fusecli": __version__, **about})
    with replacing(path) as partial:
        program.save(partial)
        session = onnxruntime.InferenceSession(partial.read_bytes())
        difference = max(_difference(session, network, _inputs(network, *size, contextual)) for size in SIZES)
        if not difference < TOLERANCE:
            raise FusecliError(f"{path}: the ONNX graph differs from torch by {difference:.2g}; nothing was written")
    return difference


@torch.no_grad()  # not inference_mode, whose tensors torch's quicker way of tracing refuses
def _inputs(network: FusionNetwork, height: int, width: int, contextual: bool) -> dict[str, Tensor]:
    """Two random pairs, by the names of the graph's inputs."""
    first, second = torch.rand(2, 2, 1, height, width, generator=torch.Generator().manual_seed(height))
    given = {"first": first, "second": second}
    context = network.context(first, second) if contextual else None
    return given if context is None else {**given, "context": context}


@torch.inference_mode()
def _difference(session: InferenceSession, network: FusionNetwork, inputs: dict[str, Tensor]) -> float:
    (fused,) = session.run(None, {name: each.numpy() for name, each in inputs.items()})
    return (torch.from_numpy(fused) - network(*inputs.values())).abs().max().item()


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

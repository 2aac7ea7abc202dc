"""Export networks as ONNX graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusecli import __version__
from fusecli.errors import FusecliError, UsageError
from fusecli.extras import need
from fusecli.images.atomic import write_bytes
from fusecli.models.network import FusionNetwork

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18
ANY = {0: "N", 2: "H", 3: "W"}
SIZES = ((2, 64, 96), (3, 75, 53), (1, 1, 1))  # N×H×W at which the written graph is compared with torch
TOLERANCE = 1e-4  # of luma in [0, 1]; a level of 8 bits is 4e-3


def write(
    network: FusionNetwork, path: Path, about: dict[str, str], description: str = "", *, contextual: bool = False
) -> float:
    """Write the network as an ONNX file and return the greatest difference from torch, over several sizes.

    Inputs ``first`` and ``second``, output ``fused``: float32 N×1×H×W with any N, H, W. ``contextual``: one input more,
    the ``context`` (N×D) of networks that have one. ``about``: metadata. ``description``: for people.
    Raises UsageError for networks that have no such graph and where the packages for it are missing, FusecliError, with
    nothing written, where results differ.
    """
    if not network.graph_of_any_size:
        raise UsageError(f"a {type(network).__name__.lower()} has no graph for images of any size; only torch runs it")
    onnx, onnxruntime = (need(name, f"ONNX graphs need {name}", "fusecli[onnx]") for name in ("onnx", "onnxruntime"))
    path.parent.mkdir(parents=True, exist_ok=True)  # before the work, should it fail
    network.eval()
    example = _inputs(network, SIZES[0], contextual)
    free = {name: ANY if each.ndim == 4 else {0: ANY[0]} for name, each in example.items()}
    written = io.BytesIO()
    with _quiet(), torch.no_grad():
        # By tracing: torch's newer exporter reasons about unknown sizes for a minute, and its graph is no quicker.
        torch.onnx.export(
            network,
            tuple(example.values()),
            written,  # type: ignore[arg-type]  # which tracing takes
            dynamo=False,
            dynamic_axes={**free, "fused": ANY},
            input_names=list(example),
            output_names=["fused"],
            opset_version=OPSET,
        )
    model = onnx.load_from_string(written.getvalue())
    onnx.helper.set_model_props(model, {"fusecli": __version__, **about})
    model.doc_string = description
    graph = model.SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    difference = max(_difference(session, network, _inputs(network, size, contextual)) for size in SIZES)
    if not difference < TOLERANCE:
        raise FusecliError(f"{path}: the ONNX graph differs from torch by {difference:.2g}; nothing was written")
    write_bytes(path, graph)
    return difference


@torch.no_grad()
def _inputs(network: FusionNetwork, size: tuple[int, int, int], contextual: bool) -> dict[str, Tensor]:
    """Random pairs, by the names of the graph's inputs."""
    count, height, width = size
    first, second = torch.rand(2, count, 1, height, width, generator=torch.Generator().manual_seed(height))
    given = {"first": first, "second": second}
    context = network.context(first, second) if contextual else None
    return given if context is None else {**given, "context": context}


@torch.inference_mode()
def _difference(session: InferenceSession, network: FusionNetwork, inputs: dict[str, Tensor]) -> float:
    (fused,) = session.run(None, {name: each.numpy() for name, each in inputs.items()})
    return (torch.from_numpy(fused) - network(*inputs.values())).abs().max().item()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, whose messages do not concern the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)

"""`fusecli export`: a model as ONNX, for programs that have no torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from fusecli import registry
from fusecli.cli import messages, options
from fusecli.errors import UsageError

log = logging.getLogger("fusecli")


def export(
    output: Annotated[Path, options.output("File to write, such as nano.onnx.")],
    model: options.Model = registry.DEFAULT_MODEL,
    task: Annotated[
        str | None, typer.Option(help=f"{', '.join(registry.TASKS)}. Default: the weight file's first; else ir-vis.")
    ] = None,
    look: options.Look = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it exists.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as ONNX and check that it computes what torch does.

    Inputs first and second (visible and infrared, or CT, PET, SPECT and MRI) and output fused: float32 luma in [0, 1],
    N×1×H×W, any N, H and W. Stripes and noise that `fusecli fuse` takes out of frames beforehand are no part of it.
    """
    messages.set_up(quiet=quiet)
    if task is not None:
        registry.check_task(task)
    if output.suffix.lower() != ".onnx":
        raise UsageError(f"-o {output}: name a file that ends in .onnx")
    if output.exists() and not overwrite:
        raise UsageError(f"-o {output}: exists already; --overwrite replaces it")
    from fusecli.images.outputs import check_files
    from fusecli.models import checkpoint, onnx

    check_files({"-o": output})  # before the long work
    task = task or checkpoint.read(registry.weights_file(model, "ir-vis"))[2][0]
    network = checkpoint.load(model, task, options.look_of(look))
    difference = onnx.write(network, output, {"model": Path(model).stem, "task": task})
    log.info("%s: opset %d, differs from torch by at most %.1e", output, onnx.OPSET, difference)

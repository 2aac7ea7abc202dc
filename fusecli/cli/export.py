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

# What a file says of itself: all that programs need which have nothing but it.
DESCRIPTION = """Fuses two registered images of one scene and of equal size: first is {first}, second {second}.
Inputs and output: luma Y in [0, 1], float32, N×1×H×W. Of 8-bit RGB: Y = (0.299 R + 0.587 G + 0.114 B) / 255.
Colour results, from R, G and B of first, in [0, 1]: {color}; clipped to [0, 1]. Gray ones: fused.
Rounded to 8 bits: what `fusecli fuse --precision fp32` gives, but for a level in single pixels{mended}."""
COLOR = "R + fused - Y, and so for G and B"
VIVID = (  # see `Engine`
    "fused + s (R - Y), and so for G and B, with s = min((1 - fused) / (max(R, G, B) - Y), fused / (Y - min(R, G, B))) "
    "within [0.5, 1], and 1 where R = G = B"
)
MENDED = "; it takes stripes and strong noise, where there are any, out of the sources first"


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
    The file's description says how colour goes in and comes back.
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
    about = {"model": Path(model).stem, "task": task}
    if network.look is not None:
        about["look"] = str(network.look)
    medical = registry.TASKS[task].second == "mri"
    description = DESCRIPTION.format(
        first="CT, PET or SPECT" if medical else "visible",
        second="MRI" if medical else "infrared",
        color=VIVID if medical else COLOR,
        mended=MENDED if network.mends else "",
    )
    difference = onnx.write(network, output, about, description)
    log.info("%s: opset %d, differs from torch by at most %.1e", output, onnx.OPSET, difference)

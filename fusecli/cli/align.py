"""`fusecli align`: estimate how infrared frames map onto visible ones, from a few pairs of frames."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusecli.cli import messages, options
from fusecli.errors import EXIT_NOTHING_DONE, InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from fusecli.images.pair import Pair

log = logging.getLogger("fusecli")


def align(
    ir: Annotated[str, options.side("infrared frames")],
    vis: Annotated[str, options.side("visible frames")],
    output: Annotated[Path, options.output("Calibration to write (JSON).")],
    model: Annotated[
        str, typer.Option(help="What is estimated: shift (as wide as the visible), similarity, affine or homography.")
    ] = "affine",
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs to look at, evenly spread.")] = 9,
    recursive: options.Recursive = False,
    pair_by: options.PairBy = "stem",
    range_: options.Range = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace the files if they exist.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Estimate how a rig's infrared frames map onto its visible ones, for `fusecli fuse --align`.

    Beside the calibration a picture is written: visible red and infrared cyan, before and after. Exit code 1 where the
    estimate is poor.
    """
    messages.set_up(quiet=quiet)
    _, typed = options.task_of(ir=ir, vis=vis)
    ir, vis = typed["ir"], typed["vis"]
    from fusecli.images import frames, registration
    from fusecli.images.atomic import write_text
    from fusecli.images.colour import luma
    from fusecli.images.intensity import evenly, pair_ranges
    from fusecli.images.outputs import check_files, check_outside, resolved
    from fusecli.images.pairing import Pairing, find_pairs
    from fusecli.images.video import ENDINGS as VIDEOS

    for side, name in typed.items():
        if Path(name).suffix.lower() in VIDEOS:
            raise UsageError(
                f"--{side} {name}: align takes pictures; write frames of both videos at the same times first, for "
                f"example every ten seconds: ffmpeg -i {name} -vf fps=0.1 {side}/%03d.png"
            )
    if model not in registration.MODELS:
        raise UsageError(f"--model {model}: choose {', '.join(registration.MODELS)}")
    if output.suffix.lower() != ".json":
        raise UsageError(f"-o {output}: name a file that ends in .json")
    picture = output.with_suffix(".png")
    existing = next((path for path in (output, picture) if path.exists()), None)
    if existing is not None and not overwrite:
        raise UsageError(f"-o {output}: {existing} exists already; --overwrite replaces it")
    pairing = Pairing(recursive=recursive, pair_by=pair_by, ignore_unmatched=True)
    found = find_pairs(vis, ir, pairing, endings=frames.ENDINGS, sides=("vis", "ir"))
    check_outside("-o", output, (ir, vis))
    one, other = {pair.first.parent.resolve() for pair in found}, {pair.second.parent.resolve() for pair in found}
    if resolved(output.parent) in one ^ other:  # a folder that holds one camera's frames only
        raise UsageError(f"-o {output}: {picture.name} would be taken for a frame there; choose another folder")
    files = {"-o": output, "the picture beside -o": picture}
    check_files(files, (path for pair in found for path in pair.files))
    chosen = evenly(found, pairs)
    firsts, seconds = [pair.first for pair in chosen], [pair.second for pair in chosen]
    ranges = pair_ranges(firsts, seconds, infrared=True, option=range_)

    def luma_of(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        first, second = (
            luma(frames.read(path, intensity=intensity)[0].pixels)
            for path, intensity in zip(pair.files, ranges, strict=True)
        )
        return first, second

    readable, outlines = [], []
    for pair in chosen:
        try:
            outlines.append(registration.Outlines.of(*luma_of(pair)))
        except InputError as error:
            log.warning("left out: %s", error)
            continue
        readable.append(pair)
    if not readable:
        raise InputError("align: none of the chosen pairs can be read")
    estimate = registration.estimate([pair.name for pair in readable], outlines, model)
    write_text(output, json.dumps(estimate.as_dict(), indent=1, ensure_ascii=False) + "\n")
    shown = luma_of(readable[len(readable) // 2])  # read again: held, large frames would take much memory
    frames.write(picture, [registration.overlay(*shown, estimate.calibration)])
    before, after = estimate.similarity
    agreement = f"edges agree {before:.2f} before, {after:.2f} after"
    poor = estimate.trust == "poor"
    tell = log.error if poor else log.info
    tell("%s: %s: %s; %s; look at %s", output, estimate.trust, estimate.reason, agreement, picture)
    if poor:
        raise typer.Exit(EXIT_NOTHING_DONE)

"""Read and write models: safetensors with the architecture and its configuration in the header. No pickle."""

from __future__ import annotations

import importlib
import inspect
import json
import math
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import nn

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.images.atomic import write_bytes
from fusecli.models.network import FusionNetwork

LOOK = "a number from 0 to 1"
REASON = 200  # characters kept of torch's message, which lists every tensor


def kind(architecture: str) -> type[FusionNetwork]:
    """The class of a registered architecture. Raises UsageError for an unknown one."""
    if architecture not in registry.ARCHITECTURES:
        raise UsageError(registry.unknown("architecture", architecture, registry.ARCHITECTURES))
    module, _, name = registry.ARCHITECTURES[architecture].partition(":")
    return getattr(importlib.import_module(module), name)


def build(architecture: str, config: dict[str, Any]) -> FusionNetwork:
    """A fresh model of a registered architecture, constructed with ``config`` as keyword arguments.

    Raises UsageError for an unknown architecture, and for arguments that it does not have or that make no sense.
    """
    made_as = kind(architecture)
    _check_config(architecture, config)
    try:
        return made_as(**config)
    except (TypeError, ValueError, RuntimeError, LookupError, ZeroDivisionError) as error:  # torch raises many types
        raise UsageError(f"architecture {architecture} cannot be built with {config}: {error}") from error


def _check_config(architecture: str, config: dict[str, Any], within: str = "") -> None:
    """Check the names and kinds of a model's arguments: without it "no", which is not empty, would count as true.

    within: the model that has this one as a part, and the part's name, for messages. Raises UsageError.
    """
    made_as = kind(architecture)
    within = within or f"architecture {architecture}: "
    takes = [inspect.signature(each).parameters for each in made_as.__mro__ if issubclass(each, FusionNetwork)]
    known: dict[str, Any] = {}  # with their defaults; a class's own come before those that it hands on
    for name, one in (item for each in takes for item in each.items()):
        if one.kind is one.POSITIONAL_OR_KEYWORD:
            known.setdefault(name, one.default)
    for key, value in config.items():
        if key not in known:
            raise UsageError(registry.unknown(f"value of a {architecture} model", key, known))
        if key == made_as.starts_from and isinstance(value, dict):
            _check_config(key, value, f"{within}{key}.")
        elif wanted := _wanted(key, value, known[key]):
            raise UsageError(f"{within}{key} must be {wanted}, not {value!r}")


def _wanted(name: str, value: Any, default: Any) -> str:
    """What an argument with this default would have to be, in words; empty if it is that."""
    if name == "look":
        return "" if value is None or _is_look(value) else LOOK
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default) and all(type(one) is int for one in value)
        return "" if fits else f"a list of {len(default)} whole numbers"
    if isinstance(default, float):
        return "" if type(value) in (int, float) and math.isfinite(value) else "a finite number"
    if type(value) is type(default):
        return ""
    return {bool: "true or false", int: "a whole number"}.get(type(default), "a table")


def _is_look(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def save(path: Path, model: nn.Module, architecture: str, config: dict[str, Any], tasks: list[str]) -> None:
    """Write weights as safetensors; architecture, configuration and tasks go into its header as JSON strings."""
    header = {"architecture": architecture, "config": json.dumps(config), "tasks": json.dumps(tasks)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, _in_order(serialized(tensors, header)))  # `save_file` lets only its owner read it


def _in_order(data: bytes) -> bytes:
    """The same with a sorted header: metadata come in any order, and equal weights should make equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # which keeps the tensors aligned
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def read(path: Path) -> tuple[str, dict[str, Any], list[str], dict[str, torch.Tensor]]:
    """(architecture, config, tasks, tensors) of a ``.safetensors`` file or of a ``.pt`` training checkpoint.

    Raises UsageError if the file is missing, broken, or holds pickled code.
    """
    if path.suffix != ".safetensors":
        return _model_in(training_state(path))
    registry.check_model_file(path)
    try:
        found = _read_safetensors(path)
    except SafetensorError as error:
        raise UsageError(f"{path}: not a readable safetensors file ({error})") from error
    _check_sense(path, *found)
    return found


def _check_sense(path: Path, architecture: Any, config: Any, tasks: Any, tensors: Any) -> None:
    if not (
        isinstance(architecture, str)
        and isinstance(config, dict)
        and isinstance(tasks, list)
        and isinstance(tensors, dict)
        and all(isinstance(key, str) for key in (*config, *tasks, *tensors))
        and all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    ):
        raise UsageError(f"{path}: damaged: what it says of its model makes no sense")


def _read_safetensors(path: Path) -> tuple[Any, Any, Any, Any]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if "architecture" not in header:
        raise UsageError(f"{path}: has no fusecli header; was it written by another program?")
    try:
        return header["architecture"], json.loads(header["config"]), json.loads(header["tasks"]), tensors
    except (KeyError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: its fusecli header is broken ({error})") from error


def training_state(path: Path) -> dict[str, Any]:
    """All that a ``.pt`` training checkpoint carries (see training.loop.Run.state), on the CPU; {} for a weight file.

    Raises as `read` does.
    """
    if path.suffix == ".safetensors":
        read(path)  # explains what is wrong with it
        return {}
    registry.check_model_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        complete = {"architecture", "config", "tasks", "model"} <= state.keys()
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError … depending on what is wrong
        raise UsageError(
            f"{path}: not a fusecli checkpoint, or a damaged one ({type(error).__name__}); files that need pickled "
            "code to load are refused"
        ) from error
    if not complete:
        raise UsageError(f"{path}: not a fusecli checkpoint")
    _check_sense(path, *_model_in(state))
    return state


def _model_in(state: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    return state["architecture"], state["config"], state["tasks"], state["model"]


def load(model: str, task: str, look: float | None = None) -> FusionNetwork:
    """The model that ``--model`` names for a task: a released name or a file. In eval mode, on the CPU, float32.

    look: replaces the default look of the weights.
    Raises UsageError if there is no such model, if it was trained for other tasks or without looks, for a look outside
    of [0, 1], or if its numbers are not all finite.
    """
    path = registry.weights_file(model, task)
    architecture, config, tasks, tensors = read(path)
    if task not in tasks:
        raise UsageError(f"{path}: trained for {', '.join(tasks)}, not for {task}")
    try:
        network = build(architecture, config)
        network.load_state_dict(tensors)
    except (UsageError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()  # torch's first line only says that there is one
        raise UsageError(
            f"{path}: made by another version of fusecli, whose {architecture} differs; use that one, or train anew "
            f"({shorten(reason, REASON)})"
        ) from error
    broken = next((name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise UsageError(f"{path}: damaged: not all numbers of {broken} are finite")
    if look is not None:
        if network.look is None:
            raise UsageError(f"--look: {path.name} was trained for one look only")
        if not _is_look(look):
            raise UsageError(f"{path.name}: look must be {LOOK}, not {look!r}")
        network.look = look
    return network.eval()

"""Optional packages, which pip installs as extras of fusecli."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import requires
from typing import Any

from fusecli.errors import UsageError, first_line
from fusecli.machine import too_large_to_load


def need(module: str, why: str, extra: str) -> Any:
    """The module. Raises UsageError, which starts with ``why``, where it is missing, broken or too old.

    What a broken one raises is up to it: of a library that is missing, of another NumPy than it was built for.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        itself = error.name is None or f"{module}.".startswith(f"{error.name}.")
        lacks = "" if itself else f", which is installed but lacks {error.name}"
        raise UsageError(f"{why}{lacks}: pip install '{extra}'") from error
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) and too_large_to_load(error):
            raise
        raise UsageError(f"{why}, which is installed but does not load ({first_line(error)})") from error
    if found.__spec__ is not None and found.__spec__.origin is None:  # a folder of that name, as pip may leave one
        raise UsageError(f"{why}: pip install '{extra}'")
    package = module.partition(".")[0]
    version, least = str(getattr(sys.modules[package], "__version__", "")), _least(package)
    if (0, 0) < _numbers(version) < _numbers(least):
        raise UsageError(f"{why} {least} or newer, not {version}: pip install '{extra}'")
    return found


@cache
def _least(package: str) -> str:
    """The oldest version of a package that fusecli's metadata allow; "" where they do not say, or are not there."""
    try:
        wanted = requires("fusecli") or []
    except Exception:  # run from its source, or what pip left is damaged
        return ""
    start = f"{package.replace('_', '-')}>="
    return next((re.split("[,;]", each[len(start) :])[0].strip() for each in wanted if each.startswith(start)), "")


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor; zeros where a version does not say, as of a package built from its source (0+unknown)."""
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)

"""Optional packages, which pip installs as extras of fusecli."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fusecli.errors import UsageError, first_line
from fusecli.machine import too_large_to_load


def need(module: str, why: str, extra: str) -> Any:
    """The module. Raises UsageError, which starts with ``why``, where it is missing or broken.

    What a broken one raises is up to it: of a library that is missing, of another NumPy than it was built for.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"{why}: pip install '{extra}'") from error
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) and too_large_to_load(error):
            raise
        raise UsageError(f"{why}, which is installed but does not load ({first_line(error)})") from error
    if found.__spec__ is not None and found.__spec__.origin is None:  # a folder of that name, as pip may leave one
        raise UsageError(f"{why}: pip install '{extra}'")
    return found

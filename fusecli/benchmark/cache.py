"""Results on disk, so that a second run computes nothing twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fusecli.errors import OutputError
from fusecli.images.atomic import write_bytes


class Cache:
    """Small files by key under ``root``/benchmark; a key is made of everything that the value depends on.

    ``root`` None: nothing is kept. Unreadable entries count as missing. If the folder cannot be written, the run goes
    on without a cache.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root / "benchmark" if root else None

    @staticmethod
    def key(*parts: object) -> str:
        return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()

    def _path(self, key: str, ending: str) -> Path:
        assert self.root is not None
        return self.root / key[:2] / f"{key[2:]}.{ending}"

    def read(self, key: str, ending: str) -> bytes | None:
        if self.root is None:
            return None
        try:
            return self._path(key, ending).read_bytes()
        except OSError:
            return None

    def write(self, key: str, ending: str, data: bytes) -> None:
        if self.root is None:
            return
        try:
            write_bytes(self._path(key, ending), data)
        except OutputError:
            self.root = None

    def read_json(self, key: str) -> dict[str, Any]:
        data = self.read(key, "json")
        try:
            value = json.loads(data) if data else {}
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def write_json(self, key: str, value: dict[str, Any]) -> None:
        self.write(key, "json", json.dumps(value).encode())

"""The teacher's text for a batch: what is wrong with each pair, by its own description and by what was done to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fusecli.errors import UsageError, counted, itemized
from fusecli.text import record
from fusecli.text.describe import describe
from fusecli.text.encode import Remembered, description_vectors, vector_dim
from fusecli.text.events import Event
from fusecli.text.record import Description
from fusecli.text.sentences import sentence
from fusecli.training.data import LumaPair, PairSet


class Texts:
    """Description vectors of training pairs. ``own``: pair key -> description of the pair before degradation."""

    def __init__(self, encoder: Remembered, own: Mapping[str, Description]) -> None:
        self.encoder, self.own = encoder, own

    def __getstate__(self) -> dict[str, object]:
        """For processes that draw batches: without the encoder, which cannot be sent to them and is not used there."""
        return {"own": self.own}

    @classmethod
    def of(cls, encoder: Remembered, data: Mapping[str, PairSet], descriptions: Path | None = None) -> Texts:
        """From a JSONL file that `fusecli annotate` wrote, or measured here.

        Raises UsageError for pairs that the file does not describe, or describes with other sides or ambiguously.
        """
        every = [(pair, pairs.task.sides) for pairs in data.values() for pair in pairs.pairs]
        if descriptions:
            return cls(encoder, _written(descriptions, every))
        measured = {
            pair.key: describe(pair.first.numpy() / 255, pair.second.numpy() / 255, sides, _name(pair))
            for pair, sides in every
        }
        return cls(encoder, measured)

    @property
    def dim(self) -> int:
        return vector_dim(self.encoder)

    @property
    def sha256(self) -> str:
        """SHA-256 over the descriptions of all pairs."""
        said = [own.record(key, "", "", "") for key, own in sorted(self.own.items())]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def events(self, key: str, made: Sequence[Event]) -> list[Event]:
        """All that is wrong with a pair: by its own description, and what degradation ``made``."""
        return [*self.own[key].events, *made]

    def vectors(self, keys: Sequence[str], made: Sequence[list[Event]], wordings: Sequence[int]) -> Tensor:
        """N×dim: pairs' own events and those ``made`` by degradation, each in one of VARIANTS wordings."""
        described = []
        for key, events, variant in zip(keys, made, wordings, strict=True):
            own = self.own[key]
            if events:
                every = tuple(self.events(key, events))
                own = Description(own.sides, every, {side: sentence(every, side, variant) for side in own.sides})
            described.append(own)
        return torch.from_numpy(description_vectors(described, self.encoder))


def _written(path: Path, pairs: Sequence[tuple[LumaPair, tuple[str, str]]]) -> dict[str, Description]:
    """By key, what the file says of pairs of these sides. Raises UsageError, see `Texts.of`."""
    written, own = record.load(path), {}
    if missing := sorted({name for pair, _ in pairs if (name := _name(pair)) not in written}):
        raise UsageError(
            f"{path}: no line describes {counted(len(missing), 'training pair')}; annotate them too:{itemized(missing)}"
        )
    known: dict[str, str] = {}  # name -> key
    for pair, sides in pairs:
        name = _name(pair)
        if written[name].sides != sides:
            described = " + ".join(written[name].sides)
            raise UsageError(f"{path}: describes {name} as {described}, not as {' + '.join(sides)}")
        if known.get(name, pair.key) != pair.key:  # else a set that is listed twice
            raise UsageError(
                f"{path}: {known[name]} and {pair.key} have one name, so it is not clear which it describes; "
                "rename the files, or leave descriptions out to have all pairs measured"
            )
        known[name], own[pair.key] = pair.key, written[name]
    return own


def _name(pair: LumaPair) -> str:
    """The name of the pair's files, by which `fusecli annotate` writes it down."""
    return pair.key.rpartition("/")[2]

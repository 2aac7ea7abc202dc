"""The vocabulary of degradations: kinds that can be measured or made, and the paper's event types that name them.

A *kind* is a physical degradation of one image; an *event type* is what the paper calls it on a given side
(arXiv 2504.07029, annotation). Training makes kinds, `annotate` measures or reads them, losses go by event type,
and the severity vector goes by kind and side. Free of heavy imports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Order of the severity vector within one side; new kinds may only be appended.
KINDS = ("low light", "over exposure", "low contrast", "haze", "noise", "blur", "artifact", "uneven")
SEVERITY_DIM = 2 * len(KINDS)

MEDICAL_SIDES = ("ct", "pet", "spect", "mri")

_VISIBLE = {
    "low light": "low light",
    "over exposure": "over exposure",
    "low contrast": "low contrast",
    "haze": "haze",
    "noise": "high noise",
    "blur": "motion blur",
    "artifact": "sensor artifact",
    "uneven": "sensor artifact",
}
_INFRARED = _VISIBLE | {"low contrast": "infrared low contrast", "noise": "infrared noise"}
# Lost fine detail comes before lost edges: blur changes its name at this severity.
EDGE_SEVERITY = 0.5
_MEDICAL = {
    "low light": "contrast enhancement",
    "over exposure": "contrast enhancement",
    "low contrast": "contrast enhancement",
    "haze": "contrast enhancement",
    "noise": "noise suppression",
    "blur": "detail enhancement",
    "artifact": "artifact reduction",
    "uneven": "structure consistency",
}

IR_VIS_TYPES = tuple(dict.fromkeys([*_VISIBLE.values(), *_INFRARED.values()]))
MEDICAL_TYPES = tuple(dict.fromkeys([*_MEDICAL.values(), "edge preservation"]))

KIND_OF = {type_: kind for names in (_MEDICAL, _INFRARED, _VISIBLE) for kind, type_ in names.items()} | {
    "contrast enhancement": "low contrast",
    "sensor artifact": "artifact",
    "edge preservation": "blur",
}


@dataclass(frozen=True)
class Event:
    """One degradation: the paper's event type, the side it is on (``vis``, ``ir``, ``ct`` …), severity in [0, 1]."""

    type: str
    side: str
    severity: float

    @property
    def kind(self) -> str:
        """The physical kind behind the type, one of KINDS."""
        return KIND_OF[self.type]


def event(kind: str, side: str, severity: float) -> Event:
    """The event that a degradation of ``kind`` on ``side`` is called."""
    if side not in MEDICAL_SIDES:
        return Event((_INFRARED if side == "ir" else _VISIBLE)[kind], side, severity)
    if kind == "blur" and severity >= EDGE_SEVERITY:
        return Event("edge preservation", side, severity)
    return Event(_MEDICAL[kind], side, severity)


def types_for(sides: Iterable[str]) -> tuple[str, ...]:
    """The event types that a pair of these sides can have."""
    return MEDICAL_TYPES if set(sides) & set(MEDICAL_SIDES) else IR_VIS_TYPES


def severity_vector(events: Iterable[Event], sides: tuple[str, str]) -> list[float]:
    """SEVERITY_DIM numbers in [0, 1]: KINDS of the first side, then KINDS of the second; the worst event counts."""
    vector = [0.0] * SEVERITY_DIM
    for item in events:
        slot = sides.index(item.side) * len(KINDS) + KINDS.index(item.kind)
        vector[slot] = max(vector[slot], item.severity)
    return vector

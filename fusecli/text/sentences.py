"""One sentence per modality from its events, in many wordings.

Encoders of sentences separate degradations only after training on many wordings, so every set of kinds has VARIANTS of
them. Severity is left out on purpose: sentence embeddings hardly show it, the severity vector states it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from fusecli.text.events import KINDS, Event

VARIANTS = 64  # wordings per set of kinds and side: bounds what an encoder has to encode

Stock = dict[str, tuple[str, ...]]

_SUBJECTS: Stock = {
    "vis": ("the visible image", "the visible-light picture", "the daylight camera's frame", "the optical photo"),
    "ir": ("the infrared image", "the thermal picture", "the infrared camera's frame", "the heat map"),
    "ct": ("the CT slice", "the CT scan", "the computed tomography image", "the X-ray tomogram"),
    "pet": ("the PET slice", "the PET scan", "the positron emission image", "the metabolic PET map"),
    "spect": ("the SPECT slice", "the SPECT scan", "the single-photon emission image", "the SPECT perfusion map"),
    "mri": ("the MRI slice", "the MR scan", "the magnetic resonance image", "the MR picture"),
}
_FAULTS: Stock = {
    "low light": ("low light", "underexposure", "darkness", "poor illumination", "too little light", "a dim scene"),
    "over exposure": (
        "over-exposure",
        "blown highlights",
        "saturated bright areas",
        "too much light",
        "clipping to white",
        "excessive brightness",
    ),
    "low contrast": (
        "low contrast",
        "faint contrast",
        "a narrow range of grey levels",
        "flat tones",
        "weak contrast between object and background",
        "a compressed dynamic range",
    ),
    "haze": ("haze", "fog", "mist", "a milky veil of haze", "smoke and haze", "foggy air that hides distant objects"),
    "noise": (
        "strong noise",
        "grain",
        "random speckle",
        "heavy noise",
        "a noisy texture",
        "a low signal-to-noise ratio",
    ),
    "blur": (
        "blur",
        "motion blur",
        "smeared edges",
        "a lack of sharpness",
        "soft, unfocused detail",
        "blurred contours",
    ),
    "artifact": (
        "stripe artifacts",
        "fixed-pattern lines",
        "banding",
        "line artifacts",
        "streaks across the frame",
        "sensor artifacts",
    ),
    "uneven": (
        "uneven brightness",
        "a bias field",
        "inhomogeneous intensity",
        "shading across the frame",
        "a slow drift of brightness",
        "non-uniform gain",
    ),
}
_PATTERNS = (
    "{subject} suffers from {faults}.",
    "{subject} shows {faults}.",
    "there is {faults} in {subject}.",
    "{subject} is degraded by {faults}.",
    "{faults} can be seen in {subject}.",
    "in {subject} the main defect is {faults}.",
)
_CLEAN = (
    "{subject} is clean.",
    "{subject} shows no degradation.",
    "{subject} is of good quality.",
    "nothing is wrong with {subject}.",
    "{subject} is sharp and well exposed.",
)


def variant_of(name: str) -> int:
    """The wording used for a pair of this name, in [0, VARIANTS)."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()  # a file's name, so perhaps no UTF-8
    return int.from_bytes(digest[:4], "big") % VARIANTS


def sentence(events: Iterable[Event], side: str, variant: int = 0) -> str:
    """The sentence for the events on ``side`` (others are passed over); one wording per ``variant`` modulo VARIANTS."""
    kinds = [kind for kind in KINDS if kind in {item.kind for item in events if item.side == side}]
    # Seeded by text, which Python hashes the same way on every platform; another text would be another wording.
    choose = random.Random(f"{side}/{'+'.join(kinds)}/{variant % VARIANTS}/False").choice
    faults = _listed([choose(_FAULTS[kind]) for kind in kinds])
    text = choose(_PATTERNS if kinds else _CLEAN).format(subject=choose(_SUBJECTS[side]), faults=faults)
    return text[0].upper() + text[1:]


def _listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)

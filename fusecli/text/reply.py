"""A vision-language model's reply -> description, read leniently: models number, embolden and rename as they like."""

from __future__ import annotations

import logging
import re

from fusecli.errors import InputError
from fusecli.text.events import KIND_OF, KINDS, Event, event, types_for
from fusecli.text.record import Description
from fusecli.text.sentences import sentence, variant_of

log = logging.getLogger("fusecli.annotate")

LONGEST_SENTENCE = 300  # characters; text encoders cut at 77 to 256 tokens anyway
SHORT = 100  # characters: a longer answer without events is no plain "none"
USUAL_SEVERITY = 0.6  # of an event whose description does not say

_WORDS = {
    "vis": r"(?:the|in) visible|visible[- ](?:light|image|frame|picture|camera|spectrum)|\brgb\b|optical|daylight",
    "ir": r"infra-?red|thermal|\bir\b|heat",
    "ct": r"\bct\b|tomograph",
    "pet": r"\bpet\b|positron",
    "spect": r"\bspect\b|single.photon",
    "mri": r"\bmri?\b|magnetic",
}
# The first kind whose words occur is meant.
_KINDS = (
    ("low light", r"low.?light|dark|under.?expos|\bdim\b|insufficient (?:light|illumination)"),
    ("over exposure", r"over.?expos|saturat|glare|blown|too bright"),
    ("haze", r"haz[ey]|\bfog|smok|mist|smog"),
    ("artifact", r"art[ei]fact|strip|banding|streak|fixed.pattern|ghost"),
    ("uneven", r"uneven|bias field|inhomogen|structure consist|shading|vignett"),
    ("noise", r"nois|grain|speckle"),
    ("blur", r"blur|focus|sharp|detail|edge"),
    ("low contrast", r"contrast"),
)
# The first degree whose words occur is meant: a very slight noise is slight.
_SEVERITIES = (
    (0.3, r"slight|mild|minor|weak|little|subtle|faint"),
    (0.9, r"severe|extrem|heav|very|strong|complete"),
    (0.5, r"moderate|medium|partial"),
)

# One event: a line with "Event Type: …", whatever decorates it, and the text after it up to the next.
_DECORATION = r"[\s*_#>\"'`\-–.\d)(]*"
_TYPE = re.compile(
    rf"^{_DECORATION}event[\s_]*type\W*?[:：=]\W*(?P<type>.*?)(?=\W*description|$)", re.IGNORECASE | re.MULTILINE
)
_TEXT = re.compile(r"description\W*?[:：=]\s*(?P<text>.*)", re.IGNORECASE | re.DOTALL)
# A reply without events: what calls the images clean, where clauses end, and what one of them says is not there.
_CLEAN = re.compile(
    r"\b(none|nil|null|n/a|not applicable|no visible|(?<!not )(?:clean|normal)|"
    r"no (?:\w+ ){0,2}(?:event|degradation|defect|issue|problem|distortion|anomal(?:y|ie)|abnormalit(?:y|ie))s?)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.:;\n]|\b(?:but|except|(?:al)?though|however|while|other than|apart from)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\w+-free\b|\b(?:no|not|neither|without|free (?:of|from))\b(?! (?:only|clean|normal)).*", re.IGNORECASE
)


class ReplyError(InputError):
    """One reply failed or could not be read: its pair is lost, and the run goes on."""


def parse(reply: str, sides: tuple[str, str], name: str = "") -> Description:
    """The description in a model's reply; raises ReplyError where it names no known event and does not say none.

    An event's side is the modality that its type or description names, else the one that the type is typical of. Its
    severity comes from a number or a word of the description, else it is USUAL_SEVERITY.
    """
    reply = without_thoughts(reply)
    heads = list(_TYPE.finditer(reply))
    if not heads and not _is_clean(reply, sides):
        raise ReplyError(f"the reply is not in the format asked for: {' '.join(reply.split())[:120]!r}")
    events: dict[tuple[str, str], Event] = {}  # models repeat themselves: the worst of a type counts
    told: dict[str, list[str]] = {side: [] for side in sides}
    unknown: list[str] = []
    ends = [head.start() for head in heads[1:]] + [len(reply)]
    for head, end in zip(heads, ends, strict=False):
        rest = _TEXT.search(reply, head.end(), end)
        text = " ".join(rest["text"].split()).strip("*_\"'`# ") if rest else ""
        found = _event(head["type"], text, sides)
        if found is None:
            if not _CLEAN.search(head["type"]) and not _is_clean(text, sides):
                log.debug("%s: event type %r is unknown and left out", name, head["type"])
                unknown.append(head["type"])
            continue
        key = found.type, found.side
        events[key] = max(found, events.get(key, found), key=lambda item: item.severity)
        if text:
            told[found.side].append(text if text.endswith(".") else text + ".")
    if unknown and not events:  # perhaps in another language; the pair must not pass for a clean one
        raise ReplyError(f"the reply names no type of event that was asked for, but {unknown[0][:120]!r}")
    sentences = {
        side: " ".join(told[side])[:LONGEST_SENTENCE] or sentence(events.values(), side, variant_of(name))
        for side in sides
    }
    return Description(sides, tuple(events.values()), sentences)


def _is_clean(reply: str, sides: tuple[str, str]) -> bool:
    """Whether a reply without events calls the images clean, and names no fault: not "hazy, the other is clean"."""
    words = [*KINDS, *types_for(sides), "hazy", "noisy", "blurr", "dark", "fog", "grain"]
    faults = re.compile("|".join(words), re.IGNORECASE)
    named = any(faults.search(_DENIED.sub("", clause)) for clause in _CLAUSE_END.split(reply))
    return len(reply) < SHORT and _CLEAN.search(reply) is not None and not named


def without_thoughts(reply: str) -> str:
    """A reply without the model's thoughts, which may be cut off, or whose first tag the server's template may hold."""
    return reply.rpartition("</think>")[2].partition("<think>")[0]


def _event(type_text: str, text: str, sides: tuple[str, str]) -> Event | None:
    plain = " ".join(re.sub(r"[^a-z]+", " ", type_text.lower()).split())
    exact = plain in types_for(sides)
    kind = KIND_OF[plain] if exact else next((kind for kind, words in _KINDS if re.search(words, plain)), None)
    if kind is None:
        return None
    side, severity = _side(plain, text, kind, sides), _severity(text)
    if exact and plain in ("detail enhancement", "edge preservation"):
        return Event(plain, side, severity)
    return event(kind, side, severity)


def _side(plain: str, text: str, kind: str, sides: tuple[str, str]) -> str:
    for words in (plain, text.lower()):
        mentioned = {side: match.start() for side in sides if (match := re.search(_WORDS[side], words))}
        if mentioned:
            return min(mentioned, key=mentioned.__getitem__)
    return sides[1] if kind == "artifact" else sides[0]


def _severity(text: str) -> float:
    rated = re.search(r"severity\D{0,12}(\d+(?:\.\d+)?)\s*(?:/|out of)\s*([1-9]\d*)", text, re.IGNORECASE)
    if rated:
        return min(1.0, float(rated[1]) / int(rated[2]))
    number = re.search(r"severity\D{0,12}([01](?:\.\d+)?)\b|(\d{1,3})\s*%", text, re.IGNORECASE)
    if number:
        return min(1.0, float(number[1]) if number[1] else int(number[2]) / 100)
    return next((value for value, words in _SEVERITIES if re.search(words, text, re.IGNORECASE)), USUAL_SEVERITY)

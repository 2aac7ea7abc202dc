"""Image pair -> description by a vision-language model behind any OpenAI-compatible endpoint.

The model is asked for the two-line events of arXiv 2504.07029 (``Event Type: …`` / ``Description: …``), and its answer
is read leniently: models number, embolden and rename as they like.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fusecli.errors import FusecliError, InputError, UsageError
from fusecli.images.opencv import cv2
from fusecli.images.preview import shrunk
from fusecli.text.events import KIND_OF, KINDS, MEDICAL_SIDES, Event, event, types_for
from fusecli.text.record import Description
from fusecli.text.sentences import sentence, variant_of

log = logging.getLogger("fusecli.annotate")

LONGEST_SIDE = 1024  # px; larger images are shrunk before they are sent
LONGEST_SENTENCE = 300  # characters; text encoders cut at 77 to 256 tokens anyway
MAX_TOKENS = 400
LONGEST_WAIT = 60.0  # seconds between two tries

MODALITY = {
    "vis": "visible",
    "ir": "infrared",
    "ct": "CT",
    "pet": "PET",
    "spect": "SPECT",
    "mri": "MRI",
}
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
SHORT = 100  # characters: a longer answer without events is no plain "none"
USUAL_SEVERITY = 0.6  # of an event whose description does not say

# One event: a line with "Event Type: …", whatever decorates it, and the text after it up to the next.
_DECORATION = r"[\s*_#>\"'`\-–.\d)(]*"
_TYPE = re.compile(
    rf"^{_DECORATION}event[\s_]*type\W*?[:：=]\W*(?P<type>.*?)(?=\W*description|$)", re.IGNORECASE | re.MULTILINE
)
_TEXT = re.compile(r"description\W*?[:：=]\s*(?P<text>.*)", re.IGNORECASE | re.DOTALL)
_DENIED = re.compile(  # what is not there, up to an exception
    r"\w+-free\b|\b(?:no|not|neither|without|free (?:of|from))\b(?! (?:only|clean|normal))"
    r"(?:(?!\b(?:but|except|other than|apart from)\b)[^.:;\n])*",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"\b(none|no (?:event|degradation|defect|visible)|(?<!not )(?:clean|normal)|n/a)\b", re.IGNORECASE
)


class ServerError(FusecliError):
    """The endpoint cannot serve any pair: wrong address, key or model, or a model that takes no images."""


class ReplyError(InputError):
    """One reply failed or could not be read: its pair is lost, and the run goes on."""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. base_url: with or without /v1. timeout: seconds for one reply."""

    base_url: str
    model: str | None = None
    api_key: str | None = None
    timeout: float = 120.0
    retries: int = 3
    backoff: float = 1.0  # seconds before the first retry, doubled for each further one

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):  # else each pair would fail by itself, after every retry
            raise UsageError(f"--base-url {self.base_url}: expected http://HOST:PORT/v1 or https://…")
        if self.api_key and not re.fullmatch("[!-~]+", self.api_key):
            raise UsageError("--api-key or OPENAI_API_KEY: holds a space, a line break or a letter that no key has")

    def url(self, route: str) -> str:
        base = self.base_url.rstrip("/").removesuffix("/chat/completions")
        return f"{base if urlsplit(base).path else base + '/v1'}/{route}"

    def models(self) -> list[str]:
        """Names of the models that the server offers."""
        reply = self._request("models")
        entries = reply.get("data") if isinstance(reply, dict) else None
        return [str(entry["id"]) for entry in entries or [] if isinstance(entry, dict) and "id" in entry]

    def ask(self, text: str, images: Sequence[np.ndarray] = ()) -> str:
        """The model's answer to a text and images (uint8, H×W or H×W×3 RGB).

        Raises ServerError where no other pair would fare better, ReplyError where one might.
        """
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        message = {"role": "user", "content": content if images else text}
        body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": MAX_TOKENS}
        reply = self._request("chat/completions", body)
        try:
            choice = reply["choices"][0]
            answer, cut_off = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (KeyError, IndexError, TypeError, AttributeError):
            answer, cut_off = None, False
        if cut_off and (answer is None or (isinstance(answer, str) and not _without_thoughts(answer).strip())):
            raise ReplyError(f"the model came to no answer in {MAX_TOKENS} tokens; serve one that does not think first")
        if not isinstance(answer, str):
            raise ReplyError(f"{self.url('chat/completions')} sent no message: {json.dumps(reply)[:200]}")
        return answer.encode("utf-8", "replace").decode()  # without halves of characters, which no encoder takes

    def _request(self, route: str, body: dict[str, Any] | None = None) -> Any:
        url = self.url(route)
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
        wait = self.backoff
        for attempt in range(self.retries + 1):
            failure: FusecliError
            try:
                with self._opener().open(request, timeout=self.timeout) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    said = error.read(10_000).decode("utf-8", "replace")
                if address := error.headers.get("Location"):
                    raise ServerError(
                        f"{url} redirects to {address}; if you trust that server, name it by --base-url"
                    ) from None
                failure = self._judge(url, error.code, said)
                hint = error.headers.get("Retry-After", "")
                wait = max(wait, float(hint)) if hint.isdecimal() else wait
            except (ValueError, RecursionError) as error:  # no JSON
                failure = ReplyError(f"{url} did not answer in JSON ({error}); is it an OpenAI-compatible endpoint?")
            except http.client.HTTPException as error:
                failure = ReplyError(f"{url} broke off its answer ({type(error).__name__})")
            except OSError as error:  # such as URLError, which has a reason, and TimeoutError
                reason = getattr(error, "reason", error)
                if isinstance(reason, TimeoutError):
                    failure = ReplyError(f"{url} did not answer within {self.timeout:g} s; raise --timeout")
                else:
                    failure = ServerError(f"{url} cannot be reached: {reason}. Is the server running? See --base-url.")
            if attempt == self.retries:
                raise failure
            log.debug("%s; next try in %.1f s", failure, wait)
            time.sleep(min(wait, LONGEST_WAIT))
            wait *= 2
        raise AssertionError("unreachable")

    def _judge(self, url: str, status: int, said: str) -> ReplyError:
        """The error for a status that is worth a retry; raises ServerError for one that is not."""
        brief = " ".join(_message(said).split())[:200]
        if re.search(
            r"mmproj|(image|vision|multi-?modal)[^.]{0,60}not (be )?(support|enabled|available)", said, re.I
        ) or (status in (400, 415, 422) and re.search(r"image_url|image input|unknown content type", said, re.I)):
            raise ServerError(
                f"the model at {url} cannot take images (it said: {brief}). Serve a vision-language model, "
                "such as Qwen2-VL; llama.cpp needs its projector too (--mmproj)."
            )
        if status in (401, 403):
            raise ServerError(f"{url} refused the key ({brief}); set OPENAI_API_KEY or --api-key")
        if status == 404:
            raise ServerError(f"{url} does not exist, or not the model {self.model!r} ({brief}); see --base-url, --vlm")
        if status < 500 and status not in (408, 409, 425, 429):
            raise ServerError(f"{url} refused the request with status {status}: {brief}")
        return ReplyError(f"{url} failed with status {status}: {brief}")

    def _opener(self) -> urllib.request.OpenerDirector:
        local = urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1")
        return urllib.request.build_opener(_NoRedirects, *([urllib.request.ProxyHandler({})] if local else []))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would carry the key to another server, and turn questions into GET requests."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _is_address(url: str) -> bool:
    """Whether this is an HTTP URL that can be asked: without spaces or credentials, and with a number as port."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError
    except ValueError:
        return False
    named = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
    return bool(named) and parts.path.isascii() and not re.search(r"\s", url)


def data_url(image: np.ndarray) -> str:
    """A PNG data URL of a uint8 image (H×W or H×W×3 RGB), shrunk to LONGEST_SIDE."""
    image = shrunk(image, LONGEST_SIDE)
    done, data = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    assert done
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def prompt(sides: tuple[str, str]) -> str:
    """What the model is asked about a pair; the first image is of the first side."""
    first, second = (MODALITY[side] for side in sides)
    types = ", ".join(type_.title() for type_ in types_for(sides))
    return (
        f"The first image is the {first} image and the second image is the {second} image of the same "
        f"{'slice' if set(sides) & set(MEDICAL_SIDES) else 'scene'}. They will be fused. Name every degradation that "
        "you can see in either image, and nothing else. Answer with two lines for each:\n"
        "Event Type: <type>\n"
        "Description: <one sentence that says which image is meant and how severe it is>\n"
        f"Types: {types}. If both images are clean, answer with the single line 'Event Type: None'."
    )


def describe(
    endpoint: Endpoint, images: tuple[np.ndarray, np.ndarray], sides: tuple[str, str], name: str
) -> Description:
    """Ask about one pair of uint8 images (H×W or H×W×3 RGB). Raises as Endpoint.ask and ``parse`` do."""
    return parse(endpoint.ask(prompt(sides), images), sides, name)


def parse(reply: str, sides: tuple[str, str], name: str = "") -> Description:
    """The description in a model's reply; raises ReplyError where it neither names an event nor says there is none.

    An event's side is the modality that its type or description names, else the one that the type is typical of. Its
    severity comes from a number or a word of the description, else it is USUAL_SEVERITY.
    """
    reply = _without_thoughts(reply)
    heads = list(_TYPE.finditer(reply))
    if not heads and not _says_nothing_is_wrong(reply, sides):
        raise ReplyError(f"the reply is not in the format asked for: {' '.join(reply.split())[:120]!r}")
    events: dict[tuple[str, str], Event] = {}  # models repeat themselves: the worst of a type counts
    told: dict[str, list[str]] = {side: [] for side in sides}
    ends = [head.start() for head in heads[1:]] + [len(reply)]
    for head, end in zip(heads, ends, strict=False):
        rest = _TEXT.search(reply, head.end(), end)
        text = " ".join(rest["text"].split()).strip("*_\"'`# ") if rest else ""
        found = _event(head["type"], text, sides)
        if found is None:
            if not _NOTHING.search(head["type"]):
                log.debug("%s: event type %r is unknown and left out", name, head["type"])
            continue
        key = found.type, found.side
        events[key] = max(found, events.get(key, found), key=lambda item: item.severity)
        if text:
            told[found.side].append(text if text.endswith(".") else text + ".")
    sentences = {
        side: " ".join(told[side])[:LONGEST_SENTENCE] or sentence(events.values(), side, variant_of(name))
        for side in sides
    }
    return Description(sides, tuple(events.values()), sentences)


def _says_nothing_is_wrong(reply: str, sides: tuple[str, str]) -> bool:
    """Whether a reply without events calls the images clean; not where it names a fault: "hazy, the other is clean"."""
    faults = "|".join([*KINDS, *types_for(sides), "hazy", "noisy", "blurr"])
    named = re.search(faults, _DENIED.sub("", reply), re.IGNORECASE)
    return len(reply) < SHORT and _NOTHING.search(reply) is not None and named is None


def _without_thoughts(reply: str) -> str:
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


def _message(said: str) -> str:
    """The server's own words: OpenAI's {"error": {"message": …}}, else the body."""
    try:
        error = json.loads(said)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return said

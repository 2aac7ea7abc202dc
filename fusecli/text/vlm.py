"""Image pair -> description by a vision-language model behind any OpenAI-compatible endpoint.

The model is asked for the two-line events of arXiv 2504.07029 (``Event Type: …`` / ``Description: …``);
fusecli.text.reply reads its answer.
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

from fusecli.errors import FusecliError, UsageError
from fusecli.images.preview import encoded
from fusecli.text.events import MEDICAL_SIDES, types_for
from fusecli.text.record import Description
from fusecli.text.reply import ReplyError, parse, without_thoughts

log = logging.getLogger("fusecli.annotate")

LONGEST_SIDE = 1024  # px; larger images are shrunk before they are sent
MAX_TOKENS = 400
LONGEST_WAIT = 60.0  # seconds between two tries
LONGEST_TIMEOUT = 86_400  # seconds, a day

MODALITY = {
    "vis": "visible",
    "ir": "infrared",
    "ct": "CT",
    "pet": "PET",
    "spect": "SPECT",
    "mri": "MRI",
}


class ServerError(FusecliError):
    """The endpoint cannot serve any pair: wrong address, key or model, or a model that takes no images."""


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
        if self.timeout > LONGEST_TIMEOUT:  # such as inf, which sockets do not take
            raise UsageError(f"--timeout {self.timeout:g}: {LONGEST_TIMEOUT} seconds at most")
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
        """The model's answer to a text and images, see `data_url`.

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
        if cut_off and (answer is None or (isinstance(answer, str) and not without_thoughts(answer).strip())):
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
        wait, left = self.backoff, self.retries
        while True:
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
            if left < 1:
                raise failure
            left -= 1
            log.debug("%s; next try in %.1f s", failure, wait)
            time.sleep(min(wait, LONGEST_WAIT))
            wait *= 2

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
        if status < 500 and (status not in (408, 409, 425, 429) or "insufficient_quota" in said):
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
    """A PNG data URL of an image (H×W or H×W×3 RGB, uint8 or float in [0, 1]), shrunk to LONGEST_SIDE."""
    return "data:image/png;base64," + base64.b64encode(encoded(image, LONGEST_SIDE, ".png")).decode("ascii")


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
    """Ask about one pair of images, see `data_url`. Raises as Endpoint.ask and ``parse`` do."""
    return parse(endpoint.ask(prompt(sides), images), sides, name)


def _message(said: str) -> str:
    """The server's own words: OpenAI's {"error": {"message": …}}, else the body."""
    try:
        error = json.loads(said)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return said

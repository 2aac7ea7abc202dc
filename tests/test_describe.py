"""Measured descriptions: what was done to an image is found again, and what was not is not claimed."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED

from fusecli.errors import OutputError, UsageError
from fusecli.images.opencv import cv2
from fusecli.text import record
from fusecli.text.describe import EVENT_THRESHOLD, describe, measure, severities
from fusecli.text.events import IR_VIS_TYPES, KINDS, MEDICAL_SIDES, MEDICAL_TYPES, SEVERITY_DIM, Event, event
from fusecli.text.record import Description
from fusecli.text.sentences import VARIANTS, sentence, variant_of
from fusecli.training.degrade import DEGRADATIONS, apply
from fusecli.training.losses import EVENT_WEIGHTS

MEASURED = {side: [k for k in DEGRADATIONS[side] if k not in ("artifact", "uneven")] for side in MEDICAL_SIDES} | {
    "vis": list(DEGRADATIONS["vis"]),
    "ir": list(DEGRADATIONS["ir"]),
}


def photo(seed: int) -> np.ndarray:
    """A scene of flat patches with hard edges over all grey levels, some texture: float32 192×256."""
    rng = np.random.default_rng(seed)
    image = np.full((192, 256), 0.5, np.float32)
    for _ in range(120):
        y, x = rng.integers(0, 192), rng.integers(0, 256)
        h, w = rng.integers(6, 60, 2)
        image[y : y + h, x : x + w] = rng.uniform(0.02, 0.95)
    texture = rng.normal(0, 0.03, image.shape).astype(np.float32) * (rng.random((192, 1)) < 0.3)
    return np.rint(np.clip(image + texture, 0, 1) * 255).astype(np.float32) / 255


def degraded(image: np.ndarray, side: str, kind: str, severity: float, seed: int = 0) -> np.ndarray:
    batch = torch.from_numpy(image)[None, None]
    out = apply(batch, side, {kind: torch.tensor([severity])}, torch.Generator().manual_seed(seed))
    return out[0, 0].numpy()


def found(image: np.ndarray, side: str) -> dict[str, float]:
    rated = severities(measure(image, scan=side in MEDICAL_SIDES), side)
    return {kind: severity for kind, severity in rated.items() if severity >= EVENT_THRESHOLD}


@pytest.mark.parametrize(("side", "kind"), [(side, kind) for side in ("vis", "ir") for kind in DEGRADATIONS[side]])
def test_a_degraded_scene_is_recognised_and_a_clean_one_is_clean(side, kind):
    for seed in range(3):
        clean = photo(seed)
        assert found(clean, side) == {}
        assert kind in found(degraded(clean, side, kind, 0.8, seed), side)


def test_measurements_have_the_units_they_claim():
    rng = np.random.default_rng(1)
    flat = np.full((128, 128), 0.5, np.float32)
    assert measure(flat + rng.normal(0, 0.04, flat.shape)).noise == pytest.approx(0.04, rel=0.2)
    assert measure(flat + rng.normal(0, 0.03, (1, 128))).stripes == pytest.approx(0.03, rel=0.25)
    half = np.concatenate([np.ones((64, 128)), np.zeros((64, 128))])
    result = measure(half)
    assert result.luminance == pytest.approx(0.5)
    assert result.clipped == pytest.approx(0.5, abs=0.02)
    assert result.contrast == pytest.approx(1 / 1.05, abs=0.01)
    ramp = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
    assert measure(ramp + ramp.T).sharpness == pytest.approx(1 / 16, abs=0.01)
    assert measure(rng.random((128, 128))).sharpness == 1.0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 3), (17, 16), (8, 8)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_tiny_and_constant_images_are_described(size, value):
    image = np.full(size, value, np.float32)
    for sides in (("vis", "ir"), ("ct", "mri"), ("pet", "mri")):
        result = describe(image, image, sides)
        assert all(0 <= item.severity <= 1 for item in result.events)
        assert all(result.sentences.values())


@pytest.mark.skipif(not (SHARED / "data" / "val").is_dir(), reason="needs the validation pairs")
@pytest.mark.parametrize("side", ["vis", "ir", "ct", "pet", "spect", "mri"])
def test_recall_and_precision_on_real_images(side):
    """Validation images, which no threshold has seen: severities 0.5 to 1 are detected, and little else is."""
    folders = sorted((SHARED / "data" / "val").glob(f"*/{side}"))
    assert folders
    hits, total, wrong, errors = Counter(), Counter(), Counter(), []
    for folder in folders:
        for number, path in enumerate(sorted(folder.iterdir())[::5][:4]):
            clean = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)[:320, :320] / 255
            natural = set(found(clean, side))
            for kind in MEASURED[side]:
                severity = (0.6, 0.9)[number % 2]
                claimed = found(degraded(clean, side, kind, severity, number), side)
                total[kind] += 1
                hits[kind] += kind in claimed
                errors.append(abs(claimed.get(kind, 0) - severity))
                wrong.update(set(claimed) - {kind} - natural)
    assert sum(hits.values()) / sum(total.values()) >= 0.85, (hits, total)
    assert sum(hits.values()) / (sum(hits.values()) + sum(wrong.values())) >= 0.85, wrong
    assert np.mean(errors) < 0.25
    # Saturation cannot be told where a dark scene leaves nothing to clip; everything else is found nearly always.
    assert all(hits[kind] >= 0.7 * total[kind] for kind in total if kind != "over exposure"), (hits, total)


def test_night_is_low_light_and_cold_infrared_is_not():
    night = photo(0) * 0.15
    assert list(found(night, "vis")) == ["low light"]
    assert "low light" not in found(night, "ir")


def test_description_names_sides_types_and_severities():
    clean, noisy = photo(1), degraded(photo(1), "ir", "noise", 0.9)
    result = describe(clean, noisy, ("vis", "ir"), "night/0001")
    (only,) = result.events
    assert (only.type, only.side) == ("infrared noise", "ir")
    assert only.severity == pytest.approx(0.9, abs=0.15)
    assert result.sentences["vis"] == sentence((), "vis", variant_of("night/0001"))
    assert result == describe(clean, noisy, ("vis", "ir"), "night/0001")
    vector = result.severities
    assert len(vector) == SEVERITY_DIM
    assert vector[len(KINDS) + KINDS.index("noise")] == only.severity
    assert sum(map(bool, vector)) == 1


def test_every_type_of_the_paper_exists_and_losses_know_them():
    assert set(EVENT_WEIGHTS) <= {*IR_VIS_TYPES, *MEDICAL_TYPES}
    assert {event(kind, "ir", 0.5).type for kind in ("low contrast", "noise")} == {
        "infrared low contrast",
        "infrared noise",
    }
    assert event("blur", "ct", 0.3).type == "detail enhancement"
    assert event("blur", "ct", 0.8).type == "edge preservation"
    for side in ("vis", "ir", "pet", "mri"):
        assert {event(kind, side, 0.7).kind for kind in DEGRADATIONS[side]} == set(DEGRADATIONS[side])


def test_sentences_are_many_bounded_and_tell_kinds_apart():
    noise, blur = event("noise", "vis", 0.5), event("blur", "vis", 0.9)
    wordings = {sentence([noise], "vis", variant) for variant in range(10 * VARIANTS)}
    assert 30 <= len(wordings) <= VARIANTS
    assert not wordings & {sentence([blur], "vis", variant) for variant in range(VARIANTS)}
    assert sentence([noise], "vis", 3) == sentence([Event("high noise", "vis", 0.1)], "vis", 3)
    assert sentence([event("noise", "ir", 1)], "vis", 3) == sentence((), "vis", 3)
    three = sentence([blur, noise, event("low contrast", "vis", 0.5)], "vis", 5)
    assert re.search(r"\w, \w.* and \w", three)
    both = sentence([blur, noise], "vis", 5)
    assert " and " in both
    assert both[0].isupper()
    assert both.endswith(".")


def line(name="a", **changes):
    result = Description(("vis", "ir"), (Event("haze", "vis", 0.4),), {"vis": "Haze.", "ir": "Clean."})
    return result.record(name, "vis/a.png", "ir/a.png", "measure") | changes


def write(path, *records):
    with record.Appender(path) as file:
        for entry in records:
            file.write(entry)


def test_records_survive_the_round_trip(tmp_path):
    path = tmp_path / "deep" / "d.jsonl"
    text = "Grün\u2028 – 雾."
    write(path, line("night/1"), line("b", sentences={"vis": text, "ir": "x"}))
    loaded = record.load(path)
    assert list(loaded) == ["night/1", "b"]
    assert loaded["night/1"].events == (Event("haze", "vis", 0.4),)
    assert loaded["b"].sentences["vis"] == text
    assert loaded["b"].sides == ("vis", "ir")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{", "Expecting"),
        pytest.param("[" * 100_000, "while decoding a JSON array", id="bottomless"),
        ("[]", "JSON object"),
        (line(events=[{"type": "rain", "side": "vis", "severity": 0.5}]), "'rain' is none of"),
        (line(events=[{"type": "haze", "side": "mri", "severity": 0.5}]), "'mri' is neither vis nor ir"),
        (line(events=[{"type": "haze", "side": "vis", "severity": 1.5}]), "1.5 is no number"),
        (line(events=[{"type": "haze", "side": "vis", "severity": float("nan")}]), "is no number"),
        (line(events=[{"type": "haze", "side": "vis"}]), "None is no number"),
        (line(events=["haze"]), "an event must be"),
        (line(events=None), "'events' must be"),
        (line(sentences={"vis": "x"}), "'sentences' must map two"),
        (line(sentences={"vis": "x", "ir": " "}), "empty"),
        (line(name=""), "'name' is missing"),
        (line(name="first"), "already described in line 1"),
    ],
)
def test_a_broken_line_is_named(tmp_path, broken, said):
    path = tmp_path / "d.jsonl"
    write(path, line("first"))
    with path.open("a") as file:
        file.write("\n")
        file.write((broken if isinstance(broken, str) else record.json.dumps(broken)) + "\n")
    with pytest.raises(UsageError) as caught:
        record.load(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert said in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.jsonl cannot be read"):
        record.load(tmp_path / "none.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no UTF-8"):
        record.load(tmp_path / "b.jsonl")


def test_a_torn_last_line_is_cut_and_a_missing_line_break_is_added(tmp_path):
    path = tmp_path / "d.jsonl"
    write(path, line("a"), line("b"))
    whole = path.read_bytes()
    for torn in (whole[:-40], whole[:-2]):
        path.write_bytes(torn)
        with record.Appender(path) as file:
            assert file.repaired
            assert list(file.done) == ["a"]
            file.write(line("b"))
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    with record.Appender(path) as file:
        assert not file.repaired
        assert list(file.done) == ["a", "b"]
    assert path.read_bytes() == whole


def test_two_runs_do_not_write_into_one_file(tmp_path):
    path = tmp_path / "d.jsonl"
    with record.Appender(path), pytest.raises(UsageError, match="another run is writing there"):
        record.Appender(path)
    path.write_text("[]\n")
    with pytest.raises(UsageError) as refused:
        record.Appender(path)
    path.write_text("")
    with record.Appender(path):  # though the error refers to what it was raised in
        assert refused.value.__traceback__


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    file = record.Appender(tmp_path / "d.jsonl")
    file._file.close()
    file._file = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(OutputError, match=r"d\.jsonl: cannot be written: No space left"), file:
        file.write({"name": "a"})

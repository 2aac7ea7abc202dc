from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusecli.errors import UsageError
from fusecli.images import frames, intensity
from fusecli.images.colour import is_colored, luma, recolour
from fusecli.images.decode import decode
from fusecli.images.intensity import Range, beyond, frame_range, full_range, sequence_range, visible_range


def thermal(seed: int, warm: float = 0.0) -> np.ndarray:
    """A 16-bit radiometric frame: a scene around 7,500 counts, a person of 300 more, four dead pixels."""
    frame = np.random.default_rng(seed).normal(7500 + warm, 60, (120, 160))
    frame[40:70, 60:72] += 300
    frame[0, :2], frame[1, :2] = 0, 65535
    return np.clip(np.rint(frame), 0, 65535).astype(np.uint16)


def sequence(folder: Path, count: int, **options) -> list[Path]:
    paths = [folder / f"{index:04}.png" for index in range(count)]
    for index, path in enumerate(paths):
        frames.write(path, [thermal(index, **options)])
    return paths


def test_mere_noise_is_not_stretched_over_the_visible():
    """As of a closed shutter under --range frame: every 30 seconds a film was full of it. Small targets still show."""
    noise = np.random.default_rng(0).normal(7300, 2, (240, 320))
    noise[100:104, 200:206] += 30
    for frame in (noise.astype(np.uint16), noise.astype(np.float32), (noise - 7200).astype(np.uint8)):
        shown = frames.shown(frame, "frame")
        shown = shown if shown.dtype.kind == "f" else shown / 255
        assert shown[100:104, 200:206].min() > 0.5
        assert np.count_nonzero(shown) < 0.002 * shown.size
    noise[:, :160] += 3
    assert frames.shown(noise.astype(np.float32), "frame")[:, 160:].mean() > 0.3  # a scene, if a faint one


def test_someone_faint_in_fog_is_more_than_noise_wherever_they_walk():
    noise = np.random.default_rng(0).normal(7300, 8, (480, 640))
    for step in range(8):
        fog = noise.copy()
        fog[204 + step : 216 + step, 300 + step : 308 + step] += 32
        shown = frames.shown(fog.astype(np.uint16), "frame")
        assert shown[204 + step : 216 + step, 300 + step : 308 + step].mean() > shown.mean() + 0.3


def test_frames_that_are_mostly_missing_do_not_drift(tmp_path):
    """As warped ones, in which auto had left the values around them out."""
    warm = tmp_path / "warm.png"
    (path,) = sequence(tmp_path, 1)
    for file, warmer in ((path, 0), (warm, 900)):
        frame = thermal(0, warmer)
        frame[:, :100] = 0
        frames.write(file, [frame])
    found = sequence_range("auto", [path])
    assert found.lo > 7000
    assert beyond(found, path) == ""
    assert "above" in beyond(found, warm)


def test_auto_spans_the_scene_and_ignores_dead_pixels(tmp_path):
    found = sequence_range("auto", sequence(tmp_path, 5))
    assert 7200 < found.lo < 7450
    assert 7750 < found.hi < 8100
    (frame,) = frames.read(tmp_path / "0000.png", intensity=found)
    assert frame.pixels.dtype == np.float32
    assert frame.pixels[0, 0] == 0
    assert frame.pixels[1, 0] == 1
    person, scene = frame.pixels[40:70, 60:72], frame.pixels[80:]
    assert (person == 1).mean() < 0.1  # people are not burnt out
    assert person.mean() - scene.mean() > 0.3


def test_one_mapping_for_the_whole_sequence_whatever_a_frame_holds(tmp_path):
    paths = sequence(tmp_path / "a", 4) + sequence(tmp_path / "b", 4, warm=500)
    found = sequence_range("auto", paths)
    assert found == sequence_range("auto", paths)
    assert found.hi > 8100
    cool, warm = (frames.read(path, intensity=found)[0].pixels for path in (paths[0], paths[4]))
    assert np.median(warm) - np.median(cool) == pytest.approx(500 / (found.hi - found.lo), abs=0.02)
    per_frame = [frames.read(path, intensity="frame")[0].pixels for path in (paths[0], paths[4])]
    assert np.median(per_frame[1]) == pytest.approx(np.median(per_frame[0]), abs=0.05)


def test_eight_bit_infrared_is_unchanged_by_auto_and_full(tmp_path):
    image = np.random.default_rng(0).integers(60, 90, (20, 30), dtype=np.uint8)
    path = tmp_path / "a.png"
    frames.write(path, [image])
    assert sequence_range("auto", [path]) is None
    deep = sequence(tmp_path / "deep", 2)
    for option in (None, "full", sequence_range("auto", [path, *deep])):
        (frame,) = frames.read(path, intensity=option)
        np.testing.assert_array_equal(frame.pixels, image)
    (stretched,) = frames.read(path, intensity="frame")
    assert stretched.pixels.dtype == np.uint8
    assert (stretched.pixels.min(), stretched.pixels.max()) == (0, 255)
    (typed,) = frames.read(path, intensity=sequence_range("50,100", [path]))
    np.testing.assert_array_equal(typed.pixels, np.rint((image - 50.0) / 50 * 255))


def test_full_takes_all_that_the_type_holds(tmp_path):
    sequence(tmp_path, 1)
    assert sequence_range("full", []) == "full"  # for frames.read
    (frame,) = frames.read(tmp_path / "0000.png", intensity="full")
    np.testing.assert_array_equal(np.rint(frame.pixels * 65535), thermal(0))
    signed = np.array([[-32768, 0, 32767]], np.int16)
    tifffile.imwrite(tmp_path / "signed.tif", signed)
    np.testing.assert_allclose(frames.read(tmp_path / "signed.tif")[0].pixels, [[0, 0.5, 1]], atol=1e-5)


@pytest.mark.parametrize(
    ("option", "expected"),
    [("7000,9500", (7000, 9500)), (" -40 , 1.5e2 ", (-40, 150)), ("0,1", (0, 1)), ("255,0", (255, 0))],
)
def test_two_numbers_are_the_ends_of_the_range(option, expected):
    found = sequence_range(option, [])
    assert (found.lo, found.hi) == expected


@pytest.mark.parametrize("option", ["", "automatic", "7000", "1,2,3", "a,b", "5,5", "nan,1", "0,inf"])
def test_mistyped_ranges_are_refused(option):
    with pytest.raises(UsageError, match="--range"):
        sequence_range(option, [])


def test_of_black_hot_infrared_the_higher_value_comes_first(tmp_path):
    warm = np.array([[0, 51, 255]], np.uint8)
    frames.write(tmp_path / "warm.png", [warm])
    (read,) = frames.read(tmp_path / "warm.png", intensity=sequence_range("255,0", [tmp_path / "warm.png"]))
    np.testing.assert_array_equal(read.pixels, 255 - warm)
    counts = np.array([7000, 8000, 9000, np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(sequence_range("9000,7000", []).apply(counts), [1, 0.5, 0, 0, 0, 1])


def told(folder: Path, caplog, *frames_: np.ndarray, option: str = "auto") -> str:
    """What is warned of a sequence."""
    caplog.clear()
    paths = [folder / f"{index:02}.tif" for index in range(len(frames_))]
    for path, frame in zip(paths, frames_, strict=True):
        frames.write(path, [frame])
    sequence_range(option, paths)
    assert len(caplog.records) <= 1
    return caplog.text


def test_files_of_different_kinds_or_units_are_said(tmp_path, caplog):
    kelvin = [4 * thermal(seed) for seed in range(6)]  # x 100
    celsius = [np.float32(frame) / 100 - 273 for frame in kelvin]
    gray = [np.uint16(thermal(seed) % 256) for seed in range(6)]
    mixed = told(tmp_path, caplog, *kelvin[:5], np.uint8(gray[5]))
    assert "00.tif holds uint16 samples" in mixed
    assert "05.tif uint8; one range does not suit both: put them in separate folders" in mixed
    assert "04.tif float32" in told(tmp_path, caplog, *kelvin[:4], *celsius[4:])
    units = told(tmp_path, caplog, *kelvin[:5], gray[5])
    assert "05.tif holds values from" in units
    assert "--range frame" in units
    assert "00.tif holds values from" in told(tmp_path, caplog, *gray[:5], kelvin[5])
    assert not told(tmp_path, caplog, *kelvin[:5], gray[5], option="0,65535")
    for alike in (kelvin, celsius, gray, [np.uint8(frame) for frame in gray], kelvin[:1]):
        assert not told(tmp_path, caplog, *alike)


@pytest.mark.parametrize("value", [0, 65535])
def test_a_frame_of_one_value_does_not_stretch_the_range_of_the_others(tmp_path, caplog, value):
    """As of a camera that starts, or of a map's tile without data."""
    scene = np.linspace(2000, 3000, 1024).reshape(32, 32).astype(np.uint16)
    paths = [tmp_path / f"{name}.tif" for name in "ab"]
    tifffile.imwrite(paths[0], np.full_like(scene, value))
    alone = sequence_range("auto", paths[:1])
    tifffile.imwrite(paths[1], scene)
    assert sequence_range("auto", paths) == sequence_range("auto", paths[1:])
    assert visible_range(paths) == Range.of_bits(12)
    assert alone == Range(value, value, eight_bit=False)  # where there is nothing else
    assert intensity.range_of("a", [np.full_like(scene, value)]) == alone
    assert intensity.range_of("a", [np.full_like(scene, value), scene]) == intensity.range_of("a", [scene])
    assert "one range does not suit" not in caplog.text


@pytest.mark.parametrize(
    ("missing", "dtype", "side"),
    [
        *((-9999, "float32", "below"), (0, "uint16", "below"), (-3.4e38, "float64", "below")),
        *((65535, "uint16", "above"), (float(np.finfo(np.float32).max), "float32", "above")),
    ],
)
def test_values_that_stand_for_missing_ones_do_not_stretch_the_range(tmp_path, caplog, missing, dtype, side):
    scenes = [thermal(index)[2:].astype(dtype) for index in range(3)]
    bordered = [np.pad(scene, 8, constant_values=missing) for scene in scenes]
    paths = [tmp_path / f"{index}.tif" for index in range(6)]
    for path, image in zip(paths, scenes + bordered, strict=True):
        tifffile.imwrite(path, image, photometric="minisblack")
    assert sequence_range("auto", paths[3:]) == sequence_range("auto", paths[:3])
    assert f"% of the infrared is {missing:.10g}, far {side} the rest (73" in caplog.text
    assert len(caplog.records) == 1
    (frame,), (border,) = (frames.read(path, intensity="frame") for path in (paths[0], paths[3]))
    np.testing.assert_allclose(border.pixels[8:-8, 8:-8], frame.pixels, atol=2e-3)  # another sample of its pixels
    cold = thermal(0)
    cold[:60, :80] = 7000  # a sky beyond the camera's range lies near the rest
    tifffile.imwrite(paths[0], cold, photometric="minisblack")
    cold[:3, :40] = 16383  # as far above as a lamp is, whose glow is of all values between
    cold[3:6, :40] = np.linspace(8500, 16000, 120).reshape(3, 40)
    tifffile.imwrite(paths[0], cold, photometric="minisblack")
    assert sequence_range("auto", paths[:1]) == Range(7000, 16383, eight_bit=False)


def test_scenes_that_differ_are_no_mistake(tmp_path, caplog):
    scenes = [thermal(seed) for seed in range(8)]
    shutter = np.full_like(scenes[0], 7500)
    assert not told(tmp_path, caplog, *scenes, shutter)
    assert not told(tmp_path, caplog, *(thermal(seed, warm=200 * seed) for seed in range(8)))
    fire = scenes[0].copy()
    fire[:60] += 40000
    assert "holds values from" in told(tmp_path, caplog, *scenes[1:], fire)  # all but one are as good as black
    drift = [thermal(seed, warm=5000 * seed) for seed in range(8)]
    assert "holds values from" in told(tmp_path, caplog, *drift)


def test_unreadable_files_are_passed_over(tmp_path):
    paths = sequence(tmp_path, 3)
    (tmp_path / "cut.png").write_bytes(paths[0].read_bytes()[:-100])
    (tmp_path / "text.png").write_text("no image")
    assert sequence_range("auto", [tmp_path / "cut.png", *paths, tmp_path / "text.png", tmp_path / "gone.png"]) == (
        sequence_range("auto", paths)
    )
    assert sequence_range("auto", [tmp_path / "gone.png"]) is None
    assert sequence_range("auto", []) is None


def test_the_cost_is_bounded_and_the_sample_covers_both_ends(tmp_path, monkeypatch):
    opened = []
    decode = intensity.decode
    monkeypatch.setattr(intensity, "decode", lambda path, **options: opened.append(path) or decode(path, **options))
    paths = sequence(tmp_path, 3) * 100
    sequence_range("auto", paths)
    assert len(opened) == intensity.SAMPLE_FRAMES
    assert opened[0] == paths[0]
    assert opened[-1] == paths[-1]
    opened.clear()
    stack = [thermal(0)] * 200 + [thermal(1, warm=20000)] * 200
    frames.write(tmp_path / "stack.tif", stack)
    found = sequence_range("auto", [tmp_path / "stack.tif"])
    assert len(opened) == 1
    assert found.hi > 27000  # pages of both halves were looked at


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 64))
def test_evenly_takes_both_ends_and_no_more_than_the_limit(count, limit):
    chosen = intensity.evenly(range(count), limit)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, limit)
    assert chosen[0] == 0
    assert limit == 1 or chosen[-1] == count - 1


def test_visible_floats_are_kept_within_0_and_1_else_spanned(tmp_path, caplog):
    unit, wide = tmp_path / "unit.tif", tmp_path / "wide.tif"
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    frames.write(unit, [values])
    frames.write(wide, [values * 4000 - 1000])
    assert visible_range([unit]) is None
    dim = tmp_path / "dim.tif"
    frames.write(dim, [0.2 + values / 2])
    assert visible_range([dim]) is None
    np.testing.assert_array_equal(frames.read(unit)[0].pixels, values)
    assert not caplog.messages
    found = visible_range([wide, unit])
    assert (found.lo, found.hi) == (-1000, 3000)
    (said,) = caplog.messages  # results of 0 … 1 are black where 0 … 255 is expected
    assert "float32 samples, -1000 and 3000, become black and white, in results of floats 0 and 1" in said
    frame = frames.read(wide, intensity=found)[0]
    np.testing.assert_allclose(frame.pixels, values, atol=1e-6)
    np.testing.assert_allclose(found.invert(frame.pixels), values * 4000 - 1000, atol=1e-2)


def test_gaps_and_constants_have_a_range():
    gaps = np.array([np.nan, np.inf, -np.inf, 15.0], np.float32)
    np.testing.assert_array_equal(Range(10, 20).apply(gaps), np.float32([0, 1, 0, 0.5]))
    assert full_range(np.full((2, 2), np.nan, np.float32)) == Range(0, 1)
    for ends in ((-1, 0.5), (0.5, 1.5)):
        assert full_range(np.array([ends], np.float32)) == Range(*ends)
    assert frame_range(np.full((2, 2), np.nan, np.float32)) == Range(0, 1)
    constant = np.full((3, 3), 7500, np.uint16)
    found = frame_range(constant)
    np.testing.assert_array_equal(found.apply(constant), np.zeros((3, 3)))
    np.testing.assert_array_equal(found.apply(constant + np.uint16(1)), np.ones((3, 3)))


NUMBERS = {
    "uint16": None,
    "int16": None,
    "uint32": None,
    "float32": st.floats(width=32),
    "float64": st.floats(),
}


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(NUMBERS)), st.sampled_from(["full", "frame", "typed"]))
def test_any_values_end_in_the_unit_interval_in_their_order(data, dtype, how):
    array = data.draw(hnp.arrays(dtype, (3, 5), elements=NUMBERS[dtype]))
    found = {"full": full_range, "frame": frame_range, "typed": lambda _: Range(-100.5, 1e6)}[how](array)
    mapped = found.apply(array)
    assert mapped.dtype == np.float32
    assert mapped.shape == array.shape
    assert ((mapped >= 0) & (mapped <= 1)).all()
    known = ~np.isnan(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    order = np.argsort(array[known], kind="stable")
    assert (np.diff(mapped[known][order]) >= 0).all()


def test_colour_is_put_back_as_cb_and_cr():
    rgb = np.random.default_rng(0).uniform(0.3, 0.7, (6, 7, 3)).astype(np.float32)
    before = luma(rgb)
    after = recolour(rgb, before, before + 0.2)
    np.testing.assert_allclose(luma(after), before + 0.2, atol=1e-6)
    for channel in (0, 2):  # Cr and Cb are multiples of R − Y and B − Y
        np.testing.assert_allclose(after[..., channel] - luma(after), rgb[..., channel] - before, atol=1e-6)
    eight = np.uint8(np.rint(rgb * 255))
    np.testing.assert_allclose(luma(eight), luma(eight.astype(np.float32) / 255), atol=1e-6)
    assert luma(eight[..., 0]).shape == (6, 7)
    assert recolour(eight, luma(eight), luma(eight) + 1).max() == 1


@pytest.mark.parametrize(("most", "bits"), [(200, 8), (3792, 12), (12000, 14), (17000, 16), (60000, 16), (0, 16)])
def test_16_bit_files_of_cameras_of_fewer_bits(tmp_path, caplog, most, bits):
    path = tmp_path / "a.png"
    ramp = np.linspace(0, most, 64 * 64).astype(np.uint16).reshape(64, 64)
    frames.write(path, [ramp])
    found = visible_range([path])
    assert found == (Range(0, 2**bits - 1, eight_bit=False) if most else None)
    assert (f"{bits} bits" in caplog.text) == (bits < 16)


def test_a_lamp_of_few_pixels_counts(tmp_path):
    image = np.full((1000, 1000), 9000, np.uint16)
    image[500, 503] = 60000  # none of every 16th
    frames.write(tmp_path / "a.png", [image])
    assert visible_range([tmp_path / "a.png"]).hi == 65535


def test_what_is_known_is_only_widened(tmp_path, caplog):
    paths = {most: tmp_path / f"{most}.png" for most in (0, 9000, 60000)}
    for most, path in paths.items():
        frames.write(path, [np.full((8, 8), most, np.uint16)])
    known, said = None, []
    for most in (0, 9000, 0, 9000, 60000, 9000, 0):  # a lens cap at first, then nights and a day
        caplog.clear()
        known = visible_range([paths[most]], known=known)
        said.append((known and known.hi, len(caplog.records)))
    assert said == [(None, 0), (16383, 1), (16383, 0), (16383, 0), (65535, 1), (65535, 0), (65535, 0)]
    floats = tmp_path / "floats.tif"
    frames.write(floats, [np.linspace(-1, 5, 64, dtype=np.float32).reshape(8, 8)])
    assert visible_range([floats], known=Range(-3, 4, eight_bit=False)) == Range(-3, 5, eight_bit=False)


def test_signed_and_wide_integers_look_like_uint16(tmp_path, caplog):
    slice_ = np.linspace(100, 900, 64).astype(np.uint16).reshape(8, 8)
    looks = []
    for dtype in ("uint16", "int16", "int32", "uint32"):
        tifffile.imwrite(path := tmp_path / f"{dtype}.tif", slice_.astype(dtype))
        looks.append(frames.read(path, intensity=visible_range([path]))[0].pixels)
        np.testing.assert_allclose(looks[-1], looks[0], atol=1e-6)
    assert "values up to 900 in 16 bits are taken for samples of 10 bits" in caplog.text
    for dtype, offset, scale in (("int16", -1024, 1), ("int32", 0, 1000)):  # as CT; no camera's
        caplog.clear()
        tifffile.imwrite(path := tmp_path / f"{dtype}.tif", slice_.astype(dtype) * scale + offset)
        (frame,) = frames.read(path, intensity=visible_range([path]))
        np.testing.assert_allclose(frame.pixels, (slice_ - 100) / 800, atol=1e-6)
        assert f"extremes of its {dtype} samples, {100 * scale + offset} and" in caplog.text


def test_one_frame_that_fills_16_bits_is_enough(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(intensity, "decode", lambda path, **options: read.append(path) or decode(path, **options))
    paths = sequence(tmp_path, 5)  # dead pixels are white
    found = visible_range(paths)
    assert found == Range(0, 65535, eight_bit=False)
    assert read == paths[:1]
    assert visible_range(paths, known=found) == found
    assert read == paths[:1]  # it cannot become wider


@pytest.mark.parametrize(
    ("option", "said"),
    [("27000,31500", True), ("0,255", False), ("20,40", True), ("4,190", False), ("190,4", False), ("40,20", True)],
)
def test_a_range_that_holds_nothing_of_the_frames_is_said(tmp_path, caplog, option, said):
    low, high = np.full((2, 8, 8), 5, np.uint8)
    high[:] = 200
    for name, image in (("a", low), ("b", high)):
        frames.write(tmp_path / f"{name}.png", [image])
    paths = sorted(tmp_path.iterdir())
    sequence_range(option, paths)
    assert ("holds nothing" in caplog.text) == said


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.uint16, 4095), (np.float32, 1)])
def test_colour_is_told_from_gray_stored_as_rgb(dtype, white):
    gray = np.linspace(0, white, 40 * 50).reshape(40, 50, 1).repeat(3, 2).astype(dtype)
    tinted, logo, jpeg = gray.copy(), gray.copy(), gray.copy()
    tinted[..., 2] = gray[..., 2] // 2 if white > 1 else gray[..., 2] / 2
    logo[:2, :, 1:] = 0
    jpeg[..., 2] = (gray[..., 2] * 0.95).astype(gray.dtype)
    assert not any(is_colored(image) for image in (gray, gray[..., 0], logo, jpeg, gray * 0))
    assert is_colored(tinted)


@pytest.mark.parametrize(
    ("most", "is_map", "said"), [(65535, True, True), (12000, True, True), (2600, True, False), (12000, False, False)]
)
def test_visible_maps_that_one_cloud_makes_nearly_black_are_said(tmp_path, caplog, most, is_map, said):
    """As land in reflectance, of which 10000 is all; a margin without data is not looked at, nor cameras by night."""
    ir, land = tmp_path / "ir.tif", np.linspace(400, 900, 2304).reshape(48, 48).astype(np.uint16)
    tifffile.imwrite(ir, land)
    land[:2, :2] = most
    land[:, 40:] = 0
    paths = [tmp_path / f"{name}.tif" for name in "ab"]
    tags = [(34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)] if is_map else []
    for path in paths:
        tifffile.imwrite(path, land, extratags=tags)
    intensity.pair_ranges(paths, [ir, ir], infrared=True)
    assert ("half of its values lie below" in caplog.text) is said
    tifffile.imwrite(paths[1], land.clip(max=2600) * 25, extratags=tags)  # without clouds
    caplog.clear()
    intensity.pair_ranges(paths, [ir, ir], infrared=True)
    intensity.pair_ranges(paths[:1], [ir], infrared=False)
    assert "half of its values" not in caplog.text


def test_what_a_map_hides_does_not_keep_it_from_being_called_dark(tmp_path, caplog):
    land = np.linspace(400, 900, 2304).reshape(48, 48).astype(np.uint16)
    land[:2, :2] = 12000
    hidden = np.arange(48) >= 20
    image = np.dstack([np.where(hidden, 65535, land), np.where(hidden, 0, np.full_like(land, 65535))])
    tags = [(34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="minisblack", extrasamples=["unassalpha"], extratags=tags, metadata=None)
    intensity.pair_ranges([path], [path], infrared=True)
    assert "half of its values lie below" in caplog.text


@pytest.mark.parametrize("told", ["value", "alpha"])
def test_what_a_map_has_no_data_for_does_not_count(tmp_path, caplog, told):
    """However much: the percentiles of a scene in a tenth of its map were those of the margin."""
    scene = np.linspace(29000, 31000, 4000).reshape(40, 100).astype(np.uint16)
    margin = np.zeros((400, 100), np.uint16)
    whole, part = np.vstack([scene, scene]), np.vstack([scene, margin])
    for name, image in (("whole", whole), ("part", part)):
        tags, options = [(42113, "s", 2, "0", True)], {}
        if told == "alpha":
            image = np.dstack([np.where(image, image, 65535), np.where(image, 65535, 0)]).astype(np.uint16)
            tags, options = [(34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)], {"extrasamples": ["unassalpha"]}
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, photometric="minisblack", extratags=tags, metadata=None, **options)
    paths = [tmp_path / f"{name}.tif" for name in ("whole", "part")]
    shown = [frames.read(path, intensity="frame")[0].pixels[:40] for path in paths]
    np.testing.assert_allclose(*shown, atol=1e-3)
    whole_range, part_range = (sequence_range("auto", [path]) for path in paths)
    assert (part_range.lo, part_range.hi) == pytest.approx((whole_range.lo, whole_range.hi), abs=2)
    assert beyond(whole_range, paths[1]) == ""
    assert not caplog.messages
    sequence_range("60000,65535", paths[1:])
    assert "holds nothing of" in caplog.text

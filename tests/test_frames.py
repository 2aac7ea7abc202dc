import errno
import os
import re
import resource
import struct
import subprocess
import sys
import threading
import time
import zlib
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from conftest import png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from fusecli.errors import FusecliError, InputError, OutputError
from fusecli.images import decode as decoding
from fusecli.images import exif, frames, tiff
from fusecli.images import png as png_files
from fusecli.images.decode import decode, peek
from fusecli.images.headers import parse
from fusecli.images.intensity import sequence_range, visible_range
from fusecli.images.opencv import cv2

LOSSLESS = {".png", ".tif", ".bmp", ".webp", ".ppm", ".pgm"}


def picture(height: int, width: int, *channels: int, dtype="uint8", seed=0) -> np.ndarray:
    """A smooth gradient with noise: compresses like a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = (y / max(1, height - 1) + x / max(1, width - 1)) / 2
    image = np.stack([np.roll(base, 3 * c, 1) for c in range(channels[0])], -1) if channels else base
    image = np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1)
    return image.astype(dtype) if np.dtype(dtype).kind == "f" else np.rint(image * np.iinfo(dtype).max).astype(dtype)


def one(path: Path, **options):
    (frame,) = frames.read(path, **options)
    return frame


def refused(path: Path, **options) -> str:
    """The reason alone: the path, named by the test, may hold the word that is looked for."""
    with pytest.raises(InputError) as caught:
        frames.read(path, **options)
    named, _, reason = str(caught.value).partition(f"{path}: ")
    assert not named
    return reason


def peeked(path: Path) -> tuple[int, int, int]:
    header = peek(path)
    return header.pages, header.height, header.width


def stored(path: Path) -> np.ndarray:
    (page,) = decode(path).pages
    return page


# Writing and reading back


@st.composite
def images(draw):
    ending = draw(st.sampled_from(sorted(LOSSLESS)))
    dtype = draw(st.sampled_from(frames.WRITES[ending]))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    layouts = {".pgm": [()], ".ppm": [(3,)], ".webp": [(3,)]}.get(ending, [(), (3,)])
    shape = size + draw(st.sampled_from(layouts))
    elements = st.floats(0, 1, width=32) if dtype == "float32" else None
    return ending, draw(hnp.arrays(dtype, shape, elements=elements)), draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(images(), st.booleans())
def test_lossless_formats_keep_every_value(scratch, case, fast_codecs):
    ending, image, compress = case
    path = scratch / f"round{ending}"
    with pytest.MonkeyPatch.context() as patch:
        if not fast_codecs:
            patch.setattr(png_files, "isal_zlib", None)
            patch.setattr(decoding, "kornia", None)
        frames.write(path, [image], compress=compress)
        found = stored(path)
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)
    frame = one(path)
    assert peeked(path) == (1, *frame.size) == (1, *image.shape[:2])
    assert frame.pixels.flags.c_contiguous
    if image.dtype == np.uint8:
        np.testing.assert_array_equal(frame.pixels, image)
    else:
        assert frame.pixels.dtype == np.float32
        back = frame.pixels if image.dtype == np.float32 else np.rint(frame.pixels * 65535).astype(np.uint16)
        np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 3), (1, 1), (1, 7, 3)])
def test_jpeg_is_near_and_keeps_its_layout(tmp_path, shape):
    image = cv2.GaussianBlur(picture(*shape), (0, 0), 1).reshape(shape)
    frames.write(tmp_path / "a.jpg", [image])
    found = one(tmp_path / "a.jpg").pixels
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).max() <= 6


def test_jpeg_keeps_the_colour_of_single_pixels(tmp_path):
    image = np.full((32, 32, 3), 20, np.uint8)
    image[::2, ::2] = [230, 20, 20]  # chroma subsampling would smear this to a dull red
    frames.write(tmp_path / "a.jpg", [image])
    assert np.abs(one(tmp_path / "a.jpg").pixels.astype(int) - image).max() <= 12


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".jpg", ".pgm"])
def test_gray_stays_gray_and_equal_channels_stay_colour(tmp_path, ending):
    gray = picture(20, 30)
    frames.write(tmp_path / f"gray{ending}", [gray])
    assert one(tmp_path / f"gray{ending}").pixels.ndim == 2
    if ending != ".pgm":
        frames.write(tmp_path / f"three{ending}", [np.dstack([gray] * 3)])
        assert one(tmp_path / f"three{ending}").pixels.ndim == 3


def test_tiff_pages_that_go_round_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "stack.tif"
    frames.write(path, [picture(9, 7), picture(4, 5)])
    with tifffile.TiffFile(path) as file:
        first, last = (page.offset for page in file.pages)
        tags = len(file.pages[1].tags)
    data = bytearray(path.read_bytes())
    data[last + 2 + 12 * tags : last + 6 + 12 * tags] = first.to_bytes(4, "little")
    path.write_bytes(data)
    assert "in a circle" in refused(path)


def test_several_pages_of_different_size_come_back(tmp_path):
    pages = [picture(9, 7, dtype="uint16"), picture(4, 5, 3, dtype="uint16"), picture(9, 7, dtype="uint16", seed=1)]
    path = tmp_path / "stack.tif"
    frames.write(path, pages)
    found = frames.read(path)
    assert peeked(path) == (3, 9, 7)
    for page, frame in zip(pages, found, strict=True):
        np.testing.assert_array_equal(np.rint(frame.pixels * 65535), page)
    (last,) = frames.read(path, pages=[2])
    np.testing.assert_array_equal(last.pixels, found[2].pixels)
    assert one(tmp_path / "stack.tif", pages=[1]).pixels.ndim == 3


def test_same_input_same_bytes(tmp_path):
    for ending in sorted(LOSSLESS | {".jpg"}):
        image = picture(30, 40) if ending == ".pgm" else picture(30, 40, 3)
        for name in ("a", "b"):
            frames.write(tmp_path / f"{name}{ending}", [image])
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes(), ending


@pytest.mark.parametrize(
    ("name", "pages", "reason"),
    [
        ("a.png", [picture(4, 4, dtype="float32")], "float32"),
        ("a.jpg", [picture(4, 4, dtype="uint16")], "uint16"),
        ("a.webp", [picture(4, 4, dtype="uint16")], "uint16"),
        ("a.png", [picture(4, 4)] * 2, "2"),
        ("a.xyz", [picture(4, 4)], ".xyz"),
        ("a", [picture(4, 4)], "without an ending"),
        ("a.webp", [np.zeros((1, 16384), np.uint8)], "at most 16383 pixels a side, not 16384; write .png"),
        ("a.jpg", [np.zeros((65501, 1), np.uint8)], "at most 65500 pixels a side"),
    ],
)
def test_what_a_format_cannot_hold(tmp_path, name, pages, reason):
    with pytest.raises(FusecliError, match=reason) as caught:
        frames.write(tmp_path / name, pages)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    frames.write(path, [picture(8, 8)])
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the write stops half-way, as on a full disk
    try:
        with pytest.raises(OutputError, match=f"a{ending}: cannot be written: File too large"):
            frames.write(path, [noise])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_apart(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        frames.write(tmp_path / "a.png", [picture(8, 8)])
    assert caught.value.full
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        frames.write(tmp_path / "a.png", [picture(8, 8)])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(OutputError, match="taken"):
        frames.write(tmp_path / "taken" / "a.png", [picture(4, 4)])


def test_threads_that_write_one_name_end_with_one_whole_file(tmp_path):
    path = tmp_path / "sub" / "a.png"
    choices = [picture(60, 80, 3, seed=seed) for seed in range(8)]
    threads = [threading.Thread(target=frames.write, args=(path, [image])) for image in choices for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list((tmp_path / "sub").iterdir()) == [path]
    assert any(np.array_equal(one(path).pixels, image) for image in choices)


def test_results_have_the_usual_mode_and_long_names_work(tmp_path):
    path = tmp_path / ("n" * 251 + ".png")
    frames.write(path, [picture(4, 4)])
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


# What cameras and tools write


ORIENTED = [(kind, mode) for kind in ("jpeg", "png", "webp", "tiff") for mode in ("RGB", "L")]


@pytest.mark.parametrize(("kind", "mode"), ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, kind, mode, orientation):
    image = Image.fromarray(picture(5, 8, 3)).convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{kind}"
    image.save(path, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    if kind == "jpeg":
        image = Image.fromarray(np.asarray(Image.open(path)))  # what is stored, not turned
    image.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    found = one(path).pixels
    if kind == "webp" and mode == "L":
        found = found[..., 0]  # WebP has no gray
    assert peeked(path) == (1, *expected.shape[:2])
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (3 if kind == "jpeg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_both_decoders_of_tiff_agree(tmp_path, monkeypatch, orientation, dtype, channels):
    path, image = tmp_path / "a.tif", picture(5, 8, *channels, dtype=dtype)
    photometric = "rgb" if channels else "minisblack"
    tifffile.imwrite(path, image, photometric=photometric, metadata=None, extratags=[(274, "H", 1, orientation, True)])
    expected = stored(path)
    monkeypatch.setattr(tiff, "_with_tifffile", lambda page: (None, None))
    np.testing.assert_array_equal(stored(path), expected)


@pytest.mark.parametrize("block", [b"", b"II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"XX", bytes(range(64))])
def test_damaged_exif_counts_as_upright(block):
    assert exif.orientation(block) == 1


def png(bits: int, colour: int, *, interlaced: bool) -> bytes:
    """9×13 random samples with random filters, of any PNG variety."""
    rng = np.random.default_rng(bits + colour)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b""
    for left, top, right, down in passes if interlaced else [(0, 0, 1, 1)]:
        size = (len(range(left, 13, right)) * bits * samples + 7) // 8
        for _ in range(top, 9, down):
            rows += bytes([rng.integers(5)]) + rng.bytes(size)
    head = struct.pack(">IIBBBBB", 13, 9, bits, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", head), (b"PLTE", rng.bytes(3 << bits)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    wanted = (each for each in chunks if each[0] != b"PLTE" or colour == 3)
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in wanted)


def test_a_panic_of_the_png_library_costs_one_file(tmp_path, monkeypatch):
    def short(*_):
        raise type("PanicException", (BaseException,), {})("PyObject pointer is null")

    frames.write(tmp_path / "a.png", [picture(5, 7)])
    monkeypatch.setattr(decoding, "kornia", SimpleNamespace(decode_image_png_u8=short))
    assert "memory" in refused(tmp_path / "a.png")


def test_a_lack_of_memory_in_opencv_is_told_as_such(tmp_path, monkeypatch):
    def short(*_):
        error = cv2.error("Failed to allocate")
        error.code = cv2.Error.StsNoMem
        raise error

    frames.write(tmp_path / "a.jpg", [picture(5, 7)])
    monkeypatch.setattr(cv2, "imdecode", short)
    assert "memory" in refused(tmp_path / "a.jpg")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depths"), [(0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 8)), (4, (8, 16)), (6, (8,))]
)
def test_both_decoders_of_png_agree(tmp_path, monkeypatch, colour, depths, interlaced):
    kornia = pytest.importorskip("kornia_rs.io")
    monkeypatch.setattr(decoding, "kornia", kornia)  # wherever the tests run
    taken = []
    for bits in depths:
        path = tmp_path / f"{bits}.png"
        path.write_bytes(png(bits, colour, interlaced=interlaced))
        found = stored(path)
        monkeypatch.setattr(decoding, "kornia", None)
        expected = stored(path)
        monkeypatch.setattr(decoding, "kornia", kornia)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert found.flags.c_contiguous
        assert found.flags.writeable
        header = parse(path.read_bytes())
        taken.append(decoding._decode_plain_png(path.read_bytes(), header) is not None)
    assert taken == [colour in (0, 2) and bits >= 8 for bits in depths]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_that_are_left_out_are_said_once(tmp_path, caplog, planar):
    """As the near infrared of four, which no tag calls alpha."""
    tiff._tell_bands.cache_clear()
    path = tmp_path / "a.tif"
    bands = np.random.default_rng(0).integers(0, 256, (13, 20, 30), dtype=np.uint8)

    def write(count: int, **options: object) -> None:
        stack = bands[:count] if planar == "separate" else np.moveaxis(bands[:count], 0, -1)
        tifffile.imwrite(path, stack, photometric="minisblack", planarconfig=planar, **options)

    cv2.imwrite(str(path), np.moveaxis(bands[:4], 0, -1))  # the fourth is alpha, of which OpenCV says nothing
    frames.read(path)
    assert not caplog.messages
    for count in (3, 4, 4):
        write(count)
        np.testing.assert_array_equal(frames.read(path)[0].pixels, np.moveaxis(bands[:3], 0, -1))
    write(2, extrasamples=["unassalpha"])
    frames.read(path)
    (said,) = caplog.messages
    assert "TIFF with 4 bands, none of them marked as alpha: the first three are taken" in said
    write(2)
    np.testing.assert_array_equal(frames.read(path)[0].pixels, bands[0])
    assert "TIFF with 2 bands, none of them marked as alpha: the first is used" in caplog.text
    write(13)
    with pytest.raises(InputError, match="has 13 samples per pixel; one to four are read: save those for red"):
        frames.read(path)


def test_alpha_palette_bilevel_and_cmyk(tmp_path):
    colour = Image.fromarray(picture(20, 30, 3))
    gray = colour.convert("L")
    few = gray.quantize(64)
    alpha = Image.fromarray(picture(20, 30, seed=5))
    rgba = Image.merge("RGBA", (*colour.split(), alpha))
    for name, saved, expected in (
        ("rgba.png", rgba, colour),
        ("rgba.tif", rgba, colour),
        ("rgba.webp", rgba, colour),
        ("la.png", Image.merge("LA", (gray, alpha)), gray),
        ("palette.png", colour.convert("P"), colour.convert("P").convert("RGB")),
        ("palette.tif", colour.convert("P"), colour.convert("P").convert("RGB")),
        ("palette.bmp", colour.convert("P"), colour.convert("P").convert("RGB")),
        ("grays.png", gray.convert("P"), gray),
        ("grays.tif", gray.convert("P"), gray),
        *((f"few-grays.{ending}", few, few.convert("L")) for ending in ("png", "tif", "bmp")),
        ("bilevel.png", gray.convert("1"), gray.convert("1").convert("L")),
        ("bilevel.tif", gray.convert("1"), gray.convert("1").convert("L")),
        ("bilevel.bmp", gray.convert("1"), gray.convert("1").convert("L")),
    ):
        saved.save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
        np.testing.assert_array_equal(one(tmp_path / name).pixels, np.asarray(expected), err_msg=name)
        color = expected.mode == "RGB"  # headers of BMP and palettes of TIFF do not tell of grays
        assert peek(tmp_path / name).color == (color or name.endswith(("bmp", "grays.tif"))), name
    colour.convert("P").save(tmp_path / "clear.png", transparency=3)
    assert one(tmp_path / "clear.png").pixels.shape == (20, 30, 3)
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    found = one(tmp_path / "cmyk.jpg").pixels
    assert np.abs(found.astype(int) - np.asarray(colour)).mean() < 6


TIFFS = {
    "big-endian": {"byteorder": ">"},
    "lzw": {"compression": "lzw"},
    "lzw with predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib"},
    "packbits": {"compression": "packbits"},
    "tiles": {"tile": (16, 16)},
    "strips": {"rowsperstrip": 3},
    "bigtiff": {"bigtiff": True},
}


@pytest.mark.parametrize("variant", TIFFS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_varieties_keep_every_value(tmp_path, variant, dtype):
    image = picture(37, 45, dtype=dtype)
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, image, **TIFFS[variant])
    found = stored(path)
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)


def test_tiff_colour_varieties_keep_every_value(tmp_path):
    path, image = tmp_path / "a.tif", picture(20, 30, 3, dtype="uint16")
    tifffile.imwrite(path, np.moveaxis(image, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(stored(path), image)
    tifffile.imwrite(path, np.dstack([image, image[..., :1]]), photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(stored(path), image)
    tifffile.imwrite(path, image[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(stored(path), 65535 - image[..., 0])
    assert cv2.imwrite(str(path), cv2.cvtColor(picture(20, 30, 3), cv2.COLOR_RGB2BGR))  # LZW
    np.testing.assert_array_equal(stored(path), picture(20, 30, 3))


@pytest.mark.parametrize(("photometric", "what"), [("cfa", "raw values (CFA)"), ("separated", "CMYK colours of 16")])
def test_a_tiff_of_a_kind_that_is_not_read_is_said_to_be_one(tmp_path, photometric, what):
    image = picture(20, 30, dtype="uint16")
    samples = image if photometric == "cfa" else np.dstack([image] * 4)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric=photometric)
    with pytest.raises(InputError, match=re.escape(what)):
        frames.read(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_few_bits_fill_the_range(tmp_path, bits, photometric):
    """A hand-made TIFF, since few libraries write one: two rows of eight samples, from black to white."""
    top = 2**bits - 1
    row = np.array([0, 0, 1, 1, top - 1, top - 1, top, top])
    packed = np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1).tobytes() * 2
    tags = {256: 8, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 2, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory)
    expected = np.uint8([row * (255 // top)] * 2)
    np.testing.assert_array_equal(one(tmp_path / "a.tif").pixels, expected if photometric else 255 - expected)


def test_a_palette_of_two_colours(tmp_path):
    red_and_blue = struct.pack("<6H", 65535, 0, 0, 0, 0, 65535)
    tags = {256: 8, 257: 1, 258: 1, 259: 1, 262: 3, 273: 8, 277: 1, 278: 1, 279: 1, 320: 10}
    entries = b"".join(struct.pack("<HHII", tag, *((3, 6) if tag == 320 else (4, 1)), tags[tag]) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 22) + b"\x0f\0" + red_and_blue + directory)
    np.testing.assert_array_equal(one(tmp_path / "a.tif").pixels, [[[255, 0, 0]] * 4 + [[0, 0, 255]] * 4])


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_black_is_zero_where_a_tiff_does_not_say(tmp_path, shape):
    path, image = tmp_path / "a.tif", picture(*shape, dtype="uint16")
    tifffile.imwrite(path, image)
    data = path.read_bytes()
    photometric, another = struct.pack("<HH", 262, 3), struct.pack("<HH", 263, 3)
    assert data.count(photometric) == 1
    path.write_bytes(data.replace(photometric, another))
    np.testing.assert_array_equal(stored(path), image)


def write_12_bits(path, image, **options):
    try:
        tifffile.imwrite(path, image, bitspersample=12, **options)
    except NotImplementedError:
        pytest.skip("imagecodecs of 2024 read such samples and do not write them")


def test_white_is_zero_is_inverted_by_the_bits_of_the_samples(tmp_path):
    pytest.importorskip("imagecodecs")
    path, image = tmp_path / "a.tif", picture(20, 30, dtype="uint16") >> 4
    write_12_bits(path, image, photometric="miniswhite")
    np.testing.assert_array_equal(stored(path), 4095 - image)


def test_thumbnails_are_no_pages(tmp_path):
    path, image = tmp_path / "a.tif", picture(32, 40)
    with tifffile.TiffWriter(path) as file:
        file.write(image[::4, ::4].copy(), subfiletype=1, metadata=None)
        file.write(image, metadata=None)
    assert peeked(path) == (1, 32, 40)
    np.testing.assert_array_equal(one(path).pixels, image)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("is_map", [False, True])
def test_strips_that_were_never_written_are_not_taken_for_black(tmp_path, compression, is_map):
    path, image = tmp_path / "a.tif", picture(20, 30, dtype="uint16")
    nodata = [(42113, "s", 2, "7", True)]  # GDAL's sparse maps lack strips where there is nothing
    tifffile.imwrite(path, image, rowsperstrip=7, compression=compression, extratags=nodata if is_map else [])
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("StripOffsets", "StripByteCounts"):
            found = file.pages[0].tags[tag]
            found.overwrite([found.value[0], 0, found.value[2]])
    if is_map:
        np.testing.assert_array_equal(stored(path)[[0, 6, 14, 19]], image[[0, 6, 14, 19]])
    else:
        with pytest.raises(InputError, match="damaged: 1 of its 3 strips or tiles are empty"):
            stored(path)


def test_the_only_strip_of_a_tiff_need_not_say_how_long_it_is(tmp_path):
    path, image = tmp_path / "a.tif", picture(20, 30, dtype="uint16")
    tifffile.imwrite(path, image)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["StripByteCounts"].overwrite(0)
    np.testing.assert_array_equal(stored(path), image)


def test_an_imagej_stack_in_one_page_is_not_taken_for_its_first_image(tmp_path):
    stack = np.arange(3 * 20 * 30, dtype=np.uint16).reshape(3, 20, 30)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True)
    assert len(decode(tmp_path / "a.tif").pages) == 3
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, truncate=True)
    with pytest.raises(InputError, match="an ImageJ stack of 3 images in one page"):
        decode(tmp_path / "a.tif")
    text = "ImageJ=1.54f\nimages=3\n"  # as of a page that tiffsplit took out
    tifffile.imwrite(tmp_path / "a.tif", stack[1], description=text, metadata=None)
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), stack[1])


def test_gaps_in_floats_are_black_and_infinities_the_ends(tmp_path):
    path = tmp_path / "a.tif"
    image = np.array([[np.nan, 250, 300], [np.inf, -np.inf, 350]], np.float32)
    tifffile.imwrite(path, image)
    np.testing.assert_array_equal(one(path).pixels, np.float32([[0, 0, 0.5], [1, 0, 1]]))


def test_a_frame_without_any_value_is_told(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.tif", np.full((3, 4), np.nan, np.float32))
    tifffile.imwrite(tmp_path / "b.tif", np.full((3, 4), -9999, np.float32), extratags=[(42113, 2, 0, "-9999", True)])
    for name in ("a.tif", "b.tif"):
        assert not one(tmp_path / name).pixels.any()
        assert f"{name}: holds no finite value" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int16"])
def test_pixels_without_a_value_in_a_map_are_no_intensities(tmp_path, dtype):
    path, missing = tmp_path / "a.tif", {"float32": -10000, "uint16": 65535, "int16": -32768}[dtype]
    image = np.linspace(2000, 3000, 600).reshape(20, 30).astype(dtype)
    image[:, :10] = missing
    tifffile.imwrite(path, image, extratags=[(42113, 2, 0, str(missing), True)])
    whole = sequence_range("auto", [path])
    assert 2000 <= whole.lo < whole.hi <= 3000
    assert visible_range([path]).hi < 2**12
    (frame,) = frames.read(path, intensity=whole)
    assert (frame.pixels[:, :10] == 0).all()
    assert frame.pixels[:, 10:].max() == 1


def test_missing_pixels_of_a_float_map_may_be_named_in_64_bits(tmp_path, recwarn):
    image = np.array([[0.25, np.finfo(np.float32).min, 0.75]], np.float32)
    tags = [(42113, 2, 0, "-1.7976931348623157e+308", True)]
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=tags)
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), np.float32([[0.25, np.nan, 0.75]]))
    assert not recwarn.list


def test_pixels_without_a_value_where_white_is_zero(tmp_path):
    image = np.array([[65535, 100, 300]], np.uint16)
    tags = [(42113, 2, 0, "65535", True)]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite", extratags=tags)
    np.testing.assert_array_equal(stored(tmp_path / "a.tif"), [[65235, 65435, 65235]])


def test_a_white_channel_is_no_missing_pixel(tmp_path):
    image = np.full((4, 5, 3), (65535, 30000, 20000), np.uint16)
    image[0] = 65535
    tags = [(42113, 2, 0, "65535", True)]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extratags=tags)
    tifffile.imwrite(tmp_path / "b.tif", image.astype(np.uint8), photometric="rgb", extratags=tags)
    (found,) = decode(tmp_path / "a.tif").pages
    np.testing.assert_array_equal(found[1:], image[1:])
    assert (found[0] == 20000).all()
    np.testing.assert_array_equal(decode(tmp_path / "b.tif").pages[0], image.astype(np.uint8))


@pytest.mark.parametrize("size", [40, 124])
def test_bmp_with_its_colours_in_another_order(tmp_path, size):
    """As GIMP writes it; of the shorter header OpenCV does not read which order that is."""
    image, path = picture(5, 7, 3), tmp_path / "a.bmp"
    rows = np.dstack([np.zeros_like(image[..., 0]), image[..., ::-1]])[::-1].tobytes()
    masks = struct.pack("<IIII", 0xFF000000, 0xFF0000, 0xFF00, 0)
    header = struct.pack("<IiiHHIIiiII", size, 7, 5, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks
    header = header.ljust(size, b"\0")[: max(size, 52)]
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(header) + len(rows), 0, 0, 14 + len(header)) + header + rows)
    if size == 124:
        np.testing.assert_array_equal(stored(path), image)
    else:
        with pytest.raises(InputError, match="colours in an unusual order"):
            decode(path)


def test_what_cannot_be_decoded_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), np.uint16), photometric="depth_map")
    with pytest.raises(InputError, match=r"cannot be decoded \(DEPTH_MAP, compression NONE, 16 bits\)"):
        frames.read(tmp_path / "a.tif")


def test_complex_numbers_and_samples_of_no_known_type_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), np.complex64))
    assert "complex numbers" in refused(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), np.uint64))
    data = (tmp_path / "a.tif").read_bytes()
    bits = struct.pack("<HHII", 258, 3, 1, 64)
    assert data.count(bits) == 1
    (tmp_path / "a.tif").write_bytes(data.replace(bits, struct.pack("<HHII", 258, 3, 1, 48)))
    assert "its data do not fill it" in refused(tmp_path / "a.tif")


def test_tiff_without_imagecodecs(tmp_path):
    """As a plain installation reads what cameras write: LZW through OpenCV."""
    image = picture(20, 30, dtype="uint16")
    for name, options in (("lzw", {"compression": "lzw"}), ("pages", {})):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for page in (image, image[::-1]):
                file.write(page, metadata=None, **options)
    tifffile.imwrite(tmp_path / "white.tif", image, compression="lzw", photometric="miniswhite")
    tifffile.imwrite(tmp_path / "white8.tif", picture(20, 30), compression="lzw", photometric="miniswhite")
    frames.write(tmp_path / "small.tif", [picture(20, 30, dtype="float32")], compress=True)
    write_12_bits(tmp_path / "deep.tif", image >> 4)
    Image.fromarray(picture(20, 30, 3)).save(tmp_path / "zstd.tif", compression="zstd")
    planes, with_alpha = np.stack([image] * 3), np.stack([image] * 2, -1)
    options = {"compression": "lzw", "photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "planes.tif", planes, **options)  # of which OpenCV makes noise
    color = picture(20, 30, 3)
    tifffile.imwrite(tmp_path / "bytes.tif", color.transpose(2, 0, 1), **options)  # which it reads
    options = {"compression": "lzw", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "alpha.tif", with_alpha, photometric="minisblack", **options)  # of 8 bits
    tifffile.imwrite(tmp_path / "png.tif", picture(20, 30), compression="png")  # black
    script = """
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from pathlib import Path
from fusecli.errors import InputError
from fusecli.images import frames
from fusecli.images.decode import decode
folder = Path(sys.argv[1])
for name in ("lzw", "pages", "white", "white8", "bytes"):
    np.save(folder / f"{name}.npy", np.stack([page.pixels for page in frames.read(folder / f"{name}.tif")]))
np.save(folder / "small.npy", frames.read(folder / "small.tif")[0].pixels)
frames.write(folder / "again.tif", [np.load(folder / "small.npy")], compress=True)
np.save(folder / "deep.npy", decode(folder / "deep.tif").pages[0])
for name in ("planes", "alpha", "png", "zstd"):
    try:
        frames.read(folder / f"{name}.tif")
    except InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("lzw", "pages"):
        np.testing.assert_array_equal(np.rint(np.load(tmp_path / f"{name}.npy") * 65535), [image, image[::-1]])
    np.testing.assert_array_equal(np.rint(np.load(tmp_path / "white.npy") * 65535), [65535 - image])
    np.testing.assert_array_equal(np.load(tmp_path / "white8.npy"), [255 - picture(20, 30)])
    np.testing.assert_array_equal(np.load(tmp_path / "bytes.npy"), [color])
    np.testing.assert_array_equal(np.load(tmp_path / "small.npy"), picture(20, 30, dtype="float32"))
    np.testing.assert_array_equal(np.load(tmp_path / "deep.npy"), image >> 4)
    refusals = done.stdout.splitlines()
    assert all("fusecli[tiff]" in refusal for refusal in refusals)
    files = {refusal.partition(": ")[0] for refusal in refusals}
    assert files >= {str(tmp_path / name) for name in ("planes.tif", "alpha.tif", "png.tif")}  # some OpenCVs read zstd
    assert done.stderr == ""


def test_sixteen_bit_colour_keeps_every_value(tmp_path):
    image = picture(20, 30, 3, dtype="uint16")
    assert cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    frame = one(tmp_path / "a.png")
    assert frame.dtype == np.uint16
    np.testing.assert_array_equal(np.rint(frame.pixels * 65535), image)


def test_content_decides_not_the_name(tmp_path):
    (tmp_path / "a.png").write_bytes(cv2.imencode(".jpg", picture(20, 30))[1].tobytes())
    assert one(tmp_path / "a.png").size == (20, 30)


# Mistakes


ENCODED = {
    ending: cv2.imencode(ending, picture(40, 50, 3))[1].tobytes() for ending in (".png", ".jpg", ".webp", ".bmp")
}
ENCODED[".ppm"] = cv2.imencode(".ppm", picture(40, 50, 3))[1].tobytes()
ENCODED[".tif"] = cv2.imencode(".tif", picture(40, 50, 3))[1].tobytes()
_buffer = BytesIO()
tifffile.imwrite(_buffer, picture(40, 50, 3))  # its directory is in front, where truncation does not show
ENCODED[".tiff"] = _buffer.getvalue()
_buffer = BytesIO()
Image.fromarray(picture(40, 50, 3)).save(_buffer, "JPEG", progressive=True)
ENCODED[".jpeg"] = _buffer.getvalue()
_buffer = BytesIO()
Image.fromarray(picture(40, 50, 3)).convert("P").save(_buffer, "TIFF")
ENCODED["palette.tif"] = _buffer.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_truncated_files_are_refused_wherever_they_end(scratch, ending, data):
    whole = ENCODED[ending]
    path = scratch / f"cut{ending}"
    end = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(len(whole) - 64, len(whole) - 1)))
    path.write_bytes(whole[:end])
    refused(path)
    path.write_bytes(whole)
    assert one(path).size == (40, 50)


def test_stray_bytes_between_jpeg_segments(tmp_path):
    photo = ENCODED[".jpg"]
    table = photo.index(b"\xff\xdb")
    path = tmp_path / "a.jpg"
    path.write_bytes(photo[:table] + b"\0\0stray" + photo[table:])
    assert peeked(path) == (1, 40, 50)
    np.testing.assert_array_equal(stored(path), cv2.imdecode(np.frombuffer(photo, np.uint8), 1)[..., ::-1])


def test_a_truncated_photo_with_an_embedded_thumbnail(tmp_path):
    photo = ENCODED[".jpg"]
    thumbnail = b"Exif\0\0" + cv2.imencode(".jpg", picture(8, 8))[1].tobytes()  # has an end-of-image of its own
    photo = photo[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + photo[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(photo + b"trailing bytes of a camera")
    assert one(path).size == (40, 50)
    path.write_bytes(photo[:-200])
    assert "truncated" in refused(path)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_damage_is_an_input_error_or_another_picture_but_never_a_crash(scratch, ending, data):
    damaged = bytearray(ENCODED[ending])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, min(300, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    path = scratch / f"damaged{ending}"
    path.write_bytes(damaged)
    peek(path)
    try:
        read = frames.read(path, max_pixels=10**6)
    except InputError as error:
        read = []
        assert str(path) in str(error)  # noqa: PT017
    assert all(frame.pixels.size for frame in read)


def test_a_damaged_png_body_is_noticed(tmp_path):
    damaged = bytearray(ENCODED[".png"])
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(damaged)
    assert "damaged" in refused(tmp_path / "a.png")


def test_what_is_no_image_says_what_it_is(tmp_path):
    def message(content: bytes) -> str:
        (tmp_path / "a.png").write_bytes(content)
        assert peek(tmp_path / "a.png") is None
        return refused(tmp_path / "a.png")

    assert "empty" in message(b"")
    assert "it holds text ('frame,temperature" in message(b"frame,temperature\n1,20.5\n")
    assert "Git LFS" in message(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "DICOM" in message(bytes(128) + b"DICM" + bytes(100))
    assert "GIF" in message(b"GIF89a" + bytes(50))
    assert "HEIF" in message(b"\0\0\0\x20ftypheic" + bytes(50))
    assert "no known format" in message(bytes(200))
    assert "No such file" in refused(tmp_path / "gone.png")
    assert "a directory" in refused(tmp_path)


def test_animations_are_refused_rather_than_cut_to_their_first_frame(tmp_path):
    pages = [Image.fromarray(picture(20, 30, 3, seed=seed)) for seed in range(3)]
    for name in ("a.png", "a.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert "animation" in refused(tmp_path / name)


def patched(data: bytes, position: int, replacement: bytes) -> bytes:
    return data[:position] + replacement + data[position + len(replacement) :]


def bomb(ending: str) -> bytes:
    """A small file that claims 30,000 × 30,000 pixels or, for WebP, 16,000 × 16,000."""
    data = ENCODED[ending]
    if ending == ".png":
        return patched(data, 8, png_chunk(b"IHDR", struct.pack(">II", 30000, 30000) + data[24:29]))
    if ending == ".jpg":
        return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", 30000, 30000))
    if ending == ".webp":
        start = data.index(b"VP8L") + 9
        return patched(data, start, struct.pack("<I", 15999 | 15999 << 14))
    for tag in (256, 257):
        entry = data.index(struct.pack("<HHI", tag, 3, 1))
        data = patched(data, entry, struct.pack("<HHII", tag, 4, 1, 30000))
    return data


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, ending, monkeypatch):
    path = tmp_path / f"a{ending}"
    path.write_bytes(bomb(ending))
    header = peek(path)
    assert header.height * header.width >= 16000**2
    began = time.process_time()
    assert "--max-pixels or FUSECLI_MAX_PIXELS raises it" in refused(path, max_pixels=10**8)
    assert time.process_time() - began < 0.5
    monkeypatch.setenv("FUSECLI_MAX_PIXELS", "1e8")
    assert "100,000,000" in refused(path)


def test_the_limit_counts_all_pages(tmp_path):
    frames.write(tmp_path / "a.tif", [picture(10, 10)] * 5)
    assert "500 pixels" in refused(tmp_path / "a.tif", max_pixels=499)
    assert len(frames.read(tmp_path / "a.tif", max_pixels=500)) == 5
    assert len(frames.read(tmp_path / "a.tif", max_pixels=200, pages=[0, 4])) == 2


def test_reading_is_safe_from_many_threads(tmp_path):
    expected = {}
    for seed, ending in enumerate([".png", ".jpg", ".tif", ".webp"] * 4):
        path = tmp_path / f"{seed}{ending}"
        frames.write(path, [picture(60, 80, 3, seed=seed)])
        expected[path] = one(path).pixels
    wrong = []

    def work(paths):
        wrong.extend(path for path in paths for _ in range(5) if not np.array_equal(one(path).pixels, expected[path]))

    threads = [threading.Thread(target=work, args=(list(expected)[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"P5 3 1 100\n\x00\x32\x64", [[0, 128, 255]]),
        (b"P5 3 1 100\n\x00\x32\xff", [[0, 128, 255]]),
        (b"P6 1 1 100\n\x00\x32\x64", [[[0, 128, 255]]]),
        (b"P5 3 1 255\n\x00\x32\x64", [[0, 50, 100]]),
        (b"P5 3 1 1000\n\x00\x00\x00\x32\x00\x64", [[0, 50, 100]]),  # counts
        (b"P2 3 1 255\n0 50 100", [[0, 50, 100]]),  # as text, whose last line need not end
        (b"P2 3 1 1000\n0 50 100", [[0, 50, 100]]),
    ],
)
def test_eight_bits_of_pnm_go_by_their_maximum(tmp_path, data, values):
    (tmp_path / "a.pgm").write_bytes(data)
    np.testing.assert_array_equal(stored(tmp_path / "a.pgm"), values)


def test_a_stream_of_pnm_is_no_single_frame(tmp_path):
    (tmp_path / "a.pgm").write_bytes(2 * b"P5\n3 1\n255\n\x00\x32\x64")
    assert "several images" in refused(tmp_path / "a.pgm")


def test_gray_in_a_format_for_colour(tmp_path):
    frames.write(tmp_path / "a.ppm", [picture(5, 7)])
    np.testing.assert_array_equal(stored(tmp_path / "a.ppm"), np.stack([picture(5, 7)] * 3, -1))


def test_lab_colours_are_refused_and_not_taken_for_others(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture(5, 7, 3), photometric="cielab")
    with pytest.raises(InputError, match=r"L\*a\*b\*"):
        stored(tmp_path / "a.tif")

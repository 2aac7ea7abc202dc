"""What results take over of the visible file. Pillow, which the tool does not use, makes sources and reads results."""

import io
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import png_chunk, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from fusecli.images import frames
from fusecli.images.colour import as_float
from fusecli.images.decode import decode
from fusecli.images.metadata import Metadata, profile_in
from fusecli.images.pair import Pair
from fusecli.images.places import warn_of_places

EXIF, GPS, THUMBNAIL = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.IFD1
MAKER_NOTE, INTEROP = 37500, 40965
WIDTH, HEIGHT = 40962, 40963
COLOUR = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = COLOUR[:16] + b"GRAY" + COLOUR[20:]
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" drone-dji:GimbalYawDegree="-12.5"/></x:xmpmeta>'
UPRIGHT_XMP = XMP.replace(b'="6"', b'="1"')
TAKEN = "2024:05:06 07:08:09"
ENDINGS = (".png", ".jpg", ".webp", ".tif")


def camera(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "Maker", "M30T", TAKEN
    exif[274] = orientation
    exif.get_ifd(EXIF).update({33434: 0.005, 36867: TAKEN, 37386: 4.5, WIDTH: 64, HEIGHT: 48, MAKER_NOTE: b"\1\2notes"})
    exif.get_ifd(GPS).update({1: "N", 2: (47.0, 22.0, 1.5), 3: "E", 4: (8.0, 32.0, 30.25), 5: b"\0", 6: 512.25})
    return exif


def block_of(exif: Image.Exif) -> bytes:
    """EXIF as it is stored, with a second directory where cameras put a thumbnail."""
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[block[:2]]
    (start,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, start)
    end = start + 2 + 12 * count
    thumbnail = io.BytesIO()
    Image.new("RGB", (16, 12), "red").save(thumbnail, "jpeg")
    place, size = len(block) + 2 + 2 * 12 + 4, len(thumbnail.getvalue())
    entries = struct.pack(order + "HHHIIHHIII", 2, 513, 4, 1, place, 514, 4, 1, size, 0)
    return block[:end] + struct.pack(order + "I", len(block)) + block[end + 4 :] + entries + thumbnail.getvalue()


def save(
    path: Path, image: np.ndarray | Image.Image, *, exif: bytes = b"", icc: bytes = b"", xmp: bytes = b"", dpi=None
) -> None:
    options: dict = {"dpi": dpi} if dpi else {}
    options |= {"icc_profile": icc} if icc else {}
    if exif:
        options["exif"] = b"Exif\0\0" + exif if path.suffix == ".jpg" else exif
    if path.suffix == ".tif":
        loaded = Image.Exif()
        loaded.load(exif)
        options["exif"] = loaded
        if xmp:
            loaded[700] = xmp
    elif xmp and path.suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif xmp:
        options["xmp"] = xmp
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)


def copied(source: Path, result: Path, **options) -> Image.Image:
    """A result with the source's pixels, as Pillow sees it."""
    found = frames.read(source)
    pages = [np.rint(as_float(frame.pixels) * 255).astype(np.uint8) for frame in found]
    frames.write(result, pages, metadata=[frame.metadata for frame in found], **options)
    opened = Image.open(result)
    opened.load()
    return opened


def directories(exif: Image.Exif) -> tuple[dict, dict, dict]:
    """What matters of the first, of the camera's and of the GPS directory."""
    inner = {tag: value for tag, value in exif.get_ifd(EXIF).items() if tag not in (MAKER_NOTE, INTEROP, WIDTH, HEIGHT)}
    return {tag: exif.get(tag) for tag in (271, 272, 306)}, inner, dict(exif.get_ifd(GPS))


def xmp_of(image: Image.Image) -> bytes | None:
    found = image.info.get("xmp") or (image.tag_v2.get(700) if hasattr(image, "tag_v2") else None)
    return found.encode() if isinstance(found, str) else found


@pytest.fixture
def vis() -> np.ndarray:
    return scene(0)[0]


@pytest.mark.parametrize("result", ENDINGS)
@pytest.mark.parametrize("source", ENDINGS)
def test_every_format_takes_over_what_the_other_has(tmp_path, vis, source, result):
    path = tmp_path / f"source{source}"
    save(path, vis, exif=block_of(camera()), icc=COLOUR, xmp=XMP, dpi=(300, 300))
    expected = Image.open(path)
    assert expected.getexif().get_ifd(GPS)[6] == 512.25
    found = copied(path, tmp_path / f"result{result}")
    assert directories(found.getexif()) == directories(expected.getexif())
    assert found.getexif().get(274, 1) == 1
    assert found.info["icc_profile"] == COLOUR
    assert xmp_of(found) == UPRIGHT_XMP
    if ".webp" not in (source, result):  # which has no resolution
        assert found.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    if result == ".jpg":  # the JFIF segment ends without a thumbnail, where the next one begins
        assert (tmp_path / "result.jpg").read_bytes()[18:21] == b"\0\0\xff"
    assert not found.getexif().get_ifd(THUMBNAIL)
    assert found.getexif().get_ifd(EXIF)[WIDTH] == 64
    notes = None if ".tif" in (source, result) else b"\1\2notes"  # they may hold positions in their file
    assert found.getexif().get_ifd(EXIF).get(MAKER_NOTE) == notes


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("result", ENDINGS)
def test_a_turned_photo_is_fused_upright_and_says_so(tmp_path, vis, average, fusecli, result, order):
    """Orientation 6, of either byte order: turned once by the tool, and by no viewer again."""
    exif = camera(6)
    exif.endian = {"little": "<", "big": ">"}[order]
    block = block_of(exif)
    assert block[:2] == {"little": b"II", "big": b"MM"}[order]
    save(tmp_path / "vis.jpg", vis, exif=block, dpi=(300, 200))
    photo = Image.open(tmp_path / "vis.jpg")
    assert photo.getexif().get_ifd(THUMBNAIL)[514] > 0
    upright = np.asarray(ImageOps.exif_transpose(photo))
    Image.fromarray(upright).convert("L").save(tmp_path / "ir.png")
    output = tmp_path / f"fused{result}"
    code, _, err = fusecli(
        "fuse", "--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.jpg", "-o", output, "-m", average
    )
    assert code == 0, err
    fused = Image.open(output)
    assert fused.size == (48, 64)
    assert np.corrcoef(np.asarray(fused).mean(2).ravel(), upright.mean(2).ravel())[0, 1] > 0.9
    assert fused.getexif().get(274, 1) == 1
    assert directories(fused.getexif()) == directories(photo.getexif())
    assert not fused.getexif().get_ifd(THUMBNAIL)
    size = fused.getexif().get_ifd(EXIF)
    assert (size[WIDTH], size[HEIGHT]) == (48, 64)
    if result != ".webp":
        assert fused.info["dpi"] == pytest.approx((200, 300), abs=0.01)


@pytest.mark.parametrize("result", ENDINGS)
def test_a_profile_of_several_jpeg_segments(tmp_path, vis, result):
    noise = np.random.default_rng(0).bytes(150_000)
    profile = struct.pack(">I", len(COLOUR) + len(noise)) + COLOUR[4:] + noise
    save(tmp_path / "a.jpg", vis, icc=profile)
    assert (tmp_path / "a.jpg").read_bytes().count(b"ICC_PROFILE\0") == 3
    assert copied(tmp_path / "a.jpg", tmp_path / f"b{result}").info["icc_profile"] == profile


@pytest.mark.parametrize(
    ("image", "profile", "endings"),
    [("gray", GRAY, (".png", ".jpg", ".tif")), ("gray", COLOUR, ()), ("colour", GRAY, ()), ("colour", COLOUR, ENDINGS)],
    ids=("gray-gray", "gray-colour", "colour-gray", "colour-colour"),  # profiles carry the second they were made in
)
def test_a_profile_goes_with_pixels_of_its_kind_alone(tmp_path, vis, image, profile, endings):
    pixels = vis if image == "colour" else vis[..., 0]
    for ending in ENDINGS:
        frames.write(tmp_path / f"a{ending}", [pixels], metadata=[Metadata(icc=profile)])
        found = Image.open(tmp_path / f"a{ending}").info.get("icc_profile")
        assert found == (profile if ending in endings else None), ending


@pytest.mark.parametrize("color", [True, False])
def test_a_png_says_what_its_colours_mean_as_its_source_does(tmp_path, vis, color):
    wide = {b"cICP": bytes((9, 16, 0, 1)), b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(range(32))}
    bent = {b"gAMA": struct.pack(">I", 100000)}
    plain = {b"sRGB": b"\0", b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(range(32))}
    broken = {b"cICP": b"\1\2\3"}
    save(tmp_path / "plain.png", vis if color else vis[..., 0])
    data = (tmp_path / "plain.png").read_bytes()
    for source, expected in (
        (wide, wide),
        (bent, bent),
        (plain, {}),
        (plain | wide, {b"cICP": wide[b"cICP"]}),
        (broken, {}),
    ):
        chunks = b"".join(png_chunk(*each) for each in source.items())
        (tmp_path / "vis.png").write_bytes(data[:33] + chunks + data[33:])
        copied(tmp_path / "vis.png", tmp_path / "out.png")
        result = (tmp_path / "out.png").read_bytes()
        assert [png_chunk(*each) in result for each in source.items()] == [name in expected for name in source]
        copied(tmp_path / "vis.png", tmp_path / "out.jpg")  # which has no place for them


def test_gray_results_of_colour_files_get_no_profile_of_colour(tmp_path, vis, average, fusecli):
    save(tmp_path / "vis.png", vis, icc=COLOUR, exif=block_of(camera()), dpi=(72, 72))
    Image.fromarray(vis[..., 0]).save(tmp_path / "ir.png")
    arguments = ["fuse", "--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.png", "-m", average, "--color", "gray"]
    for ending in ENDINGS:
        assert fusecli(*arguments, "-o", tmp_path / f"fused{ending}")[0] == 0
        found = Image.open(tmp_path / f"fused{ending}")
        assert "icc_profile" not in found.info
        assert found.getexif()[272] == "M30T"


def test_medical_pictures_keep_profile_and_resolution_alone(tmp_path, vis, average, fusecli):
    save(tmp_path / "pet.png", vis, exif=block_of(camera()), icc=COLOUR, xmp=XMP, dpi=(300, 300))
    save(tmp_path / "mri.png", vis[..., 0])
    sides = ("--pet", tmp_path / "pet.png", "--mri", tmp_path / "mri.png")
    assert fusecli("fuse", *sides, "-o", tmp_path / "out.png", "-m", average)[0] == 0
    found = Image.open(tmp_path / "out.png")
    found.load()
    assert not found.getexif()
    assert xmp_of(found) is None
    assert found.info["icc_profile"] == COLOUR
    assert found.info["dpi"] == pytest.approx((300, 300), rel=1e-3)


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "P", "LA", "1"])
def test_other_pixels_than_eight_bit_colour(tmp_path, vis, mode):
    image = Image.fromarray(vis)
    image = Image.fromarray(vis[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    icc = COLOUR if mode in ("RGBA", "P") else GRAY
    for ending in (".png", ".tif"):
        save(tmp_path / f"a{ending}", image, exif=block_of(camera()), icc=icc, dpi=(300, 300))
        (frame,) = frames.read(tmp_path / f"a{ending}")
        pixels = frame.pixels if mode != "I;16" else np.rint(frame.pixels * 65535).astype(np.uint16)
        frames.write(tmp_path / f"b{ending}", [pixels], metadata=[frame.metadata])
        (again,) = frames.read(tmp_path / f"b{ending}")
        np.testing.assert_array_equal(again.pixels, frame.pixels)
        found = Image.open(tmp_path / f"b{ending}")
        assert found.info["icc_profile"] == icc
        assert found.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert found.getexif().get_ifd(GPS)[6] == 512.25


def test_pages_keep_what_is_their_own(tmp_path):
    path, result = tmp_path / "a.tif", tmp_path / "b.tif"
    pages = [scene(index, (9, 7 + index))[index % 2] for index in range(3)]
    with tifffile.TiffWriter(path, byteorder=">") as file:
        for index, page in enumerate(pages):
            model = (272, 2, 0, f"M{index}", True)
            file.write(page, resolution=(100 + index, 200), resolutionunit=3, metadata=None, extratags=[model])
    found = frames.read(path)
    frames.write(result, [frame.pixels for frame in found], metadata=[frame.metadata for frame in found])
    with tifffile.TiffFile(result) as file:
        for index, page in enumerate(file.pages):
            np.testing.assert_array_equal(page.asarray(), pages[index])
            assert page.get_resolution("centimeter") == pytest.approx((100 + index, 200))
            assert page.tags[272].value == f"M{index}"
    (last,) = frames.read(path, pages=[2])
    assert last.metadata.dpi == pytest.approx((102 * 2.54, 200 * 2.54))


@pytest.mark.parametrize("big", [False, True])
def test_maps_keep_their_coordinates(tmp_path, vis, average, fusecli, big):
    scale, tie, keys = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 2600000.0, 1200000.0, 0.0), (1, 1, 0, 1, 1024, 0, 1, 1)
    tags = [(33550, "d", 3, scale, True), (33922, "d", 6, tie, True), (34735, "H", 8, keys, True)]
    tifffile.imwrite(tmp_path / "vis.tif", vis, extratags=tags, bigtiff=big, byteorder=">", metadata=None)
    Image.fromarray(vis[::2, ::2, 0]).save(tmp_path / "ir.png")
    arguments = ["fuse", "--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.tif", "-m", average]
    assert fusecli(*arguments, "-o", tmp_path / "fused.tif", "--resize", "ir")[0] == 0
    with tifffile.TiffFile(tmp_path / "fused.tif") as file:
        found = [file.pages[0].tags[code].value for code in (33550, 33922, 34735)]
        assert found == [scale, tie, keys]
    assert fusecli(*arguments, "-o", tmp_path / "small.tif", "--resize", "vis")[0] == 0
    with tifffile.TiffFile(tmp_path / "small.tif") as file:
        assert file.pages[0].shape[:2] == (24, 32)
        assert file.pages[0].tags[33550].value == (1, 1, 0)


NODATA = 42113


def map_of(path: Path, image: np.ndarray, nodata: str = "", mask: np.ndarray | None = None, **kind) -> None:
    tags = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 2600000.0, 1200000.0, 0.0), True)]
    tags += [(34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)]
    tags += [(NODATA, "s", 0, nodata, True)] if nodata else []
    with tifffile.TiffWriter(path) as file:
        file.write(image, photometric="rgb" if image.ndim == 3 else "minisblack", extratags=tags, metadata=None, **kind)
        if mask is not None:
            file.write(mask, photometric="mask", subfiletype=4, metadata=None)


TOLD = ("0", "255", "-9999", "alpha", "mask", "uint16", "float", "double", "to 8 bits", "nan", "-inf")


@pytest.mark.parametrize("told", TOLD)
def test_maps_keep_what_has_no_data(tmp_path, vis, average, fusecli, told):
    """As GIS see it: these pixels alone have the value of GDAL_NODATA, whatever the infrared is there."""
    outside = np.zeros(vis.shape[:2], bool)
    outside[:20, :30] = True
    image, nodata, options, kind, value = vis.copy(), told, [], {}, 0.0
    if told != "0":
        image[30:, 30:] = 0  # data that are black
    if told == "alpha":
        image, nodata, kind = np.dstack([image, 255 * ~outside]).astype(np.uint8), "", {"extrasamples": ["unassalpha"]}
    elif told == "mask":
        nodata, kind = "", {"mask": ~outside}
    else:
        if told in ("-9999", "uint16", "to 8 bits"):
            image = image.astype(np.int16 if told == "-9999" else np.uint16) * 100
        elif told in ("float", "double", "nan", "-inf"):
            image = (image / 255).astype(np.float64 if told == "double" else np.float32)
        lowest = {"double": "-1.7976931348623157e308"}
        nodata = {"uint16": "65535", "to 8 bits": "65535", "float": "-9999", **lowest}.get(told, told)
        image[outside] = float(nodata)
        least = float(np.finfo(np.float32).min)  # of results
        value = {"-9999": 0.0, "to 8 bits": 0.0, "double": least, "-inf": least}.get(told, float(nodata))
        options = ["--bit-depth", "8"] if told == "to 8 bits" else []
    paths = [tmp_path / name for name in ("vis.tif", "ir.png", "out.tif", "small.tif")]
    map_of(paths[0], image, nodata, **kind)
    Image.fromarray(np.zeros_like(vis[..., 0])).save(paths[1])
    arguments = ["fuse", "-m", average, "--ir", paths[1], "--vis", paths[0], *options]
    assert fusecli(*arguments, "-o", paths[2])[0] == 0
    with tifffile.TiffFile(paths[2]) as file:
        found, tag = file.asarray(), float(file.pages[0].tags[NODATA].value)
    np.testing.assert_equal(tag, value)
    without = np.isnan(found) if np.isnan(value) else found == value
    np.testing.assert_array_equal(without, np.repeat(outside[..., None], 3, 2))
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(paths[1])
    assert fusecli(*arguments, "-o", paths[3], "--resize", "vis")[0] == 0
    found = tifffile.imread(paths[3])
    without = np.isnan(found) if np.isnan(value) else found == value
    np.testing.assert_array_equal(without[..., 0], outside[::2, ::2])


@pytest.mark.parametrize("told", ["0", "alpha", "mask", "nan"])
def test_tiles_of_maps_without_any_data_stay_so(tmp_path, vis, average, fusecli, told):
    """Those at the edge of a mosaic; results were the infrared alone."""
    nothing = np.zeros_like(vis)
    if told == "nan":  # without a tag that says so
        map_of(tmp_path / "vis.tif", nothing + np.float32(np.nan))
    elif told == "alpha":
        map_of(tmp_path / "vis.tif", np.dstack([vis, nothing[..., 0]]), extrasamples=["unassalpha"])
    else:
        map_of(tmp_path / "vis.tif", nothing, *(["0"] if told == "0" else ["", nothing[..., 0] > 0]))
    Image.fromarray(vis[..., 0]).save(tmp_path / "ir.png")
    arguments = ("--ir", tmp_path / "ir.png", "--vis", tmp_path / "vis.tif", "-o", tmp_path / "out.tif")
    assert fusecli("fuse", "-m", average, *arguments)[0] == 0
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        found, value = file.asarray(), float(file.pages[0].tags[NODATA].value)
    np.testing.assert_array_equal(found, np.full(vis.shape, value))


def test_each_page_of_a_map_has_its_own_mask(tmp_path, vis):
    """The first one was taken for all pages, and was looked for anew for each: 1500 pages took minutes."""
    shown = np.ones((3, *vis.shape[:2]), bool)
    shown[1, :20], shown[2, :, :30] = False, False
    with tifffile.TiffWriter(tmp_path / "map.tif") as file:
        for index, mask in enumerate(shown):
            keys = (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)
            file.write(vis, photometric="rgb", extratags=[keys], metadata=None)
            if index:
                file.write(mask, photometric="mask", subfiletype=4, metadata=None)
    first, *others = (frame.metadata.missing for frame in frames.read(tmp_path / "map.tif"))
    assert first is None
    np.testing.assert_array_equal(others, ~shown[1:])


def test_transparent_pictures_that_are_no_maps_have_all_their_pixels(tmp_path, vis):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([vis, vis[..., 0] * 0]), photometric="rgb", extrasamples=[2])
    (frame,) = frames.read(tmp_path / "a.tif")
    assert frame.metadata.missing is None
    np.testing.assert_array_equal(frame.pixels, vis)


@pytest.mark.parametrize(
    ("place", "size", "said"),
    [
        ((0.5, 0, 0, 32632), (24, 32), ""),
        ((1.0, 0, 0, 32632), (12, 16), ""),  # the same ground, coarser
        ((0.5, 0.5, 0, 32632), (24, 32), ""),  # a pixel beside it
        ((0.5, 20, 0, 32632), (24, 32), "cover different ground (0 to 16, 988 to 1000; 20 to 36, 988 to 1000)"),
        ((0.5, 0, 0, 32632), (12, 16), "cover different ground (0 to 16, 988 to 1000; 0 to 8, 994 to 1000)"),
        ((0.5, 0, 0, 32633), (24, 32), "are in different coordinate systems (EPSG:32632 and EPSG:32633)"),
    ],
)
@pytest.mark.parametrize("as_matrix", [False, True])
def test_maps_of_other_ground_are_told(tmp_path, average, fusecli, place, size, said, as_matrix):
    def save(name: str, size: tuple[int, int], scale: float, east: float, south: float, system: int) -> Path:
        tags = [(33550, "d", 3, (scale, scale, 0.0), True)]
        tags += [(33922, "d", 6, (0.0, 0.0, 0.0, east, 1000 - south, 0.0), True)]
        if as_matrix:
            tags = [(34264, "d", 16, (scale, 0, 0, east, 0, -scale, 0, 1000 - south, *[0] * 7, 1), True)]
        tags += [(34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, system), True)]
        tifffile.imwrite(tmp_path / name, np.zeros(size, np.uint8), extratags=tags, metadata=None)
        return tmp_path / name

    vis, ir = save("vis.tif", (24, 32), 0.5, 0, 0, 32632), save("ir.tif", size, *place)
    arguments = ("--ir", ir, "--vis", vis, "-o", tmp_path / "out.tif", "--resize", "ir")
    code, _, messages = fusecli("fuse", "-m", average, *arguments)
    assert code == 0
    assert said in messages
    assert ("gdalwarp" in messages) == bool(said)


@pytest.mark.parametrize(
    ("scale", "tie", "widths"),
    [((1e308,) * 2, (1e308,) * 6, 1), ((0.5, 0.5), (0.0,) * 5, 1), ((0.5,), (0.0,) * 6, 1), ((1, 1), (0,) * 6, 2)],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_damaged_places_are_none(tmp_path, scale, tie, widths, caplog):
    tags = [(33550, "d", len(scale), scale, True), (33922, "d", len(tie), tie, True)]
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((4, 4), np.uint8), extratags=tags, metadata=None)
        data, width = (tmp_path / name).read_bytes(), struct.pack("<HHII", 256, 4, 1, 4)
        assert width in data
        (tmp_path / name).write_bytes(data.replace(width, struct.pack("<HHII", 256, 3, widths, 4)))
    warn_of_places([Pair("a", tmp_path / "a.tif", tmp_path / "b.tif")])
    assert not caplog.messages


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize("as_matrix", [False, True])
def test_maps_stay_where_they_are_when_the_visible_is_resized(tmp_path, average, fusecli, point, as_matrix):
    height, width = 40, 60
    place = [(34264, 12, 16, (0.5, 0, 0, 1000, 0, -0.25, 0, 2000, 0, 0, 0, 0, 0, 0, 0, 1), True)]
    if not as_matrix:
        place = [(33550, 12, 3, (0.5, 0.25, 0), True), (33922, 12, 6, (4, 8, 0, 1002, 1998, 0), True)]
    keys = (34735, 3, 8, (1, 1, 0, 1, 1025, 0, 1, 2 if point else 1), True)
    vis, ir, result = (tmp_path / name for name in ("vis.tif", "ir.png", "out.tif"))
    tifffile.imwrite(vis, np.zeros((height, width), np.uint8), extratags=[*place, keys])
    Image.new("L", (width // 2, height // 4)).save(ir)
    assert fusecli("fuse", "-m", average, "--ir", ir, "--vis", vis, "-o", result, "--resize", "vis")[0] == 0
    with tifffile.TiffFile(result) as file:
        tags = {tag.code: tag.value for tag in file.pages[0].tags}
    if as_matrix:
        matrix = np.reshape(tags[34264], (4, 4))
    else:
        (x, y, _), (i, j, _, east, north, _) = tags[33550], tags[33922]
        matrix = np.array([[x, 0, 0, east - x * i], [0, -y, 0, north + y * j]])
    corner = -0.5 if point else 0.0  # in coordinates of pixels
    for across, down in ((0, 0), (1, 1)):  # of the image
        pixel = corner + across * width / 2, corner + down * height / 4
        before = corner + across * width, corner + down * height
        found = matrix[:2] @ (*pixel, 0, 1)
        np.testing.assert_allclose(found, (1000 + 0.5 * before[0], 2000 - 0.25 * before[1]))


@pytest.mark.parametrize("tag", [(33550, 12, 3, b"", True), (33922, 12, 5, bytes(40), True), (34735, 3, 1, b"1", True)])
def test_damaged_coordinates_are_left_out_of_what_is_resized(tag):
    assert Metadata(geo=(tag,)).resized((40, 60), (20, 30)).geo == ()


def test_a_satellite_s_polynomials_are_kept_and_follow_what_is_resized(tmp_path):
    """RPCs: a pixel's line is its offset plus its scale times what the polynomials give, lines before samples."""
    values = np.arange(92, dtype="<f8")
    values[[2, 3, 7, 8]] = 19.5, 29.5, 20, 30  # of 40×60 pixels: the middle, and half of each side
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((40, 60), np.uint8), extratags=[(50844, 12, 92, tuple(values), True)])
    (metadata,) = decode(path).metadata
    for size in ((40, 60), (20, 15)):
        frames.write(path, [np.zeros(size, np.uint8)], metadata=[metadata.resized((40, 60), size)])
        with tifffile.TiffFile(path) as file:
            found = np.array(file.pages[0].tags[50844].value)
        expected = values.copy()
        expected[[2, 3, 7, 8]] = size[0] / 2 - 0.5, size[1] / 2 - 0.5, size[0] / 2, size[1] / 2
        np.testing.assert_allclose(found, expected)


def test_the_resolution_of_what_is_resized_is_unknown():
    assert Metadata(dpi=(300, 300)).resized((40, 60), (20, 30)).dpi is None


def test_frames_without_metadata_are_as_they_were(tmp_path, vis):
    for ending in ENDINGS:
        frames.write(tmp_path / f"a{ending}", [vis])
        (frame,) = frames.read(tmp_path / f"a{ending}")
        assert frame.metadata == Metadata()
        frames.write(tmp_path / f"b{ending}", [vis], metadata=[frame.metadata])
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()
    assert (tmp_path / "b.png").read_bytes() == bytes(frames._encode_still(tmp_path, vis, ".png", False))


def test_compressed_xmp_of_a_png(tmp_path, vis):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode(), lang="en", tkey="key", zip=True)
    Image.fromarray(vis).save(tmp_path / "a.png", pnginfo=info)
    assert xmp_of(copied(tmp_path / "a.png", tmp_path / "b.png")) == UPRIGHT_XMP


def test_too_much_is_left_out(tmp_path, vis):
    photo = block_of(camera())
    long = Metadata(exif=photo + bytes(65528 - len(photo)), xmp=b" " * 65505)
    short = Metadata(exif=long.exif[:-1], xmp=long.xmp[:-1])
    for metadata, kept in ((short, True), (long, False)):
        frames.write(tmp_path / "a.jpg", [vis], metadata=[metadata])
        found = Image.open(tmp_path / "a.jpg")
        assert (found.getexif().get(272) == "M30T") is kept
        assert ("xmp" in found.info) is kept
        frames.write(tmp_path / "a.png", [vis], metadata=[metadata])
        assert Image.open(tmp_path / "a.png").getexif()[272] == "M30T"
    huge = bytes(2**20 + 1)
    everything = Metadata(photo + huge, struct.pack(">I", len(COLOUR) + len(huge)) + COLOUR[4:] + huge, huge, (1e9, 72))
    for ending in ENDINGS:
        frames.write(tmp_path / f"b{ending}", [vis], metadata=[everything])
        frames.write(tmp_path / f"c{ending}", [vis])
        assert (tmp_path / f"b{ending}").read_bytes() == (tmp_path / f"c{ending}").read_bytes()


DAMAGED = {
    "bomb": png_chunk(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(2**26))),
    "cut profile": png_chunk(b"iCCP", b"cut\0\0" + zlib.compress(COLOUR)[:-9]),
    "noise for a profile": png_chunk(b"iCCP", b"noise\0\0" + bytes(range(99))),
    "short profile": png_chunk(b"iCCP", b"small\0\0" + zlib.compress(b"profile")),
    "no profile": png_chunk(b"iCCP", b""),
    "no density": png_chunk(b"pHYs", bytes(9)),
    "density of no unit": png_chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 0)),
    "short density": png_chunk(b"pHYs", b"\0"),
    "long density": png_chunk(b"pHYs", b"\1" * 12),
    "density out of this world": png_chunk(b"pHYs", b"\xff" * 8 + b"\1"),
    "empty block": png_chunk(b"eXIf", b""),
    "prefix alone": png_chunk(b"eXIf", b"Exif\0\0"),
    "directory beyond the end": png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "no fields": png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
    "cut block": png_chunk(b"eXIf", block_of(camera())[:40]),
    "directories within themselves": png_chunk(
        b"eXIf", b"II*\0\x08\0\0\0" + b"\xff\xff" + struct.pack("<HHII", EXIF, 4, 1, 8) * 65535 + bytes(4)
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_metadata_is_left_out(tmp_path, vis, damage):
    Image.fromarray(vis).save(tmp_path / "plain.png")
    plain = (tmp_path / "plain.png").read_bytes()
    (tmp_path / "a.png").write_bytes(plain[:33] + DAMAGED[damage] + plain[33:])
    for ending in ENDINGS:
        began = time.process_time()
        copied(tmp_path / "a.png", tmp_path / f"b{ending}")
        assert time.process_time() - began < 0.5
        frames.write(tmp_path / f"c{ending}", [vis])
        assert (tmp_path / f"b{ending}").read_bytes() == (tmp_path / f"c{ending}").read_bytes(), ending


def test_segments_of_a_profile_that_are_missing_or_in_disorder(tmp_path, vis):
    noise = bytes(70_000)
    profile = struct.pack(">I", len(COLOUR) + len(noise)) + COLOUR[4:] + noise
    save(tmp_path / "a.jpg", vis, icc=profile)
    data = (tmp_path / "a.jpg").read_bytes()
    one, two = (data.index(b"ICC_PROFILE\0" + number) - 4 for number in (b"\1", b"\2"))
    (length,) = struct.unpack_from(">H", data, two + 2)
    first, second, rest = data[one:two], data[two : two + 2 + length], data[two + 2 + length :]
    for segments, expected in ((first, None), (second, None), (second + first, profile)):
        (tmp_path / "a.jpg").write_bytes(data[:one] + segments + rest)
        assert copied(tmp_path / "a.jpg", tmp_path / "b.jpg").info.get("icc_profile") == expected


def test_profiles_are_not_inflated_without_end():
    assert profile_in(b"bomb\0\0" + zlib.compress(bytes(2**26))) == b""
    assert profile_in(b"fine\0\0" + zlib.compress(COLOUR)) == COLOUR


def test_values_beyond_the_end_of_a_block(tmp_path, vis):
    block = bytearray(block_of(camera()))
    block[block.index(struct.pack(">HHI", 36867, 2, 20)) + 8] = 0xFF  # where the time lies
    frames.write(tmp_path / "a.tif", [vis], metadata=[Metadata(bytes(block), COLOUR)])
    found = Image.open(tmp_path / "a.tif")
    assert not found.getexif().get_ifd(EXIF)
    assert found.info["icc_profile"] == COLOUR


def test_all_in_a_tiff_lies_at_even_places(tmp_path):
    exif = camera()
    exif.get_ifd(EXIF)[42036] = "Lens"  # five bytes
    metadata = [Metadata(block_of(exif))] * 2
    frames.write(tmp_path / "a.tif", [np.zeros((3, 3), np.uint8)] * 2, metadata=metadata)
    data = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        starts = [data.index(struct.pack("<HHI", tag, 4, 1), page.offset) for page in file.pages for tag in (EXIF, GPS)]
    sizes = {2: 1, 5: 8}
    for start in starts:
        (place,) = struct.unpack_from("<I", data, start + 8)
        (count,) = struct.unpack_from("<H", data, place)
        entries = list(struct.iter_unpack("<HHII", data[place + 2 : place + 2 + 12 * count]))
        places = [place, *(at for _, kind, number, at in entries if number * sizes.get(kind, 1) > 4)]
        assert len(places) > 2
        assert all(at % 2 == 0 for at in places)


def test_dots_per_centimetre_become_dots_per_inch(tmp_path, vis):
    save(tmp_path / "a.jpg", vis, dpi=(118, 118))
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    assert data[13] == 1
    data[13] = 2
    (tmp_path / "a.jpg").write_bytes(data)
    for ending in (".png", ".jpg", ".tif"):
        assert copied(tmp_path / "a.jpg", tmp_path / f"b{ending}").info["dpi"] == pytest.approx((299.72,) * 2, abs=0.3)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ENDINGS), st.data())
def test_no_damage_of_metadata_costs_the_picture(scratch, ending, data):
    """Bytes of EXIF and TIFF directories are changed at random: whatever can be read, can be written."""
    block = bytearray(block_of(camera(data.draw(st.sampled_from((1, 6))))))
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    image = scene(0, (12, 16))[0]
    for result in ENDINGS:
        frames.write(scratch / f"a{result}", [image], metadata=[Metadata(bytes(block), COLOUR, XMP, (72, 72))])
        (again,) = frames.read(scratch / f"a{result}")
        assert again.size == (12, 16)
    path = scratch / f"source{ending}"
    save(path, image, exif=block_of(camera()), icc=COLOUR, xmp=XMP, dpi=(300, 300))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged), 4000) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        found = frames.read(path, max_pixels=10**4)  # fewer than make a side too long for WebP
    except frames.FusecliError:
        return
    for result in ENDINGS:
        pages = [np.rint(as_float(frame.pixels) * 255).astype(np.uint8) for frame in found[:1]]
        frames.write(scratch / f"b{result}", pages, metadata=[found[0].metadata])
        assert frames.read(scratch / f"b{result}")[0].size == found[0].size


def test_same_input_same_bytes(tmp_path, vis):
    save(tmp_path / "a.jpg", vis, exif=block_of(camera()), icc=COLOUR, xmp=XMP, dpi=(300, 300))
    for ending in ENDINGS:
        for name in ("b", "c"):
            copied(tmp_path / "a.jpg", tmp_path / f"{name}{ending}")
        assert (tmp_path / f"b{ending}").read_bytes() == (tmp_path / f"c{ending}").read_bytes()

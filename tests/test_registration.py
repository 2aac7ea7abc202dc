import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from conftest import SAMPLES

from fusecli.errors import InputError, UsageError
from fusecli.images import registration
from fusecli.images.calibration import Calibration, reach, resizing, warp
from fusecli.images.coverage import SQUARE, STRIP, beside_gaps, bridged, completed
from fusecli.images.registration import Outlines

RIG = ("back_yard", "day_street", "fog_road")
CAMERA = (288, 216)  # width and height of the infrared of the rig below


def picture(side, name):
    return cv2.imread(str(SAMPLES / side / f"{name}.png"), cv2.IMREAD_UNCHANGED)


def moved(scale=0.92, turn=1.5, shift=(14.0, -9.0), size=(480, 360)):
    """3×3 from the small infrared camera's frame to the visible one's."""
    angle, centre = np.deg2rad(turn), (np.array(size) - 1) / 2
    turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turned, centre - turned @ centre + shift
    return matrix @ resizing(CAMERA, size)


def seen(image, matrix):
    """What the infrared camera sees of an aligned frame."""
    return cv2.warpPerspective(
        image, np.linalg.inv(matrix), CAMERA, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
    )


def corner_error(found, true):
    corners = np.array([[[0, 0], [CAMERA[0] - 1, 0], [CAMERA[0] - 1, CAMERA[1] - 1], [0, CAMERA[1] - 1]]], float)
    places = [cv2.perspectiveTransform(corners, matrix)[0] for matrix in (found, true)]
    return np.linalg.norm(places[0] - places[1], axis=1).max()


def rig_of(true):
    pairs = []
    for name in RIG:
        visible = cv2.cvtColor(picture("vis", name), cv2.COLOR_BGR2GRAY)
        infrared = seen(picture("ir", name).astype(np.float32) / 255, true)
        pairs.append(Outlines.of(visible.astype(np.float32) / 255, infrared))
    return pairs


@pytest.fixture(scope="module")
def rig():
    return rig_of(moved())


@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_a_known_transform_is_found_across_modalities(rig, model):
    estimate = registration.estimate(RIG, rig, model)
    assert corner_error(estimate.calibration.matrix, moved()) < 1.5
    assert estimate.trust in ("good", "doubtful")
    assert estimate.similarity[1] > estimate.similarity[0] + 0.1


def test_a_narrow_infrared_lens_is_found_in_a_wide_visible_frame():
    """As a drone's, whose lenses see 41 and 83 degrees."""
    true = moved(scale=0.42)
    estimate = registration.estimate(RIG, rig_of(true), "similarity")
    assert corner_error(estimate.calibration.matrix, true) < 3
    assert estimate.trust in ("good", "doubtful")


def test_a_single_pair_is_not_matched_where_the_infrared_hardly_overlaps():
    """At a small scale the edges of day_street fit the margin outside the visible frame better than the frame."""
    estimate = registration.estimate(RIG[1:2], rig_of(moved())[1:2], "affine")
    assert corner_error(estimate.calibration.matrix, moved()) < 3
    assert estimate.trust == "doubtful"


def test_shift_only_moves(rig):
    """Though the infrared sees less of the scene, and a scale would fit better."""
    found = registration.estimate(RIG, rig, "shift").calibration.matrix
    np.testing.assert_allclose(found[:2, :2], resizing(CAMERA, (480, 360))[:2, :2], rtol=1e-9)
    assert found[2].tolist() == [0, 0, 1]


def test_pairs_that_have_nothing_in_common_are_not_trusted():
    rng = np.random.default_rng(0)
    images = [[cv2.GaussianBlur(rng.random((120, 160), np.float32), (0, 0), 3) for _ in range(2)] for _ in range(3)]
    estimate = registration.estimate("abc", [Outlines.of(*pair) for pair in images])
    assert estimate.trust == "poor"


def test_an_estimate_is_trusted_as_far_as_its_weakest_sign():
    frame = (640, 480)  # of which 4 px are good
    for residual, similarity, count, expected in (
        *[(0, 0.16, 3, "poor"), (17, 0.3, 3, "poor"), (5, 0.3, 3, "doubtful"), (0, 0.2, 3, "doubtful")],
        *[(0, 0.3, 2, "doubtful"), (3, 0.23, 3, "good")],
    ):
        assert registration._trust(residual, similarity, count, frame)[0] == expected


def test_frames_of_several_sizes_are_no_rig():
    pairs = [Outlines.of(np.zeros((20, width)), np.zeros((20, 30))) for width in (30, 31)]
    with pytest.raises(UsageError, match="one size"):
        registration.estimate("ab", pairs)


@pytest.mark.parametrize(("infrared", "visible"), [((51, 64), (300, 401)), ((48, 64), (48, 64)), ((100, 90), (33, 31))])
def test_an_infrared_of_the_same_view_covers_the_whole_frame(infrared, visible):
    """To its pixels' edges: as its outermost centres do not, results faded into the visible all around."""
    whole = resizing(infrared[::-1], visible[::-1])
    assert reach(infrared, visible, Calibration(whole)) is None
    beside = np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1.0]]) @ whole
    share = reach(infrared, visible, Calibration(beside))
    assert share[:, 0].max() == 0 < share.max()
    assert (share == share[:1]).all()  # neither above nor below


def test_what_is_kept_of_large_frames_is_small():
    """`align` holds it of all pairs at once."""
    large = np.random.default_rng(0).random((1500, 2000), np.float32)
    kept = len(pickle.dumps(Outlines.of(large, large)))
    assert 4e6 < kept < 6e6
    assert kept < large.nbytes / 2


def test_resizing_maps_edges_onto_edges():
    matrix = resizing((10, 8), (25, 16))
    edges = cv2.perspectiveTransform(np.array([[[-0.5, -0.5], [9.5, 7.5]]]), matrix)[0]
    np.testing.assert_allclose(edges, [[-0.5, -0.5], [24.5, 15.5]])


def test_a_calibration_follows_frames_that_are_resized_and_refuses_others():
    calibration = Calibration(np.diag([2.0, 2.0, 1.0]), (100, 80), (200, 160))
    half = calibration.between((50, 40), (200, 160))
    corner = np.array([[[49.5, 39.5]]])  # outermost edge of the smaller frame
    np.testing.assert_allclose(
        cv2.perspectiveTransform(corner, half)[0],
        cv2.perspectiveTransform(np.array([[[99.5, 79.5]]]), calibration.matrix)[0],
    )
    with pytest.raises(InputError, match="100×80"):
        calibration.between((100, 100), (200, 160))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_where_no_infrared_is_results_fade_into_the_visible(dtype):
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    visible = np.full((60, 160, 3), 51, np.uint8)
    infrared = np.full((60, 160), 0.8, np.float32)
    calibration = Calibration(np.array([[1, 0, 40], [0, 1, 0], [0, 0, 1.0]]))
    assert np.allclose(warp(infrared, visible.shape[:2], calibration), 0.8)  # no edge to be fused
    share = reach((60, 160), (60, 160), calibration)
    fused = completed(np.full((60, 160, 3), 0.8 * white).astype(dtype), visible, share) / white
    assert np.allclose(fused[:, :40], 0.2, atol=0.005)
    assert np.allclose(fused[:, 80:], 0.8, atol=0.005)
    steps = np.diff(fused, axis=1)
    assert steps.min() >= 0
    assert steps.max() < 0.03
    assert reach((60, 160), (60, 120), Calibration(np.eye(3))) is None


@pytest.mark.parametrize(
    ("infrared", "visible", "matrix", "least", "most"),
    [
        ((240, 320), (480, 640), np.eye(3), 30, 33),
        ((512, 640), (3000, 4000), np.diag([4.0, 4.0, 1.0]), 110, 150),
    ],
)
def test_the_larger_the_infrared_is_shown_the_wider_it_fades(infrared, visible, matrix, least, most):
    """33 px, the least, would be a hard line in a frame of 12 megapixels."""
    across = reach(infrared, visible, Calibration(matrix))[visible[0] // 3]
    assert least <= np.count_nonzero((across > 0) & (across < 1)) <= most


@pytest.mark.parametrize(("height", "width"), [(240, 320), (2100, 2800)])
def test_where_the_infrared_has_no_data_results_fade_into_the_visible(tmp_path, average, fusecli, height, width):
    """Of maps and of cameras that write NaN; single dead pixels are filled."""
    infrared = np.full((height, width), 30, np.float32)
    infrared[0, 0] = 10
    infrared[:, : width // 4] = infrared[height // 2, width // 2] = np.nan
    tifffile.imwrite(tmp_path / "ir.tif", infrared)
    cv2.imwrite(str(tmp_path / "vis.png"), np.full((height, width), 51, np.uint8))
    arguments = ("--ir", tmp_path / "ir.tif", "--vis", tmp_path / "vis.png", "-o", tmp_path / "a.png")
    assert fusecli("fuse", "-m", average, *arguments, "--range", "10,30")[0] == 0
    fused = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[height // 2].astype(int)
    assert (fused[: width // 4] == 51).all()
    steps = np.diff(fused)
    assert 0 <= steps.min() <= steps.max() < 6
    assert (fused[width * 9 // 20 :] == 153).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gaps_too_small_to_fade_out_leave_no_outlines(tmp_path, fusecli, dtype):
    """As of clouds that were masked, and of the scan lines of Landsat 7."""
    down, across = np.mgrid[:200, :300]
    infrared = (60 + 0.4 * across + 0.2 * down).astype(dtype)
    gaps = ((down + across // 4) % 50 < 14) | ((down - 100) ** 2 + (across - 200) ** 2 < 15**2)
    cv2.imwrite(str(tmp_path / "vis.png"), np.full(infrared.shape, 70, np.uint8))
    results = []
    for name, image in (("whole", infrared), ("gaps", np.where(gaps, dtype(0), infrared))):
        tifffile.imwrite(tmp_path / "ir.tif", image, extratags=[(42113, "s", 2, "0", True)])
        arguments = ("--ir", tmp_path / "ir.tif", "--vis", tmp_path / "vis.png", "-o", tmp_path / f"{name}.png")
        assert fusecli("fuse", *arguments, "--range", "0,255", "--precision", "fp32")[0] == 0
        results.append(cv2.imread(str(tmp_path / f"{name}.png"), cv2.IMREAD_UNCHANGED).astype(int))
    assert np.abs(results[0] - results[1]).max() <= 20
    assert results[0].max() - results[0].min() > 40


def test_filling_takes_a_large_frame_in_squares(monkeypatch):
    image = np.random.default_rng(0).integers(100, 200, (SQUARE + 69, SQUARE + 40, 3), dtype=np.uint8)
    missing = np.zeros(image.shape[:2], bool)
    missing[SQUARE - 9 : SQUARE + 8, 5:20] = missing[50:55, SQUARE - 8 : SQUARE + 3] = missing[-3:] = True
    filled = bridged(image, missing)
    np.testing.assert_array_equal(filled[~missing], image[~missing])
    assert 120 < filled[missing].min() <= filled[missing].max() < 180
    monkeypatch.setattr("fusecli.images.coverage.SQUARE", len(image))
    np.testing.assert_allclose(bridged(image, missing), filled, atol=1)


@pytest.mark.parametrize("shape", [(300, 800), (300, 800, 3)])
def test_what_a_wide_margin_holds_does_not_count(shape):
    """Else all of a result is darker or brighter, by what is on the whole seen: 76 levels where 255 means missing."""
    missing = np.tile(np.arange(800) >= 100, (300, 1))
    white = np.full(shape, 255, np.uint8)
    black = white * ~missing.reshape(300, 800, *(1,) * (white.ndim - 2))
    np.testing.assert_array_equal(bridged(white, missing), bridged(black, missing))


def test_what_is_sparse_is_filled_whole():
    """As points that were moved onto a finer grid: filled in part, they would be a dark infrared."""
    missing = np.ones((100, 90), bool)
    missing[::5, ::5] = False
    assert beside_gaps(missing) is None
    np.testing.assert_array_equal(bridged(np.where(missing, 0, 200).astype(np.uint8), missing), 200)


def test_scan_lines_and_narrow_corners_do_not_fade_with_the_margin_that_they_end_in():
    """All infrared of Landsat 7 was left out; the tips of the triangles beside a turned map are filled, too."""
    down, across = np.mgrid[:200, :400]
    for narrow in (down % 33 < 12, down + across / 4 < 50):
        missing = narrow | (across < 60)
        share = beside_gaps(missing)
        assert (share[:, :60] == 0).all()
        assert (share[:, 190:] == 1).all()
        filled = bridged(np.where(missing, 0, 200).astype(np.uint8), missing)
        assert (filled[share > 0] == 200).all()


def test_rows_that_fall_on_those_looked_at_are_no_gap():
    """Large maps are looked at coarsely: of one without every third row all infrared was left out."""
    for first in range(3):
        missing = np.zeros((3072, 3072), bool)
        missing[first::3] = True
        assert beside_gaps(missing) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_blending_takes_a_large_frame_row_by_row(dtype):
    """By strips, whose floats take little memory, and to the byte as the frame at once would be."""
    rng = np.random.default_rng(0)
    height = 2 * STRIP + 5
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    fused = (rng.random((height, 30, 3)) * white).astype(dtype)
    visible = rng.integers(0, 256, fused.shape, np.uint8)
    share = rng.random((height, 30), np.float32)
    mixed = share[..., None] * fused + (1 - share[..., None]) * (visible * np.float32(white / 255))
    expected = mixed if dtype == np.float32 else np.rint(mixed).astype(dtype)
    np.testing.assert_array_equal(completed(fused, visible, share), expected)


def test_a_calibration_that_leaves_no_infrared_is_said(caplog):
    for shift, said in ((80, ""), (158, "--align: the infrared reaches 1 % of the visible frame")):
        calibration = Calibration(np.array([[1, 0, shift], [0, 1, 0], [0, 0, 1.0]]))
        assert reach((60, 160), (60, 160), calibration) is not None
        assert caplog.text.count("--align") == bool(said)
        assert said in caplog.text


def test_the_frame_of_a_smaller_infrared_does_not_show(tmp_path, fusecli):
    """Outside it the result is the visible, to the byte; nowhere is an edge that neither source has."""
    for side, cut in (("vis", np.s_[:]), ("ir", np.s_[60:300, 80:400])):
        (tmp_path / side).mkdir()
        image = cv2.imread(str(SAMPLES / side / "back_yard.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(tmp_path / side / "a.png"), image[cut])
    (tmp_path / "c.json").write_text('{"scale": 1, "shift": [80, 60]}')
    sides = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis")
    code, _, err = fusecli("fuse", *sides, "--align", tmp_path / "c.json", "-o", tmp_path / "o", "--preview")
    assert code == 0, err
    visible, fused = (cv2.imread(str(tmp_path / name / "a.png")) for name in ("vis", "o"))
    outside = np.ones(visible.shape[:2], bool)
    outside[60:300, 80:400] = False
    np.testing.assert_array_equal(fused[outside], visible[outside])
    change = fused.astype(int) - visible
    assert np.abs(change[:, 79] - change[:, 82]).max() <= 12
    assert np.abs(change[20:300, 200:220]).max() > 20  # inside it is fused
    shown = np.hsplit(cv2.imread(str(tmp_path / "o" / "preview.png")), 3)[1][:-6, :-6]
    scale = shown.shape[1] / visible.shape[1]
    left, top = round(80 * scale), round(60 * scale)
    assert shown[:, : left - 1].max() == shown[: top - 1].max() == 0  # no pixels smeared there
    assert shown[top + 2 : top + 90, left + 2 :].mean() > 20


def test_a_noisy_visible_frame_is_mended_where_infrared_does_not_reach_too(tmp_path, fusecli):
    visible = cv2.imread(str(SAMPLES / "vis" / "day_street.png"), cv2.IMREAD_GRAYSCALE)
    noisy = np.clip(visible + np.random.default_rng(0).normal(0, 25, visible.shape), 0, 255).astype(np.uint8)
    for side, image in (("vis", noisy), ("ir", visible)):
        (tmp_path / side).mkdir()
        cv2.imwrite(str(tmp_path / side / "a.png"), image)
    half = visible.shape[1] // 2
    (tmp_path / "c.json").write_text(json.dumps({"scale": 1, "shift": [half, 0]}))
    sides = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis")
    code, _, err = fusecli("fuse", *sides, "--align", tmp_path / "c.json", "-o", tmp_path / "o")
    assert code == 0, err
    fused = cv2.imread(str(tmp_path / "o" / "a.png"), cv2.IMREAD_GRAYSCALE)
    before, after = (np.abs(np.diff(image[:, : half - 40].astype(int))).mean() for image in (noisy, fused))
    assert after < before / 2


def test_an_infrared_larger_than_the_visible_is_shrunk_without_aliasing():
    y, x = np.mgrid[:192, :256]
    stripes = np.uint8(255 * (x % 4 == 0))  # finer than the visible frame's pixels
    stripes[:, 128:] = np.uint8(y[:, 128:])
    moved = warp(stripes, (48, 64), Calibration(resizing((256, 192), (64, 48))))
    assert abs(moved[:, :30].astype(int) - 64).max() <= 1
    assert abs(moved[2:-2, 40].astype(int) - (4 * np.arange(2, 46) + 1.5)).max() <= 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"scale": "x", "shift": [0, 0]}', '{"matrix": [[1, 0], [0, 1]]}', '{"matrix": 3}'),
        '{"scale": 2, "shift": [0, 0], "ir_size": [0, 0]}',
    ],
)
def test_a_broken_calibration_is_named(tmp_path, text):
    path = tmp_path / "h.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"h\.json"):
        Calibration.read(path)


def test_a_calibration_may_begin_with_a_byte_order_mark(tmp_path):
    """As Notepad writes it."""
    path = tmp_path / "h.json"
    path.write_text('{"scale": 1, "shift": [2, 1]}', encoding="utf-8-sig")
    assert Calibration.read(path).matrix[0, 2] == 2


def test_align_takes_sub_folders_when_asked(pairs, fusecli):
    root = pairs(1)
    for side in ("vis", "ir"):
        (root / side / "day").mkdir()
        (root / side / "000.png").rename(root / side / "day" / "000.png")
    align = ("align", "--ir", root / "ir", "--vis", root / "vis", "-o", root / "rig.json")
    assert "--recursive takes these too" in fusecli(*align)[2]
    fusecli(*align, "--recursive")
    assert json.loads((root / "rig.json").read_text())["pairs"] == ["day/000"]


def test_what_align_finds_lets_fuse_give_what_an_aligned_rig_would(tmp_path, fusecli, monkeypatch):
    for name in RIG:
        for side in ("vis", "ir"):
            (tmp_path / side).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "vis" / f"{name}.png"), picture("vis", name))
        cv2.imwrite(str(tmp_path / "ir" / f"{name}.png"), seen(picture("ir", name), moved()))
    sides = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis")
    path = tmp_path / "rig.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = fusecli("align", "--ir=~/ir", "--vis=~/vis", "--output=~/rig.json")  # as shells leave it
    assert code == 0, err
    found = json.loads(path.read_text())
    assert found["ir_size"] == list(CAMERA)
    assert cv2.imread(str(path.with_suffix(".png"))).shape == (360, 960, 3)
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "out", "--align=~/rig.json")
    assert code == 0, err
    aligned = ("--ir", SAMPLES / "ir", "--vis", SAMPLES / "vis", "--ignore-unmatched")
    assert fusecli("fuse", *aligned, "-o", tmp_path / "true")[0] == 0
    for name in RIG:
        fused, true = (cv2.imread(str(tmp_path / folder / f"{name}.png"))[60:-60, 80:-80] for folder in ("out", "true"))
        assert np.corrcoef(fused.ravel(), true.ravel())[0, 1] > 0.95
    assert fusecli("fuse", *sides, "-o", tmp_path / "no", "--align", path, "--resize", "ir")[0] == 2
    assert fusecli("align", *sides, "-o", path)[0] == 2  # exists
    path.unlink()
    code, _, err = fusecli("align", *sides, "-o", path)  # its picture does
    assert code == 2
    assert "rig.png exists already" in err
    code, _, err = fusecli("align", *sides, "-o", tmp_path / "vis" / f"{RIG[0]}.json", "--overwrite")
    assert code == 2
    assert "lies in the input folder" in err


@pytest.mark.parametrize(
    ("ir", "vis", "output", "said"),
    [
        ("ir", "vis", "ir/rig.json", "lies in the input folder ir"),
        ("ir", "vis", "vis/more/rig.json", "lies in the input folder vis"),
        ("ir/000.png", "vis/000.png", "ir/rig.json", "rig.png would be taken for a frame there"),
        ("ir/*.png", "vis/*.png", "vis/rig.json", "rig.png would be taken for a frame there"),
    ],
)
def test_a_calibration_lies_beside_the_frames(pairs, fusecli, monkeypatch, ir, vis, output, said):
    monkeypatch.chdir(pairs(2))
    code, _, err = fusecli("align", "--ir", ir, "--vis", vis, "-o", output)
    assert code == 2
    assert said in err
    assert not (Path(output).parent / "rig.json").exists()
    assert not Path("vis/more").exists()  # nothing is left of what was refused


def test_videos_are_refused_with_the_way_to_frames_of_them(fusecli, tmp_path):
    code, _, err = fusecli("align", "--ir", "ir.mp4", "--vis", "vis.MKV", "-o", tmp_path / "calibration.json")
    assert code == 2
    assert "--ir ir.mp4: align takes pictures" in err
    assert "ffmpeg -i ir.mp4 -vf fps=0.1 ir/%03d.png" in err


def test_a_damaged_pair_costs_itself_alone(tmp_path, fusecli):
    for side in ("ir", "vis"):
        (tmp_path / side).mkdir()
        for name in RIG:
            cv2.imwrite(str(tmp_path / side / f"{name}.png"), picture(side, name))
    (tmp_path / "ir" / f"{RIG[1]}.png").write_bytes(b"")
    sides = ("align", "--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "-o")
    code, _, err = fusecli(*sides, tmp_path / "rig.json")
    assert code == 0, err
    assert f"left out: {tmp_path / 'ir' / RIG[1]}.png: the file is empty" in err
    assert json.loads((tmp_path / "rig.json").read_text())["pairs"] == sorted(set(RIG) - {RIG[1]})
    for name in RIG:
        (tmp_path / "vis" / f"{name}.png").write_bytes(b"")
    code, _, err = fusecli(*sides, tmp_path / "none.json")
    assert code == 1
    assert "none of the chosen pairs can be read" in err


def test_frames_of_both_cameras_may_lie_beside_the_calibration(tmp_path, fusecli):
    for side in ("ir", "vis"):
        cv2.imwrite(str(tmp_path / f"{side}_0.png"), picture(side, RIG[0]))
    fusecli("align", "--ir", tmp_path / "ir_0.png", "--vis", tmp_path / "vis_0.png", "-o", tmp_path / "rig.json")
    assert (tmp_path / "rig.png").exists()


def test_a_calibration_that_was_not_trusted_says_so(tmp_path, caplog):
    path = tmp_path / "rig.json"
    path.write_text(json.dumps({"matrix": np.eye(3).tolist(), "trust": "doubtful", "reason": "few edges"}))
    with caplog.at_level("WARNING"):
        Calibration.read(path)
    assert "its estimate is doubtful: few edges" in caplog.text

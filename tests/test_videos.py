"""Videos and raw frames: every frame, its time, its colour, and no half result."""

import contextlib
import errno
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import cv2
import numpy as np
import pytest
from conftest import scene

av = pytest.importorskip("av")

from fusecli.errors import InputError, UsageError  # noqa: E402
from fusecli.images.preview import GAP, WIDTH  # noqa: E402
from fusecli.images.rawvideo import RawFormat, RawPipe, RawWriter, formats  # noqa: E402
from fusecli.images.video import Look, VideoFile, VideoWriter  # noqa: E402
from fusecli.stream import videos  # noqa: E402
from fusecli.stream.engine import Engine  # noqa: E402


def write(path, images, rate=25, times=None, codec="libx264", pix_fmt="yuv420p", rotation=0, sound=False):
    """A video of RGB or gray images. times: in milliseconds. Lossless with codec ffv1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "4"} if codec == "libx264" else {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000) if times else 1 / Fraction(rate)
        if rotation:
            stream.set_display_rotation(rotation)
        audio = container.add_stream("aac", rate=48000) if sound else None
        for index, image in enumerate(images):
            plain = "gray" if image.dtype == np.uint8 else pix_fmt if pix_fmt.startswith("gray") else "gray16le"
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.ndim == 3 else plain)
            frame.pts = times[index] if times else index
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:  # from 0 on
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 48000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path


def moving(count, size=(48, 64), seed=0):
    """Visible (RGB) and infrared frames of a scene that moves."""
    vis, ir = scene(seed, size)
    return [np.roll(vis[..., ::-1], 2 * i, 1).copy() for i in range(count)], [np.roll(ir, i, 1) for i in range(count)]


def decoded(path):
    """Times in seconds and RGB frames, by PyAV alone."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [frame.pts * frame.time_base for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def put_clips(folder, count, ending=".mp4", **options):
    """The scene that moves as vis and ir."""
    for name, images in zip(("vis", "ir"), moving(count), strict=True):
        write(folder / f"{name}{ending}", images, **options)


@pytest.fixture
def clips(tmp_path):
    """Two clips of 12 frames, and their folder."""
    put_clips(tmp_path, 12)
    return tmp_path


@pytest.fixture
def fuse(fusecli, average, tmp_path):
    def call(*more, ir="ir.mp4", vis="vis.mp4", output="out.mp4"):
        sides = ("--ir", tmp_path / ir, "--vis", tmp_path / vis)
        return fusecli("fuse", "-m", average, *sides, "-o", tmp_path / output, *more)

    return call


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov", ".avi"])
def test_frames_keep_their_times_and_are_fused_with_their_partners(clips, fuse, ending):
    code, _, err = fuse("--report", clips / "report.json", output=f"out{ending}")
    assert code == 0, err
    times, frames = decoded(clips / f"out{ending}")
    start = times[0] if ending == ".avi" else 0  # it counts frames, and its first has no fixed number
    assert times == [start + Fraction(index, 25) for index in range(12)]
    vis, ir = moving(12)
    lumas = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float) for image in (vis[7], frames[7])]
    mean = (lumas[0] + ir[7]) / 2  # what the model gives; colours are looked at below
    assert np.abs(lumas[1] - mean).mean() < 4
    assert np.abs(lumas[1] - np.roll(mean, 2, 1)).mean() > 8  # which a frame more would give
    (entry,) = json.loads((clips / "report.json").read_text())["pairs"]
    assert (entry["status"], entry["frames"], entry["fps"]) == ("done", 12, 25.0)
    assert len(entry["sha256"]) == 64


def test_a_preview_shows_a_frame_of_the_second_half(clips, fuse):
    assert fuse("--preview")[0] == 0
    sheet = cv2.imread(str(clips / "out-preview.png"), cv2.IMREAD_GRAYSCALE).astype(float)
    _, ir = moving(12)
    height, width = ir[0].shape
    infrared = cv2.resize(sheet[: round(height * WIDTH / width), WIDTH + GAP :][:, :WIDTH], (width, height))
    off = [np.abs(infrared - image).mean() for image in ir]
    assert np.argmin(off) in range(6, 12)
    assert min(off) < 6
    assert sheet.shape[1] == 3 * (WIDTH + GAP)


def test_a_preview_is_black_where_the_infrared_does_not_reach(clips, fuse):
    (clips / "rig.json").write_text('{"scale": 1, "shift": [24, 0]}')
    assert fuse("--preview", "--align", clips / "rig.json")[0] == 0
    sheet = cv2.imread(str(clips / "out-preview.png"), cv2.IMREAD_GRAYSCALE)
    infrared = np.hsplit(sheet, 3)[1][:-GAP, :WIDTH]
    reached = round(24 * WIDTH / moving(1)[1][0].shape[1])
    assert infrared[:, : reached - 8].max() == 0
    assert infrared[:, reached + 8 :].mean() > 20


def test_the_same_bytes_twice(clips, fuse):
    for name in ("one.mkv", "two.mkv", "one.mp4", "two.mp4"):
        assert fuse("-j", 1 if "one" in name else 2, output=name)[0] == 0
    for ending in (".mkv", ".mp4"):
        assert (clips / f"one{ending}").read_bytes() == (clips / f"two{ending}").read_bytes()


def test_frames_are_encoded_to_the_same_bytes_every_time(tmp_path):
    """With x264's fastest code one time in four they were not."""
    noise = np.random.default_rng(1).integers(0, 255, (120, 160, 3)).cumsum(1) % 255
    images = [cv2.blur(np.roll(noise, shift, 1).astype(np.uint8), (9, 9)) for shift in range(12)]
    written = set()
    for _ in range(40):
        with VideoWriter(tmp_path / "a.mp4", Look(rate=Fraction(10), time_base=Fraction(1, 10)), (120, 160)) as writer:
            for index, image in enumerate(images):
                writer.write(Fraction(index, 10), image)
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (2, 2), (1, 1)])
def test_constant_stays_constant_at_every_size(tmp_path, fuse, size):
    color = np.full((*size, 3), (60, 120, 180), np.uint8)
    write(tmp_path / "vis.mkv", [color] * 6, codec="ffv1", pix_fmt="bgr0")
    write(tmp_path / "ir.mkv", [np.full(size, 150, np.uint8)] * 6, codec="ffv1", pix_fmt="gray")
    code, _, err = fuse("-m", "nano", ir="ir.mkv", vis="vis.mkv")
    assert code == 0, err
    assert ("4:4:4" in err) == bool(size[0] % 2)
    _, frames = decoded(tmp_path / "out.mp4")
    assert len(frames) == 6
    assert {frame.shape for frame in frames} == {(*size, 3)}
    assert np.ptp(np.stack(frames).reshape(-1, 3), axis=0).max() <= 1
    chroma = frames[0][0, 0].astype(int)
    assert np.abs(np.diff(chroma) - 60).max() <= 3


@pytest.mark.parametrize("option", ["--pairs", "--pair-by"])
def test_frames_on_stdin_have_one_partner(clips, fusecli, option):
    (clips / "pairs.csv").write_text("ir,vis\nir.mp4,vis.mp4\n")
    value = clips / "pairs.csv" if option == "--pairs" else "ir=*_a,vis=*_b"
    sides = ("--ir", "-", "--raw", "64x48", "--vis", clips / "vis.mp4", "-o", clips / "out.mp4")
    code, _, err = fusecli("fuse", *sides, option, value)
    assert code == 2
    assert f"{option}: frames in a pipe pair with what the other side is" in err


def test_what_is_no_file_is_called_so_beside_frames_on_stdin(clips, fusecli):
    for path, said in ((clips, "not a file"), (clips / "none.mkv", "no such file")):
        sides = ("--ir", "-", "--raw", "64x48", "--vis", path)
        code, _, err = fusecli("fuse", *sides, "-o", clips / "out.mp4")
        assert code == 2
        assert f"{path}: {said}; beside frames in a pipe" in err


@pytest.mark.parametrize("url", ["rtsp://camera/ir", "http://camera/ir.mp4"])
def test_a_stream_is_refused_with_the_way_to_pipe_it_in(clips, fusecli, url):
    code, _, err = fusecli("fuse", "--ir", url, "--vis", clips / "vis.mp4", "-o", clips / "out.mp4")
    assert code == 2
    assert f"--ir {url}: streams are not opened; pipe them in as raw frames by --raw" in err


def test_irregular_times_are_kept_and_the_nearest_frame_is_taken(tmp_path, fuse):
    times = [0, 40, 95, 120, 200, 230, 320]
    vis = [np.full((32, 32), 100, np.uint8)] * len(times)
    ir = [np.full((32, 32), 20 * index, np.uint8) for index in range(5)]  # one every 100 ms
    write(tmp_path / "vis.mkv", vis, times=times, codec="ffv1", pix_fmt="gray")
    write(tmp_path / "ir.mkv", ir, rate=10, codec="ffv1", pix_fmt="gray")
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv")
    assert code == 0, err
    assert "nearest in time" in err
    found, frames = decoded(tmp_path / "out.mp4")
    assert found == [Fraction(time, 1000) for time in times]
    nearest = [0, 0, 1, 1, 2, 2, 3]
    assert [round(float(frame.mean())) for frame in frames] == pytest.approx([50 + 10 * i for i in nearest], abs=1)


def test_a_gap_in_one_video_is_said(tmp_path, fuse):
    images = [np.full((32, 32), 100, np.uint8)] * 10
    write(tmp_path / "vis.mkv", images, rate=2, times=range(0, 5000, 500), codec="ffv1", pix_fmt="gray")
    times = [0, 500, 1000, 4000, 4500]
    write(tmp_path / "ir.mkv", images[:5], rate=2, times=times, codec="ffv1", pix_fmt="gray")
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv")
    assert code == 0, err
    assert re.search(r"ir\.mkv has gaps: 1 frame of \S+vis\.mkv, the first at 2\.5 s, got one", err)
    assert "has gaps" not in fuse("--overwrite", ir="vis.mkv", vis="ir.mkv")[2]


def test_infrared_whose_clock_was_set_has_a_gap(tmp_path, fuse):
    """Its mean rate is one frame in minutes, so that every frame of the visible seemed to be near to one."""
    images = [np.full((32, 32), 100, np.uint8)] * 60
    write(tmp_path / "vis.mp4", images, rate=10)
    write(tmp_path / "ir.mp4", images[:40], times=[100 * i + 3_600_000 * (i >= 20) for i in range(40)])
    code, _, err = fuse()
    assert code == 0, err
    assert re.search(r"ir\.mp4 has gaps: 30 frames of \S+vis\.mp4, the first at 3\.0 s, got one", err), err


@pytest.mark.parametrize("between", [100, 3100])
def test_infrared_of_few_frames_has_no_gap_where_two_are_close(tmp_path, fuse, between):
    """As where a camera that takes a picture every three seconds is triggered in between."""
    images = [np.full((32, 32), 100, np.uint8)] * 75
    write(tmp_path / "vis.mp4", images, rate=5)
    write(tmp_path / "ir.mp4", images[:6], times=sorted([0, 3000, 6000, 9000, 12000, between]))
    code, _, err = fuse()
    assert code == 0, err
    assert "has gaps" not in err


def test_a_shorter_side_ends_the_result(tmp_path, fuse):
    vis, ir = moving(12)
    write(tmp_path / "vis.mp4", vis)
    write(tmp_path / "ir.mp4", ir[:9])
    code, _, err = fuse()
    assert code == 0
    assert "ir.mp4 is shorter" in err
    assert re.search(r"after 0\.4 s; \S+vis\.mp4 has 0\.5 s", err)
    assert len(decoded(tmp_path / "out.mp4")[0]) == 9
    write(tmp_path / "vis.mp4", vis[:5])
    code, _, err = fuse("--overwrite")
    assert "vis.mp4 is shorter" in err
    assert len(decoded(tmp_path / "out.mp4")[0]) == 5


def test_lengths_are_told_by_the_times_where_a_camera_dropped_frames(tmp_path, fuse):
    vis, ir = moving(10)
    write(tmp_path / "vis.mkv", vis, rate=25, times=[400 * index for index in range(10)])  # the header says 25 fps
    write(tmp_path / "ir.mkv", ir[:8], rate=25, times=[400 * index for index in range(8)])
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv")
    assert code == 0
    assert re.search(r"ir\.mkv is shorter than \S+: the result ends with it, after 2\.8 s; \S+ has 3\.6 s", err), err


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_rotation_is_applied(tmp_path, fuse, angle):
    image = np.full((48, 64, 3), 30, np.uint8)
    image[:16, :16] = 250
    write(tmp_path / "vis.mp4", [image] * 3, rotation=angle)  # what a player turns it by, counterclockwise
    upright = np.ascontiguousarray(np.rot90(image, angle // 90))
    write(tmp_path / "ir.mp4", [upright[..., 0]] * 3)
    code, _, err = fuse()
    assert code == 0, err
    _, frames = decoded(tmp_path / "out.mp4")
    assert frames[0].shape == upright.shape
    assert np.abs(frames[0].astype(int) - upright).mean() < 4
    seen = cv2.VideoCapture(str(tmp_path / "vis.mp4")).read()[1]  # OpenCV turns it upright too
    assert np.abs(frames[0].astype(int) - seen).mean() < 4


def test_sound_is_left_out_and_said(tmp_path, fuse):
    vis, ir = moving(5)
    write(tmp_path / "vis.mp4", vis, sound=True)
    write(tmp_path / "ir.mp4", ir)
    code, _, err = fuse()
    assert code == 0, err
    assert "sound is left out" in err
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_interlaced_frames_are_said(clips, fuse):
    assert "is interlaced" not in fuse()[2]
    with av.open(str(clips / "vis.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"flags": "+ildct+ilme"})
        stream.height, stream.width = 48, 64
        for image in moving(12)[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    code, _, err = fuse("--overwrite")
    assert code == 0, err
    assert "vis.mp4: is interlaced" in err


def test_coloured_infrared_is_said(clips, fuse):
    told = "ir.mp4 is coloured: a false-colour rendering, or are infrared and visible swapped?"
    assert told not in fuse()[2]
    (clips / "vis.mp4").rename(clips / "ir.mp4")
    write(clips / "vis.mp4", moving(12)[1])
    code, _, err = fuse("--overwrite")
    assert (code, err.count(told)) == (0, 1)


def test_sizes_must_agree_or_be_brought_together(tmp_path, fuse):
    write(tmp_path / "vis.mp4", moving(3)[0])
    write(tmp_path / "ir.mp4", moving(3, (24, 32))[1])
    code, _, err = fuse()
    assert code == 1
    assert "64×48 and 32×24" in err
    assert not (tmp_path / "out.mp4").exists()
    assert fuse("--resize", "ir")[0] == 0
    assert decoded(tmp_path / "out.mp4")[1][0].shape == (48, 64, 3)


def test_deep_infrared_has_one_range(tmp_path, fuse):
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 30 + 27000, (48, 1))
    write(tmp_path / "vis.mkv", [np.full((48, 64), 128, np.uint8)] * 8, codec="ffv1", pix_fmt="gray")
    frames = [ramp + np.uint16(100 * index) for index in range(8)]
    write(tmp_path / "ir.mkv", frames, codec="ffv1", pix_fmt="gray16le")
    assert VideoFile(tmp_path / "ir.mkv").bits == 16
    assert fuse(ir="ir.mkv", vis="vis.mkv")[0] == 0
    column = [float(frame[:, 32].mean()) for frame in decoded(tmp_path / "out.mp4")[1]]
    steps = np.diff(column)
    assert steps.min() > 0  # one range for all: what warms up gets brighter, evenly
    assert np.ptp(steps) < 5
    code, _, err = fuse("--range", "27000,30000", "--overwrite", ir="ir.mkv", vis="vis.mkv")
    assert code == 0, err
    middle = decoded(tmp_path / "out.mp4")[1][0][24, 32, 0]
    assert abs(int(middle) - (128 + 255 * 960 / 3000) / 2) <= 2


def test_a_short_clip_is_sampled_between_its_key_frames(tmp_path):
    images = [np.full((48, 64), index, np.uint16) for index in range(30)]
    write(tmp_path / "a.mkv", images, codec="ffv1", pix_fmt="gray16le")
    seen = [int(page[0, 0]) for page in VideoFile(tmp_path / "a.mkv").sample(8)]
    assert seen == list(range(0, 30, 4))


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_gray_of_fewer_than_16_bits_fills_them(tmp_path, fuse, bits):
    for name in ("vis", "ir"):
        deep = [np.full((48, 64), 3 * 2**bits // 4, np.uint16)] * 3
        write(tmp_path / f"{name}.mkv", deep, codec="ffv1", pix_fmt=f"gray{bits}le")
    code, _, err = fuse("--range", "full", ir="ir.mkv", vis="vis.mkv")
    assert code == 0, err
    assert abs(int(decoded(tmp_path / "out.mp4")[1][0][24, 32, 0]) - 191) <= 2


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_16_bit_gray_of_a_camera_of_fewer_bits(tmp_path, fuse, bits):
    """As of pictures, `test_16_bit_files_of_cameras_of_fewer_bits`."""
    frames = [np.full((48, 64), value * 2**bits // 4, np.uint16) for value in (1, 2, 3)]
    write(tmp_path / "vis.mkv", frames, codec="ffv1", pix_fmt="gray16le")
    even = [np.full((48, 64), 64 * value, np.uint8) for value in (1, 2, 3)]
    write(tmp_path / "ir.mkv", even, codec="ffv1", pix_fmt="gray")
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv")
    assert code == 0, err
    said = f"vis.mkv: values up to {frames[-1].max()} in 16 bits are taken for samples of {bits} bits"
    assert (said in err) == (bits < 16)
    found = [int(frame[24, 32, 0]) for frame in decoded(tmp_path / "out.mp4")[1]]
    assert np.abs(np.subtract(found, (64, 128, 191))).max() <= 2


@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_colours_come_back(tmp_path, size):
    colors = [(200, 40, 40), (30, 200, 60), (20, 30, 220), (255, 255, 255), (0, 0, 0)]
    images = [np.full((*size, 3), color, np.uint8) for color in colors]
    with VideoWriter(tmp_path / "a.mp4", Look(Fraction(25), Fraction(1, 25)), size) as writer:
        for index, image in enumerate(images):
            writer.write(Fraction(index, 25), image)
    file = VideoFile(tmp_path / "a.mp4")
    assert file.look.matrix == (1 if size[0] >= 720 else 6)
    for frame, image in zip(file, images, strict=True):
        assert np.abs(frame.pixels[5:-5, 5:-5].astype(int) - image[0, 0]).max() <= 2


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("side", ["ir", "vis"])
def test_a_truncated_file_is_named_and_leaves_nothing(tmp_path, fuse, ending, side):
    put_clips(tmp_path, 40, ending)
    broken = tmp_path / f"{side}{ending}"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    code, _, err = fuse(ir=f"ir{ending}", vis=f"vis{ending}")
    assert code == 1
    assert str(broken) in err
    assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"ir{ending}", f"vis{ending}"]


def test_an_mp4_whose_recording_was_cut_off_is_said_to_have_no_index(clips, fuse):
    whole = (clips / "vis.mp4").read_bytes()
    (clips / "vis.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    code, _, err = fuse()
    assert (code, "vis.mp4: cannot be read as a video: its index (moov) is missing" in err) == (1, True), err


def test_a_fragmented_mp4_that_is_still_being_written_is_refused_with_the_way_to_what_is_whole(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "5"})
        stream.height, stream.width = 48, 64
        for image in moving(20)[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"mdat") + 9])
    with pytest.raises(InputError, match=r"truncated, or still being written; copy it once more, or cut it .* -c copy"):
        VideoFile(path)


def test_a_segment_of_a_recording_is_whole(tmp_path, fuse):
    """Its times go on where the segment before ended, and Matroska says when it ends, not how long it is."""
    times = [60_000 + 40 * index for index in range(30)]
    put_clips(tmp_path, 30, ".mkv", times=times)
    assert VideoFile(tmp_path / "vis.mkv").frames == 30
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv", output="out.mkv")
    assert (code, "30 frames" in err) == (0, True), err
    segment = tmp_path / "vis.mkv"
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    assert "truncated" in fuse("--overwrite", ir="ir.mkv", vis="vis.mkv", output="out.mkv")[2]


def test_a_last_segment_of_one_frame_is_whole(tmp_path, fuse):
    put_clips(tmp_path, 1, ".mkv", times=[60_000])
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv", output="out.mkv")
    assert (code, "1 frame," in err) == (0, True), err


def test_a_picture_that_begins_after_its_sound_is_whole(tmp_path, fuse):
    put_clips(tmp_path, 30, ".mkv", times=[5000 + 40 * index for index in range(30)], sound=True)
    assert VideoFile(tmp_path / "vis.mkv").frames == 30
    code, _, err = fuse(ir="ir.mkv", vis="vis.mkv", output="out.mkv")
    assert (code, "30 frames" in err) == (0, True), err


def test_a_video_whose_last_picture_stands_is_whole(tmp_path):
    write(tmp_path / "short.mkv", moving(5)[0])
    with av.open(str(tmp_path / "short.mkv")) as short, av.open(str(tmp_path / "stands.mkv"), "w") as longer:
        stream = longer.add_stream_from_template(short.streams.video[0])
        for packet in list(short.demux())[:5]:
            packet.stream = stream
            packet.duration = 5000 if packet.pts == 160 else packet.duration
            longer.mux(packet)
    with av.open(str(tmp_path / "stands.mkv")) as container:
        if max(packet.duration or 0 for packet in container.demux()) < 5000:
            pytest.skip("this FFmpeg does not write how long a picture stands")
    assert len(list(VideoFile(tmp_path / "stands.mkv"))) == 5


def test_an_avi_whose_camera_dropped_frames_is_whole(tmp_path, fuse):
    times = [40 * index + 2000 * (index > 10) for index in range(24)]
    put_clips(tmp_path, 24, ".avi", times=times, codec="mjpeg", pix_fmt="yuvj420p")
    code, _, err = fuse(ir="ir.avi", vis="vis.avi", output="out.mkv")
    assert (code, "24 frames" in err) == (0, True), err


@pytest.mark.parametrize("side", ["ir", "vis"])
def test_times_that_begin_anew_are_counted_on(tmp_path, fuse, side):
    """Segments of a recorder, put together by cat."""
    put_clips(tmp_path, 40)
    clip = tmp_path / f"{side}.ts"
    write(clip, moving(20)[side == "ir"], codec="mpeg2video")
    clip.write_bytes(2 * clip.read_bytes())
    code, _, err = fuse(**{side: clip.name})
    assert (code, f"{clip}: its times begin anew at 0.8 s" in err, "gaps" in err) == (0, True, False), err
    assert decoded(tmp_path / "out.mp4")[0] == [Fraction(index, 25) for index in range(40)]


def test_an_avi_with_b_frames_keeps_the_order_and_the_times(tmp_path):
    gray = [np.full((48, 64), 40 + 8 * index, np.uint8) for index in range(20)]
    clip = VideoFile(write(tmp_path / "b.avi", gray))  # x264 uses B-frames by itself
    frames = list(clip)
    assert [frame.time for frame in frames] == [Fraction(index, 25) for index in range(20)]
    assert np.diff([frame.pixels.mean() for frame in frames]).min() > 0


def test_what_is_no_video_and_what_is_not_for_videos_is_told(clips, fuse, fusecli, pairs):
    (clips / "text.mp4").write_text("I am no video")
    code, _, err = fuse(ir="text.mp4")
    assert code == 1
    assert "text.mp4: cannot be read as a video" in err
    assert fuse("--format", "png")[0] == 2
    assert fuse(output="out.webm")[0] == 2
    assert "name a folder, or a file in .mp4, .mkv, .mov, .avi" in fuse(output="out.png")[2]
    pictures = pairs(1)
    assert fuse(ir="ir", output="out")[0] == 2  # a folder of pictures and a video
    code, _, err = fusecli("fuse", "--ir", pictures / "ir", "--vis", pictures / "vis", "-o", clips / "out.mp4")
    assert code == 2
    assert not (clips / "out.mp4").exists()
    assert fuse(ir="-", output="out.mp4")[0] == 2
    assert fusecli("fuse", "--ir", "-", "--vis", clips / "vis.mp4", "-o", clips / "out.mp4")[0] == 2  # no --raw
    code, _, err = fuse("--max-pixels", 100)
    assert code == 1
    assert "pixels a frame are more than the limit of 100; --max-pixels or FUSECLI_MAX_PIXELS raises it" in err
    code, _, err = fusecli("fuse", "--ir", "-", "--vis", clips / "vis.mp4", "-o", "-", "--raw", "99999x99999")
    assert code == 2
    assert "--raw 99999x99999: 9,999,800,001 pixels a frame are more than" in err


@pytest.mark.parametrize("ir", ["ir.mp4", "ir 1.h264"])
def test_a_video_of_an_ending_that_is_not_read_is_not_called_a_picture(clips, fuse, ir):
    """As a small board's camera and recorders write them."""
    for side in ("ir", "vis"):
        (clips / f"{side} 1.h264").write_bytes(b"video")
    code, _, err = fuse(ir=ir, vis="vis 1.h264")
    assert code == 2
    assert re.search(r"\.h264: no ending of a video.* ffmpeg -i '\S+ 1\.h264' -c copy '\w+ 1'\.mp4", err), err


def test_folders_and_globs_of_clips_are_fused_one_by_one(tmp_path, fuse):
    for name in ("a", "b"):
        vis, ir = moving(3, seed=ord(name))
        (tmp_path / "vis").mkdir(exist_ok=True)
        (tmp_path / "ir").mkdir(exist_ok=True)
        write(tmp_path / "vis" / f"{name}.mov", vis)
        write(tmp_path / "ir" / f"{name}.mkv", ir)
    assert fuse(ir="ir", vis="vis", output="out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mov", "b.mov"]
    code, _, err = fuse("--skip-existing", ir="ir", vis="vis", output="out")
    assert (code, "2 skipped" in err) == (0, True)
    assert fuse(ir="ir/*", vis="vis/*", output="globs")[0] == 0
    assert sorted(path.name for path in (tmp_path / "globs").iterdir()) == ["a.mov", "b.mov"]
    for vis, output in (("vis/*", "vis"), ("vis/**/*", "vis/new")):
        code, _, err = fuse("--name", "{stem}-fused", ir="ir/*", vis=vis, output=output)
        assert (code, "would find the results as inputs" in err) == (2, True)


def test_a_thread_that_cannot_be_started_is_the_reason_told(clips, fuse, monkeypatch):
    class Refused(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr("fusecli.stream.readahead.Thread", Refused)
    code, _, err = fuse()
    assert (code, "vis: RuntimeError: can't start new thread" in err) == (1, True), err


def test_a_lack_of_memory_is_no_damage_of_the_video(clips, fuse, monkeypatch):
    class Short:
        def demux(self, stream):
            raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
            yield

    decoded = VideoFile._decoded
    monkeypatch.setattr(VideoFile, "_decoded", lambda self, _, stream: decoded(self, Short(), stream))
    code, _, err = fuse()
    assert (code, "vis.mp4: too large for this machine's memory" in err) == (1, True), err


def test_json_lines_are_mixed_with_no_bar(clips, fuse, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert "12/12" in fuse()[2]
    code, _, err = fuse("--log-format", "json", "--overwrite")
    assert code == 0
    assert all(json.loads(line) for line in err.splitlines())


def test_a_stopped_run_leaves_no_file(tmp_path, fuse):
    put_clips(tmp_path, 400)
    threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
    code, _, err = fuse("--report", tmp_path / "report.json", "-m", "nano")
    assert code == 143, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ir.mp4", "report.json", "vis.mp4"]
    assert json.loads((tmp_path / "report.json").read_text())["totals"]["left"] == 1


@pytest.fixture
def filtered(tmp_path, fusecli, average, monkeypatch):
    """Run `fuse` with these bytes on stdin: (exit code, bytes on stdout, stderr)."""

    def call(sent, *arguments):
        (tmp_path / "sent").write_bytes(sent)
        with (
            (tmp_path / "sent").open() as source,
            (tmp_path / "got").open("w") as target,
            monkeypatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", source)
            patch.setattr(sys, "stdout", target)
            code, _, err = fusecli("fuse", "-m", average, *arguments)
        return code, (tmp_path / "got").read_bytes(), err

    return call


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgr24"])
def test_raw_frames_through_pipes_equal_pictures(tmp_path, fuse, average, filtered, pix_fmt):
    vis, ir = moving(6)
    for side, images in (("vis", vis), ("ir", ir)):
        (tmp_path / side).mkdir()
        for index, image in enumerate(images):
            cv2.imwrite(str(tmp_path / side / f"{index}.png"), image[..., ::-1] if side == "vis" else image)
    assert fuse(ir="ir", vis="vis", output="fused")[0] == 0
    expected = [cv2.imread(str(tmp_path / "fused" / f"{index}.png"))[..., ::-1] for index in range(6)]
    write(tmp_path / "ir.mkv", ir, codec="ffv1", pix_fmt="gray")
    sides = ["--ir", str(tmp_path / "ir.mkv"), "--vis", "-", "--raw", f"64x48,{pix_fmt}", "-o", "-"]
    sent = b"".join((image if pix_fmt == "rgb24" else image[..., ::-1]).tobytes() for image in vis)
    code, got, err = filtered(sent, *sides)
    assert code == 0, err
    assert "-pix_fmt rgb24 -s 64x48 -r 25" in err
    assert np.array_equal(np.frombuffer(got, np.uint8).reshape(6, 48, 64, 3), expected)
    if pix_fmt == "bgr24":
        return  # what follows is the same

    code, _, err = filtered(sent[:-1000], *sides)
    assert code == 1
    assert "ends within frame 6, after 8216 of 9216 bytes" in err

    command = [sys.executable, "-m", "fusecli", "fuse", "-m", str(average), *sides]
    done = subprocess.run(command, input=sent, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, got), done.stderr
    closed = subprocess.run(["sh", "-c", f"{shlex.join(command)} <&-"], capture_output=True, check=False)
    assert closed.returncode == 1
    assert b"no frame came" in closed.stderr


@pytest.mark.parametrize("bits", [10, 16])
def test_raw_gray_of_a_camera_s_bits_fills_them(tmp_path, filtered, bits):
    write(tmp_path / "ir.mkv", [np.full((48, 64), 191, np.uint8)] * 3, codec="ffv1", pix_fmt="gray")
    sent = np.full((3, 48, 64), 3 * 2**bits // 4, "<u2").tobytes()
    code, got, err = filtered(
        sent, "--ir", tmp_path / "ir.mkv", "--vis", "-", "--raw", f"64x48,gray{bits}le", "-o", "-"
    )
    assert code == 0, err
    fused = np.frombuffer(got, np.uint8)
    assert fused.size == 3 * 48 * 64
    assert abs(fused.astype(int) - 191).max() <= 1


def from_camera(tmp_path, raw="64x48,gray,25"):
    """Infrared on stdin, beside a video."""
    return "--ir", "-", "--raw", raw, "--vis", tmp_path / "vis.mp4"


def piped(tmp_path, average, *more, **camera):
    arguments = map(str, ["-m", average, *from_camera(tmp_path, **camera), *more])
    command = [sys.executable, "-m", "fusecli", "fuse", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_pipe_that_is_stopped_ends_there(tmp_path, average):
    vis, ir = moving(12)
    write(tmp_path / "vis.mp4", vis)
    process = piped(tmp_path, average, "-o", tmp_path / "out.mp4", "-v")
    process.stdin.write(b"".join(image.tobytes() for image in ir[:7]) + bytes(99))
    process.stdin.flush()
    while not list(tmp_path.glob(".*.partial.mp4")):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)  # while it waits for the rest of a frame
    assert process.wait(120) == 0, process.stderr.read()
    assert len(decoded(tmp_path / "out.mp4")[0]) == 7


def test_a_pipe_that_breaks_off_fails_and_what_came_is_kept(tmp_path, average, filtered):
    vis, ir = moving(12)
    write(tmp_path / "vis.mp4", vis)
    sent, sides = b"".join(image.tobytes() for image in ir[:7]), from_camera(tmp_path)
    code, _, err = filtered(sent[:-99], *sides, "-o", tmp_path / "out.mp4", "--report", tmp_path / "report.json")
    assert (code, "ends within frame 7" in err) == (1, True), err
    (entry,) = json.loads((tmp_path / "report.json").read_text())["pairs"]
    assert (entry["status"], entry["frames"], len(decoded(tmp_path / "out.mp4")[0])) == ("failed", 6, 6)
    assert filtered(sent[:99], *sides, "-o", tmp_path / "none.mp4")[0] == 1
    assert not (tmp_path / "none.mp4").exists()


def test_a_disk_that_fills_up_costs_no_frame_that_came_through_a_pipe(tmp_path, filtered, monkeypatch):
    vis, ir = moving(60)
    write(tmp_path / "vis.mp4", vis)
    usage, looks = shutil.disk_usage(tmp_path), iter([2**30])
    monkeypatch.setattr(videos, "disk_usage", lambda folder: usage._replace(free=next(looks, 0)))
    code, _, err = filtered(b"".join(ir), *from_camera(tmp_path), "-o", tmp_path / "out.mp4")
    assert (code, "the disk is almost full; what came before is fused" in err) == (1, True), err
    assert len(decoded(tmp_path / "out.mp4")[0]) == videos.LOOKS


def test_the_room_that_a_disk_needs_grows_with_what_frames_take(tmp_path, filtered, monkeypatch):
    vis, ir = moving(8 * videos.LOOKS)
    noise = np.random.default_rng(0)
    write(tmp_path / "vis.mp4", vis)
    sent = b"".join(noise.integers(0, 256, image.shape, np.uint8).tobytes() for image in ir)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(videos, "disk_usage", lambda folder: usage._replace(free=2**24 + 100 * len(ir)))
    code, _, err = filtered(sent, *from_camera(tmp_path), "-o", tmp_path / "out.mp4")
    assert (code, "the disk is almost full; what came before is fused" in err) == (1, True), err
    assert "is shorter than" not in err
    assert videos.LOOKS <= len(decoded(tmp_path / "out.mp4")[0]) < len(ir)


@pytest.mark.parametrize("raw", ["64x48", "64x48,25"])
def test_a_pipe_that_stays_open_and_silent_is_not_waited_for_once_the_video_has_ended(tmp_path, average, raw):
    vis, ir = moving(12)
    write(tmp_path / "vis.mp4", vis)
    process = piped(tmp_path, average, "-o", tmp_path / "out.mp4", raw=raw)
    process.stdin.write(b"".join(image.tobytes() for image in ir))
    process.stdin.flush()
    assert process.wait(60) == 0, process.stderr.read()
    assert len(decoded(tmp_path / "out.mp4")[0]) == 12


@pytest.mark.parametrize("sent_first", ["ir", "vis"])
def test_two_pipes_are_as_two_files(tmp_path, fuse, sent_first):
    """Sent one after the other by one program, which opens the second only after the first is through."""
    sent = dict(zip(("vis", "ir"), moving(6), strict=True))
    for side, pix_fmt in (("vis", "bgr0"), ("ir", "gray")):
        write(tmp_path / f"{side}.mkv", sent[side], codec="ffv1", pix_fmt=pix_fmt)
        os.mkfifo(tmp_path / f"{side}.pipe")
    assert fuse(ir="ir.mkv", vis="vis.mkv")[0] == 0

    def send():
        for side in sorted(sent, key=lambda side: side != sent_first):
            (tmp_path / f"{side}.pipe").write_bytes(b"".join(image.tobytes() for image in sent[side]))

    sender = threading.Thread(target=send)
    sender.start()
    formats = ("--raw", "64x48,gray,25", "--raw", "vis=64x48,rgb24,25")
    code, _, err = fuse(*formats, ir="ir.pipe", vis="vis.pipe", output="piped.mp4")
    sender.join()
    assert code == 0, err
    (times, images), (others, expected) = (decoded(tmp_path / name) for name in ("piped.mp4", "out.mp4"))
    assert times == others
    assert np.array_equal(images, expected)


def test_cameras_that_go_on_are_left_at_a_stop(tmp_path, average):
    sides = []
    for side in ("ir", "vis"):
        os.mkfifo(tmp_path / side)
        sides += [f"--{side}", str(tmp_path / side)]
    command = [sys.executable, "-m", "fusecli", "fuse", "-m", str(average), *sides, "--raw", "64x48,25"]
    process = subprocess.Popen([*command, "-o", str(tmp_path / "out.mp4")], stderr=subprocess.PIPE)

    def film(side):
        with contextlib.suppress(BrokenPipeError), (tmp_path / side).open("wb", buffering=0) as camera:
            while True:
                camera.write(bytes(64 * 48))
                time.sleep(0.01)

    cameras = [threading.Thread(target=film, args=[side], daemon=True) for side in ("ir", "vis")]
    for camera in cameras:
        camera.start()
    while not list(tmp_path.glob(".*.partial.mp4")):
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.5)
    process.terminate()
    assert process.wait(60) == 0, process.stderr.read()
    assert len(decoded(tmp_path / "out.mp4")[0]) > 20
    for camera in cameras:
        camera.join(10)
        assert not camera.is_alive()


def test_a_file_that_proves_truncated_costs_no_frame_of_a_pipe(tmp_path, average, filtered):
    vis, ir = moving(60)
    write(tmp_path / "vis.mkv", vis)
    whole = (tmp_path / "vis.mkv").read_bytes()
    (tmp_path / "vis.mp4").write_bytes(whole[: len(whole) // 2])
    sent = b"".join(image.tobytes() for image in ir)
    code, _, err = filtered(sent, *from_camera(tmp_path), "-o", tmp_path / "out.mp4")
    assert (code, "vis.mp4: " in err, "what came before is fused" in err) == (1, True, True), err
    assert 10 < len(decoded(tmp_path / "out.mp4")[0]) < 60


def test_a_file_that_is_truncated_beyond_the_end_of_a_pipe_is_no_failure(tmp_path, average, filtered):
    vis, ir = moving(60)
    write(tmp_path / "vis.mkv", vis)
    whole = (tmp_path / "vis.mkv").read_bytes()
    (tmp_path / "vis.mp4").write_bytes(whole[: len(whole) // 2])
    sent = b"".join(image.tobytes() for image in ir[:5])
    code, _, err = filtered(sent, *from_camera(tmp_path), "-o", tmp_path / "out.mp4")
    assert (code, len(decoded(tmp_path / "out.mp4")[0])) == (0, 5), err


def test_a_pipe_whose_other_end_is_stopped_together_with_the_run(tmp_path, average):
    """As Ctrl-C does to all of a pipeline: it breaks off within a frame, and that is no failure."""
    vis, ir = moving(12)
    write(tmp_path / "vis.mp4", vis)
    process = piped(tmp_path, average, "-o", tmp_path / "out.mp4")
    process.stdin.write(b"".join(image.tobytes() for image in ir[:7]) + bytes(99))
    process.stdin.flush()
    while not list(tmp_path.glob(".*.partial.mp4")):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    assert process.wait(120) == 0, process.stderr.read()
    assert len(decoded(tmp_path / "out.mp4")[0]) == 7


def test_a_stream_replaces_what_exists_and_its_report_no_input(tmp_path, average, fusecli, filtered):
    vis, ir = moving(3)
    write(tmp_path / "vis.mp4", vis)
    write(tmp_path / "ir.mp4", ir)
    before = (tmp_path / "vis.mp4").read_bytes()
    sides = ("--ir", tmp_path / "ir.mp4", "--vis", tmp_path / "vis.mp4")
    code, _, err = fusecli("fuse", "-m", average, *sides, "-o", "-", "--report", tmp_path / "vis.mp4")
    assert code == 2, err
    assert f"--report {tmp_path / 'vis.mp4'}: this is an input" in err
    frames = b"".join(image.tobytes() for image in ir)
    assert filtered(frames, *from_camera(tmp_path), "-o", "-", "--report", tmp_path / "vis.mp4")[0] == 2
    assert (tmp_path / "vis.mp4").read_bytes() == before
    (tmp_path / "out.mp4").write_bytes(b"older")
    code, _, err = filtered(frames, *from_camera(tmp_path), "-o", tmp_path / "out.mp4", "--overwrite")
    assert code == 0, err
    assert len(decoded(tmp_path / "out.mp4")[0]) == 3


def test_a_reader_that_leaves_ends_the_run(tmp_path, average):
    vis, ir = moving(12)
    write(tmp_path / "vis.mp4", vis)
    process = piped(tmp_path, average, "-o", "-")
    process.stdout.close()
    process.stdin.write(b"".join(image.tobytes() for image in ir))
    process.stdin.close()
    assert process.wait(120) == 128 + signal.SIGPIPE
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(os.name != "posix", reason="pipes that do not block")
def test_pipes_that_do_not_block_are_waited_for():
    read, write = os.pipe()
    sent = np.arange(6 * 256 * 512, dtype=np.uint8).reshape(6, 256, 512)  # of which a pipe holds half a frame
    for end in (read, write):
        os.set_blocking(end, False)

    def send():
        time.sleep(0.3)
        for image in sent:
            RawWriter(write).write(Fraction(0), image)
        os.close(write)

    before, sender = time.process_time(), threading.Thread(target=send)
    sender.start()
    came = []
    for frame in RawPipe(read, RawFormat.parse("512x256"), Fraction(25)):
        came.append(frame.pixels)
        time.sleep(0.1)
    os.close(read)
    sender.join()
    assert np.array_equal(came, sent)
    assert time.process_time() - before < 0.4  # without asking all the time


def test_a_reader_that_leaves_on_windows(monkeypatch):
    class Left:
        def write(self, data):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("fusecli.images.rawvideo.io.FileIO", lambda *given, **named: Left())
    with pytest.raises(BrokenPipeError):
        RawWriter(1).write(Fraction(0), np.zeros((2, 2), np.uint8))


def test_raw_samples_beyond_the_bits_they_are_said_to_have_are_told_once(filtered, tmp_path):
    """As of a format of more bits, or of another byte order; they show as noise or white."""
    write(tmp_path / "vis.mkv", moving(3)[0])
    sides = ("--vis", tmp_path / "vis.mkv", "-o", "-", "--raw")
    infrared = np.stack([np.full((48, 64), value, "<u2") for value in (1023, 1024, 4000)])
    told = "stdin: frame 2 holds 1024, but gray10le ends at 1023"
    code, _, err = filtered(infrared.tobytes(), "--ir", "-", *sides, "64x48,gray10le")
    assert code == 0
    assert err.count("ends at") == err.count(told) == 1
    assert "ends at" not in filtered(infrared.tobytes(), "--ir", "-", *sides, "64x48,gray12le")[2]


def test_the_format_of_raw_frames_is_size_samples_and_rate():
    assert RawFormat.parse("640x512") == RawFormat(640, 512, "gray", None)
    assert RawFormat.parse("640x512,gray16le,30000/1001") == RawFormat(640, 512, "gray16le", Fraction(30000, 1001))
    assert RawFormat.parse("64x48,9").rate == 9
    for bad in ("640", "0x5", "64x48,yuv420p", "64x48,gray,0", "64x48,gray,9,9", "axb"):
        with pytest.raises(UsageError, match="expected WIDTHxHEIGHT"):
            RawFormat.parse(bad)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (["64x48,25"], ("64x48,25", "64x48,25")),
        (["64x48", "vis=80x60,rgb24,25"], ("80x60,rgb24,25", "64x48")),
        (["vis=64x48,9", "ir=64x48,8"], ("64x48,9", "64x48,8")),
        (["64x48"], "one at least needs a frame rate"),
        (["ir=64x48,25"], "--vis is a pipe of raw frames, which do not say their size: --raw vis=WIDTH"),
        (["ir=64x48", "64x48", "ir=64x48"], "one for each pipe"),
        (["mri=64x48"], "there is no --mri that is a pipe"),
    ],
)
def test_each_pipe_has_a_format(tmp_path, raw, found):
    os.mkfifo(tmp_path / "pipe")
    typed = (str(tmp_path / "pipe"), "-")
    if isinstance(found, tuple):
        assert formats(raw, ("vis", "ir"), typed) == tuple(map(RawFormat.parse, found))
        return
    with pytest.raises(UsageError, match=found):
        formats(raw, ("vis", "ir"), typed)


def test_a_second_format_for_the_only_pipe_is_refused_without_naming_it_twice():
    with pytest.raises(UsageError, match=r"one for each pipe: --raw ir=…$"):
        formats(["64x48", "64x48,25"], ("vis", "ir"), ("vis.mp4", "-"))


def test_a_pipe_is_one_side_only(fusecli, tmp_path):
    code, _, err = fusecli("fuse", "--ir", "-", "--vis", "-", "--raw", "64x48,25", "-o", tmp_path / "out.mp4")
    assert (code, "-: one pipe cannot be both sides" in err) == (2, True)
    os.mkfifo(tmp_path / "pipe")
    for typed, same in ((tmp_path / "pipe", f"{tmp_path}/./pipe"), ("-", "/dev/stdin")):
        sides = map(str, ("--ir", typed, "--vis", same, "--raw", "64x48,25", "-o", tmp_path / "out.mp4"))
        command = [sys.executable, "-m", "fusecli", "fuse", *sides]
        ended = subprocess.run(command, input=b"", stderr=subprocess.PIPE, timeout=60)
        assert (ended.returncode, b"one pipe cannot be both sides" in ended.stderr) == (2, True), ended.stderr
    sides = ("--ir", "-", "--vis", tmp_path / "pipe", "--raw", "64x48,25")
    code, _, err = fusecli("fuse", *sides, "-o", tmp_path / "folder")
    assert (code, "two pipes have no name for the result" in err) == (2, True)


def test_a_picture_beside_a_pipe_is_refused_for_the_pipe(tmp_path, fusecli):
    os.mkfifo(tmp_path / "pipe")  # as of <(convert …)
    (tmp_path / "a.png").touch()
    code, _, err = fusecli("fuse", "--ir", tmp_path / "pipe", "--vis", tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert (code, "the other side is raw video, since it comes through a pipe" in err) == (2, True)


def test_reading_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"missing\.mp4: cannot be read"):
        VideoFile(tmp_path / "missing.mp4")


@pytest.mark.parametrize("leap", [0, 3_600_000])  # ms; where a clock is set, the mean rate is tiny
def test_exposure_follows_slowly(tmp_path, fuse, monkeypatch, leap):
    """One frame whose infrared gets brighter changes how all is seen by a camera's pace, not at once."""
    seen = []
    start = Engine.start
    monkeypatch.setattr(Engine, "start", lambda *rest, **more: seen.append(rest[-1]) or start(*rest, **more))
    dark, bright = np.full((48, 64), 20, np.uint8), np.full((48, 64), 220, np.uint8)
    times = [40 * i + leap * (i >= 2) for i in range(10)]
    write(tmp_path / "vis.mp4", [dark] * 10, times=times)
    write(tmp_path / "ir.mp4", [dark] * 5 + [bright] * 5, times=times)
    assert fuse("-j", "1")[0] == 0  # several threads may begin two frames the other way round
    assert len(seen) == 10
    changes = [float((after - before).abs().max()) for before, after in itertools.pairwise(seen)]
    assert max(changes[:4]) < 0.02
    assert 0.005 < changes[4] < 0.1  # 4 % of the way at 25 frames per second
    assert changes[8] > 0.005


def test_exposure_does_not_overshoot_where_times_go_back_a_little(tmp_path, fuse, monkeypatch):
    seen, start, steps = [], Engine.start, videos.InStep.__iter__
    monkeypatch.setattr(Engine, "start", lambda *rest, **more: seen.append(rest[-1]) or start(*rest, **more))
    back = Fraction(2, 5)  # seconds, at the first bright frame
    monkeypatch.setattr(
        videos.InStep, "__iter__", lambda self: ((at - back * (at == back), *pair) for at, *pair in steps(self))
    )
    dark, bright = np.full((48, 64), 20, np.uint8), np.full((48, 64), 220, np.uint8)
    write(tmp_path / "vis.mp4", [dark] * 12)
    write(tmp_path / "ir.mp4", [dark] * 10 + [bright] * 2)
    assert fuse("-j", "1")[0] == 0
    assert float((seen[10] - seen[9]).abs().max()) < 1e-3 < float((seen[11] - seen[10]).abs().max())

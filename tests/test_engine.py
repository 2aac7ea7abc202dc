import os
import pickle
import signal
import subprocess
import sys
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import SAMPLES
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fusecli.errors import UsageError
from fusecli.images import intensity
from fusecli.images.opencv import cv2
from fusecli.machine import keep_freed_pages
from fusecli.models import checkpoint
from fusecli.models.network import FusionNetwork
from fusecli.stream import device, recording
from fusecli.stream import engine as engines
from fusecli.stream.engine import Engine
from fusecli.stream.work import EngineSpec


class Mean(FusionNetwork):
    """Average of the sources."""

    halo, align = 0, 1

    def forward(self, first, second, context=None):
        return (first + second) / 2


class Second(Mean):
    """The second source alone."""

    def forward(self, first, second, context=None):
        return second


@pytest.fixture(scope="module")
def nano() -> nn.Module:
    return checkpoint.load("nano", "ir-vis")


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float64) @ [0.299, 0.587, 0.114]


def test_luma_is_fused_and_chroma_kept():
    rng = np.random.default_rng(0)
    first = rng.integers(90, 160, (2, 9, 11, 3), dtype=np.uint8)
    second = rng.integers(90, 160, (2, 9, 11), dtype=np.uint8)
    fused = Engine(Mean(), "cpu", "fp32").fuse(first, second)
    assert fused.shape == first.shape
    assert fused.dtype == np.uint8
    np.testing.assert_allclose(luma(fused), (luma(first) + second) / 2, atol=0.51)
    chroma = fused[..., [0, 2]].astype(int) - fused[..., [1]]
    np.testing.assert_allclose(chroma, first[..., [0, 2]].astype(int) - first[..., [1]], atol=1)


def test_gray_in_colour_layout_stays_gray():
    first = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 8, 8, 1), dtype=np.uint8), 3, 3)
    fused = Engine(Mean(), "cpu").fuse(first, first[..., 0])
    assert (fused == fused[..., :1]).all()


@pytest.mark.parametrize(("levels", "dtype"), [(255, np.uint8), (65535, np.uint16), (None, np.float32)])
def test_levels_choose_the_sample_type(levels, dtype):
    first = np.full((1, 4, 4), 0.5, np.float32)
    fused = Engine(Mean(), "cpu", "fp32").fuse(first, first, levels)
    assert fused.dtype == dtype
    assert fused[0, 0, 0] == pytest.approx(0.5 * (levels or 1), abs=0.51)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (299, 511), (480, 640)])
def test_released_student_keeps_constants(nano, size):
    for a, b in ((0, 0), (255, 255), (40, 200), (200, 40)):
        fused = Engine(nano, "cpu").fuse(np.full((1, *size), a, np.uint8), np.full((1, *size), b, np.uint8))
        assert fused.shape == (1, *size)
        assert fused.max() == fused.min()


def test_released_student_is_the_same_in_tiles(nano):
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (1, 299, 311, 3), dtype=np.uint8)
    second = rng.integers(0, 256, (1, 299, 311), dtype=np.uint8)
    whole = Engine(nano, "cpu", tile=0).fuse(first, second).astype(int)
    for tile in (64, 150):
        tiled = Engine(nano, "cpu", tile=tile).fuse(first, second)
        assert abs(tiled - whole).max() <= 2


def test_tiles_that_are_mostly_overlap_are_told(caplog):
    for tile, said in (("60", "take 9 times as long; from 120 on"), ("120", ""), ("0", "")):
        caplog.clear()
        Engine(Mean(), "cpu", tile=tile, overlap=60)
        assert said in caplog.text
        assert bool(said) == bool(caplog.text)


def test_tiles_that_share_less_than_the_model_sees_are_told(nano, caplog):
    for tile, overlap, told in (("300", nano.halo - 1, True), ("300", nano.halo, False), ("0", 0, False)):
        caplog.clear()
        Engine(nano, "cpu", tile=tile, overlap=overlap)
        assert ("may show seams" in caplog.text) == told


@pytest.mark.parametrize(
    ("scene", "whitest"),
    [("forest_edge", 250), ("day_street", 240), ("back_yard", 240)],  # the latter are bright in both bands
)
def test_a_white_sky_stays_bright_and_changes_little_else(nano, scene, whitest):
    """However much of the frame it takes, and wherever it ends."""
    sides = (SAMPLES / side / f"{scene}.png" for side in ("vis", "ir"))
    visible, infrared = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[None] for path in sides)
    visible = np.ascontiguousarray(visible[..., ::-1])
    infrared = infrared if infrared.dtype == np.uint8 else np.uint8(infrared >> 8)
    engine = Engine(nano, "cpu", "fp32")
    height = visible.shape[1]
    rest = np.s_[:, int(0.7 * height) :]
    before = engine.fuse(visible, infrared)[rest].mean()
    for share in (0.15, 0.24, 0.25, 0.26, 0.3, 0.45):
        white, rows = visible.copy(), int(share * height)
        white[:, :rows] = 255
        fused = engine.fuse(white, infrared)
        assert fused[:, :rows].mean() > whitest
        assert fused[rest].mean() == pytest.approx(before, rel=0.15)


def test_a_stack_gives_what_its_pairs_give_alone(nano):
    """But for what a rounding error tips over; and the same bytes each time."""
    rng = np.random.default_rng(2)
    first = rng.integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)
    second = rng.integers(0, 256, (3, 60, 80), dtype=np.uint8)
    engine = Engine(nano, "cpu")
    together, again = (engine.fuse(first, second) for _ in range(2))
    assert np.array_equal(together, again)
    alone = np.concatenate([engine.fuse(first[i : i + 1], second[i : i + 1]) for i in range(3)])
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert (together != alone).mean() < 1e-3


@pytest.mark.parametrize(
    ("vendor", "flags", "quick"),
    [
        ("AuthenticAMD", "avx2", False),
        ("AuthenticAMD", "avx2 avx512_bf16", True),
        ("GenuineIntel", "avx512_bf16", False),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
    ],
)
def test_bf16_is_taken_where_it_is_quicker(vendor, flags, quick, tmp_path, monkeypatch):
    said = tmp_path / "cpuinfo"
    said.write_text(f"vendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n")
    assert device._cpu_is_quick_in_bf16(said) is quick
    assert not device._cpu_is_quick_in_bf16(tmp_path / "none")
    monkeypatch.setattr(device, "_cpu_is_quick_in_bf16", lambda: quick)
    assert device.pick_precision("auto", torch.device("cpu")) is (torch.bfloat16 if quick else torch.float32)


def test_bf16_is_within_a_level_on_average(nano):
    rng = np.random.default_rng(3)
    first = rng.integers(0, 256, (1, 64, 64), dtype=np.uint8)
    second = rng.integers(0, 256, (1, 64, 64), dtype=np.uint8)
    exact = Engine(nano, "cpu", "fp32").fuse(first, second, None)
    rough = Engine(nano, "cpu", "bf16").fuse(first, second, None)
    assert abs(exact - rough).mean() < 1 / 255


@pytest.mark.parametrize(
    "said",
    [
        "DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "could not create a primitive",
    ],
)
def test_out_of_memory_makes_smaller_tiles(said):
    class Greedy(Mean):
        def forward(self, first, second, context=None):
            if first.shape[-1] > 200:
                raise RuntimeError(said)
            return super().forward(first, second)

    engine = Engine(Greedy(), "cpu", "fp32", tile=0)
    image = np.random.default_rng(0).integers(0, 256, (1, 100, 500), dtype=np.uint8)
    assert np.array_equal(engine.fuse(image, image), image)
    assert engine.tile <= 200


def test_what_no_tile_is_small_enough_for_is_no_lack_of_memory(caplog):
    class Unsupported(Mean):
        def forward(self, first, second, context=None):
            raise RuntimeError("could not create a primitive descriptor for a matmul primitive")

    with pytest.raises(RuntimeError, match="descriptor"):
        Engine(Unsupported(), "cpu", "fp32", tile=0).fuse(*[np.zeros((1, 100, 500), np.uint8)] * 2)
    assert not caplog.text


def test_out_of_memory_mends_fewer_pairs_at_once(nano, monkeypatch):
    rng = np.random.default_rng(0)
    smooth = np.linspace(60, 160, 240)[:, None] + np.zeros(320)
    second = np.uint8(smooth + rng.normal(0, 6, (5, 1, 320)))  # stripes, which are taken out
    first = np.uint8(smooth + np.zeros((5, 1, 1)))
    expected = Engine(nano, "cpu", "fp32").fuse(first, second)
    examine, room = engines.mending.examine, 2

    def greedy(upper, *others):
        if len(upper) > 2 * room:  # both sides of a pair
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return examine(upper, *others)

    monkeypatch.setattr(engines.mending, "examine", greedy)
    engine = Engine(nano, "cpu", "fp32")
    tile = engine.tile
    assert abs(engine.fuse(first, second).astype(int) - expected).max() <= 1
    assert engine.tile == tile  # which would not have helped
    mended = engine.mend(first[0], second[0])[1]
    assert abs(np.diff(mended.astype(int))).mean() < abs(np.diff(second[0].astype(int))).mean() / 3
    room = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        engine.fuse(first, second)


def test_large_frames_are_cut_on_their_own(monkeypatch):
    class Watched(Mean):
        widest = 0

        def forward(self, first, second, context=None):
            Watched.widest = max(Watched.widest, *first.shape[-2:])
            return super().forward(first, second)

    monkeypatch.setitem(engines.AUTO_TILE, "cpu", 128)
    image = np.random.default_rng(0).integers(0, 256, (1, 300, 500, 3), dtype=np.uint8)
    assert np.array_equal(Engine(Watched(), "cpu", "fp32").fuse(image, image), image)
    assert Watched.widest == 128


def test_other_runtime_errors_are_not_taken_for_out_of_memory():
    class Broken(Mean):
        def forward(self, first, second, context=None):
            raise RuntimeError("shapes cannot be multiplied")

    engine = Engine(Broken(), "cpu", "fp32")
    tile = engine.tile
    with pytest.raises(RuntimeError, match="multiplied"):
        engine.fuse(*np.zeros((2, 1, 300, 300), np.uint8))
    assert engine.tile == tile  # nothing smaller was tried


def test_arrays_that_would_give_a_wrong_picture_are_refused(nano):
    engine = Engine(nano)
    colour, gray = np.zeros((1, 8, 9, 3), np.uint8), np.zeros((1, 8, 9), np.uint8)
    for first, second, said in (
        (colour.astype(np.uint16), gray, "uint16"),
        (colour.astype(float), gray, "float64"),
        (
            colour,
            gray.astype(np.uint16),
            r"uint16 of 1×8×9; fusecli.images.intensity.frame_range\(x\).apply\(x\) scales",
        ),
        (colour[..., :2], gray, "1×8×9×2"),
        (colour, gray[:, :7], "must be equal"),
        (colour, gray[0], r"8×9; \[None\] makes a stack"),
        (colour[:, :0], gray[:, :0], "1×0×9"),
        (colour.tolist(), gray, "not list"),
        (colour, np.full(gray.shape, 255, np.float32), "from 255 to 255"),
        (colour, np.where(np.eye(8, 9), np.nan, 0)[None].astype(np.float32), "from nan to nan"),
    ):
        with pytest.raises(ValueError, match=said):
            engine.fuse(first, second)
    kelvin = np.linspace(28000, 31000, gray.size).reshape(gray.shape)
    scaled = [intensity.frame_range(image).apply(image) for image in (kelvin, kelvin.astype(np.uint16))]
    assert all(np.ptp(engine.fuse(colour, image)) > 100 for image in scaled)
    with pytest.raises(ValueError, match="levels must be 255, 65535 or None, not 1023"):
        engine.fuse(colour, gray, 1023)
    backwards = np.random.default_rng(0).integers(0, 256, colour.shape, np.uint8)[..., ::-1]
    assert np.array_equal(engine.fuse(backwards, gray), engine.fuse(backwards.copy(), gray))


def test_a_colour_image_that_is_no_stack_is_told(nano, caplog):
    colour = np.zeros((8, 9, 3), np.uint8)
    Engine(nano).fuse(colour[None], colour[None])
    assert not caplog.messages
    Engine(nano).fuse(colour, colour)
    assert "8×9×3 is taken for 8 gray images 3 pixels wide; a colour image needs [None]" in caplog.text


def test_read_only_arrays_are_taken_without_a_warning(nano):
    engine = Engine(nano)
    image = np.frombuffer(bytes(range(72)), np.uint8).reshape(1, 8, 9)  # as `np.asarray` makes of a PIL image
    torch.set_warn_always(True)  # torch itself warns once per process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(engine.fuse(image, image), engine.fuse(image.copy(), image.copy()))
    finally:
        torch.set_warn_always(False)


def test_unusable_choices_are_explained():
    for name in ("potato", "meta"):
        with pytest.raises(UsageError, match=f"--device {name}"):
            device.pick_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="--device cuda"):
            device.pick_device("cuda")
    with pytest.raises(UsageError, match="--precision fp8"):
        device.pick_precision("fp8", torch.device("cpu"))
    with pytest.raises(UsageError, match="--precision fp16: CPUs"):
        device.pick_precision("fp16", torch.device("cpu"))
    assert device.pick_precision("fp16", torch.device("cuda")) is torch.float16
    assert device.pick_precision("auto", torch.device("cuda")) is torch.float16


def test_a_mac_s_gpu_is_taken_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device.pick_device("auto").type == "cpu"
    monkeypatch.setattr("torch.amp.is_autocast_available", lambda kind: False)  # as torch 2.4 says of it
    with pytest.raises(UsageError, match=r"--device cpu: needs torch 2\.5"):
        device.pick_device("cpu")


def test_luma_on_mps_scales_no_bytes():
    """In older versions of torch adding scaled bytes to floats there ends the process."""

    class Strict(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if (kwargs or {}).get("alpha", 1) != 1:
                assert args[0].dtype == args[1].dtype
                scaled.append(operation)
            return operation(*args, **(kwargs or {}))

    scaled: list[object] = []
    with FakeTensorMode():
        colour = torch.empty((1, 4, 5, 3), dtype=torch.uint8, device="mps")
        with Strict():
            assert engines.to_luma(colour).shape == (1, 1, 4, 5)
    assert len(scaled) == 2


def test_sixteen_bits_without_uint16_on_the_device(nano, monkeypatch):
    first, second = np.random.default_rng(0).random((2, 1, 40, 56), np.float32)
    expected = Engine(nano, "cpu", "fp32", tile=32).fuse(first, second, 65535)
    monkeypatch.setitem(engines.DEEP, "cpu", torch.int32)
    fused = Engine(nano, "cpu", "fp32", tile=32).fuse(first, second, 65535)
    assert fused.dtype == np.uint16
    assert np.array_equal(fused, expected)


@pytest.mark.parametrize("error", [TypeError, OSError, AttributeError])  # of Windows, static builds, other C libraries
def test_a_system_without_glibc_computes_all_the_same(monkeypatch, error):
    def refuse(name):
        raise error(name)

    monkeypatch.setattr("ctypes.CDLL", refuse)
    keep_freed_pages.cache_clear()
    gray = np.full((1, 4, 4), 90, np.uint8)
    assert Engine(Mean(), "cpu").fuse(gray, gray)[0, 0, 0] == 90


def test_vivid_colours_keep_luma_and_hue():
    """A colormap's red cannot be as bright as the MRI beside it: it becomes paler, not another brightness or hue."""
    first = np.zeros((1, 2, 3, 3), np.uint8)
    first[0, 0] = (255, 0, 0), (0, 0, 255), (255, 255, 0)
    first[0, 1] = (0, 0, 0), (128, 128, 128), (255, 60, 0)
    second = np.full((1, 2, 3), 230, np.uint8)
    fused = Engine(Mean(), "cpu", "fp32", vivid=True).fuse(first, second)
    np.testing.assert_allclose(luma(fused), (luma(first) + second) / 2, atol=0.6)
    hues, before = (image - image.mean(-1, keepdims=True) for image in (fused.astype(float), first.astype(float)))
    lengths = np.linalg.norm(hues, axis=-1) * np.linalg.norm(before, axis=-1)
    coloured = lengths > 0
    assert ((hues * before).sum(-1)[coloured] > 0.999 * lengths[coloured]).all()
    clipped = Engine(Mean(), "cpu", "fp32").fuse(first, second)
    assert np.abs(luma(clipped) - (luma(first) + second) / 2).max() > 5
    white = Engine(Second(), "cpu", "fp32", vivid=True).fuse(first[:, :1, :1], np.full((1, 1, 1), 255, np.uint8))
    np.testing.assert_array_equal(white[0, 0, 0], [255, 217, 217])  # half of red's chroma, however bright the MRI


@pytest.mark.parametrize("task", ["ir-vis", "ct-mri", "pet-mri", "spect-mri"])
def test_only_colours_of_medical_images_are_vivid(average, task):
    first, second = np.full((1, 32, 32, 3), (255, 0, 0), np.uint8), np.full((1, 32, 32), 230, np.uint8)
    fused = EngineSpec(str(average), task, device="cpu").build().fuse(first, second)
    reaches = np.abs(luma(fused) - (luma(first) + second) / 2).max() < 1
    assert reaches == (task != "ir-vis")


@pytest.mark.parametrize(
    ("precision", "levels", "steady"),
    [("fp32", 255, False), ("fp32", 65535, True), ("fp32", None, False), ("bf16", 255, True), ("bf16", None, False)],
)
def test_recorded_operations_give_the_same_bytes(nano, precision, levels, steady, monkeypatch):
    monkeypatch.setattr(recording, "OFTEN", 2)
    rng = np.random.default_rng(0)
    recorded, plain = Engine(nano, "cpu", precision), Engine(nano, "cpu", precision)
    monkeypatch.setattr(plain, "_recordings", {})
    sizes = [(37, 50, 3), (37, 50), (40, 48, 3)]
    for engine in (recorded, plain):
        if steady:
            dark, bright = np.full((40, 48), 30, np.uint8), np.full((40, 48), 200, np.uint8)
            engine.keep_steady([engine.context(dark, bright)])
    for turn in range(12):  # each size alone, recorded, and as often again: the first runs of a graph tune it
        brightness = 60 + 15 * turn
        first = rng.integers(0, brightness, (1, *sizes[turn % 3]), dtype=np.uint8)
        second = rng.integers(0, 256, first.shape[:3], dtype=np.uint8)
        np.testing.assert_array_equal(recorded.fuse(first, second, levels), plain.fuse(first, second, levels))
    assert len(recorded._recordings[levels].graphs) == 3


def test_recording_is_safe_for_several_threads(nano, monkeypatch):
    monkeypatch.setattr(recording, "OFTEN", 3)
    engine = Engine(nano, "cpu", "fp32")
    pairs = np.random.default_rng(0).integers(0, 256, (24, 2, 1, 33, 41), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: engine.fuse(*pair), pairs))
    assert len(engine._recordings[255].graphs) == 1
    engine._recordings = {}
    np.testing.assert_array_equal(found, [engine.fuse(*pair) for pair in pairs])


@pytest.mark.parametrize("before", ["fused", "built"])
def test_a_process_forked_from_one_with_an_engine_can_fuse(tmp_path, before):
    """As those of multiprocessing.Pool in a notebook; torch would wait for threads that were not forked."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "import numpy as np, torch\n"
        "from fusecli.stream.work import EngineSpec\n"
        "torch.set_num_threads(2)\n"
        "engine = EngineSpec('nano', 'ir-vis').build()\n"
        "pair = np.random.default_rng(0).integers(0, 256, (2, 1, 256, 256), dtype=np.uint8)\n"
        f"before = engine.fuse(*pair) if {before == 'fused'} else None\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    after = np.int16(engine.fuse(*pair))\n"
        "    os._exit(0 if before is None or np.abs(after - before).max() <= 1 else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    with subprocess.Popen([sys.executable, script], start_new_session=True) as process:
        try:
            assert process.wait(60) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_an_engine_that_is_sent_to_another_process_says_what_to_send():
    with pytest.raises(TypeError, match="send its EngineSpec, and build there"):
        pickle.dumps(Engine(Mean()))


def test_a_recording_keeps_none_of_the_frames_that_it_was_made_with(monkeypatch):
    """Each graph kept a frame of 84 MB, of which its tile was a view: half a GB in a run of 12 megapixels."""
    monkeypatch.setattr(recording, "OFTEN", 1)
    double = recording.Recording(nn.Identity(), lambda image: image * 2)
    image = torch.ones(1, 8, 8)
    seen = weakref.ref(image)
    assert double.run(image).mean() == 2
    assert isinstance(*double.graphs.values(), torch.jit.ScriptModule)
    del image
    assert seen() is None


def test_what_cannot_be_recorded_is_done_as_before(nano, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no such thing in this version")

    monkeypatch.setattr(torch.jit, "trace", failing)
    monkeypatch.setattr(recording, "OFTEN", 1)
    monkeypatch.setattr(recording, "MOST_SIZES", 2)
    engine = Engine(nano, "cpu", "fp32")
    for size in (24, 24, 32, 40, 48):  # the last ones are more than are recorded
        assert engine.fuse(*np.zeros((2, 1, size, size), np.uint8)).shape == (1, size, size)
    assert len(engine._recordings[255].graphs) == 2


def test_networks_that_do_not_promise_it_are_not_recorded():
    assert not Engine(Mean(), "cpu")._recordings


def test_a_cpu_without_nnpack_is_not_told_of_at_each_convolution(monkeypatch):
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: False)
    with torch.backends.nnpack.flags(enabled=True):
        Engine(Mean(), "cpu")
        assert torch.backends.nnpack.set_flags(False) == (False,)  # what it was

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command

from fusecli.errors import UsageError
from fusecli.models import checkpoint, onnx
from fusecli.stream import runtimes
from fusecli.stream.work import EngineSpec

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A cache that these tests share, in whichever process they run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSECLI_CACHE", str(folder / "cache"))
        yield


def pair(seed, *size):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (1, *size, 3), np.uint8), rng.integers(0, 256, (1, *size), np.uint8)


def test_nothing_is_reported_to_anyone(tmp_path):
    """ONNX Runtime keeps what it would report below the home folder, from its import on."""
    pytest.importorskip("onnxruntime")
    environment = {key: value for key, value in os.environ.items() if key not in {"ORT_DISABLE_TELEMETRY", "CI"}}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    subprocess.run([sys.executable, "-c", "import fusecli, onnxruntime"], env=environment, check=True)
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_is_told_of_the_cache(monkeypatch):
    for name in ("FUSECLI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def home():  # of a user whom the system does not know
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(UsageError, match=r"\$FUSECLI_CACHE names one"):
        EngineSpec("nano", "ir-vis", runtime="onnxruntime").build()


@pytest.mark.parametrize("runtime", runtimes.OTHERS)
def test_results_are_those_of_torch(runtime, cached):
    pytest.importorskip(runtime)
    engines = [EngineSpec("nano", "ir-vis", precision="fp32", runtime=each).build() for each in ("torch", runtime)]
    assert engines[1].runtime == runtime
    for size in ((40, 48), (37, 51), (1, 1)):
        expected, found = (engine.fuse(*pair(1, *size)).astype(int) for engine in engines)
        assert np.abs(expected - found).max() <= 1
        assert (expected != found).mean() < 0.02  # those that a rounding error tips over


@pytest.mark.parametrize("runtime", runtimes.OTHERS)
def test_tiles_looks_and_steady_exposure_reach_the_graph(runtime, cached):
    pytest.importorskip(runtime)
    for look, tile in ((0.0, "64"), (1.0, "0")):
        torchs, others = (
            EngineSpec("nano", "ir-vis", look, precision="fp32", tile=tile, runtime=each).build()
            for each in ("torch", runtime)
        )
        first, second = pair(2, 100, 130)
        for engine in (torchs, others):
            engine.keep_steady([engine.context(*(side[0] // 2 for side in (first, second)))])
        assert np.abs(torchs.fuse(first, second).astype(int) - others.fuse(first, second)).max() <= 1


@pytest.mark.parametrize("runtime", runtimes.OTHERS)
def test_several_threads_get_each_its_own_result(runtime, cached):
    pytest.importorskip(runtime)
    engine = EngineSpec("nano", "ir-vis", runtime=runtime).build()
    sizes = [(24 + 8 * (index % 12), 32) for index in range(36)]  # more sizes than OpenVINO compiles one by one
    alone = [engine.fuse(*pair(index, *size)) for index, size in enumerate(sizes)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: engine.fuse(*pair(index, *sizes[index])), range(len(sizes))))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1  # compiled for one size or for any


def test_several_threads_may_begin_at_once(cached):
    """In OpenVINO's binding the very first inferences of a process once waited for each other for ever."""
    pytest.importorskip("openvino")
    begin = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from fusecli.stream.work import EngineSpec
engine = EngineSpec("nano", "ir-vis", runtime="openvino").build()
image = np.zeros((1, 32, 32), np.uint8)
with ThreadPoolExecutor(8) as pool:
    print(len(list(pool.map(lambda _: engine.fuse(image, image), range(16)))))
"""
    found = subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, timeout=120)
    assert found.stdout == "16\n", found.stderr


def test_a_graph_is_written_once_for_the_same_weights(cached, monkeypatch):
    runtimes.hand_over(checkpoint.load("nano", "ir-vis"), "onnxruntime", "auto", "auto")
    monkeypatch.setattr(onnx, "write", lambda *_, **__: pytest.fail("written again"))
    network = checkpoint.load("nano", "ir-vis", 0.5)  # the look is an input
    runtimes.hand_over(network, "onnxruntime", "auto", "auto")
    with torch.no_grad():
        network.head.bias += 0.1
    with pytest.raises(pytest.fail.Exception):
        runtimes.hand_over(network, "onnxruntime", "auto", "auto")


def test_an_empty_graph_as_repaired_disks_leave_it_is_written_again(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path))
    monkeypatch.setattr(onnx, "write", lambda network, path, *_, **__: path.write_bytes(b"graph"))
    path = runtimes._graph(checkpoint.load("nano", "ir-vis"))
    path.write_bytes(b"")
    assert runtimes._graph(checkpoint.load("nano", "ir-vis")).read_bytes() == b"graph"


def test_what_cannot_be_is_refused_by_name(monkeypatch, tmp_path):
    network = checkpoint.load("nano", "ir-vis")

    def refusal(*chosen):
        with pytest.raises(UsageError) as caught:
            runtimes.hand_over(network, *chosen)
        return str(caught.value)

    assert "did you mean openvino" in refusal("openvno", "auto", "auto")
    assert "--device cuda" in refusal("onnxruntime", "cuda", "auto")
    assert "fp32" in refusal("onnxruntime", "cpu", "bf16")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path / "file"))
    assert "$FUSECLI_CACHE" in refusal("onnxruntime", "cpu", "auto")
    for name in runtimes.OTHERS:
        monkeypatch.setitem(sys.modules, name, None)
    assert "fusecli[onnx]" in refusal("onnxruntime", "auto", "auto")
    assert "fusecli[openvino]" in refusal("openvino", "auto", "auto")


def test_the_command_line_says_what_computed(pairs, fusecli, cached, tmp_path):
    code, _, err = fusecli(*command(pairs(2), "--engine", "onnxruntime", "--report", tmp_path / "report.json"))
    assert code == 0, err
    assert json.loads((tmp_path / "report.json").read_text())["engine"] == "onnxruntime"


def test_a_network_in_strips_is_refused_at_once(cached):
    from fusecli.models.student import Student

    with pytest.raises(UsageError, match="a student has no graph for images of any size"):
        runtimes.hand_over(Student(width=4, spatial_heads=(1, 1, 1, 1)), "onnxruntime", "auto", "auto")

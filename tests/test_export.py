import numpy as np
import pytest

from fusecli import registry
from fusecli.images.opencv import cv2
from fusecli.stream.work import EngineSpec

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.mark.parametrize("model", ["nano", "base"])
def test_a_released_model_as_onnx_takes_any_size(model, tmp_path, fusecli):
    path = tmp_path / "nano.onnx"
    code, _, err = fusecli("export", "-m", model, "-o", path, "--look", "natural")
    assert code == 0, err
    assert "differs from torch by at most" in err
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["task"] == "ir-vis"
    pair = np.random.default_rng(0).random((2, 3, 1, 41, 37), np.float32)
    (fused,) = session.run(None, {"first": pair[0], "second": pair[1]})
    assert fused.shape == (3, 1, 41, 37)
    code, _, err = fusecli("export", "-o", path)
    assert code == 2
    assert "exists already; --overwrite replaces it" in err
    assert fusecli("export", "-o", path, "--overwrite", "--quiet")[1:] == ("", "")
    code, _, err = fusecli("export", "-o", path, "--overwrite", "--task", "ir-viz")
    assert code == 2
    assert "unknown task 'ir-viz'; did you mean ir-vis?" in err
    assert fusecli("export", "-o", tmp_path / "nano.bin")[0] == 2
    assert fusecli("export", "-o", path / "nano.onnx")[0] == 2  # a file is no folder
    assert fusecli("export", "-o", tmp_path / "medical.onnx", "--task", "ct-mri", "--look", "natural")[0] == 2


@pytest.mark.parametrize("model", ["nano", "base"])
def test_medical_weights_as_onnx_take_any_size(model, tmp_path, fusecli):
    path = tmp_path / "medical.onnx"
    code, _, err = fusecli("export", "-m", model, "-o", path, "--task", "pet-mri")
    assert code == 0, err
    assert "differs from torch by at most" in err
    pair = np.random.default_rng(0).random((2, 1, 1, 70, 37), np.float32)
    (fused,) = onnxruntime.InferenceSession(path).run(None, {"first": pair[0], "second": pair[1]})
    assert fused.shape == (1, 1, 70, 37)


def test_a_weight_file_is_exported_for_its_own_task(tmp_path, fusecli):
    path = tmp_path / "medical.onnx"
    code, _, err = fusecli("export", "-m", registry.released_path("nano", "ct-mri"), "-o", path)
    assert code == 0, err
    assert onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["task"] == "ct-mri"


@pytest.mark.parametrize("task", ["ir-vis", "pet-mri"])
def test_the_file_alone_tells_how_to_get_the_same_pixels(task, tmp_path, fusecli):
    path = tmp_path / "nano.onnx"
    assert fusecli("export", "-o", path, "--task", task)[0] == 0
    session = onnxruntime.InferenceSession(path)
    about = session.get_modelmeta()
    assert about.custom_metadata_map.get("look") == ("0.15" if task == "ir-vis" else None)
    assert ("stripes" in about.description) == (task == "ir-vis")
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    scene = cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)  # smooth: nothing to mend
    rgb, second = scene[..., :3] / np.float32(255), scene[..., 3] / np.float32(255)

    luma = rgb @ np.float32([0.299, 0.587, 0.114])
    (fused,) = session.run(None, {"first": luma[None, None], "second": second[None, None]})
    fused = fused[0, 0]
    share = 1
    if task == "pet-mri":
        reach = np.minimum((1 - fused) / (rgb.max(-1) - luma + 1e-6), fused / (luma - rgb.min(-1) + 1e-6))
        share = np.clip(reach, 0.5, 1)[..., None]
        assert (share < 1).any()
        assert "within [0.5, 1]" in about.description
    colored = np.clip(fused[..., None] + share * (rgb - luma[..., None]), 0, 1)

    engine = EngineSpec("nano", task, precision="fp32").build()
    wanted = engine.fuse(scene[None, ..., :3], scene[None, ..., 3])[0]
    assert np.abs(np.rint(colored * 255) - wanted).max() <= 1

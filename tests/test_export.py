import numpy as np
import pytest

from fusecli import registry

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

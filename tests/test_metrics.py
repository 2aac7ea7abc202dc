"""Metrics: golden values, independent implementations, and what happens where a metric has no value."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import SHARED

from fusecli import metrics, registry
from fusecli.errors import UsageError
from fusecli.images.opencv import cv2
from fusecli.metrics import fmi, information, structure
from fusecli.metrics.protocols import STANDARD, TANG, VIFB

GOLDEN = SHARED / "data" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden images are not part of the package")


def _rgb(folder: str, name: str) -> np.ndarray:
    return cv2.imread(str(GOLDEN / folder / f"{name}.jpg"), cv2.IMREAD_COLOR)[..., ::-1]


def _golden(protocol: str) -> list[tuple[str, str, dict[str, float]]]:
    if not GOLDEN.is_dir():
        return []
    values = json.loads((GOLDEN / "values.json").read_text(encoding="utf-8"))[protocol]
    return [(method, name, row) for method, rows in values.items() for name, row in rows.items()]


def _noise(shape: tuple[int, ...] = (64, 80), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def _scene(height: int = 180, width: int = 200, seed: int = 0) -> np.ndarray:
    """Smooth shapes with some noise: nearer to a photograph than noise alone."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (8, 9)).astype(np.float32)
    fine = np.random.default_rng(seed + 1).normal(0, 6, (height, width))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + fine, 0, 255).astype(np.uint8)


@needs_golden
@pytest.mark.parametrize(("method", "name", "expected"), _golden("tang"))
def test_tang_gives_the_golden_values(method: str, name: str, expected: dict[str, float]) -> None:
    values = metrics.evaluate(
        "tang", _rgb("vis", name), _rgb("ir", name), _rgb(method, name), [n.removesuffix("_std") for n in expected]
    )
    for metric, value in expected.items():  # printed with eight decimals
        assert values[metric.removesuffix("_std")] == pytest.approx(value, rel=1e-6, abs=5.1e-9), metric


@needs_golden
@pytest.mark.parametrize(("method", "name", "expected"), _golden("vifb"))
def test_vifb_gives_the_golden_values(method: str, name: str, expected: dict[str, float]) -> None:
    values = metrics.evaluate("vifb", _rgb("vis", name), _rgb("ir", name), _rgb(method, name))
    assert set(values) == set(expected)
    for metric, value in expected.items():
        assert values[metric] == pytest.approx(value, rel=5e-5), metric


def test_values_of_a_pair_that_is_always_at_hand() -> None:
    """As measured where the golden values were met, which most checkouts are without."""
    first, second = np.dstack([_scene(seed=seed) for seed in (1, 2, 3)]), _scene(seed=4)
    fused = np.clip(first + 0.5 * second[..., None] - 40, 0, 255).astype(np.uint8)
    expected = {
        "tang": "EN 7.609 SD 50.53 SF 10.62 AG 4.314 MI 2.73 SCD 1.703 VIF 0.5161 Qabf 0.3956 Nabf 0.02047 FMI 0.3944 "
        "SSIM 1.427 MS-SSIM 1.367 CC 0.7295 PSNR 62.9 MSE 0.03338",
        "vifb": "Cross_entropy 0.1699 Entropy 7.509 Mutinf 2.259 Psnr 53.53 Avg_gradient 5.68 Edge_intensity 53.69 "
        "Qabf 0.4118 Variance 66.21 Spatial_frequency 15.21 Rmse 0.2889 Ssim 1.29 Qcb 0.4987 Qcv 512.3",
    }
    for protocol, row in expected.items():
        words = row.split()
        values = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        assert metrics.evaluate(protocol, first, second, fused) == pytest.approx(values, rel=1e-3)


def test_registry_and_formulas_name_the_same_metrics() -> None:
    assert list(TANG) == list(registry.METRICS["tang"])
    assert list(STANDARD) == list(registry.METRICS["standard"])
    assert set(VIFB) == set(registry.METRICS["vifb"])
    down = {
        name for names in registry.METRICS.values() for name, metric in names.items() if not metric.higher_is_better
    }
    assert down == {"Nabf", "MSE", "Cross_entropy", "Rmse", "Qcv"}


def test_ssim_and_psnr_agree_with_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.metrics")
    a, b, fused = _scene(seed=1), _scene(seed=2), _scene(seed=3)
    values = metrics.evaluate("standard", a, b, fused, ["SSIM", "PSNR", "MSE"])
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    expected = [skimage.structural_similarity(x, fused, **options)[1][5:-5, 5:-5].mean() for x in (a, b)]
    assert values["SSIM"] == pytest.approx(np.mean(expected), rel=1e-9)
    mse = np.mean([skimage.mean_squared_error(x, fused) for x in (a, b)])
    assert values["MSE"] == pytest.approx(mse)
    once = metrics.evaluate("standard", a, a, fused, ["PSNR"])["PSNR"]
    assert once == pytest.approx(skimage.peak_signal_noise_ratio(a, fused, data_range=255))


def test_protocols_differ_in_scale_as_documented() -> None:
    a, b, fused = _scene(seed=1), _scene(seed=2), _scene(seed=3)
    tang, standard = (metrics.evaluate(protocol, a, b, fused) for protocol in ("tang", "standard"))
    for name in ("SSIM", "MS-SSIM", "VIF"):
        assert tang[name] == pytest.approx(2 * standard[name])
    assert tang["PSNR"] - standard["PSNR"] == pytest.approx(20 * np.log10(255))
    for name in ("EN", "SD", "SF", "AG", "MI", "SCD", "Qabf", "Nabf", "CC", "FMI"):
        assert tang[name] == pytest.approx(standard[name])


def test_luma_of_tang_is_truncated_and_infrared_is_one_channel() -> None:
    gray = _noise()
    color = np.repeat(gray[..., None], 3, 2)
    tang = metrics.prepare("tang", color, color, color)
    assert (tang.second == gray).all()
    assert (tang.first == np.where(gray > 0, gray.astype(int) - 1, 0)).all()  # 0.9999 v, cut
    standard = metrics.prepare("standard", color, color, color)
    assert (standard.first == gray).all()
    assert (standard.fused == gray).all()


def test_vifb_judges_each_channel_and_gray_in_all() -> None:
    color, gray = np.dstack([_scene(seed=seed) for seed in (1, 2, 3)]), _scene(seed=4)
    names = [name for name in registry.METRICS["vifb"] if name != "Spatial_frequency"]
    for fused in (color[..., ::-1], gray):
        whole = metrics.evaluate("vifb", color, gray, fused, names)
        channels = [
            metrics.evaluate("vifb", color[..., c], gray, fused[..., c] if fused.ndim == 3 else fused, names)
            for c in range(3)
        ]
        assert whole == pytest.approx({name: np.mean([row[name] for row in channels]) for name in names})
    values = [metrics.evaluate("vifb", a, gray, gray, ["Spatial_frequency"]) for a in (color, gray)]
    assert values[0] == values[1]  # depends on the fused image alone


def test_entropy_and_mutual_information_of_known_images() -> None:
    ramp = np.tile(np.arange(256, dtype=np.float64), (16, 1))
    assert information.entropy(ramp) == pytest.approx(8)
    assert information.mutual_information(ramp, ramp) == pytest.approx(8 * np.log(2))
    assert information.mutual_information(ramp, np.zeros_like(ramp)) == 0
    independent = information.mutual_information(ramp, np.repeat(np.arange(16.0)[:, None], 256, 1))
    assert independent == pytest.approx(0, abs=1e-12)


def test_cross_entropy_is_over_the_levels_that_both_images_have() -> None:
    source, fused = np.array([[0.0, 0, 0, 9]]), np.array([[0.0, 5, 5, 5]])
    assert information.cross_entropy(source, fused) == pytest.approx(0.75 * np.log2(3))


def _fmi_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    """The documented definition of FMI, window by window."""

    def entropy(p: np.ndarray) -> float:
        return float(-sum(x * np.log2(x) for x in p.ravel() if x > 0))

    values = []
    for row in range(a.shape[0] - 2):
        for column in range(a.shape[1] - 2):
            x, y = (image[row : row + 3, column : column + 3].ravel().astype(float) for image in (a, b))
            if (x == y).all():
                values.append(1.0)
                continue
            p, q = (np.ones(9) if w.min() == w.max() else (w - w.min()) / (w.max() - w.min()) for w in (x, y))
            p, q = p / p.sum(), q / q.sum()
            joint = np.outer(p, q)
            if np.ptp(p) > 0 and np.ptp(q) > 0:
                correlation = np.corrcoef(p, q)[0, 1]
                fp, fq = p.cumsum()[:, None], q.cumsum()[None]
                cumulative = np.minimum(fp, fq) if correlation >= 0 else np.maximum(fp + fq - 1, 0)
                bound = np.diff(np.diff(np.pad(cumulative, ((1, 0), (1, 0))), axis=0), axis=1)
                position = np.arange(1, 10)
                spread = [np.sqrt(position**2 @ w - (position @ w) ** 2) for w in (p, q)]
                bound_covariance = np.sum(cumulative - fp * fq)
                if abs(bound_covariance) > 1e-7:
                    phi = min(correlation * spread[0] * spread[1] / bound_covariance, 1)
                    joint = phi * np.maximum(bound, 0) + (1 - phi) * joint
            total = entropy(p) + entropy(q)
            values.append(np.clip(2 * (total - entropy(joint)) / total, 0, 1) if total > 0 else 0)
    return float(np.mean(values))


def test_fmi_is_what_its_docstring_says() -> None:
    a, b = _scene(24, 30, seed=1), _scene(24, 30, seed=4)
    a[:8, :8] = b[4:12, 4:12] = 90
    expected = (_fmi_by_loops(a, b) + 1) / 2
    assert fmi.fmi(a.astype(float), b.astype(float), b.astype(float)) == pytest.approx(expected, rel=2e-5)


def test_fmi_does_not_depend_on_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, fused = (_scene(40, 60, seed=seed).astype(float) for seed in (1, 2, 3))
    whole = fmi.fmi(a, b, fused)
    monkeypatch.setattr(fmi, "BAND", 130)
    assert fmi.fmi(a, b, fused) == pytest.approx(whole, rel=1e-6)


def test_identical_images_have_the_ideal_values() -> None:
    image = _scene()
    values = metrics.evaluate("standard", image, image, image, ["SSIM", "MS-SSIM", "VIF", "CC", "FMI", "MSE", "Nabf"])
    assert values == pytest.approx(
        {"SSIM": 1, "MS-SSIM": 1, "VIF": 1, "CC": 1, "FMI": 1, "MSE": 0, "Nabf": 0}, abs=1e-7
    )


def test_order_of_quality_is_seen() -> None:
    a, b = _scene(seed=1), _scene(seed=2)
    good = ((a.astype(int) + b) // 2).astype(np.uint8)
    noisy = np.clip(good + np.random.default_rng(0).normal(0, 25, good.shape), 0, 255).astype(np.uint8)
    for protocol, names in registry.METRICS.items():
        before, after = (metrics.evaluate(protocol, a, b, fused) for fused in (good, noisy))
        contrast = {
            "EN",
            "SD",
            "SF",
            "AG",
            "Entropy",
            "Variance",
            "Avg_gradient",
            "Edge_intensity",
            "Spatial_frequency",
        }
        for name, metric in names.items():
            if name in contrast | {"Cross_entropy", "Qcb", "Qcv", "SCD"}:
                continue  # these reward contrast and noise, or depend on saliency
            better = before[name] - after[name]
            assert (better > 0) == metric.higher_is_better, (protocol, name)


def test_bit_depths_meet_on_one_scale() -> None:
    a, b, fused = (_scene(seed=seed) for seed in (1, 2, 3))
    names = [name for name in registry.METRICS["standard"] if name != "FMI"]
    expected = metrics.evaluate("standard", a, b, fused, names)
    mixed = metrics.evaluate("standard", a.astype(np.uint16) * 257, b, (fused / 255).astype(np.float64), names)
    assert mixed == pytest.approx(expected, rel=1e-9)
    with pytest.raises(metrics.MetricError, match=r"fused.*int64"):
        metrics.evaluate("standard", a, b, fused.astype(np.int64))


def test_all_black_result_has_values() -> None:
    a, b = _scene(seed=1), _scene(seed=2)
    for protocol in ("tang", "standard"):
        values = metrics.evaluate(protocol, a, b, np.zeros_like(a))
        assert np.isfinite(list(values.values())).all()
        assert all(abs(values[name]) < 1e-3 for name in ("EN", "SD", "SF", "AG", "MI", "Qabf", "VIF", "CC", "Nabf"))
    trio = metrics.prepare("vifb", a, b, np.zeros_like(a))
    for name in set(registry.METRICS["vifb"]) - {"Qcb"}:
        assert np.isfinite(metrics.measure("vifb", name, trio))
    with pytest.raises(metrics.MetricError, match=r"Qcb \(vifb\).*constant"):
        metrics.measure("vifb", "Qcb", trio)


@pytest.mark.parametrize(("protocol", "name"), [("tang", "VIF"), ("tang", "Qabf"), ("tang", "Nabf"), ("vifb", "Qcv")])
def test_black_sources_give_a_reason_not_nan(protocol: str, name: str) -> None:
    black = np.zeros((64, 64), np.uint8)
    with pytest.raises(metrics.MetricError, match=f"{name} .*has no value"):
        metrics.evaluate(protocol, black, black, _noise((64, 64)), [name])


def test_a_value_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TANG, "EN", lambda trio: np.nan)
    with pytest.raises(metrics.MetricError, match=r"EN \(tang\) is not finite"):
        metrics.evaluate("tang", *[_noise()] * 3, ["EN"])


@pytest.mark.parametrize("protocol", ["tang", "standard", "vifb"])
def test_the_peak_signal_over_no_error_has_no_value(protocol: str) -> None:
    same = _noise()
    with pytest.raises(metrics.MetricError, match="nothing differs"):
        metrics.evaluate(protocol, same, same, same, ["Psnr" if protocol == "vifb" else "PSNR"])


def test_constant_sources_have_no_vif_and_no_correlation_at_any_level() -> None:
    noise = _noise((64, 64))
    for level in (3, 77, 255):  # whose variances are no 0 once they are rounded
        with pytest.raises(metrics.MetricError, match=r"VIF .*one constant"):
            metrics.evaluate("tang", noise, np.full_like(noise, level), noise, ["VIF"])
    flat = np.full((64, 64, 3), (10, 200, 31), np.uint8)  # of a luma that is no integer
    assert metrics.evaluate("standard", flat, flat[..., 1], flat, ["CC", "SCD"]) == {"CC": 0, "SCD": 0}
    assert metrics.evaluate("standard", flat, noise, noise, ["CC"])["CC"] == pytest.approx(0.5)  # of 0 and 1


def test_bad_images_are_named() -> None:
    a = _noise()
    with pytest.raises(metrics.MetricError, match=r"second.*64×64.*80×64"):
        metrics.evaluate("tang", a, a[:, :64], a)
    with pytest.raises(metrics.MetricError, match=r"fused: has shape \(64,\)"):
        metrics.evaluate("tang", a, a, a[:, 0])
    nan = np.full(a.shape, np.nan, np.float32)
    with pytest.raises(metrics.MetricError, match=r"fused.*NaN"):
        metrics.evaluate("tang", a, a, nan)
    with pytest.raises(metrics.MetricError, match=r"fused: has float values from 0 to 255; scale them to \[0, 1\]"):
        metrics.evaluate("tang", a, a, np.linspace(0, 255, a.size).reshape(a.shape))
    with pytest.raises(metrics.MetricError, match=r"fused: has float values from -0.5 to 1; scale them to \[0, 1\]"):
        metrics.evaluate("tang", a, a, np.linspace(-0.5, 1, a.size).reshape(a.shape))
    with pytest.raises(metrics.MetricError, match=r"first.*shape"):
        metrics.evaluate("tang", np.zeros((4, 4, 4), np.uint8), a, a)
    for name, side in (("SSIM", 11), ("MS-SSIM", 161), ("VIF", 41), ("FMI", 3), ("AG", 2)):
        small = _noise((side - 1, 200))
        with pytest.raises(metrics.MetricError, match=f"{name} .*{side}×{side}"):
            metrics.evaluate("tang", small, small, small, [name])
        exact = _noise((side, side)), _noise((side, side), 1), _noise((side, side), 2)
        assert np.isfinite(metrics.evaluate("tang", *exact, [name])[name])
    thermal = _noise((120, 160))  # the size of many cameras
    with pytest.raises(metrics.MetricError, match=r"MS-SSIM .*161×161.*names= takes the metrics that are wanted"):
        metrics.evaluate("tang", thermal, thermal, thermal)


def test_tensors_count_as_arrays() -> None:
    trio = np.random.default_rng(0).random((3, 48, 48), np.float32)
    values = [metrics.evaluate("tang", *images, ["VIF", "SSIM"]) for images in (trio, torch.from_numpy(trio))]
    assert values[0] == values[1]


def test_unknown_names_suggest_the_nearest() -> None:
    a = _noise()
    with pytest.raises(UsageError, match="did you mean Qabf"):
        metrics.evaluate("tang", a, a, a, ["qab"])
    with pytest.raises(UsageError, match="did you mean vifb"):
        metrics.evaluate("vifbb", a, a, a)


def test_ms_ssim_is_what_its_authors_compute() -> None:
    """Their msssim.m with every window written out; 205×233 is odd at each scale, where the last line is repeated."""
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x**2) / 4.5)
    window /= window.sum()

    def factors(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        a, b = (np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (a, b))
        mean_a, mean_b = ((image * window).sum((2, 3)) for image in (a, b))
        from_a, from_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
        var_a, var_b, cov = ((p * q * window).sum((2, 3)) for p, q in ((from_a,) * 2, (from_b,) * 2, (from_a, from_b)))
        contrast = (2 * cov + 58.5225) / (var_a + var_b + 58.5225)
        return contrast.mean(), (contrast * (2 * mean_a * mean_b + 6.5025) / (mean_a**2 + mean_b**2 + 6.5025)).mean()

    def halved(image: np.ndarray) -> np.ndarray:
        size = [range(0, length, 2) for length in image.shape]
        pad = np.pad(image, ((0, 1), (0, 1)), mode="symmetric")
        return np.array([[pad[y : y + 2, x : x + 2].mean() for x in size[1]] for y in size[0]])

    a = _scene(205, 233, seed=1).astype(float)
    fused, inverted = 0.6 * a + 0.4 * _scene(205, 233, seed=2), 255 - a
    expected, one, other = 1.0, a, fused
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        expected *= factors(one, other)[0] ** weight
        one, other = halved(one), halved(other)
    expected *= factors(one, other)[1] ** 0.1333
    assert structure.ms_ssim(a, fused) == pytest.approx(expected, rel=1e-9)
    assert structure.ms_ssim(a, inverted) == 0  # each factor is negative

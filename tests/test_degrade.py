"""Degradations: severity means something, seeds decide everything, clean samples stay untouched."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusecli.errors import UsageError  # noqa: E402
from fusecli.text.events import KINDS, severity_vector  # noqa: E402
from fusecli.training.degrade import (  # noqa: E402
    COMBINATIONS,
    DEGRADATIONS,
    KERNEL,
    _line,
    apply,
    degrade,
    degrade_pair,
)

CASES = [(side, kind) for side, made in DEGRADATIONS.items() for kind in made]


@pytest.fixture(scope="module")
def scene():
    """Four samples of 64×80: smooth shading with a sharp bright block and fine texture, black border."""
    generator = torch.Generator().manual_seed(5)
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 80), indexing="ij")
    base = 0.25 + 0.4 * y * x + 0.1 * torch.rand(4, 1, 64, 80, generator=generator)
    base[..., 20:40, 30:50] += 0.3
    base[..., :6, :] = 0
    return (base.clamp(0, 1) * 255).round() / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("side", "kind"), CASES)
def test_more_severity_is_further_from_clean(scene, side, kind):
    distance = []
    for severity in (0.25, 0.5, 1.0):
        out = apply(scene, side, {kind: torch.full((4,), severity)}, seeded())
        assert out.shape == scene.shape
        assert out.min() >= 0
        assert out.max() <= 1
        assert torch.allclose(out * 255, (out * 255).round(), atol=1e-3)
        distance.append((out - scene).abs().mean().item())
    assert distance[0] < distance[1] < distance[2]
    assert distance[1] > 0.004


@pytest.mark.parametrize(("side", "kind"), CASES)
def test_the_functions_themselves_are_the_identity_at_severity_zero(scene, side, kind):
    out = DEGRADATIONS[side][kind](scene, torch.zeros(4, 1, 1, 1), seeded())
    assert torch.allclose(out, scene, atol=1e-5)


@pytest.mark.parametrize("side", list(DEGRADATIONS))
def test_seed_decides_everything_and_clean_samples_are_untouched(scene, side):
    batch = scene.repeat(8, 1, 1, 1)
    first, events = degrade(batch, side, seeded(1))
    again, same_events = degrade(batch, side, seeded(1))
    other, other_events = degrade(batch, side, seeded(2))
    assert torch.equal(first, again)
    assert events == same_events
    assert not torch.equal(first, other)
    assert events != other_events
    changed = (first != batch).flatten(1).any(1).tolist()
    assert changed == [bool(sample) for sample in events]
    assert not all(changed)
    allowed = [set(kinds) for _, kinds in COMBINATIONS[side]]
    for sample in events:
        assert all(0.2 <= item.severity <= 1 and item.side == side for item in sample)
        assert not sample or {item.kind for item in sample} in allowed


def test_clean_share_and_severity_range_are_obeyed(scene):
    batch = scene[:1].expand(400, 1, 64, 80)
    untouched, events = degrade(batch, "vis", seeded(), clean_share=1.0)
    assert torch.equal(untouched, batch)
    assert not any(events)
    _, events = degrade(batch, "ir", seeded(), clean_share=0.4, severity=(0.6, 0.7))
    assert 0.3 < sum(not sample for sample in events) / 400 < 0.5
    assert all(0.6 <= item.severity <= 0.7 for sample in events for item in sample)
    assert {item.kind for sample in events for item in sample} == {
        kind for _, kinds in COMBINATIONS["ir"] for kind in kinds
    }


def test_each_sample_has_its_own_severity(scene):
    severities = torch.tensor([0.0, 0.3, 0.6, 0.9])
    out = apply(scene, "vis", {"low light": severities}, seeded())
    means = out.mean((1, 2, 3)).tolist()
    assert torch.equal(out[0], scene[0])
    assert means[0] > means[1] > means[2] > means[3]


def test_over_exposure_clips_the_announced_share():
    ramp = torch.linspace(0, 0.8, 10_000).view(1, 1, 100, 100)
    out = apply(ramp, "vis", {"over exposure": torch.tensor([0.8])}, seeded())
    assert (out == 1).float().mean().item() == pytest.approx(0.4, abs=0.01)


def test_motion_is_a_line_of_the_announced_length():
    lengths, angles = torch.full((2, 1, 1, 1), 4.0), torch.tensor([0, torch.pi / 2]).view(2, 1, 1, 1)
    across, down = _line(lengths, lengths, angles)[:, 0]
    expected = torch.zeros(KERNEL, KERNEL)
    expected[10, 8:13] = torch.tensor([0.5, 1, 1, 1, 0.5]) / 4
    torch.testing.assert_close(across, expected)
    torch.testing.assert_close(down, expected.mT)


def test_ghosts_of_motion_add_no_light(scene):
    out = DEGRADATIONS["mri"]["artifact"](scene, torch.ones(4, 1, 1, 1), seeded())
    torch.testing.assert_close(out.mean((1, 2, 3)), scene.mean((1, 2, 3)))
    assert (out - scene).abs().mean() > 0.01


@pytest.mark.parametrize("side", ["vis", "ir", "ct", "pet", "mri"])
def test_noise_has_the_same_strength_at_mid_grey_on_every_side(side):
    grey = torch.full((8, 1, 64, 64), 0.5)
    out = apply(grey, side, {"noise": torch.full((8,), 0.8)}, seeded())
    inner = out[..., 8:-8, 8:-8]  # replicated borders correlate
    assert (inner - inner.mean()).std().item() == pytest.approx(0.8 * 0.12, rel=0.08)


def test_black_background_of_a_scan_stays_black():
    scan = torch.zeros(1, 1, 96, 96)
    scan[..., 30:60, 30:60] = 0.6
    for side, kinds in {
        "ct": ("low contrast", "noise", "artifact"),
        "pet": ("low contrast", "noise", "artifact"),
    }.items():
        for kind in kinds:
            out = apply(scan, side, {kind: torch.ones(1)}, seeded())
            assert out[..., :15, :].max() == 0, (side, kind)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (33, 18)])
def test_images_of_any_size_are_degraded(size):
    for side, made in DEGRADATIONS.items():
        for kind in made:
            out = apply(torch.rand(2, 1, *size, generator=seeded()), side, {kind: torch.tensor([0.5, 1.0])}, seeded())
            assert out.shape == (2, 1, *size)
            assert out.isfinite().all()


def test_unknown_kind_on_a_side_is_refused(scene):
    with pytest.raises(UsageError, match="unknown degradation of ct 'haze'"):
        apply(scene, "ct", {"haze": torch.ones(4)}, seeded())
    for act in (degrade, lambda images, side, generator: apply(images, side, {}, generator)):
        with pytest.raises(UsageError, match="unknown side 'visible'"):
            act(scene, "visible", seeded())
        for other in (scene[:, 0], scene.repeat(1, 3, 1, 1), (scene * 255).byte()):
            with pytest.raises(ValueError, match="must be float luma of N×1×H×W"):
                act(other, "vis", seeded())


def test_severity_vector_tells_kind_and_side(scene, monkeypatch):
    monkeypatch.setitem(COMBINATIONS, "vis", ((1, ("haze",)),))
    monkeypatch.setitem(COMBINATIONS, "ir", ((1, ("noise",)),))
    _, (first, *_) = degrade(scene, "vis", seeded(), clean_share=0, severity=(0.5, 0.5))
    _, (second, *_) = degrade(scene, "ir", seeded(), clean_share=0, severity=(0.7, 0.7))
    assert [item.type for item in first + second] == ["haze", "infrared noise"]
    vector = severity_vector(first + second, ("vis", "ir"))
    assert vector[KINDS.index("haze")] == pytest.approx(0.5)
    assert vector[len(KINDS) + KINDS.index("noise")] == pytest.approx(0.7)
    assert sum(value > 0 for value in vector) == 2


def test_a_name_that_is_no_unicode_decides_as_well(scene):
    plane = np.rint(scene[0, 0].numpy() * 255).astype(np.uint8)
    first, second = (degrade_pair(plane, plane, ("vis", "ir"), "bad\udcff") for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[2] == second[2] != []

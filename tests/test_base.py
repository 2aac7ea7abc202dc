import dataclasses

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import SAMPLES

from fusecli import registry
from fusecli.errors import UsageError
from fusecli.models import checkpoint
from fusecli.models.base import Base, Block
from fusecli.models.nano import Nano
from fusecli.stream.engine import Engine
from fusecli.training.batches import Batches
from fusecli.training.data import LumaPair, PairSet
from fusecli.training.loop import Run
from fusecli.training.recipe import Recipe

CPU = torch.device("cpu")
TINY_NANO = {"fine": 4, "middle": 4, "coarse": 4, "steer": 8, "look": 0.15}
TINY = {"widths": [8, 8, 8], "blocks": [1, 1, 1], "steer": 8}
RECIPE = Recipe(
    train={"ir-vis": ["set"]}, architecture="base", model=TINY, patch=48, batch=6, degrade=0.8, lr=2e-3, looks=True
)


def perturbed(network: Base) -> Base:
    """Random weights throughout: properties of the structure must not depend on training."""
    torch.manual_seed(0)
    nano = network.nano
    steering = [
        *nano.steer[-1].parameters(),
        *(p for m in network.modules() if isinstance(m, Block) for p in m.steer.parameters()),
    ]
    for parameter in (nano.head.weight, nano.smooth.weight, network.head, network.level, *steering):
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def base() -> Base:
    return perturbed(Base({"look": 0.15}))


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("nano") / "nano.safetensors"
    nano = Nano(**TINY_NANO)
    with torch.no_grad():
        nano.head.bias[0] = 1  # more of the first source, so that it matters which is which
    checkpoint.save(path, nano, "nano", TINY_NANO, ["ir-vis"])
    return str(path)


@pytest.fixture(scope="module")
def data() -> dict[str, PairSet]:
    rng = np.random.default_rng(0)
    smooth = [cv2.GaussianBlur(rng.random((80, 96)).astype(np.float32), (0, 0), 3) for _ in range(4)]
    images = [torch.from_numpy(cv2.normalize(each, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)) for each in smooth]
    pairs = [LumaPair("ir-vis/set/0", *images[:2]), LumaPair("ir-vis/set/1", *images[2:])]
    return {"ir-vis": PairSet(registry.TASKS["ir-vis"], pairs, "")}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (199, 111)])
def test_constant_pair_gives_constant_result_of_the_same_size(base, size):
    with torch.inference_mode():
        fused = base(torch.full((1, 1, *size), 0.3), torch.full((1, 1, *size), 0.7))
        assert (fused - base.nano(torch.full((1, 1, *size), 0.3), torch.full((1, 1, *size), 0.7))).abs().max() > 1e-3
    assert fused.shape[-2:] == size
    assert fused.max() - fused.min() < 1e-4


@pytest.mark.parametrize("narrow", [False, True])
def test_nothing_beyond_the_halo_is_seen(base, narrow):
    size, at = 384, 192
    pair = torch.rand(2, 1, 1, size, size, generator=torch.Generator().manual_seed(1))
    deep = perturbed(Base({"look": 0.15}, narrow=narrow))
    context = deep.context(*pair)
    pair.requires_grad_(True)
    deep.train().requires_grad_(False)
    deep.aim = deep.nano.forward  # with gradients
    deep(pair[0], pair[1], context)[..., at : at + 8, at : at + 8].sum().backward()
    seen = pair.grad.abs().amax((0, 1, 2))
    rows = seen.amax(1).nonzero()
    assert at - base.halo <= rows.min() <= at - base.halo + 48  # no more than the halo, and not much less
    assert rows.max() < at + 8 + base.halo


def test_untrained_it_gives_the_result_of_nano():
    base = Base({"look": 0.15, "mend": True}).eval()
    assert (base.look, base.mends) == (0.15, True)
    pair = torch.rand(2, 1, 1, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(base(*pair), base.nano(*pair))
        base.look = 1.0
        assert torch.equal(base.context(*pair), base.context(*pair, torch.ones(1)))


def test_of_tiles_comes_what_comes_of_the_whole(base):
    first, second = np.random.default_rng(0).integers(0, 256, (2, 1, 80, 208), np.uint8)
    whole = Engine(base, "cpu", "fp32", tile=0).fuse(first, second)
    tiled = Engine(base, "cpu", "fp32", tile=112).fuse(first, second)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_it_learns_to_make_of_damaged_sources_what_nano_makes_of_clean_ones(released, data, tmp_path):
    recipe = dataclasses.replace(RECIPE, init=released, steps=50, val_every=50, ema=0.9)
    run = Run(recipe, tmp_path, device=CPU)
    nano = {name: value.clone() for name, value in run.network.nano.state_dict().items()}
    batches = Batches(recipe, data, network=run.network)
    probe = batches(1000, CPU)
    assert probe.target is None
    assert any(probe.events)
    aim = checkpoint.load(released, "ir-vis")(probe.clean_first, probe.clean_second, probe.clean_context)
    torch.testing.assert_close(probe.aimed_by(run.network).aim, aim.detach())

    def loss() -> float:
        return sum(run.objective(run.average, batches(step, CPU)).item() for step in range(1000, 1005))

    before = loss()
    run.fit(batches, {})
    assert loss() < 0.98 * before
    for name, value in run.network.nano.state_dict().items():
        assert torch.equal(value, nano[name]), name
    again = checkpoint.load(str(tmp_path / "last.pt"), "ir-vis")
    assert isinstance(again, Base)
    assert again.look == 0.15


def test_it_starts_from_a_nano_or_a_base(released, tmp_path):
    with pytest.raises(UsageError, match="base starts from a nano; add it, as --set init=nano"):
        Run(RECIPE, tmp_path / "none", device=CPU)
    run = Run(dataclasses.replace(RECIPE, init=released), tmp_path / "first", device=CPU)
    assert run.model["nano"] == TINY_NANO
    torch.nn.init.normal_(run.average.head)
    start = run.save("last.pt")
    again = Run(dataclasses.replace(RECIPE, init=str(start)), tmp_path / "second", device=CPU)
    assert torch.equal(again.network.head, run.average.head)
    with pytest.raises(UsageError, match="is no nano, which the recipe trains"):
        Run(
            dataclasses.replace(RECIPE, init=str(start), architecture="nano", model={}, looks=False),
            tmp_path / "third",
            device=CPU,
        )


def test_gradients_reach_all_but_nano():
    network = perturbed(Base(TINY_NANO, **TINY)).train()
    network(*torch.rand(2, 2, 1, 24, 40)).square().sum().backward()
    silent = {name for name, item in network.named_parameters() if item.grad is None or not item.grad.abs().max() > 0}
    assert silent == {f"nano.{name}" for name, _ in network.nano.named_parameters()}


def test_the_aim_is_nano_s_result_in_use_while_training():
    base = Base(TINY_NANO, **TINY).train()
    base.nano.head.bias[1] = 2.0  # far beyond white
    pair = torch.rand(2, 1, 1, 24, 40)
    assert torch.equal(base.aim(*pair, base.context(*pair)), torch.ones(1, 1, 24, 40))


def test_it_costs_a_tenth_of_the_teacher():
    with torch.device("meta"):
        counts = [
            sum(item.numel() for item in checkpoint.build(name, config).parameters())
            for name, config in (("base", {"nano": {"middle": 24, "coarse": 32}}), ("teacher", {}))
        ]
    assert counts[0] <= counts[1] / 10
    assert counts[0] * 4 < 10e6  # bytes of a released file


@pytest.mark.parametrize(
    "config", [{"widths": [8, 8]}, {"blocks": [0, 1, 1]}, {"steer": 0}, {"nano": {"fine": 0}}, {"nano": {"look": 7}}]
)
def test_sizes_without_sense_are_named(config):
    with pytest.raises(UsageError, match="architecture base"):
        checkpoint.build("base", config)
    assert [checkpoint.build("nano", {"look": look}).look for look in (0, 1)] == [0, 1]  # ends that make sense


@pytest.mark.parametrize("task", list(registry.TASKS))
def test_the_released_one_is_the_released_nano_where_nothing_is_wrong(task):
    base, nano = checkpoint.load("base", task), checkpoint.load("nano", task)
    assert all(torch.equal(value, base.nano.state_dict()[name]) for name, value in nano.state_dict().items())
    first, second = scene(task)
    fused, plain = (Engine(model, "cpu", "fp32").fuse(first[None], second[None], None)[0] for model in (base, nano))
    assert np.abs(fused - plain).mean() < 1.5 / 255
    black = np.maximum(first, second) == 0
    assert not black.any() or fused[black].mean() < 1 / 255


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        ("nano", "ir-vis", [120.66, 45.66, 115.91, 41.06, 98.91, 30.85, 115.07, 36.1]),
        ("base", "ir-vis", [120.66, 45.29, 115.9, 40.88, 98.93, 30.73, 115.05, 35.8]),
        ("nano", "pet-mri", [34.13, 31.99, 31.35, 31.42, 34.33, 34.6, 34.76, 31.41]),
        ("base", "pet-mri", [31.32, 29.19, 28.91, 29.44, 31.4, 32.07, 31.95, 29.16]),
    ],
)
def test_what_was_released_fuses_as_it_did(name, task, expected):
    """Mean and spread, in levels, of the quarters of a pair with a dark and noisy side."""
    first, second = (side[-192:, -160:] for side in scene(task))
    second = (0.3 * second + 0.04 * np.random.default_rng(0).standard_normal(second.shape)).clip(0, 1)
    engine = Engine(checkpoint.load(name, task), "cpu", "fp32")
    fused = 255 * engine.fuse(first[None], second[None].astype(np.float32), None)[0]
    quarters = [part for half in np.array_split(fused, 2) for part in np.array_split(half, 2, axis=1)]
    found = [value for part in quarters for value in (part.mean(), part.std())]
    assert found == pytest.approx(expected, abs=0.1)


def scene(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Both sources of a rendered pair, H×W in [0, 1]."""
    if task == "ir-vis":
        sides = [cv2.imread(str(SAMPLES / side / "day_street.png"), cv2.IMREAD_GRAYSCALE) for side in ("vis", "ir")]
        return sides[0] / np.float32(255), sides[1] / np.float32(255)
    planes = [np.asanyarray(nib.load(SAMPLES / name / "head.nii.gz").dataobj) for name in ("pet", "mr")]
    pet, mri = (plane[..., plane.shape[2] // 2].astype(np.float32) / plane.max() for plane in planes)
    return cv2.resize(pet, mri.shape[::-1]), mri

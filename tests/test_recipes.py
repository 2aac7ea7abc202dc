"""Recipes of the released weights: they go on from these with the values of the last run of their history."""

import dataclasses
import os
import re
import subprocess

import pytest
import torch

from fusecli import registry
from fusecli.models import checkpoint
from fusecli.training.loop import Run
from fusecli.training.recipe import Recipe

# The functions that all scripts use, and the script of each weight file.
FUNCTIONS, *RUNS = re.findall(r"```sh\n(.*?)```", (registry.WEIGHTS_DIR / "HISTORY.md").read_text("utf-8"), re.DOTALL)
STEMS = list(registry.released())
BY_HAND = re.compile(r"^# .*[Bb]y hand, (runs/\S+) (?:was narrowed to|became) (runs/\S+)\.$", re.MULTILINE)


def recipe_of(stem: str) -> Recipe:
    return Recipe.read(registry.WEIGHTS_DIR / registry.released()[stem]["recipe"])


@pytest.mark.parametrize("stem", STEMS)
def test_a_recipe_starts_from_the_released_weights(stem, tmp_path):
    card, recipe = registry.released()[stem], recipe_of(stem)
    assert (recipe.init, recipe.tasks, recipe.seed) == (card["name"], card["tasks"], card["seed"])
    run = Run(recipe, tmp_path, device=torch.device("cpu"))
    assert run.model == card["config"]
    released = checkpoint.load(card["name"], recipe.tasks[0]).state_dict()
    assert all(torch.equal(tensor, released[name]) for name, tensor in run.network.state_dict().items())


@pytest.mark.parametrize(("stem", "script"), list(zip(STEMS, RUNS, strict=True)), ids=STEMS)
def test_every_run_of_the_history_can_be_run_up_to_the_recipe(stem, script, tmp_path):
    """With programs in place of fusecli and python that only print what they are given."""
    for name in ("fusecli", "python"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf \'%s\\t\' "${0##*/}" "$@"; echo\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-e", "-c", FUNCTIONS + script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    made, recipe = {"", "nano"}, None
    by_hand = dict(BY_HAND.findall(script))
    for line in done.stdout.splitlines():
        program, *words = line.rstrip("\t").split("\t")
        if program == "python":
            _, name, *parts = words
            assert {f"runs/{part}.safetensors" for part in parts[::2]} <= made, line
            assert sum(map(float, parts[1::2])) == pytest.approx(1), line
            new = [f"runs/{name}.safetensors"]
        else:
            options = list(zip(words[1::2], words[2::2], strict=True))
            recipe = Recipe.read(tmp_path / "common.toml", [value for option, value in options if option == "--set"])
            assert recipe.init in made, line
            folder = dict(options)["-o"]
            new = [f"{folder}/{recipe.architecture}.safetensors", f"{folder}/last.pt"]
        made.update(new, [by_hand[path] for path in new if path in by_hand])
    assert recipe_of(stem) == dataclasses.replace(recipe, init=registry.released()[stem]["name"], model={})

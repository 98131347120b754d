from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from reasoner_rl.errors import DataError
from reasoner_rl.observability.curves import (
    BLUE,
    SKY,
    VERMILION,
    Series,
    _components,
    plot_curves,
    read_history,
    smooth,
)

ONLINE: dict[str, Callable[[int], float]] = {
    "reward/accuracy": lambda step: 1 - math.exp(-step / 10),
    "reward/score": lambda step: 1 - 2 * math.exp(-step / 10),
    "response/length_mean": lambda step: 20 + step,
    "response/truncated_share": lambda step: 0.1 / step,
    "policy/entropy": lambda step: 1 / step,
    "policy/clip_fraction_low": lambda step: 0.001,
    "policy/clip_fraction_high": lambda step: 0.002,
    "groups/kept": lambda step: 32,
    "groups/dropped_right": lambda step: step,
    "groups/dropped_wrong": lambda step: 10,
}
REWARD_MODEL: dict[str, Callable[[int], float]] = {
    "reward_model/loss": lambda step: 0.7 - 0.1 * math.exp(-step / 10),
    "reward_model/score": lambda step: 0.1 * step,
    "reward_model/deviation": lambda step: 1.0,
}


def write_metrics(path: Path, names: list[str], steps: int = 30) -> Path:
    lines = ['{"step": 0, "eval/test/accuracy": 0.4}'] if "reward/accuracy" in names else []
    lines += [
        json.dumps({"step": s} | {name: (ONLINE | REWARD_MODEL)[name](s) for name in names})
        for s in range(1, steps + 1)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def has_ink(image: np.ndarray, hex_colour: str) -> bool:
    colour = np.array([int(hex_colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(image[..., :3] - colour).max(axis=-1) < 0.02).sum()) > 50


def test_six_panels_in_two_rows_each_with_its_curve(tmp_path: Path) -> None:
    out = tmp_path / "figures" / "curves.png"
    plot_curves(write_metrics(tmp_path / "metrics.jsonl", list(ONLINE)), out)
    assert png_size(out) == (3 * 640, 2 * 496)
    image = imread(out)
    for row in range(2):
        for column in range(3):
            panel = image[row * 496 : (row + 1) * 496, column * 640 : (column + 1) * 640]
            assert has_ink(panel, "#0072B2"), (row, column)
    # The wrong groups are drawn in the last panel, the low clip fraction in the one before.
    assert has_ink(image[496:, 1280:], "#E69F00")
    assert has_ink(image[496:, 640:1280], "#D55E00")
    assert [file.name for file in out.parent.iterdir()] == ["curves.png"]


def test_kl_gradient_norm_components_and_equal_rewards_have_curves(tmp_path: Path) -> None:
    names = ("policy/kl", "policy/approx_kl", "train/grad_norm", "groups/equal_share")
    row = dict.fromkeys((*names, "reward/score", "reward/accuracy"), 0.5)
    parts = {"reward/math": 0.5, "reward/overlong": -0.1, "reward/score_std": 0.4, "reward/format": 0.0}
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, **row, **parts}) + "\n" for step in (1, 2)))
    assert _components(read_history(path)) == ["reward/math", "reward/overlong"]
    plot_curves(path, tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (
        3 * 640,
        2 * 496,
    )  # accuracy, reward, kl, gradient norm, equal
    image = imread(tmp_path / "curves.png")
    assert has_ink(image[:496, 640:1280], VERMILION), "a component beside the score"
    assert has_ink(image[:496, 1280:], SKY), "two divergences"


def test_several_runs_are_drawn_over_each_other(tmp_path: Path) -> None:
    names = ["reward/accuracy", "reward/score", "response/length_mean"]
    runs = {
        "one": write_metrics(tmp_path / "one.jsonl", names),
        "two": write_metrics(tmp_path / "two.jsonl", ["reward/score", "policy/entropy"], steps=5),
    }
    plot_curves(runs, tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (
        3 * 640,
        2 * 496,
    )  # held out, training, reward, length, entropy
    image = imread(tmp_path / "curves.png")
    reward, entropy = image[:496, 1280:], image[496:, 640:1280]
    assert has_ink(reward, BLUE)
    assert has_ink(reward, VERMILION)
    assert has_ink(entropy, VERMILION)
    assert not has_ink(entropy, BLUE)
    with pytest.raises(DataError, match=r"none\.jsonl: none of the metrics"):
        plot_curves({"none": tmp_path / "none.jsonl"}, tmp_path / "no.png")


@pytest.mark.parametrize(
    ("names", "size"),
    [
        (["policy/entropy"], (640, 496)),
        (["reward/accuracy", "reward/score"], (1280, 496)),
        (["reward_model/loss", "reward_model/score", "reward_model/deviation"], (1280, 496)),
        (["reward/accuracy", "reward/score", "policy/entropy", "groups/kept"], (1280, 992)),
    ],
)
def test_only_panels_with_data(tmp_path: Path, names: list[str], size: tuple[int, int]) -> None:
    plot_curves(write_metrics(tmp_path / "metrics.jsonl", names, steps=5), tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == size


def test_sft_is_a_single_loss_panel(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "sft/loss": 2.0}\n{"step": 2, "sft/loss": 1.0}\n{"step": 3, "sft/lo')
    plot_curves(metrics, tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (640, 496)
    assert has_ink(imread(tmp_path / "curves.png"), "#0072B2")


def test_preference_runs_have_a_loss_and_the_implicit_rewards(tmp_path: Path) -> None:
    row = {"step": 1, "preference/loss": 0.6, "rewards/rejected": -0.1}  # of KTO, without a good answer
    for logged in (row, row | {"rewards/chosen": 0.1}):
        (tmp_path / "metrics.jsonl").write_text(json.dumps(logged) + "\n")
        plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
        assert png_size(tmp_path / "curves.png") == (1280, 496)
        assert has_ink(imread(tmp_path / "curves.png"), VERMILION)


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl: none of the metrics"):
        plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_history_merges_lines_of_a_step_and_skips_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "a": 1.0}\n{"step": 1, "a": null, "b": 5.0}\n'
        '{"step": 2, "a": 3.0}\n{"step": 1, "a": 4.0}\n'
    )
    assert read_history(path) == {"a": Series([1, 2], [4.0, 3.0]), "b": Series([1], [5.0])}


def test_smooth_is_a_centred_average() -> None:
    assert smooth([0.0, 3.0, 6.0, 0.0]) == [1.5, 3.0, 3.0, 3.0]

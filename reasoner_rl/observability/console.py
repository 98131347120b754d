"""The one line that the console shows of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.text import Text

PHASES = ("generate", "reward", "prepare", "update", "sync")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a step's line.

    drop: where the line is too long, the part with the highest number goes first; 0: never. shorter: what stands in
    its place before that.
    """

    text: Text
    drop: int = 0
    shorter: Text | None = None


def step_line(step: int, total_steps: int, values: Mapping[str, float], width: int) -> Text | None:
    """Return the line of a step, without what was not measured, or None if nothing that it shows was.

    width: most characters. To keep to it the least important parts are left out, beginning with speeds and seconds.
    Accuracies, rewards and losses are always shown, also where they take more.
    """
    parts = [
        _number(values, "reward/accuracy", "accuracy {:.3f}", "bold green"),
        Part(Text("accuracy unknown", "yellow")) if values.get("reward/accuracy_unknown") else None,
        _number(values, "reward/score", "reward {:.3f}"),
        _number(values, "reward_model/score", "reward model {:.3f}"),
        _number(values, "reward_model/loss", "loss {:.4f}", "bold green"),
        _number(values, "sft/loss", "loss {:.4f}", "bold green"),
        _number(values, "preference/loss", "loss {:.4f}", "bold green"),
        _number(values, "rewards/accuracies", "pairs right {:.3f}"),
        _number(values, "rewards/margins", "margin {:.3g}", drop=4),
        _number(values, "preference/kl", "kl {:.3g}", drop=3),
        *_evaluations(values),
        _length(values),
        _groups(values),
        _number(values, "policy/entropy", "entropy {:.3f}", drop=3),
        _clip(values),
        _number(values, "train/grad_norm", "grad norm {:.3g}", drop=5),
        _seconds(values),
        _speed(values),
    ]
    shown = [part for part in parts if part is not None]
    if not shown:
        return None
    number = Text(f"step {step:>{len(str(total_steps))}}/{total_steps}", "bold")
    return _fitted([Part(number), *shown], width)


def _fitted(parts: list[Part], width: int) -> Text:
    """The parts as one line, of those that ``width`` characters have room for."""
    while True:
        line = Text("  ").join(part.text for part in parts)
        least = max(parts, key=lambda part: part.drop)
        if len(line) <= width or least.drop == 0:
            return line
        place = parts.index(least)
        parts[place : place + 1] = [Part(least.shorter, least.drop)] if least.shorter is not None else []


def is_of_evaluation(name: str) -> bool:
    """Whether a metric is of held-out problems or pairs."""
    return name.startswith("eval/")


def _evaluations(values: Mapping[str, float]) -> list[Part]:
    """Accuracy on each held-out set, or the score where accuracy is not known."""
    found = []
    for name, value in values.items():
        _, _, rest = name.partition("eval/")
        dataset, _, measured = rest.rpartition("/")
        if is_of_evaluation(name) and (
            measured == "accuracy" or (measured == "score" and f"eval/{dataset}/accuracy" not in values)
        ):
            found.append(Part(Text(f"{dataset} {measured} {value:.3f}", "bold cyan")))
    return found


def _number(
    values: Mapping[str, float], name: str, template: str, style: str = "", drop: int = 0
) -> Part | None:
    return Part(Text(template.format(values[name]), style), drop) if name in values else None


def _length(values: Mapping[str, float]) -> Part | None:
    if "response/length_mean" not in values:
        return None
    text = f"length {values['response/length_mean']:.0f}"
    if "response/truncated_share" in values:
        text += f" ({values['response/truncated_share']:.0%} cut)"
    return Part(Text(text), drop=1)


def _groups(values: Mapping[str, float]) -> Part | None:
    if "groups/kept" not in values:
        return None
    text = f"groups {values['groups/kept']:.0f} kept"
    reasons = ("groups/dropped_right", "groups/dropped_wrong", "groups/dropped_alike")
    dropped = [values[name] for name in reasons if name in values]
    if dropped:
        text += f" {sum(dropped):.0f} dropped"
    return Part(Text(text), drop=2)


def _clip(values: Mapping[str, float]) -> Part | None:
    shares = [
        f"{values[name]:.2%} {side}"
        for side in ("low", "high")
        if (name := f"policy/clip_fraction_{side}") in values
    ]
    return Part(Text("clip " + " ".join(shares)), drop=4) if shares else None


def _seconds(values: Mapping[str, float]) -> Part | None:
    phases = ", ".join(
        f"{phase} {values[f'time/{phase}']:.1f}" for phase in PHASES if f"time/{phase}" in values
    )
    if "time/step" in values:
        text = f"{values['time/step']:.1f} s"
        alone = Text(text, "dim")
        return Part(Text(f"{text} ({phases})", "dim"), 6, alone) if phases else Part(alone, 6)
    return Part(Text(f"{phases} s", "dim"), 6) if phases else None


def _speed(values: Mapping[str, float]) -> Part | None:
    speeds = [
        f"{label} {values[name]:,.0f}"
        for label in ("generate", "update")
        if (name := f"speed/{label}_tokens_per_second") in values
    ]
    return Part(Text("tokens/s " + ", ".join(speeds), "dim"), drop=7) if speeds else None

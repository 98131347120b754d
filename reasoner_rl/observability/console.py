"""The one line that the console shows of a step."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

PHASES = ("generate", "reward", "prepare", "update", "sync")


def step_line(step: int, total_steps: int, values: Mapping[str, float]) -> Text | None:
    """Return the line of a step, without what was not measured, or None if nothing that it shows was."""
    parts = [
        _number(values, "reward/accuracy", "accuracy {:.3f}", "bold green"),
        Text("accuracy unknown", "yellow") if values.get("reward/accuracy_unknown") else None,
        _number(values, "reward/score", "reward {:.3f}"),
        _number(values, "reward_model/score", "reward model {:.3f}"),
        _number(values, "reward_model/loss", "loss {:.4f}", "bold green"),
        _number(values, "sft/loss", "loss {:.4f}", "bold green"),
        _number(values, "preference/loss", "loss {:.4f}", "bold green"),
        _number(values, "rewards/accuracies", "pairs right {:.3f}"),
        _number(values, "rewards/margins", "margin {:.3g}"),
        _number(values, "preference/kl", "kl {:.3g}"),
        *_evaluations(values),
        _length(values),
        _groups(values),
        _number(values, "policy/entropy", "entropy {:.3f}"),
        _clip(values),
        _number(values, "train/grad_norm", "grad norm {:.3g}"),
        _seconds(values),
        _speed(values),
    ]
    shown = [part for part in parts if part is not None]
    if not shown:
        return None
    width = len(str(total_steps))
    return Text("  ").join([Text(f"step {step:>{width}}/{total_steps}", "bold"), *shown])


def _evaluations(values: Mapping[str, float]) -> list[Text]:
    """Accuracy on each held-out set, or the score where accuracy is not known."""
    found = []
    for name, value in values.items():
        _, _, rest = name.partition("eval/")
        dataset, _, measured = rest.rpartition("/")
        if name.startswith("eval/") and (
            measured == "accuracy" or (measured == "score" and f"eval/{dataset}/accuracy" not in values)
        ):
            found.append(Text(f"{dataset} {measured} {value:.3f}", "bold cyan"))
    return found


def _number(values: Mapping[str, float], name: str, template: str, style: str = "") -> Text | None:
    return Text(template.format(values[name]), style) if name in values else None


def _length(values: Mapping[str, float]) -> Text | None:
    if "response/length_mean" not in values:
        return None
    text = f"length {values['response/length_mean']:.0f}"
    if "response/truncated_share" in values:
        text += f" ({values['response/truncated_share']:.0%} cut)"
    return Text(text)


def _groups(values: Mapping[str, float]) -> Text | None:
    if "groups/kept" not in values:
        return None
    text = f"groups {values['groups/kept']:.0f} kept"
    reasons = ("groups/dropped_right", "groups/dropped_wrong", "groups/dropped_alike")
    dropped = [values[name] for name in reasons if name in values]
    if dropped:
        text += f" {sum(dropped):.0f} dropped"
    return Text(text)


def _clip(values: Mapping[str, float]) -> Text | None:
    shares = [
        f"{values[name]:.2%} {side}"
        for side in ("low", "high")
        if (name := f"policy/clip_fraction_{side}") in values
    ]
    return Text("clip " + " ".join(shares)) if shares else None


def _seconds(values: Mapping[str, float]) -> Text | None:
    phases = ", ".join(
        f"{phase} {values[f'time/{phase}']:.1f}" for phase in PHASES if f"time/{phase}" in values
    )
    if "time/step" in values:
        text = f"{values['time/step']:.1f} s"
        return Text(f"{text} ({phases})" if phases else text, "dim")
    return Text(f"{phases} s", "dim") if phases else None


def _speed(values: Mapping[str, float]) -> Text | None:
    speeds = [
        f"{label} {values[name]:,.0f}"
        for label in ("generate", "update")
        if (name := f"speed/{label}_tokens_per_second") in values
    ]
    return Text("tokens/s " + ", ".join(speeds), "dim") if speeds else None

"""`reasoner-rl plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reasoner_rl.cli.common import Overrides, RecipeArgument, print_table
from reasoner_rl.errors import ConfigError

if TYPE_CHECKING:
    from reasoner_rl.commands.plan import Calibration, Plan

GIB = 2**30


def plan(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    hardware: Annotated[
        str, typer.Option(help="What it is to run on: H100, A100 (80 GB), H200, H20, B200 or cpu.")
    ] = "H100",
    price: Annotated[float | None, typer.Option(min=0, help="Dollars per GPU and hour.")] = None,
    response_tokens: Annotated[
        float | None, typer.Option(min=1, help="Mean length of responses; a third of the limit if unset.")
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(min=1, help="Mean length of prompts; an eighth of the limit if unset.")
    ] = None,
    host_gib: Annotated[
        float | None, typer.Option(min=0, help="Memory of a machine, to be compared too.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Make one real step here, and scale the plan by what it took.")
    ] = False,
) -> None:
    """Say before GPUs are spent what a recipe needs: memory by phase, tokens, operations, time and cost of a step.

    Neither the data nor the model's weights are needed. If the recipe cannot fit, the reasons and the nearest
    settings that fit are printed, and the exit status is 2. docs/how_to/plan_memory.md says how to read it and what
    was checked.
    """
    from reasoner_rl.commands.plan import Wish, calibrate, make_plan

    made = make_plan(recipe, overrides or [], Wish(hardware, price, prompt_tokens, response_tokens, host_gib))
    _print_plan(made)
    if made.problems:
        raise ConfigError(_refusal(made))
    if probe:
        _print_calibration(calibrate(made))


def _print_plan(made: Plan) -> None:
    setup, architecture = made.setup, made.setup.policy.architecture
    typer.echo(
        f"{architecture.name}: {architecture.parameters:,} parameters, of which {setup.policy.trained:,} are trained "
        f"(sizes from {architecture.source})\n"
        f"{setup.ranks} x {setup.hardware.name} ({setup.hardware.source}), {setup.replicas} data-parallel shares, "
        f"micro-batches of {setup.micro_batch_tokens:,} tokens at most"
    )
    gib = [
        [phase.name, part.name, _gib(part.bytes), _gib(phase.bytes) if part is phase.parts[0] else ""]
        for phase in made.memory.phases
        for part in phase.parts
    ]
    place = "GiB of the process" if setup.hardware.on_cpu else f"GiB of {setup.hardware.memory_gib}, per GPU"
    print_table(["phase, at its fullest", "what", place, "together"], gib)
    if made.memory.host:
        rows = [[part.name, _gib(part.bytes)] for part in made.memory.host]
        print_table(["host memory of the machine with the driver", "GiB"], rows)
    print_table(["one step", ""], _step_rows(made))
    print_table(["seconds of a step", "mean lengths", "all at the limit"], _time_rows(made))
    for warning in made.warnings:
        typer.echo(f"note: {warning}")


def _step_rows(made: Plan) -> list[list[str]]:
    work, lengths, cache = made.work, made.lengths, made.concurrency
    rows = [
        ["mean prompt, mean response (assumed)", f"{lengths.prompt:,.0f}, {lengths.response:,.0f} tokens"],
        ["sequences trained on", f"{work.trained_sequences:,}"],
        ["tokens trained on", _large(work.trained_tokens)],
        ["responses generated (assumed)", f"{work.generated_sequences:,.0f}"],
        ["tokens generated", _large(work.generated_tokens)],
        ["FLOP", f"{work.flops:.3g}"],
        *[[f"  {each.name}", f"{each.flops:.3g}"] for each in work.passes],
        ["  generation", f"{work.prefill_flops + work.decode_flops:.3g}"],
    ]
    if cache is not None:
        rows += [
            ["key-value cache per token and GPU", f"{cache.bytes_per_token:,} bytes"],
            ["key-value cache of a replica", f"{max(0, cache.tokens):,} tokens"],
            ["responses side by side, of the greatest length", f"{max(0.0, cache.longest):.1f}"],
            [
                "responses side by side, of the mean length",
                f"{max(0.0, cache.sequences(lengths.sequence)):.0f}",
            ],
        ]
    return rows if work.generated_tokens else [row for row in rows if "generat" not in row[0]]


def _time_rows(made: Plan) -> list[list[str]]:
    longest = dict(made.longest.parts)
    rows = [[name, f"{seconds:,.1f}", f"{longest[name]:,.1f}"] for name, seconds in made.time.parts]
    factor = made.steps * made.setup.ranks / 3600
    rows += [
        ["a step", f"{made.time.seconds:,.1f}", f"{made.longest.seconds:,.1f}"],
        [
            f"GPU hours of {made.steps:,} steps",
            f"{made.gpu_hours:,.1f}",
            f"{made.longest.seconds * factor:,.1f}",
        ],
    ]
    if made.price is not None and made.dollars is not None:
        rows.append(
            [
                f"dollars at {made.price:g} per GPU and hour",
                f"{made.dollars:,.0f}",
                f"{made.price * made.longest.seconds * factor:,.0f}",
            ]
        )
    return rows


def _refusal(made: Plan) -> str:
    setup = made.setup
    reasons = "\n".join(f"  {reason}" for reason in made.problems)
    if made.proposal is None:
        end = (
            "No change of settings that was tried lets it fit: what is left are more memory or GPUs, a smaller model, "
            "or shorter prompts and responses"
        )
    else:
        end = f"The nearest that fits: add {' '.join(made.proposal)}"
    return f"this recipe does not fit {setup.ranks} x {setup.hardware.name}:\n{reasons}\n{end}"


def _print_calibration(found: Calibration) -> None:
    print_table(
        ["one real step: memory, GiB", "planned", "measured", "measured / planned"],
        [
            [phase, f"{planned:.2f}", f"{real:.2f}", f"{real / planned:.2f}"]
            for phase, planned, real in found.memory
        ],
    )
    print_table(
        ["one real step: seconds", "planned", "measured", "measured / planned"],
        [
            [phase, f"{planned:.2f}", f"{real:.2f}", f"{real / planned:.2f}"]
            for phase, planned, real in found.seconds
        ],
    )
    typer.echo(
        f"scaled by that: {found.step_seconds:,.1f} s per step, {found.gpu_hours:,.1f} hours of all processes, at most "
        f"{found.peak_gib:.2f} GiB"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _large(number: float) -> str:
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,.0f}"

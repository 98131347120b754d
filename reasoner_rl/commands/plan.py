"""What a recipe will need, before GPUs are spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import psutil  # type: ignore[import-untyped]

from reasoner_rl.commands.probe import Probe, probe
from reasoner_rl.config.arithmetic import step_arithmetic
from reasoner_rl.config.cluster import without_generation
from reasoner_rl.config.load import change_recipe, load_recipe
from reasoner_rl.config.recipes import OnlineConfig, PreferenceConfig, SftConfig
from reasoner_rl.errors import ConfigError
from reasoner_rl.plan.architecture import Architecture, read_architecture
from reasoner_rl.plan.cache import Concurrency, vllm_concurrency
from reasoner_rl.plan.hardware import GIB, Hardware, hardware
from reasoner_rl.plan.memory import CONTEXT, POOL, MemoryPlan, Phase, plan_memory
from reasoner_rl.plan.problems import problems, warnings
from reasoner_rl.plan.proposals import nearest_that_fits
from reasoner_rl.plan.setup import Planned, Setup, make_setup
from reasoner_rl.plan.time import Efficiency, TimePlan, plan_time
from reasoner_rl.plan.work import Lengths, Work, assumed_lengths, plan_work

# What the probe times -> the parts of the plan's step, by how they begin, and the phases of its memory.
TIMED: Mapping[str, tuple[str, ...]] = {
    "generate": ("generation",),
    "prepare": ("logprobs or values",),
    "update": ("update",),
    "sync": ("weight sync",),
}
HELD: Mapping[str, tuple[str, ...]] = {
    "generate": ("generate",),
    "prepare": ("logprobs", "values"),
    "update": ("update",),
    "sync": ("sync", "generate"),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of `reasoner-rl plan` besides the recipe."""

    hardware: str = "H100"
    price: float | None = None  # dollars per GPU and hour
    prompt_tokens: float | None = None  # on average
    response_tokens: float | None = None
    host_gib: float | None = None  # of a machine


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a recipe: memory, tokens, operations, time and cost."""

    setup: Setup
    memory: MemoryPlan
    concurrency: Concurrency | None
    lengths: Lengths
    work: Work
    time: TimePlan
    longest: TimePlan  # if every response took all the tokens it may
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    proposal: (
        tuple[str, ...] | None
    )  # overrides with which it fits; None: nothing tried does, or it fits as it is
    price: float | None

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.setup.config.run.steps

    @property
    def gpu_hours(self) -> float:
        """Of the whole run, without evaluations, checkpoints and starting."""
        return self.time.seconds * self.steps * self.setup.ranks / 3600

    @property
    def dollars(self) -> float | None:
        """Of the whole run, if there is a price."""
        return None if self.price is None else self.price * self.gpu_hours

    @property
    def longest_prompt_and_response(self) -> int:
        """In tokens, of what is trained on."""
        if isinstance(self.setup.config, OnlineConfig):
            return step_arithmetic(self.setup.config).max_sequence_tokens
        return self.setup.longest_sequence


@dataclass(frozen=True, slots=True)
class Calibration:
    """A plan's figures beside those of one real step on this machine."""

    probe: Probe
    memory: tuple[tuple[str, float, float], ...]  # phase, planned and measured GiB
    seconds: tuple[tuple[str, float, float], ...]  # phase, planned and measured
    step_seconds: float  # planned, each part multiplied by measured / planned
    gpu_hours: float  # of the run, with these
    peak_gib: float  # of the largest planned phase, multiplied by the largest of measured / planned


def make_plan(recipe: str, overrides: Sequence[str], wish: Wish) -> Plan:
    """Plan a recipe; nothing is downloaded, and its data need not exist.

    Raises ConfigError for a recipe of another kind, unknown hardware, or a model whose sizes are not known.
    """
    machine = hardware(wish.hardware)
    read: Any = cache(partial(_read, trust_remote_code=_load(recipe, overrides).model.trust_remote_code))
    setup = make_setup(_load(recipe, overrides), machine, read)
    lengths = assumed_lengths(setup, wish.prompt_tokens, wish.response_tokens)
    _require_lengths(setup, wish)
    work, memory, efficiency = plan_work(setup, lengths), plan_memory(setup), Efficiency()
    at_most = Lengths(lengths.prompt, setup.longest_response)
    host_gib = _host_gib(machine, wish)
    found = tuple(problems(setup, memory, host_gib))

    def judge(at_ease: bool, changes: Sequence[str]) -> Sequence[str] | None:
        try:
            other = make_setup(cast("Planned", change_recipe(setup.config, changes)), machine, read)
        except ConfigError:
            return None
        cramped = [each for each in warnings(other) if at_ease and each.startswith("only ")]
        return [*problems(other, plan_memory(other), host_gib), *cramped]

    return Plan(
        setup=setup,
        memory=memory,
        concurrency=vllm_concurrency(setup),
        lengths=lengths,
        work=work,
        time=plan_time(setup, work, lengths, efficiency),
        longest=plan_time(setup, plan_work(setup, at_most), at_most, efficiency),
        problems=found,
        warnings=tuple(warnings(setup)),
        proposal=_proposal(setup, judge) if found else None,
        price=wish.price,
    )


def _proposal(
    setup: Setup, judge: Callable[[bool, Sequence[str]], Sequence[str] | None]
) -> tuple[str, ...] | None:
    """The nearest recipe that fits, one with room for several long responses if there is one."""
    for at_ease in (True, False):
        found = nearest_that_fits(setup, partial(judge, at_ease))
        if found is not None:
            return found
    return None


def calibrate(plan: Plan) -> Calibration:
    """Make one real step of the recipe on this machine, and compare the plan with it.

    Raises ConfigError if the recipe has several workers, or this machine is not the hardware of the plan.
    """
    _require_this_machine(plan.setup)
    found = probe(plan.setup.config)
    planned = [(name, seconds) for name, seconds in plan.time.parts]
    memory, seconds, untimed = [], [], plan.time.seconds
    first = plan_memory(plan.setup, first_step=True)
    for phase, starts in HELD.items():
        held = [_counted(each) for each in first.phases if each.name.startswith(starts)]
        if held and phase in found.host_gib:
            measured = found.device_gib.get(phase) or found.above_baseline_gib(phase)
            memory.append((phase, max(held) / GIB, measured))
    for phase, starts in TIMED.items():
        parts = [value for name, value in planned if name.startswith(starts)]
        if parts and phase in found.seconds:
            seconds.append((phase, sum(parts), found.seconds[phase]))
            untimed -= sum(parts)
    step = untimed + sum(measured for _, _, measured in seconds)
    factor = max((measured / held for _, held, measured in memory), default=1.0)
    return Calibration(
        probe=found,
        memory=tuple(memory),
        seconds=tuple(seconds),
        step_seconds=step,
        gpu_hours=step * plan.steps * plan.setup.ranks / 3600,
        peak_gib=factor * plan.memory.largest.bytes / GIB,
    )


def _counted(phase: Phase) -> int:
    """Bytes of a phase that torch's allocator, or on a CPU resident memory, can show."""
    return sum(part.bytes for part in phase.parts if part.name not in (CONTEXT, POOL))


def _require_this_machine(setup: Setup) -> None:
    import torch

    cluster = setup.config.cluster
    if cluster.ranks > 1:
        raise ConfigError(
            f"--probe measures one process, and cluster.kind={cluster.kind} has {cluster.ranks} workers: add "
            "cluster.kind=local"
        )
    if torch.cuda.is_available() == setup.hardware.on_cpu:
        here = "has a GPU" if setup.hardware.on_cpu else "has none that PyTorch sees: add --hardware cpu"
        raise ConfigError(f"--probe measures this machine, which {here}; --hardware is {setup.hardware.name}")


def _load(recipe: str, overrides: Sequence[str]) -> Planned:
    config = load_recipe(recipe, overrides)
    if not isinstance(config, OnlineConfig | SftConfig | PreferenceConfig):
        raise ConfigError(
            f"`reasoner-rl plan` needs a recipe of kind online, sft or preference; {recipe} is of kind "
            f"{config.recipe!r}"
        )
    if without_generation(config.cluster) != config.cluster:
        raise ConfigError(
            "cluster.generation: `reasoner-rl plan` counts workers that train and generate in turns alone; add "
            "cluster.generation=null to plan the recipe without it"
        )
    return config


def _host_gib(machine: Hardware, wish: Wish) -> float | None:
    """Memory of a machine: what the user says; of a CPU, else, what this machine has."""
    if wish.host_gib is None and machine.on_cpu:
        return float(psutil.virtual_memory().total / GIB)
    return wish.host_gib


def _read(path: str, trust_remote_code: bool) -> Architecture:
    return read_architecture(path, trust_remote_code=trust_remote_code)


def _require_lengths(setup: Setup, wish: Wish) -> None:
    """Raise ConfigError if a mean is above its limit."""
    limits = (
        ("--prompt-tokens", wish.prompt_tokens, setup.longest_prompt),
        ("--response-tokens", wish.response_tokens, setup.longest_response),
    )
    for flag, mean, most in limits:
        if mean is not None and mean > most:
            raise ConfigError(f"{flag} {mean:g} is a mean, and the recipe's limit is {most} tokens")

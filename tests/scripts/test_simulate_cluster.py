"""The simulated cluster: virtual time, tokens that are neither lost nor drawn twice, and schedules in their order."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from reasoner_rl.config.cluster import RayClusterConfig
from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig
from reasoner_rl.config.rollout import SamplingConfig, VllmEngineConfig
from reasoner_rl.distributed.pool import GenerationPool
from reasoner_rl.distributed.worker import Worker
from reasoner_rl.plan.hardware import hardware
from reasoner_rl.rollout.engine import GenerationRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from simulation.barrier import BarrierGenerator
from simulation.cells import CLUSTERS, SCHEDULES, config_of
from simulation.clock import Clock
from simulation.costs import Fitted, roofline
from simulation.lengths import Lengths, Outcomes, load, names, outcomes
from simulation.replica import Replica
from simulation.run import StepFigures, Workload, simulate
from simulation.transport import SimulatedTransport

COSTS = Fitted(
    rows=64,
    decode_fixed=0.01,
    decode_row=0.001,
    prefill_token=0.0001,
    forward_token=0.00002,
    update_fixed=0.5,
    update_token=0.00007,
    sync_fixed=3.0,
    message=0.002,
)
CONSTANT = Lengths("constant", "", 1000, 0.0, ((0.0, 100.0), (1.0, 100.0)))
TAILED = Lengths("tailed", "", 2000, 0.5, ((0.0, 20.0), (0.9, 60.0), (0.95, 2000.0), (1.0, 2000.0)))


def config(*overrides: str, ranks: int = 1) -> OnlineConfig:
    made = load_recipe(
        "dapo_qwen2.5_32b",
        [
            f"cluster={{kind: ray, nodes: 1, workers_per_node: {ranks}, address: null}}",
            "rollout.engine={kind: vllm, tensor_parallel: 1}",
            "rollout.responses_per_prompt=4",
            "rollout.sampling.max_response_tokens=2000",
            "reward.overlong=null",
            "training.backend={kind: fsdp, shard_ranks: null}",
            "batch.prompts_per_update=4",
            "batch.prompts_per_step=4",
            "logging={progress: false, rollouts: none}",
            *overrides,
        ],
    )
    assert isinstance(made, OnlineConfig)
    return made


def steps(
    recipe: OnlineConfig,
    lengths: Lengths,
    path: Path,
    count: int,
    *,
    mixed: float = 1.0,
    barrier: bool = False,
) -> list[StepFigures]:
    workload = Workload(lengths, Outcomes(0.0, 1 - mixed), prompt_tokens=10)
    return simulate(recipe, workload, COSTS, count, path, barrier=barrier, prompts=workload.prompts(500))


def test_no_event_lies_in_the_past() -> None:
    clock: Clock[str] = Clock()
    for at, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (2.0, "b2")):
        clock.schedule(at, name)
    assert [clock.next(), clock.next(), clock.now] == ["a", "b", 2.0]
    assert clock.due() == ["b2"]
    clock.sleep_until(2.5)
    with pytest.raises(ValueError, match=r"2\.4 s lies in the past: it is 2\.5 s"):
        clock.schedule(2.4, "late")
    with pytest.raises(ValueError, match="in the past"):
        clock.sleep_until(1.0)
    assert clock.next() == "c"
    assert clock.now == 3.0


def test_a_step_of_one_replica_takes_what_is_computed_by_hand(tmp_path: Path) -> None:
    recipe = config("algorithm.dynamic_sampling={enabled: false}", "batch.prompts_per_generation=4")
    [first, second] = steps(recipe, CONSTANT, tmp_path, 2)
    # 4 prompts of 10 tokens are read once; 16 responses of 100 tokens are drawn in calls of 64 and 36 tokens.
    generation = 4 * 10 * 0.0001 + 100 * (0.01 + 16 * 0.001) + 2 * 0.002
    update = 0.5 + 16 * 110 * 0.00007 + 0.002  # one update, so old logprobs are not asked for
    assert first.seconds == pytest.approx(generation + update + 3.0 + 0.002, abs=1e-9)
    assert second.seconds == pytest.approx(first.seconds, abs=1e-9)
    assert first.drawn_tokens == 1600
    assert first.rows == pytest.approx(1600 * 0.026 / (4e-3 + 2.6))
    busy = generation - 2 * 0.002 + update - 0.002 + 3.0
    assert first.idle == pytest.approx(1 - busy / first.seconds)


@pytest.mark.parametrize("cache_tokens", [10**6, 2100])
def test_every_response_ends_once_with_its_length(cache_tokens: int) -> None:
    """Also where the cache has room for little more than the longest response, and responses wait again."""
    workload = Workload(TAILED, outcomes(), prompt_tokens=10)
    length_of = workload.length_of(4)
    transport = SimulatedTransport(3, 1, replace(COSTS, cache_tokens=cache_tokens, rows=8), length_of)
    pool = GenerationPool(VllmEngineConfig(max_batch_sequences=8), transport)
    requests = [
        GenerationRequest(prompt.token_ids, 4, seed=number)
        for number, prompt in enumerate(workload.prompts(30))
    ]
    times = [0.0]
    found = pool.generate(
        requests, SamplingConfig(max_response_tokens=2000), lambda *_: times.append(transport.clock.now)
    )
    wanted = [[length_of(request, sample) for sample in range(4)] for request in requests]
    assert [[len(rollout.token_ids) for rollout in group] for group in found] == wanted
    assert transport.spent.tokens == sum(map(sum, wanted))
    assert transport.spent.responses == 120
    assert all(before <= after for before, after in itertools.pairwise(times))
    assert len(transport.clock) == 0
    # No replica computes for longer than there was time, and rows that draw are of one that computes.
    assert transport.spent.busy["generate"] <= 3 * transport.clock.now
    assert transport.spent.row_seconds <= 8 * transport.spent.busy["generate"]


def test_a_response_is_cut_off_at_its_budget_and_continued() -> None:
    workload = Workload(CONSTANT, outcomes(), prompt_tokens=10)
    transport = SimulatedTransport(1, 1, COSTS, workload.length_of(2))
    pool, [prompt] = GenerationPool(VllmEngineConfig(), transport), workload.prompts(1)
    sampling = SamplingConfig(max_response_tokens=1000)
    [group] = pool.generate([GenerationRequest(prompt.token_ids, 2, 7, max_tokens=30)], sampling)
    assert [(len(each.token_ids), each.finish_reason) for each in group] == [(30, "length")] * 2
    begun = tuple(group[1].token_ids)
    [[rest]] = pool.generate(
        [GenerationRequest(prompt.token_ids, 1, 7, first_sample=1, begun=begun)], sampling
    )
    assert (len(rest.token_ids), rest.finish_reason) == (70, "stop")


def test_a_replica_goes_on_while_another_rank_is_waited_for() -> None:
    workload = Workload(CONSTANT, outcomes(), prompt_tokens=10)
    transport = SimulatedTransport(2, 1, COSTS, workload.length_of(2))
    sampling = SamplingConfig(max_response_tokens=1000)
    prompts = workload.prompts(2)
    request = GenerationRequest(prompts[0].token_ids, 2, 7)
    long = transport.begin("generate", Worker.generate, [0], ([request], sampling))
    short_request = replace(request, max_tokens=5)
    short = transport.begin("generate", Worker.generate, [1], ([short_request], sampling))
    [(ended, output)] = transport.wait([long, short])
    assert ended == short
    assert [len(r.token_ids) for _, group in output.finished for r in group] == [5, 5]
    assert transport.clock.now == pytest.approx(0.001 + 5 * 0.012 + 0.002)
    again = transport.begin(
        "generate", Worker.generate, [0], ([], sampling)
    )  # follows the first, on a busy rank
    [(ended, _)] = transport.wait([long])
    assert ended == long
    assert transport.clock.now == pytest.approx(0.001 + 64 * 0.012 + 0.002)
    [(ended, output)] = transport.wait([again])
    assert output.responses == 2
    assert transport.clock.now == pytest.approx(0.001 + 100 * 0.012 + 0.002)
    with pytest.raises(KeyError, match="waited for already"):
        transport.wait([again])


def test_the_barrier_hands_nothing_on_before_all_have_ended() -> None:
    workload = Workload(TAILED, outcomes(), prompt_tokens=10)
    transport = SimulatedTransport(2, 1, COSTS, workload.length_of(4))
    barrier = BarrierGenerator(GenerationPool(VllmEngineConfig(), transport))
    requests = [
        GenerationRequest(prompt.token_ids, 4, seed=number, number=number)
        for number, prompt in enumerate(workload.prompts(12))
    ]
    sampling = SamplingConfig(max_response_tokens=2000)
    barrier.submit(requests[:10], sampling)
    first = barrier.step()
    ended = transport.clock.now
    barrier.submit(requests[10:], sampling)  # not begun while the first batch is handed on
    numbers = [number for number, _ in first.finished]
    for _ in range(9):
        numbers += [number for number, _ in barrier.step().finished]
    assert numbers == list(range(10))
    assert transport.clock.now == ended
    assert barrier.step().finished[0][0] == 10
    assert transport.clock.now > ended


def test_schedules_have_their_order(tmp_path: Path) -> None:
    """Two ranks, responses of which a few are 30 times as long as the others, and half of the groups dropped."""
    batch = ("batch.prompts_per_step=16", "batch.prompts_per_update=16", "batch.prompts_per_generation=32")
    put_off = (*batch, "batch.put_off={budget_tokens: 100, until: long_round}")

    def mean(*overrides: str, barrier: bool = False, count: int = 4) -> float:
        made = steps(config(*overrides, ranks=2), TAILED, tmp_path, count, mixed=0.5, barrier=barrier)
        assert all(step.kept_groups == 16 for step in made)
        return sum(step.seconds for step in made) / count

    barrier, synchronous = mean(*batch, barrier=True), mean(*batch)
    tail = mean(*put_off, count=8)
    assert tail < synchronous < barrier


@pytest.mark.parametrize("name", names())
def test_lengths_have_the_quantiles_and_the_correlation_that_are_stated(name: str) -> None:
    lengths = load(name)
    shares, tokens = zip(*lengths.knots, strict=True)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert list(shares) == sorted(shares)
    assert list(tokens) == sorted(tokens)
    drawn = numpy.array([lengths.of_group(seed, f"p{seed}", 16) for seed in range(600)])
    for share, wanted in lengths.knots[5:-4]:
        below = (drawn <= wanted * 1.001).mean()
        assert below >= share - 0.05
        assert (drawn < wanted * 0.999).mean() <= share + 0.05
    assert drawn.max() <= lengths.limit
    assert lengths.of_group(5, "p5", 4) == lengths.of_group(5, "p5", 16)[:4]
    scores = numpy.log(drawn) - numpy.log(drawn).mean()
    between = (scores.mean(axis=1) ** 2).mean() - scores.var(axis=1).mean() / 15
    assert between / scores.var() == pytest.approx(lengths.correlation, abs=0.15)


def test_responses_that_are_interrupted_are_continued_to_their_lengths() -> None:
    workload = Workload(TAILED, outcomes(), prompt_tokens=10)
    length_of = workload.length_of(4)
    transport = SimulatedTransport(2, 1, COSTS, length_of)
    pool = GenerationPool(VllmEngineConfig(), transport)
    sampling = SamplingConfig(max_response_tokens=2000)
    requests = [
        GenerationRequest(prompt.token_ids, 4, seed=number, number=number)
        for number, prompt in enumerate(workload.prompts(8))
    ]
    pool.submit(requests, sampling)
    first = pool.step()
    stopped = pool.interrupt()
    lengths = {number: [len(each.token_ids) for each in group] for number, group in first.finished}
    lengths |= {number: [len(each.token_ids) for each in group] for number, group in stopped.finished}
    interrupted, more = dict(stopped.interrupted), []
    assert interrupted
    for number, group in interrupted.items():
        lengths[number] = [len(each.token_ids) for each in group]
        more += [
            replace(requests[number], samples=1, first_sample=sample, begun=tuple(each.token_ids))
            for sample, each in enumerate(group)
            if each.finish_reason == "length" and len(each.token_ids) < 2000
        ]
    for request, [rest] in zip(more, pool.generate(more, sampling), strict=True):
        lengths[request.seed][request.first_sample] += len(rest.token_ids)
    assert lengths == {
        request.seed: [length_of(request, sample) for sample in range(4)] for request in requests
    }
    assert transport.spent.tokens == sum(map(sum, lengths.values()))


def test_one_step_off_trains_on_full_batches_in_less_time(tmp_path: Path) -> None:
    batch = ("batch.prompts_per_step=16", "batch.prompts_per_update=16", "batch.prompts_per_generation=32")
    ahead = (*batch, "batch.ahead={steps: 1}", "algorithm.dynamic_sampling.max_staleness=1")
    synchronous = steps(config(*batch, ranks=2), TAILED, tmp_path, 4, mixed=0.5)
    off = steps(config(*ahead, ranks=2), TAILED, tmp_path, 4, mixed=0.5)
    assert [step.kept_groups for step in off] == [16] * 4
    assert sum(step.seconds for step in off[1:]) < sum(step.seconds for step in synchronous[1:])


@pytest.mark.parametrize("cluster", list(CLUSTERS))
@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_cells_use_all_gpus_and_a_batch_of_their_part(cluster: str, schedule: str) -> None:
    where, how = CLUSTERS[cluster], SCHEDULES[schedule]
    made = config_of(where, how, load("published"))
    assert isinstance(made.cluster, RayClusterConfig)
    alone = made.cluster.generation
    generators = alone.nodes * alone.workers_per_node if alone is not None else 0
    assert made.cluster.ranks + generators == where.gpus // where.part
    assert (generators > 0) == how.split
    recipe = load_recipe(where.recipe)
    assert isinstance(recipe, OnlineConfig)
    assert made.batch.prompts_per_step * where.part == recipe.batch.prompts_per_step


def test_ranks_that_share_a_model_share_its_operations() -> None:
    lengths, h100 = load("published"), hardware("H100")
    whole = config_of(CLUSTERS["32b_128"], SCHEDULES["synchronous"], lengths)  # tensor 8 x pipeline 2
    alone = whole.model_copy(update={"training": config("training.offload=all").training})  # FSDP2
    shared = roofline(whole, h100)
    assert roofline(alone, h100).update([100, 2000]) == pytest.approx(16 * shared.update([100, 2000]))


def test_prompts_are_read_in_parts_that_end_a_call() -> None:
    """Three prompts of 300,000 tokens: a call of 64 steps of vLLM reads 524,288 tokens, so the third comes next."""
    prompt = (0,) * 300_000
    replica = Replica(replace(COSTS, cache_tokens=10**7), lambda request, sample: 5, 64)
    replica.submit([GenerationRequest(prompt, 1, seed, number=seed) for seed in range(3)], SamplingConfig())
    first, second = replica.step(), replica.step()
    assert first.output.finished == []
    assert first.seconds == pytest.approx(600_000 * 0.0001)
    assert [number for number, _ in second.output.finished] == [0, 1, 2]
    assert second.seconds == pytest.approx(300_000 * 0.0001 + 5 * (0.01 + 3 * 0.001))


def test_workers_of_their_own_generate_while_models_are_trained(tmp_path: Path) -> None:
    """One rank trains and one generates: a step takes about as long as the longer of both, and not their sum."""
    recipe = config(
        "cluster={kind: ray, nodes: 1, workers_per_node: 1, address: null, generation: {workers_per_node: 1}}",
        *("batch.prompts_per_step=8", "batch.prompts_per_update=4", "batch.ahead={steps: 1}"),
        "algorithm.dynamic_sampling.max_staleness=1",
    )
    made = steps(recipe, CONSTANT, tmp_path, 4)
    assert [step.kept_groups for step in made] == [8] * 4
    generating = [2 * step.generating * step.seconds for step in made]
    training = [2 * step.training * step.seconds for step in made]
    late = range(2, 4)
    assert sum(made[k].seconds for k in late) < sum(generating[k] + training[k] + 3.0 for k in late)

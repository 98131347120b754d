"""The machine, and what the trainer adds to PyTorch's kernels: attention over packed sequences, chunked logprobs."""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AttentionInterface

from gpu_checks.common import (
    GIB,
    Context,
    Figures,
    copy_speeds,
    exact_float32,
    matmul_tflops,
    packed_batch,
    peak_gib,
    random_samples,
    relative_error,
    start_peak,
    timed,
    used_gib,
)
from reasoner_rl.config.model import ModelConfig
from reasoner_rl.doctor import examine
from reasoner_rl.errors import UserError
from reasoner_rl.training.attention import choose_attention
from reasoner_rl.training.policy import predicting_states
from reasoner_rl.training.token_logprobs import token_logprobs
from reasoner_rl.types import MicroBatch, TrainSample

# Largest relative error (Frobenius norm) of any sequence's outputs or gradients against float32. bfloat16 keeps 8 bits,
# so each rounding is off by at most 0.4 %; kernels round scores, probabilities, outputs and gradients.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
RESPONSES = 4  # that share a prompt
# Names of what computes attention, of kernels and of PyTorch's operators.
ATTENTION_NAMES = ("flash", "fmha", "attention", "attn", "cudnn_generated", "mem_eff")


def versions(context: Context) -> Figures:
    """What doctor says, and how fast the device computes and copies. A finding called "problem" fails."""
    device = context.device
    context.report(torch=torch.__version__, cuda=torch.version.cuda, device=str(device))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        context.report(
            card=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            memory_gib=properties.total_memory / GIB,
            used_at_start_gib=used_gib(),
            nccl=".".join(map(str, torch.cuda.nccl.version())),
            cudnn=torch.backends.cudnn.version(),
        )
    context.report(matmul_tflops=matmul_tflops(device), **copy_speeds(device, context.pick(1.0, 0.01)))
    findings = examine()
    for finding in findings:
        print(f"{finding.verdict:<10}{finding.name}: {finding.value}  {finding.advice}")
    seen: Figures = {f"doctor {f.name}": f.value for f in findings if f.verdict != "missing"}
    context.report(**seen)
    problems = [f"{f.name}: {f.value} ({f.advice})" for f in findings if f.verdict == "problem"]
    assert not problems, f"doctor found problems: {'; '.join(problems)}"
    return {}


# Attention.


@dataclass(frozen=True)
class Heads:
    """Of an attention layer."""

    query: int
    key: int
    width: int


@dataclass(frozen=True)
class Work:
    """Queries, keys and values of distinct tokens, the packed batch that they stand in, and the gradient of its output.

    The batch's token ids are indices into the distinct tokens, of which those of shared prompts stand in it several
    times.
    """

    parts: tuple[Tensor, Tensor, Tensor]  # [distinct, heads, width] each
    batch: MicroBatch
    upstream: Tensor  # [T, query heads, width]


class AttentionAlone:
    """A decoder that is one attention layer: it looks up queries, keys and values by token id."""

    def __init__(self, name: str, parts: tuple[Tensor, Tensor, Tensor]) -> None:
        self.name, self.parts = name, parts
        # What transformers' own attention functions ask of the layer that calls them.
        self.layer = SimpleNamespace(
            is_causal=True, layer_idx=0, config=SimpleNamespace(_attn_implementation=name)
        )

    def get_decoder(self) -> Callable[..., Any]:
        """What `predicting_states` calls."""
        return self.decode

    def decode(self, input_ids: Tensor, position_ids: Tensor, use_cache: bool, **packed: Any) -> Any:
        """The attention's output in place of hidden states, [1, T, query heads * width]."""
        del use_cache
        query, key, value = (part[input_ids[0]].transpose(0, 1)[None] for part in self.parts)
        attend = AttentionInterface()[self.name]
        options = {"scaling": query.shape[-1] ** -0.5, "dropout": 0.0, "position_ids": position_ids}
        output = attend(self.layer, query, key, value, None, **options, **packed)[0]
        return SimpleNamespace(last_hidden_state=output.flatten(2))


def attention(context: Context) -> Figures:
    """Every packed attention that can run here, through the policy's own code, against float32, one sequence at a time.

    Outputs and gradients of queries, keys and values; one long sequence, many lengths, and shared prompts.
    """
    exact_float32()
    tokens, few = context.pick((22528, 4096), (384, 192))
    heads = context.pick(Heads(40, 8, 128), Heads(4, 2, 32))
    failures: list[str] = []
    for dtype, total, cases in (
        (torch.bfloat16, tokens, ("one", "mixed", "shared")),
        (torch.float32, few, ("mixed", "shared")),
    ):
        offered = attentions(context, dtype)[0]
        for case in cases:
            work = make_work(case, total, heads, dtype, context)
            expected = in_float32(work)
            for name, implementation in offered.items():
                label = f"{str(dtype).removeprefix('torch.')} {case} {name}"
                try:
                    measure(context, label, implementation, work, expected)
                except Exception as error:  # the others are measured all the same
                    traceback.print_exc()
                    failures.append(f"{label}: {error}")
    assert not failures, "; ".join(failures)
    absent = attentions(context, torch.bfloat16)[1]
    return {f"{name} not run": reason for name, reason in absent.items()}


def attentions(context: Context, dtype: torch.dtype) -> tuple[dict[str, str], dict[str, str]]:
    """The values of model.attention that can run here, with transformers' names, and why the others cannot."""
    offered, absent = {}, {}
    for name in get_args(ModelConfig.model_fields["attention"].annotation):
        if name != "auto":
            try:
                offered[name] = choose_attention(name, context.device, dtype)
            except UserError as error:
                absent[name] = str(error)
    return offered, absent


def make_work(case: str, tokens: int, heads: Heads, dtype: torch.dtype, context: Context) -> Work:
    """A batch of ``tokens`` in all: one sequence, many of different lengths, or groups that share their prompts."""
    prompts, responses = {"one": (1, 1), "mixed": (12, 1), "shared": (3, RESPONSES)}[case]
    samples = random_samples(prompts, responses, (2, tokens // 24), (1, 1), seed=context.seed)
    # Responses are longer and longer from 4 tokens on, and the last takes what is left.
    room = tokens - sum(len(sample.prompt_ids) for sample in samples)
    sizes = [4 + 2 * (room - 4 * len(samples)) * step // len(samples) ** 2 for step in range(len(samples))]
    sizes[-1] += room - sum(sizes)
    samples = [resized(sample, size) for sample, size in zip(samples, sizes, strict=True)]
    [batch] = packed_batch(samples, tokens).micro_batches
    batch, distinct = with_distinct_ids(batch, RESPONSES if case == "shared" else 1)
    generator = torch.Generator(context.device).manual_seed(context.seed)

    def draw(length: int, count: int) -> Tensor:
        size = (length, count, heads.width)
        return torch.randn(size, device=context.device, generator=generator).to(dtype)

    parts = (draw(distinct, heads.query), draw(distinct, heads.key), draw(distinct, heads.key))
    return Work(parts, batch.to(context.device), draw(tokens, heads.query))


def resized(sample: TrainSample, size: int) -> TrainSample:
    """The sample with a response of ``size`` tokens."""
    fields = ("response_ids", "loss_mask", "advantages", "rollout_logprobs")
    return sample.replace(**{name: getattr(sample, name)[:1].expand(size) for name in fields})


def with_distinct_ids(batch: MicroBatch, responses: int) -> tuple[MicroBatch, int]:
    """Number the tokens; of ``responses`` neighbouring samples the prompts get the same numbers.

    Every token predicts, so that every output is compared. Returns how many numbers there are as well.
    """
    trained = torch.bincount(batch.sequence_ids, minlength=batch.sequences).tolist()
    lengths = batch.cu_seqlens.diff().tolist()
    prompts: dict[int, Tensor] = {}
    ids: list[Tensor] = []
    count = 0
    for sample, length, response in zip(batch.sample_indices, lengths, trained, strict=True):
        group = sample // responses
        if group not in prompts:
            prompts[group] = torch.arange(count, count + length - response)
            count += length - response
        ids += [prompts[group], torch.arange(count, count + response)]
        count += response
    everywhere = torch.arange(sum(lengths))
    return dataclasses.replace(batch, input_ids=torch.cat(ids), predictors=everywhere), count


def in_float32(work: Work) -> tuple[Tensor, ...]:
    """Outputs [T, heads, width] and the gradients of the three parts, written out, one sequence and block at a time."""
    output = torch.empty_like(work.upstream, dtype=torch.float32)
    gradients = [torch.zeros_like(part, dtype=torch.float32) for part in work.parts]
    for start, end in pairwise(work.batch.cu_seqlens.tolist()):
        ids = work.batch.input_ids[start:end]
        query, key, value = (part[ids] for part in work.parts)
        output[start:end], *found = one_sequence(query, key, value, work.upstream[start:end])
        for total, gradient in zip(gradients, found, strict=True):
            total.index_add_(0, ids, gradient)
    return output, *gradients


def one_sequence(
    query: Tensor, key: Tensor, value: Tensor, upstream: Tensor, rows: int = 1024
) -> tuple[Tensor, ...]:
    """Causal softmax attention in float32 by its definition, in blocks of ``rows`` queries of one key head's group."""
    groups = query.shape[1] // key.shape[1]
    output, grad_query = (torch.empty_like(query, dtype=torch.float32) for _ in range(2))
    grad_key, grad_value = (torch.empty_like(key, dtype=torch.float32) for _ in range(2))
    for head in range(key.shape[1]):
        mine = slice(head * groups, (head + 1) * groups)
        k, v = (part[:, head].float().requires_grad_() for part in (key, value))
        for start in range(0, len(query), rows):
            end = min(start + rows, len(query))
            q = query[start:end, mine].float().transpose(0, 1).requires_grad_()
            scores = q @ k[:end].T * query.shape[-1] ** -0.5
            future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(start + 1)
            attended = scores.masked_fill(future, -math.inf).softmax(-1) @ v[:end]
            attended.backward(upstream[start:end, mine].float().transpose(0, 1))
            assert q.grad is not None
            output[start:end, mine] = attended.detach().transpose(0, 1)
            grad_query[start:end, mine] = q.grad.transpose(0, 1)
        assert k.grad is not None
        assert v.grad is not None
        grad_key[:, head], grad_value[:, head] = k.grad, v.grad
    return output, grad_query, grad_key, grad_value


def measure(context: Context, label: str, name: str, work: Work, expected: tuple[Tensor, ...]) -> None:
    """Report errors, seconds forward and backward, peak and kernel of one attention. Raises AssertionError."""
    parts = tuple(part.detach().requires_grad_() for part in work.parts)
    model: Any = AttentionAlone(name, parts)  # type: ignore[arg-type]

    def compute() -> tuple[Tensor, ...]:
        output = predicting_states(model, name, work.batch)
        gradients = torch.autograd.grad(output, parts, work.upstream.flatten(1))
        return (output.detach().view_as(work.upstream), *gradients)

    held = start_peak()
    errors = worst_errors(work.batch, compute(), expected)
    peak, kernel = peak_gib() - held, kernel_of(compute)
    output, gradient = errors[0], max(errors[1:])
    figures: Figures = {
        "output_error": output,
        "gradient_error": gradient,
        "peak_gib": peak,
        "kernel": kernel,
    }
    figures["forward_backward_s"] = timed(compute, warm_up=0)
    context.report(**{f"{label} {name}": figure for name, figure in figures.items()})
    tolerance = TOLERANCE[work.upstream.dtype]
    assert max(errors) < tolerance, (
        f"relative errors of the output and of the gradients of query, key and value are {errors}; "
        f"{tolerance} is rounding"
    )
    assert "math" not in kernel, f"the unfused attention ran, which holds all scores: {kernel}"


def worst_errors(batch: MicroBatch, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    """The largest relative error of any sequence, of the output and of each gradient."""
    places = [slice(start, end) for start, end in pairwise(batch.cu_seqlens.tolist())]
    ids = [batch.input_ids[place] for place in places]
    of_each: list[list[Any]] = [places, ids, ids, ids]
    return [
        max(relative_error(ours[index], theirs[index]) for index in indices)
        for indices, ours, theirs in zip(of_each, found, expected, strict=True)
    ]


def kernel_of(compute: Callable[[], Any]) -> str:
    """The name of the kernel, or where none is seen of the operator, that took most of attention's time."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiled:
        compute()
        if gpu:
            torch.cuda.synchronize()
    kernels: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    events: Any = profiled.events()
    for event in events:
        if any(word in event.name.lower() for word in ATTENTION_NAMES):
            if str(event.device_type).endswith("CUDA"):
                kernels[event.name] += event.self_device_time_total
            elif event.name.startswith("aten::_"):
                operators[event.name] += event.self_cpu_time_total
    unfused = [name for name in operators if "attention_math" in name]
    ranked = unfused or [name for name, _ in (kernels or operators).most_common(1)]
    return ranked[0][:80] if ranked else "not seen"


# Logprobs.


def logprobs(context: Context) -> Figures:
    """Chunked logprobs at the sizes of a 32B model against float32 logits of the same numbers, with both gradients."""
    exact_float32()
    tokens, hidden_size, vocabulary = context.pick((22528, 5120, 152064), (256, 64, 1000))
    chunk, device = context.pick(1024, 64), context.device
    torch.manual_seed(context.seed)
    hidden = torch.randn(tokens, hidden_size, device=device, dtype=torch.bfloat16).requires_grad_()
    weight = torch.empty(vocabulary, hidden_size, device=device, dtype=torch.bfloat16)
    weight.normal_(std=2 * hidden_size**-0.5).requires_grad_()  # logits with a standard deviation of 2
    targets = torch.randint(vocabulary, (tokens,), device=device)
    upstream = torch.randn(tokens, device=device)

    def forward() -> Tensor:
        return token_logprobs(hidden, weight, None, targets, temperature=1.0, chunk_tokens=chunk).logprobs

    def both() -> tuple[Tensor, ...]:
        found = forward()
        return found.detach(), *torch.autograd.grad(found, (hidden, weight), upstream)

    with torch.no_grad():
        held = start_peak()  # hidden states and weights
        context.report(forward_s=timed(forward), peak_forward_gib=peak_gib() - held)
    held = start_peak()
    seconds = timed(both)
    peak = peak_gib() - held
    context.report(forward_backward_s=seconds, peak_gib=peak)
    context.report(tflops=8e-12 * tokens * hidden_size * vocabulary / seconds)
    found = both()
    expected = whole_logits(hidden.detach(), weight.detach(), targets, upstream, chunk)
    gaps = (found[0] - expected[0]).abs()
    mean, worst = float(gaps.mean()), float(gaps.max())
    errors = [relative_error(*pair) for pair in zip(found[1:], expected[1:], strict=True)]
    context.report(gap_mean_nats=mean, gap_max_nats=worst, hidden_error=errors[0], weight_error=errors[1])
    # A logit of 8 is rounded to 1/32 in bfloat16.
    assert mean < 0.02, (
        f"logprobs are off by {mean:.3g} nats on average, {worst:.3g} at most; 0.02 is rounding"
    )
    assert worst < 0.2, f"a logprob is off by {worst:.3g} nats; 0.2 is rounding"
    assert max(errors) < 2e-2, f"gradients of hidden states and weights are off by {errors}; 2e-2 is rounding"
    logits = 4 * tokens * vocabulary / GIB
    assert not context.full or peak < logits, (
        f"the peak is {peak:.1f} GiB; all logits would take {logits:.1f}"
    )
    return {}


def whole_logits(
    hidden: Tensor, weight: Tensor, targets: Tensor, upstream: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs and the gradients of hidden states and weights by autograd in float32, some rows at a time."""
    weight32 = weight.float().requires_grad_()
    found, gradients = [], []
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        part = hidden[rows].float().requires_grad_()
        logprobs = (part @ weight32.T).log_softmax(-1).gather(1, targets[rows, None])[:, 0]
        logprobs.backward(upstream[rows])
        assert part.grad is not None
        found.append(logprobs.detach())
        gradients.append(part.grad)
    assert weight32.grad is not None
    return torch.cat(found), torch.cat(gradients), weight32.grad

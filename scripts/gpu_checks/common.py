"""What the checks share: their context, measurements of time and memory, checkpoints and batches with random content.

The runner reads this file too and must start fast, so torch and everything above it is imported in functions.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from reasoner_rl.types import MiniBatch, TrainSample

Size = Literal["full", "tiny"]
Verdict = Literal["ok", "FAIL", "skipped", "not reached"]
Figure = float | int | str | bool | None
Figures = dict[str, Figure]
T = TypeVar("T")

GIB = 2**30


class Skip(Exception):
    """Raised by a check that cannot be run here; the text is the reason."""


@dataclass(frozen=True)
class Context:
    """What a check is given. ``work`` is a folder that all checks of a run share."""

    name: str  # of the check
    size: Size  # "full" is for a GPU; "tiny" runs anywhere in seconds
    work: Path
    seed: int = 0

    @property
    def full(self) -> bool:
        """Whether the sizes are those for a GPU."""
        return self.size == "full"

    def pick(self, full: T, tiny: T) -> T:
        """The first at full size, the second at tiny size."""
        return full if self.full else tiny

    @property
    def device(self) -> torch.device:
        """The GPU, or the CPU at tiny size without one. Raises AssertionError at full size without one."""
        import torch

        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        assert not self.full, "torch sees no GPU, and the full size needs one; --size tiny runs on a CPU"
        return torch.device("cpu")

    @property
    def folder(self) -> Path:
        """A folder of this check's own, made on first use."""
        folder = self.work / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def outcome_file(self) -> Path:
        """The JSON file with the figures and, at the end, the verdict."""
        return self.work / f"{self.name}.json"

    def report(self, **figures: Figure) -> None:
        """Keep figures at once, so that they survive whatever happens next. A name seen before is overwritten.

        A name ends with the figure's unit: ``peak_gib``, ``tokens_per_s``.
        """
        outcome = read_outcome(self.outcome_file)
        self._write(outcome | {"figures": outcome["figures"] | figures})

    def conclude(self, verdict: Verdict, reason: str = "") -> None:
        """Write the verdict; a check does not call this itself."""
        self._write(read_outcome(self.outcome_file) | {"verdict": verdict, "reason": reason})

    def _write(self, outcome: dict[str, Any]) -> None:
        temporary = self.outcome_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(outcome))
        temporary.replace(self.outcome_file)


def read_outcome(file: Path) -> dict[str, Any]:
    """What a check has written so far: ``figures``, and once it ended ``verdict`` and ``reason``."""
    return json.loads(file.read_text()) if file.is_file() else {"figures": {}}


def require(*modules: str) -> None:
    """Raise Skip unless all of these modules can be found."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # of the package that it would be in
            found = False
        if not found:
            raise Skip(f"{module} is not installed")


# Time, memory and bandwidth.


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def used_gib() -> float:
    """GiB of the device in use by anyone, by the driver's figures; 0 on a CPU."""
    import torch

    from reasoner_rl.observability.measurements import device_used_gib

    synchronize()
    return device_used_gib() if torch.cuda.is_available() else 0.0


def release_cache() -> None:
    """Give back memory that nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def start_peak() -> float:
    """Begin to measure the peak of torch's own allocations, and return what is allocated now, in GiB; 0 on a CPU."""
    import torch

    release_cache()
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / GIB


def peak_gib() -> float:
    """The most that torch had allocated since `start_peak`, in GiB; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0


def timed(work: Callable[[], Any], repeats: int = 3, warm_up: int = 1) -> float:
    """Median seconds of a call, the GPU's work included, after calls that are not counted."""
    seconds = []
    for turn in range(warm_up + repeats):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        if turn >= warm_up:
            seconds.append(time.perf_counter() - started)
    return median(seconds)


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the block began, the GPU's work included."""
    synchronize()
    started = time.perf_counter()

    def seconds() -> float:
        synchronize()
        return time.perf_counter() - started

    yield seconds


def matmul_tflops(device: torch.device) -> float:
    """Measured TFLOP/s of a square matrix product: 8192 in bfloat16 on a GPU, 512 in float32 on a CPU."""
    import torch

    gpu = device.type == "cuda"
    width, dtype = (8192, torch.bfloat16) if gpu else (512, torch.float32)
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    return 2e-12 * width**3 / timed(lambda: left @ right, repeats=10 if gpu else 3, warm_up=3)


def copy_speeds(device: torch.device, gib: float = 1.0) -> Figures:
    """GB/s (1e9 bytes) of copies on the device and, with a GPU, to and from pinned and pageable host memory."""
    import torch

    size = int(gib * GIB)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found: Figures = {"copy_device_gb_per_s": 1e-9 * size / timed(lambda: target.copy_(source))}
    if device.type == "cuda":
        for kind in ("pinned", "pageable"):
            host = torch.ones(size, dtype=torch.uint8, pin_memory=kind == "pinned")
            out, back = timed(partial(host.copy_, source)), timed(partial(target.copy_, host))
            found[f"copy_to_{kind}_gb_per_s"] = 1e-9 * size / out
            found[f"copy_from_{kind}_gb_per_s"] = 1e-9 * size / back
    return found


def exact_float32() -> None:
    """No TF32 in float32 matrix products of this process."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over that of ``expected``, in float32."""
    expected = expected.float()
    return float((found.float() - expected).norm() / expected.norm())


# Checkpoints with random weights.


@dataclass(frozen=True)
class Shape:
    """Of a Qwen2 whose embeddings are tied."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int | None  # None: that of the tokenizer
    dtype: Literal["float32", "bfloat16"]


SHAPES = {
    "1.5b": Shape(28, 1536, 12, 2, 8960, 151936, "bfloat16"),  # Qwen2.5-1.5B
    "0.5b": Shape(24, 896, 14, 2, 4864, 151936, "bfloat16"),  # Qwen2.5-0.5B
    "small": Shape(4, 256, 4, 2, 768, None, "float32"),
    "tiny": Shape(2, 128, 4, 2, 384, None, "float32"),
}


def checkpoint(context: Context, shape: str) -> Path:
    """The folder of a checkpoint of one of `SHAPES` with the quickstart's tokenizer; made once per run.

    Logits have a standard deviation of about 2; biases and norms are random too, so that none can be lost unseen.
    Where the model's vocabulary is larger than the tokenizer's, tokens ``w0``, ``w1``, ... fill it up, so that whatever
    is sampled has a text.
    """
    folder = context.work / "models" / shape
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{shape}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        _write_checkpoint(SHAPES[shape], context, temporary)
        temporary.replace(folder)
        release_cache()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_checkpoint(shape: Shape, context: Context, folder: Path) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _tokenizer(shape.vocabulary)
    config = Qwen2Config(
        vocab_size=shape.vocabulary or len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        initializer_range=shape.hidden**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=shape.dtype,
    )
    torch.manual_seed(context.seed)
    with context.device:  # drawn there, which takes no time on a GPU
        model = Qwen2ForCausalLM(config)
        with torch.no_grad():
            embeddings: Any = model.get_input_embeddings()
            embeddings.weight.mul_(2)
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.to(getattr(torch, shape.dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(vocabulary: int | None) -> Any:
    """The quickstart's tokenizer, with fillers up to ``vocabulary`` tokens."""
    from transformers import Qwen2Tokenizer

    from reasoner_rl.commands.make_tiny_model import build_tokenizer

    tokenizer = build_tokenizer()
    if vocabulary is None:
        return tokenizer
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = tokenizer.get_vocab()
    fillers = {f"w{index}": index for index in range(len(words), vocabulary)}
    return Qwen2Tokenizer(
        vocab=words | fillers,
        merges=[tuple(merge) for merge in model["merges"]],  # type: ignore[misc]
        unk_token=None,  # type: ignore[arg-type]
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        model_max_length=32768,
    )


# Batches with random content.


def random_samples(
    prompts: int,
    responses: int,
    prompt_tokens: tuple[int, int],
    response_tokens: tuple[int, int],
    *,
    vocabulary: int = 100,
    seed: int = 0,
) -> list[TrainSample]:
    """``responses`` to each of ``prompts`` prompts, with lengths drawn between the two bounds, both inclusive.

    Advantages of both signs; token ids from 2, since 0 and 1 are the quickstart tokenizer's padding and end. Old and
    rollout logprobs are unknown (None, and zero), so a policy ratio is 1.
    """
    import torch

    from reasoner_rl.types import TrainSample

    draw = random.Random(seed)

    def ids(bounds: tuple[int, int]) -> Tensor:
        return torch.tensor([draw.randrange(2, vocabulary) for _ in range(draw.randint(*bounds))])

    samples = []
    for _ in range(prompts):
        prompt = ids(prompt_tokens)
        for number in range(responses):
            response = ids(response_tokens)
            samples.append(
                TrainSample(
                    prompt_ids=prompt,
                    response_ids=response,
                    loss_mask=torch.ones(len(response), dtype=torch.bool),
                    advantages=torch.full((len(response),), (-1.0) ** number * (1 + 0.1 * number)),
                    rollout_logprobs=torch.zeros(len(response)),
                )
            )
    return samples


def packed_batch(samples: Sequence[TrainSample], micro_batch_tokens: int) -> MiniBatch:
    """One optimizer update of the samples, cut into micro-batches of at most so many tokens."""
    from reasoner_rl.batching.plan import plan_mini_batch

    longest = max(len(sample.response_ids) for sample in samples)
    return plan_mini_batch(samples, micro_batch_tokens, longest)

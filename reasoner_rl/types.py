"""The typed records that pass from stage to stage, one per stage, in the order the data flows.

    Prompt -> Rollout -> Reward -> ScoredGroup -> TrainSample -> MicroBatch -> TokenOutputs | ValueOutputs

Tokens are never decoded and encoded again on the way: what was sampled is what is trained on. Everything about a
response is indexed by response token, so that no stage after generation knows about padding.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy
import torch
from torch import Tensor

FinishReason = Literal["stop", "length"]
Opinion = Literal["right", "wrong", "undecided", "timeout", "crash"]  # of a second verifier
Role = Literal["policy", "reference", "teacher", "critic", "reward_model"]  # what a model is for

IDLE = -1  # the sample index of a sequence that only keeps a rank in step with the others
OVERLONG = "overlong"  # the part of a score that is the penalty for length
# Metrics called reward/... that are of whole scores and of responses, and not of one part of the score.
REWARD_METRICS = (
    "score",
    "score_std",
    "accuracy",
    "accuracy_unknown",
    "unparsed",
    "undecided",
    "timeouts",
    "crashes",
    "truncated",
    "overlong_share",
    "second_opinions",
    "second_opinion_disagreements",
    "second_opinion_failures",
)
SAME_SCORE = 1e-6  # scores that differ by no more are equal up to rounding
REWARD_MODEL = "reward_model"  # the part of a score that is a reward model's, before weighting


@dataclass(frozen=True, slots=True)
class Prompt:
    """One task, rendered and tokenised once."""

    uid: str  # stable name of the row; seeds its sampling, and appears in the rollout record
    token_ids: tuple[int, ...]
    text: str  # what token_ids decode to, for people
    ground_truth: str
    data_source: str  # chooses the rule of a verifier that knows several
    extra_info: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()  # role and content, for a model that renders them otherwise


def _array(typecode: str, numbers: Sequence[float]) -> array[Any]:
    """The numbers as an array of type "i" or "f", of its own: an array made from bytes has room to grow, a copy not."""
    if isinstance(numbers, numpy.ndarray) and numbers.dtype == numpy.dtype(typecode):
        numbers = array(typecode, numbers.tobytes())  # without a Python object per number
    return array(typecode, numbers)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response: 8 bytes per token. Any sequences of numbers can be given; they become arrays."""

    # [R] array of int32; with finish_reason "stop" up to the end of sequence or a stop string
    token_ids: Sequence[int]
    # [R] array of float32, of the distribution sampled from, after temperature and cuts
    logprobs: Sequence[float]
    finish_reason: FinishReason  # "length": cut off at the token limit
    policy_version: int  # of the weights that drew the first token: how many training steps had made them
    text: str  # decoded without special tokens; what verifiers read
    # Where later weights went on: (first token, policy version) of each later part, in order.
    switches: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("token_ids", "i"), ("logprobs", "f")):
            object.__setattr__(self, name, _array(kind, getattr(self, name)))

    @property
    def latest_version(self) -> int:
        """Of the weights that drew the last token."""
        return self.switches[-1][1] if self.switches else self.policy_version

    def continued(self, added: Rollout) -> Rollout:
        """This response and what was drawn after it; ``added`` has the text of the whole."""
        if not self.token_ids:
            return added
        begun = len(self.token_ids)
        switches = self.switches
        if added.policy_version != self.latest_version:
            switches += ((begun, added.policy_version),)
        switches += tuple((begun + first, version) for first, version in added.switches)
        return Rollout(
            token_ids=array("i", self.token_ids) + array("i", added.token_ids),
            logprobs=array("f", self.logprobs) + array("f", added.logprobs),
            finish_reason=added.finish_reason,
            policy_version=self.policy_version,
            text=added.text,
            switches=switches,
        )


@dataclass(frozen=True, slots=True)
class Reward:
    """What the verifiers said of one response, and what shaping made of it."""

    score: float  # enters the advantage
    accuracy: float | None  # raw correctness in [0, 1], for filter and evaluation; None: not known
    components: Mapping[str, float]  # every part of the score by name, before weighting
    status: str = "ok"  # "ok", "unparsed", "undecided", "timeout" or "crash"
    extracted: str | None = None  # the answer that the verifier found
    trained: bool = True  # False: masked out of the loss (overlong filtering)
    seconds: float = field(default=0.0, compare=False)  # that the functions took for it
    second_opinion: Opinion | None = None  # of another verifier, if it was asked

    @property
    def disputed(self) -> bool:
        """Whether one of two verifiers finds the response right and the other finds it wrong."""
        if self.accuracy is None or self.second_opinion not in ("right", "wrong"):
            return False
        return (self.accuracy == 1) != (self.second_opinion == "right")

    @property
    def unshaped_score(self) -> float:
        """The score without the penalty for length."""
        return self.score - self.components.get(OVERLONG, 0.0)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """All responses to one prompt with their rewards."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]  # [G]
    rewards: tuple[Reward, ...]  # [G]

    @property
    def is_dead(self) -> bool:
        """Whether the scores of its several responses are all equal, and not because all responses are right."""
        scores = [reward.score for reward in self.rewards]
        right = all(reward.accuracy is not None and reward.accuracy >= 1 for reward in self.rewards)
        return len(scores) > 1 and max(scores) - min(scores) <= SAME_SCORE and not right

    @property
    def policy_version(self) -> int:
        """The oldest policy that any of the responses came from."""
        return min(rollout.policy_version for rollout in self.rollouts)

    @property
    def latest_version(self) -> int:
        """The policy that finished the last of the responses."""
        return max(rollout.latest_version for rollout in self.rollouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseColumns:
    """What is known of each response token: [R] in a sample, [N] in a micro-batch. None: not known, and not needed.

    A column is added here and nowhere else: packing carries over whatever is known.
    """

    loss_mask: Tensor  # bool; False tokens are read but not trained
    advantages: Tensor  # float32
    rollout_logprobs: Tensor  # float32, of the distribution sampled from
    old_logprobs: Tensor | None = None  # float32, by the trainer before the first update of the batch
    reference_logprobs: Tensor | None = None  # float32, by the frozen reference policy
    returns: Tensor | None = None  # float32, the target of the critic for the state before each token
    old_values: Tensor | None = None  # float32, by the critic before the first update of the batch
    kl_baseline: Tensor | None = None  # float32, in nats per response: what KTO measures a log-ratio against


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample(ResponseColumns):
    """One response as the trainer sees it. P prompt tokens, R response tokens."""

    prompt_ids: Tensor  # [P] int32 or int64
    response_ids: Tensor  # [R] int32 or int64
    policy_version: int = 0
    on_policy: bool = True  # False: sampled by an earlier policy, so old_logprobs are those of generation
    reward: float = 0.0  # the score of the whole response
    weight: float = 1.0  # its advantage is multiplied by it where prompts are drawn with unequal chances
    truncated: bool = False  # cut off at the token limit
    group: int = 0  # samples of a batch with the same number answer the same prompt
    supervised: bool = False  # a worked example, and not a response of the policy
    # [R] float32, in nats, of the policy before the step's first update; for records
    entropies: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Prompt and response tokens together."""
        return len(self.prompt_ids) + len(self.response_ids)

    def replace(self, **changes: Any) -> TrainSample:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


# What an offline algorithm learns from: a sample, or several that belong together, such as the two answers of a pair.
Example = tuple[TrainSample, ...]


@dataclass(frozen=True, slots=True)
class LossDenominators:
    """What a loss is divided by, counted over the whole mini-batch before it is cut into micro-batches or ranks."""

    tokens: float  # response tokens with loss_mask True
    sequences: float  # responses with at least one such token
    max_response_tokens: float  # the constant length of Dr. GRPO's normalisation
    groups: float = 0.0  # groups with at least one such response


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch(ResponseColumns):
    """Several sequences laid end to end, without padding. T tokens in S sequences, N of them response tokens.

    The hidden state at ``predictors[n]`` predicts the response token ``targets[n]``; every [N] field is in that
    order, sequence after sequence.
    """

    input_ids: Tensor  # [T] int64
    position_ids: Tensor  # [T] int64, from 0 in each sequence
    cu_seqlens: Tensor  # [S + 1] int32, from 0 to T
    max_seqlen: int
    predictors: Tensor  # [N] int64, indices into the T tokens
    targets: Tensor  # [N] int64
    sequence_ids: Tensor  # [N] int64 in 0..S-1
    on_policy: Tensor  # [N] bool; False: old_logprobs are those of generation by an earlier policy
    sample_indices: tuple[int, ...]  # [S]: where each sequence stood in the list that was cut
    groups: tuple[int, ...]  # [S]: the group of each sequence
    rewards: Tensor  # [S] float32: the score of each response
    denominators: LossDenominators
    supervised: bool = False  # worked examples, and not responses

    @property
    def sequences(self) -> int:
        """Number of sequences S."""
        return len(self.sample_indices)

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def split_responses(self, values: Tensor) -> dict[int, Tensor]:
        """Cut [N] per-token values back into one tensor per sequence, keyed by the sequence's sample index."""
        lengths = torch.bincount(self.sequence_ids, minlength=self.sequences).tolist()
        return dict(zip(self.sample_indices, values.split(lengths), strict=True))


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """The micro-batches whose gradients make one optimizer update."""

    micro_batches: tuple[MicroBatch, ...]
    denominators: LossDenominators

    def followed_by(self, other: MiniBatch) -> MiniBatch:
        """One update of both. The micro-batches of each part keep the part's denominators, so that losses add up."""
        return MiniBatch(self.micro_batches + other.micro_batches, self.denominators)


class TokenOutputs(NamedTuple):
    """What the policy says of the response tokens of a micro-batch. A tuple, so that FSDP finds the tensors in it."""

    logprobs: Tensor  # [N] float32, with gradient in training
    entropy: Tensor  # [N] float32, with gradient if the loss asks for it


class ValueOutputs(NamedTuple):
    """What the critic says of a micro-batch. A tuple, so that FSDP finds the tensor in it."""

    values: Tensor  # [N] float32: of the state before response token n, read where that token is predicted


def constant_column(value: float | bool, tokens: int) -> Tensor:
    """A column [tokens] with the same value everywhere, which takes the memory of one."""
    return torch.full((), value).expand(tokens)

"""Where a pointwise reward model's score is read: at the last token of prompt and answer.

That is the position of a model for sequence classification, as transformers has it. Values of critics are read where a
response token is predicted; so the score is read where the token after the end would be predicted, and a sample for
that has one response token, behind the answer, whose own hidden state nobody reads.
"""

from __future__ import annotations

import torch

from reasoner_rl.types import TrainSample, constant_column

EXTRA_TOKENS = 1  # by which a sequence is longer when its score is read


def read_at_end(sample: TrainSample) -> TrainSample:
    """The sample of which a value model returns one value [1], that of the state after the whole answer."""
    whole = torch.cat([sample.prompt_ids, sample.response_ids])
    return sample.replace(
        prompt_ids=whole,
        response_ids=whole[-1:],
        loss_mask=constant_column(True, 1),
        advantages=constant_column(0.0, 1),
        rollout_logprobs=constant_column(0.0, 1),
        old_logprobs=None,
        reference_logprobs=None,
    )

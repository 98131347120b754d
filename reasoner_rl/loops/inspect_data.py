"""`reasoner-rl data`: what a recipe's files hold once they are read, rendered and filtered."""

from __future__ import annotations

from reasoner_rl.config.recipes import EvalConfig, Recipe, SftConfig
from reasoner_rl.loops.start import load_prompts, say
from reasoner_rl.prompts.read import read_problems
from reasoner_rl.prompts.supervised import supervised_samples
from reasoner_rl.tokenizer import load_tokenizer


def inspect_data(config: Recipe) -> None:
    """Read every file the recipe names, and tell what came of it."""
    tokenizer = load_tokenizer(config.model)
    if isinstance(config, SftConfig):
        problems, read = read_problems(config.data.train)
        samples, report = supervised_samples(problems, tokenizer, config.data)
        say(f"{config.data.train.label}: {read}; {report}")
        first = samples[0]
        say(f"first prompt: {tokenizer.decode(first.prompt_ids)!r}")
        say(f"first response: {tokenizer.decode(first.response_ids)!r}")
        return
    rendering = config.prompts if isinstance(config, EvalConfig) else config.data.prompts
    if not isinstance(config, EvalConfig):
        load_prompts(config.data.train, rendering, tokenizer, show_first=True)
    for dataset in config.evaluation.datasets:
        load_prompts(dataset, rendering, tokenizer, show_first=isinstance(config, EvalConfig))

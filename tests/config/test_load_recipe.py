"""Recipes: files, `extends`, overrides, and what is said about mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from reasoner_rl.config import load
from reasoner_rl.config.load import RECIPES, dump_recipe, load_recipe, shipped_recipes
from reasoner_rl.config.recipes import EvalConfig, OnlineConfig, SftConfig
from reasoner_rl.errors import ConfigError

MINIMAL = "recipe: online\nrun: {output_dir: out}\nmodel: {path: m}\ndata: {train: {path: a.jsonl}}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "base.yaml"
    file.write_text(MINIMAL)
    return file


def online(source: Path | str, *overrides: str) -> OnlineConfig:
    config = load_recipe(source, overrides)
    assert isinstance(config, OnlineConfig)
    return config


def error(source: Path | str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(source, overrides)
    return str(caught.value)


# --- values


def test_overrides_hold_yaml_values(recipe: Path) -> None:
    config = online(
        recipe,
        "training.optimizer.lr=1e-5",
        "training.optimizer.grad_clip=null",
        "training.optimizer.betas=[0.8, 0.9]",
        "rollout.sampling={temperature: 0.5, top_k: 7}",
        "algorithm.dynamic_sampling.max_staleness=0",
        "run.output_dir=a=b",
        "logging.tensorboard=false",
    )
    assert config.training.optimizer.lr == 1e-5
    assert config.training.optimizer.grad_clip is None
    assert config.training.optimizer.betas == (0.8, 0.9)
    assert (config.rollout.sampling.temperature, config.rollout.sampling.top_k) == (0.5, 7)
    assert config.run.output_dir == Path("a=b")
    assert config.logging.tensorboard is False


@pytest.mark.parametrize("text", ["my model #1", "a: b", "- x", "*x", "&y", "!z", "%", "@", "a\nb", "<<x"])
def test_text_of_an_override_stands_as_it_is(recipe: Path, text: str) -> None:
    assert online(recipe, f"model.path={text}").model.path == text


def test_leading_zeros_are_not_octal(recipe: Path) -> None:
    assert online(recipe, "run.seed=010").run.seed == 10


def test_a_number_of_thousands_of_digits_is_refused(recipe: Path) -> None:
    assert error(recipe, f"run.seed={'9' * 5000}").startswith("override 'run.seed=9999")


def test_a_tilde_is_the_home_folder(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = online(
        recipe,
        "run.output_dir=~/run",
        "model={path: ~/model, tokenizer: ~/tokenizer, chat_template: ~/chat.jinja}",
        "data.train.path=~/a.jsonl",
        "reward.functions=[{fn: '~/mine.py:f'}]",
    )
    assert config.run.output_dir == Path("/home/me/run")
    assert (config.model.path, config.model.tokenizer) == ("/home/me/model", "/home/me/tokenizer")
    assert config.model.chat_template == Path("/home/me/chat.jinja")
    assert config.data.train.path == Path("/home/me/a.jsonl")
    assert config.reward.functions[0].fn == "/home/me/mine.py:f"
    assert "recipe file /home/me/r.yaml does not exist" in error("~/r.yaml")
    assert "recipe file ~nobody-at-all/r.yaml does not exist" in error("~nobody-at-all/r.yaml")
    assert online(recipe, "model.path=~nobody-at-all/m").model.path == "~nobody-at-all/m"


def test_of_two_overrides_of_one_key_the_later_counts(recipe: Path) -> None:
    assert online(recipe, "run.seed=1", "run.seed=2").run.seed == 2


def test_elements_of_lists_are_overridden_by_index(recipe: Path) -> None:
    config = online(
        recipe,
        "reward.functions.0.weight=2",
        "reward.functions.1.fn=a.b:c",
        "training.optimizer.betas.1=0.95",
    )
    first, second = config.reward.functions
    assert (first.fn, first.weight) == ("reward_fns:compute_score", 2.0)
    assert second.fn == "a.b:c"
    assert config.training.optimizer.betas == (0.9, 0.95)
    assert online(recipe, "evaluation.datasets.0.path=e.jsonl").evaluation.datasets[0].label == "e"
    assert online(recipe, "evaluation.datasets.00.path=e.jsonl").evaluation.datasets[0].label == "e"


def test_an_index_can_follow_a_list_given_before(recipe: Path) -> None:
    config = online(recipe, "reward.functions=[{fn: 'a:b'}, {fn: 'c:d'}]", "reward.functions.1.weight=3")
    assert [(f.fn, f.weight) for f in config.reward.functions] == [("a:b", 1.0), ("c:d", 3.0)]


def test_an_index_past_the_end_is_refused(recipe: Path) -> None:
    assert "override: reward.functions.2: the list has 1 elements" in error(
        recipe, "reward.functions.2.weight=2"
    )


# --- algorithms and other variants


def test_one_key_of_a_preset_keeps_the_others(recipe: Path) -> None:
    loss = online(recipe, "algorithm={kind: grpo, loss: {clip_low: 0.1}}").algorithm.loss
    assert (loss.clip_low, loss.aggregation, loss.dual_clip, loss.kl.coefficient) == (
        0.1,
        "seq-mean-token-mean",
        None,
        0.001,
    )
    loss = online(recipe, "algorithm.kind=grpo", "algorithm.loss.kl.estimator=k2").algorithm.loss
    assert (loss.kl.estimator, loss.kl.coefficient) == ("k2", 0.001)
    filtered = online(
        recipe, "algorithm.kind=dr_grpo", "algorithm.dynamic_sampling.max_staleness=3"
    ).algorithm
    assert (filtered.dynamic_sampling.enabled, filtered.dynamic_sampling.max_staleness) == (False, 3)


def test_one_key_of_the_critics_optimizer_keeps_the_others(recipe: Path) -> None:
    critic = online(recipe, "algorithm.kind=ppo", "critic.optimizer.grad_clip=0.5").critic
    assert critic is not None
    assert (critic.optimizer.grad_clip, critic.optimizer.lr) == (0.5, 1e-5)


def test_a_critics_warmup_leaves_steps_for_the_policy(recipe: Path) -> None:
    online(recipe, "algorithm.kind=ppo", "run.steps=3", "algorithm.critic_warmup_steps=2")
    with pytest.raises(
        ConfigError, match=r"critic_warmup_steps must be below run\.steps.*: 3 is not below 3"
    ):
        online(recipe, "algorithm.kind=ppo", "run.steps=3", "algorithm.critic_warmup_steps=3")


def test_a_users_advantage_may_have_one_response_per_prompt(recipe: Path) -> None:
    one = ("algorithm.kind=grpo", "rollout.responses_per_prompt=1")
    with pytest.raises(ConfigError, match=r"must be at least 2 with algorithm\.kind grpo"):
        online(recipe, *one)
    algorithm = online(recipe, *one, "algorithm.advantage=mine.py:advantages").algorithm
    assert not algorithm.compares_in_groups
    with pytest.raises(
        ConfigError, match=r"must be at least 2 with algorithm\.kind dapo"
    ):  # it has the filter
        online(recipe, one[1], "algorithm.kind=dapo", "algorithm.advantage=mine.py:advantages")


def test_a_key_of_the_default_variant_needs_no_kind(recipe: Path) -> None:
    config = online(recipe, "algorithm.loss.clip_high=0.3", "rollout.engine.max_batch_sequences=8")
    assert (config.algorithm.kind, config.algorithm.loss.clip_high) == ("dapo", 0.3)
    assert config.algorithm.dynamic_sampling.enabled
    assert config.rollout.engine.kind == "hf"
    assert config.rollout.engine.max_batch_sequences == 8


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_of_kind_and_keys_come_in_any_order(recipe: Path, order: int) -> None:
    overrides = ["algorithm.kind=grpo", "algorithm.loss.clip_low=0.1"][::order]
    algorithm = online(recipe, *overrides).algorithm
    assert (algorithm.kind, algorithm.loss.clip_low) == ("grpo", 0.1)


# --- extends


def child(recipe: Path, text: str) -> Path:
    file = recipe.parent / "child.yaml"
    file.write_text(f"extends: {recipe.name}\n{text}")
    return file


def test_extends_merges_sections_and_replaces_lists(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "reward: {functions: [{fn: 'a:b'}, {fn: 'c:d'}], workers: 3}\n")
    config = online(child(recipe, "run: {steps: 7}\nreward: {functions: [{fn: 'e:f'}]}\n"))
    assert (config.run.output_dir, config.run.steps) == (Path("out"), 7)
    assert [f.fn for f in config.reward.functions] == ["e:f"]
    assert config.reward.workers == 3


def test_a_section_of_another_kind_replaces(recipe: Path) -> None:
    recipe.write_text(
        MINIMAL + "algorithm: {loss: {clip_low: 0.11, clip_high: 0.5}}\n"
    )  # kind is dapo by default
    same = online(child(recipe, "algorithm: {kind: dapo, loss: {clip_low: 0.1}}\n")).algorithm.loss
    assert (same.clip_low, same.clip_high) == (0.1, 0.5)
    other = online(child(recipe, "algorithm: {kind: gspo}\n")).algorithm.loss
    assert (other.clip_low, other.clip_high) == (3e-4, 4e-4)


def test_a_kind_without_keys_of_its_own_does_not_replace(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "training: {schedule: {kind: linear, warmup_steps: 5}}\n")
    schedule = online(recipe, "training.schedule.kind=cosine").training.schedule
    assert (schedule.kind, schedule.warmup_steps) == ("cosine", 5)


def test_extends_names_a_shipped_recipe_or_a_path_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    shipped.mkdir()
    own.mkdir()
    (shipped / "first_2.5.yaml").write_text(MINIMAL + "batch: {prompts_per_update: 8}\n")
    (own / "middle.yaml").write_text("extends: first_2.5\nrun: {seed: 3}\n")
    (own / "last.yaml").write_text("extends: ./middle.yaml\nrun: {steps: 4}\n")
    monkeypatch.setattr(load, "RECIPES", shipped)
    config = online(own / "last.yaml")
    assert (config.batch.prompts_per_update, config.run.seed, config.run.steps) == (8, 3, 4)
    assert online("first_2.5").batch.prompts_per_update == 8
    assert error("first_2.6") == (
        "unknown recipe 'first_2.6'; shipped recipes: first_2.5 (the path of a file ends in .yaml)."
        " Did you mean 'first_2.5'?"
    )
    assert error(own) == f"recipe {own} is a folder; a run's folder holds its recipe: {own / 'recipe.yaml'}"
    assert error("first_2.5.yaml").endswith("does not exist. Did you mean 'first_2.5'?")
    (own / "last.yaml").write_text("extends: first_2.4\n")
    assert f"{own / 'last.yaml'}: extends: unknown recipe 'first_2.4'" in error(own / "last.yaml")


def test_extends_in_a_circle_is_refused(recipe: Path) -> None:
    recipe.write_text("extends: child.yaml\n" + MINIMAL)
    assert "extends goes round in a circle" in error(child(recipe, ""))


def test_a_recipe_extends_one_of_its_own_kind_only(recipe: Path) -> None:
    assert "can only extend one of its own kind; found 'online' in" in error(child(recipe, "recipe: sft\n"))


# --- mistakes


def test_unknown_keys_name_the_file_the_path_and_the_nearest_key(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "training:\n  optimiser: {lr: 1}\n")
    assert error(recipe, "run.step=3", "algorithm.loss.clip_lo=0.1").splitlines() == [
        "override: run.step = 3: unknown key. Did you mean 'run.steps'?",
        "override: algorithm.loss.clip_lo = 0.1: unknown key. Did you mean 'algorithm.loss.clip_low'?",
        f"{recipe}: training.optimiser: unknown key. Did you mean 'training.optimizer'?",
    ]


def test_a_key_in_the_wrong_place_is_found_elsewhere(recipe: Path) -> None:
    assert (
        error(recipe, "lr=1e-6")
        == "override: lr = 1e-06: unknown key. Did you mean 'training.optimizer.lr' or "
        "'critic.optimizer.lr'?"
    )
    assert "Did you mean 'rollout.engine.tensor_parallel' or 'training.backend.tensor_parallel'?" in error(
        recipe, "tensor_parallel=2"
    )


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        (
            "sft",
            "examples_per_step=4",
            "examples_per_step = 4: unknown key. Did you mean 'batch.examples_per_step'?",
        ),
        (
            "sft",
            "micro_batch_tokens=9",
            "micro_batch_tokens = 9: unknown key. Did you mean 'batch.micro_batch_tokens'?",
        ),
        ("eval", "engine.kind=vllm", "engine: unknown key. Did you mean 'rollout.engine'?"),
        ("eval", "sampling.top_p=0.7", "sampling: unknown key. Did you mean 'rollout.sampling'?"),
        ("eval", "prompts.max_tokens=64", "prompts: unknown key. Did you mean 'data.prompts'?"),
    ],
)
def test_a_key_at_the_place_of_earlier_versions_names_the_new_one(
    recipe: Path, kind: str, override: str, message: str
) -> None:
    held_out = "evaluation: {datasets: [{path: b.jsonl}]}\n"
    recipe.write_text(
        MINIMAL.replace("online", "sft")
        if kind == "sft"
        else "recipe: eval\nrun: {output_dir: o}\nmodel: {path: m}\n" + held_out
    )
    assert error(recipe, override) == f"override: {message}"


def test_a_key_of_another_variant_says_so(recipe: Path) -> None:
    assert error(recipe, "training.backend.tensor_parallel=2") == (
        "override: training.backend.tensor_parallel = 2: unknown key. It belongs to kind megatron, and "
        "training.backend.kind is fsdp"
    )


def test_unknown_kinds_list_the_allowed_ones(recipe: Path) -> None:
    assert error(recipe, "algorithm.kind=gropo") == (
        'override: algorithm.kind = "gropo": must be one of dapo, grpo, dr_grpo, rloo, gspo, '
        "cispo, reinforce_plus_plus, ppo, distillation, custom. Did you mean 'grpo'?"
    )
    assert "must be a section; its kind is chosen by algorithm.kind" in error(recipe, "algorithm=grpo")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.optimizer.lr=-1", "override: training.optimizer.lr = -1: must be greater than 0"),
        (
            "run.steps=1.5",
            "override: run.steps = 1.5: must be a valid integer, got a number with a fractional part",
        ),
        ("run.resume=neverr", "must be one of auto, never. Did you mean 'never'?"),
        ("run=3", "override: run = 3: must be a section, with keys of its own"),
        ("reward.functions.0.fn=abc", "override: reward.functions.0: reward function must read"),
        ("reward.functions.1.weight=2", "override: reward.functions.1.fn: required, but not given"),
        (
            "data.prompts.apply_chat_template=maybe",
            'override: data.prompts.apply_chat_template = "maybe": must be a valid boolean, unable to interpret input, '
            "or must be 'auto'",
        ),
        (
            "data.train.prompt_template={problem}",
            """{"problem": null}: must be text; text that begins with a bracket needs quotes, such as '"{problem}"'""",
        ),
        ("run.seed=1:30", 'override: run.seed = "1:30": must be a valid integer'),
        ("training.optimizer.lr=true", "override: training.optimizer.lr = true: must be a number"),
        ("run.seed=false", "override: run.seed = false: must be a number"),
        (
            "rollout.engine.max_batch_sequences=true",
            "override: rollout.engine.max_batch_sequences = true: must be",
        ),
        ("algorithm.loss.clip_low=true", "override: algorithm.loss.clip_low = true: must be a number"),
        (
            "evaluation.datasets=[{path: a.jsonl, limit: true}]",
            "evaluation.datasets.0.limit = true: must be a number",
        ),
        ("training.optimizer.betas=[true, 0.9]", "betas = [true, 0.9]: must be a number"),
        ("training.optimizer.lr=.inf", "lr = Infinity: must be a finite number"),
        ("rollout.sampling.temperature=.nan", "temperature = NaN: must be a finite number"),
        (
            "reward.functions.0.weight=.nan",
            "override: reward.functions.0.weight = NaN: must be a finite number",
        ),
        ("evaluation.datasets.²=x", "override: evaluation.datasets = "),
        ("evaluation.sampling={temperature: -1}", "override: evaluation.sampling.temperature = -1: must be"),
        ("rollout.sampling={temperature: -1}", "override: rollout.sampling.temperature = -1: must be"),
        ("reward.functions.0.parameters.wrong_score=bad", "parameters.wrong_score must be a finite number"),
        (
            f"reward.functions.0.parameters.wrong_score={'9' * 400}",
            "parameters.wrong_score must be a finite number; it is 9999",
        ),
        (f"reward.functions.0.weight={'9' * 400}", "reward.functions.0.weight = 9999"),
    ],
)
def test_bad_values_name_key_value_and_rule(recipe: Path, override: str, message: str) -> None:
    found = error(recipe, override)
    assert message in found
    assert len(found.splitlines()) == 1


def test_the_file_that_gave_a_bad_value_is_named(recipe: Path) -> None:
    recipe.write_text(MINIMAL + "batch: {epochs: 0}\n")
    file = child(recipe, "run: {seed: -1}\n")
    assert set(error(file).splitlines()) == {
        f"{recipe}: batch.epochs = 0: must be greater than or equal to 1",
        f"{file}: run.seed = -1: must be greater than or equal to 0",
    }


def test_missing_keys_are_named(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("recipe: online\nmodel: {}\n")
    assert error(file).splitlines() == [
        f"{file}: run: required, but not given",
        f"{file}: model.path: required, but not given",
        f"{file}: data: required, but not given",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": a recipe is a mapping of sections; the file is empty"),
        ("- a\n", ': a recipe is a mapping of sections; it holds ["a"]'),
        ("recipe: online\nrun: {output_dir: [}\n", ", line 2: not valid YAML"),
        (
            "recipe: online\nrun:\n  seed: 1\n  seed: 2\n",
            ", line 4: not valid YAML: the key 'seed' is given twice",
        ),
        ("recipe: online\n1: 2\n", ", line 2: not valid YAML: a key must be text; put it in quotes"),
        (
            "run: {}\n",
            ": recipe: required, but not given: must be one of online, sft, preference, reward_model, iterated, eval",
        ),
        (
            "recipe: onlin\n",
            ': recipe = "onlin": must be one of online, sft, preference, reward_model, iterated, eval. Did you mean '
            "'online'?",
        ),
        (
            "recipe: [1]\n",
            ": recipe = [1]: must be one of online, sft, preference, reward_model, iterated, eval",
        ),
        ("extends: 3\n", ": extends = 3: must be the name of a shipped recipe or a path"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    assert error(file).startswith(f"{file}{message}")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in error(file)


def test_a_missing_file_suggests_its_neighbour(recipe: Path) -> None:
    missing = recipe.parent / "bases.yaml"
    assert error(missing) == f"recipe file {missing} does not exist. Did you mean 'base.yaml'?"
    assert "does not exist" in error(str(missing))


@pytest.mark.parametrize("override", ["run.steps", "=3", "run..steps=3", ".run=1"])
def test_overrides_must_be_assignments(recipe: Path, override: str) -> None:
    assert error(recipe, override) == f"override {override!r}: must read key.path=value"


def test_an_override_that_is_not_utf8(recipe: Path) -> None:
    assert error(recipe, "model.path=\udcff") == "override 'model.path=\\udcff': must be UTF-8"


def test_an_override_that_is_not_yaml(recipe: Path) -> None:
    assert error(recipe, "run.steps={a").startswith("override 'run.steps={a', line 1: not valid YAML")
    template = error(recipe, "data.train.prompt_template={problem} Think.")
    assert template.endswith("; text that begins with a bracket or a quote needs quotes")
    for text in ("{quantile:0.5}", "{quantile:0.5, b: 1}", "[{b: 1, quantile:0.5}]"):
        assert "has no value; a space must follow the colon" in error(recipe, f"algorithm.parameters={text}")


# --- the whole


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["algorithm.kind=gspo", "rollout.engine.kind=vllm", "model.lora.rank=4", "run.output_dir='1e6'"],
        [
            "reward.functions=[{fn: 'a.py:b', parameters: {x: 1.5, y: [a, '1e3']}}]",
            "data.prompts.system='a: b\n'",
        ],
        ["training.optimizer.lr=3e-7", "logging.wandb={}", "data.prompts.system=no"],
        ["evaluation.sampling.top_p=0.7", "model.path=010", "run.output_dir=2024-01-01"],
        ["reward.functions.0.parameters={x: .inf, y: '+.5', z: '0o7'}"],
    ],
)
def test_a_dumped_recipe_reads_back_equal(recipe: Path, overrides: list[str]) -> None:
    config = online(recipe, *overrides)
    again = recipe.parent / "again.yaml"
    again.write_text(dump_recipe(config))
    assert online(again) == config


def test_all_kinds_of_recipe_load(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(MINIMAL.replace("online", "sft"))
    assert isinstance(load_recipe(file), SftConfig)
    file.write_text(
        "recipe: eval\nrun: {output_dir: o}\nmodel: {path: m}\nevaluation: {datasets: [{path: a.jsonl}]}\n"
    )
    config = load_recipe(file, ["rollout.engine.max_batch_sequences=3"])
    assert isinstance(config, EvalConfig)
    assert config.rollout.engine.kind == "hf"
    assert config.rollout.engine.max_batch_sequences == 3


def test_configurations_are_frozen(recipe: Path) -> None:
    config = online(recipe)
    with pytest.raises(ValidationError, match="frozen"):
        config.training.optimizer.lr = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.algorithm.kind = "grpo"  # type: ignore[assignment,misc]


def test_loading_imports_no_torch() -> None:
    code = (
        "import sys, reasoner_rl.config.load, reasoner_rl.config.arithmetic; "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo", "gspo"])
def test_the_recipes_of_one_model_differ_in_the_algorithm_alone(kind: str) -> None:
    config = online(f"{kind}_qwen2.5_1.5b")
    assert config.algorithm.kind == kind
    assert config.rollout.engine.kind == "vllm"
    assert config.run.output_dir == Path(f"runs/{kind}_qwen2.5_1.5b")
    same = config.model_copy(update={"run": None, "algorithm": None})
    assert same == online("grpo_qwen2.5_1.5b").model_copy(update={"run": None, "algorithm": None})


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_recipes_load(file: Path) -> None:
    assert shipped_recipes()[file.stem] == file
    config = load_recipe(file.stem)
    assert dump_recipe(config)


def test_large_recipes_record_parquet_alone_and_small_ones_lines_for_people_too() -> None:
    forms = {name: load_recipe(name).logging.rollout_format for name in shipped_recipes()}
    online = {
        name for name in forms if isinstance(load_recipe(name), OnlineConfig)
    }  # others record no rollouts
    large = {name for name in online if "7b" in name or "32b" in name}
    assert len(large) == 4
    assert {name for name, form in forms.items() if form == "parquet"} == large
    assert forms["quickstart"] == forms["aime"] == "both"


def test_a_rule_between_sections_is_about_the_recipe_and_the_overrides(recipe: Path) -> None:
    said = error(recipe, "run.steps=1", "training.schedule.warmup_steps=2")
    rule = "training.schedule.warmup_steps must not exceed run.steps: 2 exceeds 1"
    assert said == f"{recipe} with the overrides: {rule}"

"""The weights in training checkpoints as Hugging Face folders, merged or as adapters, and recipes that name runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from reasoner_rl.config.model import ModelConfig
from reasoner_rl.config.recipes import SftConfig
from reasoner_rl.errors import ConfigError, UserError
from reasoner_rl.tokenizer import load_tokenizer
from reasoner_rl.trainer.export_checkpoint import export, with_exported_models
from reasoner_rl.trainer.train import train

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}="
IDS = torch.arange(3, 23)[None]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Path]) -> SftConfig:
    """A finished run of three steps that trained adapters, with a chat template of its own."""
    folder = tmp_path_factory.mktemp("export")
    base = shutil.copytree(tiny_checkpoint("qwen2-tied"), folder / "base")
    GenerationConfig(temperature=0.7, do_sample=True).save_pretrained(base)
    (folder / "chat.jinja").write_text(TEMPLATE)
    rows = [{"problem": f"{n} plus 1?", "answer": str(n + 1), "solution": f"{n}+1"} for n in range(6)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lora = {"rank": 4, "alpha": 16, "target_modules": ["q_proj", "down_proj"]}
    config = SftConfig.model_validate(
        {
            "run": {"output_dir": folder / "run", "steps": 3, "threads": 1},
            "model": {"path": str(base), "lora": lora, "chat_template": folder / "chat.jinja"},
            "data": {"train": {"path": folder / "train.jsonl", "columns": {"solution": "solution"}}},
            "batch": {"examples_per_step": 2, "micro_batch_tokens": 100},
            "training": {"optimizer": {"lr": 0.05}},
            "checkpoint": {"every_steps": 2},
            "logging": {"tensorboard": False},
        }
    )
    assert train(config) is not None
    return config


def test_a_checkpoint_is_exported_as_the_run_exports_its_end(
    config: SftConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config.run.output_dir
    assert export(run) == run / "exported" / "step_000003"
    assert "exported the weights with adapters merged of step 3 in float32" in capsys.readouterr().out
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer_config.json"):
        assert (run / "exported" / "step_000003" / name).read_bytes() == (run / "final" / name).read_bytes()
    final = load_file(run / "final" / "model.safetensors")
    exported = load_file(run / "exported" / "step_000003" / "model.safetensors")
    assert exported.keys() == final.keys()
    assert all(torch.equal(exported[name], final[name]) for name in final)
    assert GenerationConfig.from_pretrained(run / "exported" / "step_000003").temperature == 0.7
    assert export(run / "checkpoints" / "step_000003") == run / "exported" / "step_000003"
    assert "holds the weights with adapters merged of step 3 already" in capsys.readouterr().out
    before = load_file(export(run / "checkpoints" / "step_000002") / "model.safetensors")
    assert any(not torch.equal(before[name], final[name]) for name in final)


def test_adapters_alone_are_what_peft_reads(config: SftConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run = config.run.output_dir
    folder = export(run, adapters=True)
    assert folder == run / "exported" / "step_000003_adapters"
    assert f"to be used with the weights of {config.model.path}" in capsys.readouterr().out
    assert {name.rpartition(".lora_")[2] for name in load_file(folder / "adapter_model.safetensors")} == {
        "A.weight",
        "B.weight",
    }
    base = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
    with torch.no_grad():
        plain = base(IDS).logits
        adapted = PeftModel.from_pretrained(base, folder)(IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(run / "final", dtype=torch.float32)(IDS).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE


def test_files_that_are_shared_follow_the_umask(config: SftConfig, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        weights = export(config.run.output_dir, tmp_path / "weights")
        adapters = export(config.run.output_dir, tmp_path / "adapters", adapters=True)
    finally:
        os.umask(before)
    for folder in (weights, adapters):
        modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
        assert set(modes.values()) == {"0o640"}, modes
    whole = config.run.output_dir
    modes = {str(path): path.stat().st_mode & 0o777 for path in whole.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~before}, modes


def test_a_recipe_may_name_a_run_or_its_checkpoint_as_a_model(
    config: SftConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config.run.output_dir

    def named(path: Path) -> str:
        model = config.model.model_copy(update={"path": str(path)})
        return with_exported_models(config.model_copy(update={"model": model})).model.path

    assert named(run) == str(run / "final")
    assert named(run / "checkpoints" / "step_000002") == str(run / "exported" / "step_000002")
    assert f"model.path={run}/checkpoints/step_000002: its weights are read from" in capsys.readouterr().out
    gone_on = shutil.copytree(run, tmp_path / "gone_on")
    (gone_on / "summary.json").write_text('{"steps": 2}')
    assert named(gone_on) == str(gone_on / "exported" / "step_000003")
    # Trained further with checkpoint.export_at_end=false: final/ is that of the first end.
    (gone_on / "summary.json").write_text('{"steps": 3, "exported": false}')
    assert named(gone_on) == str(gone_on / "exported" / "step_000003")
    assert named(Path(config.model.path)) == config.model.path
    with pytest.raises(ConfigError, match=r"`reasoner-rl export .*gone_on` writes its weights"):
        load_tokenizer(ModelConfig(path=str(gone_on)))


def test_what_cannot_be_exported_is_told(config: SftConfig, tmp_path: Path) -> None:
    run = config.run.output_dir
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder\. Name a run's output_dir"):
        export(tmp_path / "nowhere")
    (tmp_path / "ended" / "final").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds no training checkpoint .* are in .*ended/final"):
        export(tmp_path / "ended")
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(
        ConfigError, match=r"exists, and is no export of .*step_000003 \(adapters\): choose another"
    ):
        export(run, tmp_path, adapters=True)
    copy = shutil.copytree(run, tmp_path / "copy")
    recipe = copy / "checkpoints" / "step_000003" / "recipe.yaml"
    recipe.write_text(recipe.read_text() + "\n")
    with pytest.raises(
        UserError,
        match=r"step_000003 is damaged: recipe\.yaml has .*Another checkpoint of the run may be whole",
    ):
        export(copy)
    assert not list(copy.glob("exported/.step*"))
    (recipe.parent / "manifest.json").unlink()
    tree = recipe.read_text()
    recipe.write_text(
        tree[: tree.index("  lora:")] + "  lora: null\n" + tree[tree.index("  chat_template:") :]
    )
    with pytest.raises(ConfigError, match=r"has no adapters, because model\.lora is not set"):
        export(copy, adapters=True)

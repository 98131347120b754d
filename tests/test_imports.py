"""The rules of the architecture, read off the source: who imports whom, and how long files and functions are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "reasoner_rl"
STAGES = (
    "prompts",
    "rollout",
    "rewards",
    "advantages",
    "batching",
    "losses",
    "training",
    "evaluation",
    "observability",
)
# What puts stages together, the lowest first, and all that each may import besides the shared modules.
COMPOSING = {
    "datasets": {"prompts"},
    "algorithms": {"advantages", "batching", "losses", "training"},
    "reward_models": {"batching", "evaluation", "prompts"},
    "sources": {"advantages", "observability", "prompts", "reward_models", "rewards", "rollout"},
    "hybrid": {"batching", "observability", "rollout", "training"},
    "distributed": {
        *("algorithms", "hybrid"),
        *("batching", "observability", "rewards", "rollout", "training"),
    },
    "trainer": {
        *("algorithms", "sources", "distributed"),
        *(
            "batching",
            "evaluation",
            "observability",
            "prompts",
            "reward_models",
            "rewards",
            "rollout",
            "training",
        ),
    },
    "plan": set(),
    "report": {"observability"},
    "commands": {
        *("algorithms", "datasets", "plan", "report", "hybrid", "distributed", "trainer", "sources"),
        *("advantages", "evaluation", "observability", "prompts", "reward_models", "rewards", "training"),
    },
    "api": {"commands", "evaluation", "observability", "trainer"},
    "doctor": {"distributed", "observability"},
    "cli": {"datasets", "report", "trainer", "commands", "doctor"},
}
SHARED = {"types", "metrics", "errors", "seeding", "tokenizer", "experts", "plugins", "config"}
ADAPTED = (
    *("vllm", "megatron", "mbridge", "ray", "verl", "flash_attn", "wandb", "choix", "sklearn"),
    *("mathematics_dataset", "datasketch"),
)
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def imported_names(path: Path) -> Iterator[str]:
    """Every absolute module name that a file imports, anywhere in it; `from a import b` yields a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found, f"no Python files in {folders}"
    return found


def our_parts(path: Path) -> set[str]:
    """Which parts of reasoner_rl (packages or modules directly below it) a file imports."""
    names = [name.split(".") for name in imported_names(path)]
    return {parts[1] for parts in names if parts[0] == "reasoner_rl" and len(parts) > 1}


def top_levels(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(path)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(stage: str) -> None:
    for path in files(f"reasoner_rl/{stage}"):
        foreign = our_parts(path) - SHARED - {stage}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)} of reasoner_rl"


def test_the_shared_modules_import_no_stage() -> None:
    for path in [
        *files("reasoner_rl/config"),
        *(PACKAGE / f"{name}.py" for name in sorted(SHARED - {"config"})),
    ]:
        foreign = our_parts(path) - SHARED
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)} of reasoner_rl"


def test_every_part_is_a_stage_or_shared_or_composes() -> None:
    parts = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts == set(STAGES) | SHARED | COMPOSING.keys() | {"__init__"}


@pytest.mark.parametrize("part", sorted(COMPOSING))
def test_what_composes_imports_only_what_is_below_it(part: str) -> None:
    paths = [PACKAGE / f"{part}.py"] if (PACKAGE / f"{part}.py").exists() else files(f"reasoner_rl/{part}")
    for path in paths:
        foreign = our_parts(path) - SHARED - {part} - COMPOSING[part]
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)} of reasoner_rl"


def test_the_order_of_what_composes_has_no_circle() -> None:
    """Every part stands behind all that it may import."""
    names = list(COMPOSING)
    for place, part in enumerate(names):
        assert COMPOSING[part] <= set(STAGES) | set(names[:place]), part


@pytest.mark.parametrize(
    ("part", "importers"),
    [
        *(("trainer", {"api", "cli", "commands"}), ("commands", {"api", "cli"})),
        *(("cli", set()), ("doctor", {"cli"}), ("api", {"__init__"})),
    ],
)
def test_who_may_import_the_top(part: str, importers: set[str]) -> None:
    for path in files("reasoner_rl"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own not in importers | {part}:
            assert part not in our_parts(path), path


def test_config_imports_neither_torch_nor_transformers() -> None:
    for path in files("reasoner_rl/config"):
        assert not top_levels(path) & {"torch", "transformers"}, path


def test_reward_functions_stand_alone() -> None:
    for path in files("reward_fns"):
        assert not top_levels(path) & {"reasoner_rl", "torch", "transformers"}, path


@pytest.mark.parametrize("package", ["advantages", "losses", "batching", "rewards"])
def test_pure_stages_import_no_adapted_package(package: str) -> None:
    for path in files(f"reasoner_rl/{package}", "reward_fns"):
        assert not top_levels(path) & {"vllm", "ray", "megatron", "verl"}, path


@pytest.mark.parametrize("adapted", ADAPTED)
def test_an_adapted_package_is_imported_by_one_module_or_package_at_most(adapted: str) -> None:
    importing = {path for path in files("reasoner_rl", "reward_fns") if adapted in top_levels(path)}
    importing = {path.parent if path.parent.name == adapted else path for path in importing}
    assert len(importing) <= 1, importing


def test_no_file_is_too_long() -> None:
    for path in files("reasoner_rl", "reward_fns", "scripts", "data"):
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_FILE_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_function_is_too_long() -> None:
    for path in files("reasoner_rl", "reward_fns", "scripts", "data"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f"{path.relative_to(ROOT)}: {node.name} has {lines} lines"


def test_the_walk_sees_imports_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import torch.nn as nn\ndef f():\n    from reasoner_rl import losses\n    import ray\n")
    assert set(imported_names(module)) == {"torch.nn", "reasoner_rl", "reasoner_rl.losses", "ray"}
    assert our_parts(module) == {"losses"}
    assert top_levels(module) == {"torch", "reasoner_rl", "ray"}

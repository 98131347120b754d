"""The glossary against the source, both ways: every metric that the code makes is explained, and nothing else.

Keys are read off the syntax trees of all modules that make metrics: those that import reasoner_rl.metrics. Written out,
a key is a text PREFIX/NAME that the module does not only read. Where a key is put together, its f-string must be in
`families`, which says where the parts come from. What runs log is checked besides, in every test that trains, by the
fixture `documented_metrics` of tests/conftest.py.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import get_args

import pytest
from documented import REDUCTIONS, is_reduced_by, require_documented

from reasoner_rl.config.preference import JudgedData
from reasoner_rl.evaluation.pairs import BUCKETS
from reasoner_rl.metrics import Reduction, maximum, mean, total
from reasoner_rl.observability.glossary import Unit, every_metric, glossary, meaning_of
from reasoner_rl.types import OVERLONG

PACKAGE = Path(__file__).resolve().parents[2] / "reasoner_rl"
KEY = re.compile(r"[a-z_]+/[a-z_]+")
MAKERS: dict[str, Reduction] = {"mean": "mean", "mean_of": "mean", "total": "sum", "maximum": "max"}
# Their keys are not of a run's metrics: a template of a user's file, and what commands tell.
NOT_OF_RUNS = re.compile(r"algorithms/custom_template\.py|commands/.*")

Made = dict[str, set[Reduction]]  # by key: the reductions that the source shows


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


@cache
def making_modules() -> list[str]:
    """Modules that import reasoner_rl.metrics."""
    text = "from reasoner_rl.metrics import"
    importing = [path for path in sorted(PACKAGE.rglob("*.py")) if text in path.read_text(encoding="utf-8")]
    modules = [path.relative_to(PACKAGE).as_posix() for path in importing]
    return [module for module in modules if not NOT_OF_RUNS.fullmatch(module)]


def keyed(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The keys that a node writes, with their values: of a dict, of one that is built in a loop, by assignment."""
    if isinstance(node, ast.Dict):
        yield from (
            (key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None
        )
    elif isinstance(node, ast.DictComp):
        yield node.key, node.value
    elif isinstance(node, ast.Assign):
        yield from ((to.slice, node.value) for to in node.targets if isinstance(to, ast.Subscript))


def texts(nodes: object) -> set[str]:
    """The texts among nodes."""
    found = nodes if isinstance(nodes, list | tuple) else [nodes]
    return {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def names(module: str, *functions: str) -> set[str]:
    """The keys without a slash that are written in functions of a module: a metric's last part."""
    inside = [n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef) and n.name in functions]
    assert {function.name for function in inside} == set(functions), f"{module}: {functions}"
    found = {text for f in inside for node in ast.walk(f) for key, _ in keyed(node) for text in texts(key)}
    return {text for text in found if "/" not in text}


def first_arguments(*called: str) -> set[str]:
    """The texts that functions or methods of these names are called with, in modules that measure."""
    found: set[str] = set()
    for path in [*(PACKAGE / module for module in making_modules()), *(PACKAGE / "sources").glob("*.py")]:
        for node in ast.walk(tree(path.relative_to(PACKAGE).as_posix())):
            if isinstance(node, ast.Call) and name_of(node.func) in called:
                found |= texts(node.args[:1])
    assert found, called
    return found


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


OBSERVED = ("policy_loss", "_observe_policy", "_observe_rollout", "_observe_weights")


@cache
def families() -> dict[tuple[str, str], set[str]]:
    """Module and f-string -> all keys that it makes."""
    columns, phases = first_arguments("column_metrics"), first_arguments("timer", "_timer", "change", "part")
    switches = set(product(first_arguments("change"), names("hybrid/meter.py", "_memory_gib")))
    return {
        **{
            ("advantages/statistics.py", f"{{name}}_{end}"): {f"{name}_{end}" for name in columns}
            for end in ("mean", "std", "min", "max")
        },
        **{
            (f"evaluation/{module}.py", "{prefix}/{self.dataset}/{name}"): {
                f"eval/{{dataset}}/{name}" for name in names(f"evaluation/{module}.py", "metrics")
            }
            for module in ("estimators", "pairs")
        },
        ("evaluation/pairs.py", "accuracy_chosen_{bucket}"): {
            f"eval/{{dataset}}/accuracy_chosen_{bucket}" for bucket in BUCKETS
        },
        **{
            ("hybrid/meter.py", f"memory/{{name}}_{{place}}_{when}_gib"): {
                f"memory/{name}_{place}_{when}_gib" for name, place in switches
            }
            for when in ("before", "after")
        },
        ("losses/policy.py", "policy/{name}"): {
            f"policy/{name}" for name in names("losses/policy.py", *OBSERVED)
        },
        ("observability/measurements.py", "time/{phase}"): {f"time/{phase}" for phase in phases},
        ("observability/measurements.py", "speed/{phase}_tokens_per_second"): {
            f"speed/{phase}_tokens_per_second" for phase in names("trainer/loop.py", "_log")
        },
        # A function's score and its other numbers, as rewards/shaping.py names them.
        ("rewards/metrics.py", "reward/{name}"): {
            *("reward/{function}", "reward/{function}/{number}", f"reward/{OVERLONG}")
        },
        ("sources/online.py", "groups/{name}"): {
            f"groups/{name}" for name in names("sources/online.py", "next")
        },
    }


@cache
def made() -> Made:
    """Every key that the source makes."""
    found: Made = {}
    for module in making_modules():
        for key, reduction in written_out(module):
            found.setdefault(key, set()).update({reduction} if reduction else ())
    for key in (*chain(*families().values()), *of_rounds()):
        found.setdefault(key, set())
    for old, new in renamed():
        found |= {new + key.removeprefix(old): by for key, by in found.items() if key.startswith(old)}
    return found


def renamed() -> Iterator[tuple[str, str]]:
    """Prefixes that are replaced, such as train/ by critic/ in what a critic's update has measured."""
    for module in making_modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call) and name_of(node.func) == "replace":
                old, new = (*(text for each in node.args[:2] for text in texts(each)), "", "")[:2]
                if old.endswith("/") and new.endswith("/"):
                    yield old, new


def written_out(module: str) -> Iterator[tuple[str, Reduction | None]]:
    """The keys that stand in a module as they are, but for those that it only reads or hands to a function."""
    nodes = list(ast.walk(tree(module)))
    values = {id(key): value for node in nodes for key, value in keyed(node)}
    read: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Compare | ast.Call):
            read |= {id(child) for child in ast.iter_child_nodes(node)}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            read.add(id(node.slice))
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in read and KEY.fullmatch(str(node.value)):
            value = values.get(id(node))
            yield node.value, MAKERS.get(name_of(value.func)) if isinstance(value, ast.Call) else None


def of_rounds() -> set[str]:
    """The keys of metrics.jsonl of a recipe of kind iterated, without those of evaluations."""
    module = "commands/train_iterated.py"
    [log] = [n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef) and n.name == "_log"]
    copied = [node.generators[0].iter for node in ast.walk(log) if isinstance(node, ast.DictComp)]
    listed = {text for each in copied if isinstance(each, ast.Tuple) for text in texts(each.elts)}
    return names(module, "_log") | listed | set(get_args(JudgedData))


def expanded(key: str) -> set[str]:
    """A key of the glossary with each {a|b} replaced by each word."""
    parts = re.split(r"\{([^}|]+\|[^}]+)\}", key)
    choices = [part.split("|") if place % 2 else [part] for place, part in enumerate(parts)]
    return {"".join(chosen) for chosen in product(*choices)}


DOCUMENTED = {key: doc for doc in every_metric() for key in expanded(doc.key)}


def test_the_scan_sees_what_it_should() -> None:
    """Examples of every way in which a key is made, and of what is none."""
    assert {
        *("reward/score", "policy/loss", "memory/device_gib", "preference/negative_weights"),  # as keys
        *("logps/chosen", "rewards/accuracies"),  # in tuples
        *("groups/put_off", "policy/dual_clip_fraction", "policy/entropy", "policy/importance_weight_below"),
        *("value/return_std", "advantage/token_max", "critic/lr", "time/receive", "time/reward_model"),
        *("memory/receive_device_used_after_gib", "eval/{dataset}/pass_at_k", "eval/{dataset}/brier"),
        *("speed/generate_tokens_per_second", "answers_right", "labels", "step"),
    } <= made().keys()
    assert (
        not {"value/return", "advantage/token", "advantage/above_baseline", "groups/sampler"} & made().keys()
    )
    assert len(making_modules()) > 40
    assert made()["reward/score"] == {"mean"}
    assert made()["memory/host_used_share"] == {"max"}
    assert made()["reward/crashes"] == {"sum"}


def test_keys_that_are_put_together_are_of_a_known_family() -> None:
    found = {
        (module, ast.unparse(key)[2:-1])
        for module in making_modules()
        for node in ast.walk(tree(module))
        for key, _ in keyed(node)
        if isinstance(key, ast.JoinedStr)
    }
    assert found == families().keys()


def test_every_metric_that_the_code_makes_is_explained() -> None:
    assert sorted(made().keys() - DOCUMENTED.keys()) == []


def test_nothing_is_explained_that_the_code_does_not_make() -> None:
    assert sorted(DOCUMENTED.keys() - made().keys()) == []
    keys = [doc.key for doc in every_metric()]
    assert len(keys) == len(set(keys))


def test_what_is_said_of_reductions_is_what_the_code_does() -> None:
    wrong = {
        key: (doc.reduced, by)
        for key, doc in DOCUMENTED.items()
        for by in made().get(key, set())
        if not is_reduced_by(doc, by)
    }
    assert wrong == {}
    assert sum(len(by) for by in made().values()) > 60


def test_every_entry_is_whole() -> None:
    for doc in every_metric():
        assert doc.unit in get_args(Unit), doc
        assert doc.reduced.partition(" ")[0] in REDUCTIONS, doc
        assert doc.meaning.endswith("."), doc
    assert {doc.unit for doc in every_metric()} == set(get_args(Unit)), "a unit that nothing has"
    assert all(group.about.endswith(".") for group in glossary() if group.about)


def test_the_committed_curves_are_explained() -> None:
    files = [*(PACKAGE.parent / "tests" / "golden").glob("seed_*.json")]
    keys = {
        key for path in files for rows in json.loads(path.read_text()).values() for row in rows for key in row
    }
    assert {"step", "sft/loss", "policy/entropy", "eval/heldout/accuracy"} <= keys
    assert [key for key in sorted(keys) if meaning_of(key) is None] == []
    references = [*(PACKAGE / "references").glob("*.json")]
    named = {key for path in references for key in json.loads(path.read_text())["metrics"]}
    assert named
    assert [key for key in sorted(named) if meaning_of(key) is None] == []


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("reward/score", "reward/score"),
        ("reward/math", "reward/{function}"),
        ("reward/math/format", "reward/{function}/{number}"),
        ("reward/a+b (c)", "reward/{function}"),
        ("eval/gsm8k/hard/accuracy", "eval/{dataset}/accuracy"),
        ("eval/pairs/accuracy_chosen_longer", "eval/{dataset}/accuracy_chosen_{shorter|equal|longer}"),
        (
            "memory/sync_device_used_before_gib",
            "memory/{sync|switch|receive}_{host|device|device_used}_before_gib",
        ),
        ("memory/sync_disk_before_gib", None),
        ("labels", "{pairs|labels|scores}"),
        ("Reward/score", None),
        ("policy/losses", None),
        ("eval/accuracy", None),
    ],
)
def test_a_key_is_looked_up(key: str, entry: str | None) -> None:
    doc = meaning_of(key)
    assert (doc and doc.key) == entry


def test_the_check_of_runs_refuses_unknown_keys_and_other_reductions() -> None:
    require_documented({"reward/score": mean(1, 2), "groups/kept": total(3), "sync/gib": maximum(4)})
    with pytest.raises(AssertionError, match="policy/unheard_of is logged, and is not in"):
        require_documented({"reward/score": mean(1, 2), "policy/unheard_of": mean(1)})
    with pytest.raises(AssertionError, match="groups/kept: 'sum over the step', and it is a mean"):
        require_documented({"groups/kept": mean(3)})


def test_the_glossary_is_read_without_torch() -> None:
    code = (
        "import sys; from reasoner_rl.observability.glossary import meaning_of; "
        "assert meaning_of('reward/score'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True)

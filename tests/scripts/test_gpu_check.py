"""The script for GPUs runs on a CPU with tiny sizes, and no check's failure, hang or crash hides another."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.py"
HERE = ["versions", "attention", "logprobs", "fsdp", "parity", "offload", "resume"]

FAKES = """
import os, signal, subprocess, sys, threading, time

from gpu_checks.common import Skip, require

def fine(context):
    context.report(first_s=1.0, last=context.size)
    threading.Thread(target=time.sleep, args=(60,)).start()
    return {"first_s": 2.0}

def wrong(context):
    context.report(tokens=5)
    raise AssertionError("three is\\nnot two")

def hangs(context):
    process = subprocess.Popen(["sleep", "600"], process_group=0)
    context.report(child=process.pid, mine=os.getpid())
    time.sleep(600)

def crashes(context):
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)

def absent(context):
    require("os", "reasoner_rl.nothing.there")
"""


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fakes(gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs functions of a small module as checks; returns the results and the report."""
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(names: list[str], limit_s: float, own_s: float = 30) -> tuple[dict[str, Any], Any]:
        checks = [
            gpu_check.Check(name, "fakes", name, "a fake", own_s / gpu_check.CPU_SLACK) for name in names
        ]
        options = gpu_check.Options("tiny", tmp_path / "work", limit_s, tmp_path / "report.json")
        results = gpu_check.run(checks, options)
        return results, json.loads((tmp_path / "report.json").read_text())

    return run


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)


def test_all_checks_of_the_trainer_hold_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = script("--size", "tiny", "--only", *HERE, "--json", str(out), "--limit", "500")
    report = json.loads(out.read_text())
    reasons = {name: check["reason"] for name, check in report["checks"].items() if check["reason"]}
    assert (done.returncode, reasons) == (0, {}), done.stdout
    assert list(report["checks"]) == HERE
    assert report["ok"] is True
    assert report["size"] == "tiny"
    assert report["machine"]["torch"].partition("+")[0] in done.stdout
    figures = {name: check["figures"] for name, check in report["checks"].items()}
    assert figures["versions"]["matmul_tflops"] > 0
    for case in ("float32 mixed", "float32 shared"):
        assert 0 < figures["attention"][f"{case} varlen_sdpa output_error"] < 1e-5
        assert 0 < figures["attention"][f"{case} varlen_sdpa gradient_error"] < 1e-5
    assert 1e-4 < figures["attention"]["bfloat16 one varlen_sdpa output_error"] < 2e-2
    assert "flash_attention" in figures["attention"]["bfloat16 one varlen_sdpa kernel"]
    assert 0 < figures["logprobs"]["gap_max_nats"] < 0.1
    assert figures["fsdp"]["objective_after"] > figures["fsdp"]["objective_before"]
    assert 0 < figures["fsdp"]["mfu"] < 1
    assert figures["parity"]["gradient_error"] < 1e-5
    assert figures["parity"]["tensors"] == 2 * 12 + 2  # of two layers, and embeddings and the last norm
    assert figures["offload"]["equal_to_the_bit"] is True
    assert figures["resume"]["all_on_host equal_to_the_bit"] is True


def test_a_failure_hides_no_other_check(fakes: Any) -> None:
    results, report = fakes(["wrong", "crashes", "absent", "fine"], limit_s=120)
    verdicts = {name: result.verdict for name, result in results.items()}
    assert verdicts == {"wrong": "FAIL", "crashes": "FAIL", "absent": "skipped", "fine": "ok"}
    assert results["wrong"].reason == "AssertionError: three is not two"
    assert results["wrong"].figures == {"tokens": 5}
    assert results["wrong"].log[-2:] == ("AssertionError: three is", "not two")
    assert "Segmentation fault" in results["crashes"].reason
    assert "about to crash" in results["crashes"].log
    assert results["absent"].reason == "reasoner_rl.nothing.there is not installed"
    assert results["fine"].figures == {"first_s": 2.0, "last": "tiny"}
    assert results["fine"].seconds < 30  # it does not wait for the check's threads
    assert report["checks"]["wrong"]["log"][-1] == "not two"
    assert report["ok"] is False


def test_a_check_that_hangs_is_killed_with_its_children(fakes: Any) -> None:
    results, _ = fakes(["hangs", "fine"], limit_s=60, own_s=5)
    assert results["hangs"].verdict == "FAIL"
    assert results["hangs"].reason == "stopped after 5 s"
    assert any("in hangs" in line for line in results["hangs"].log)  # where it hung
    for process in ("child", "mine"):
        pid = results["hangs"].figures[process]
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert results["fine"].verdict == "ok"


def test_what_the_limit_cuts_off_counts_as_a_failure(
    fakes: Any, gpu_check: ModuleType, tmp_path: Path
) -> None:
    results, report = fakes(["hangs", "fine"], limit_s=4)
    assert results["hangs"].reason.endswith("when the limit of all checks was reached; its own is 30 s")
    assert results["fine"].verdict == report["checks"]["fine"]["verdict"] == "not reached"
    assert gpu_check.exit_status(results) == 1
    waiting = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert waiting == []  # the check that was loading its libraries meanwhile is gone
    assert gpu_check.exit_status({"fine": gpu_check.Result("not reached", 0.0, {})}) == 1
    assert gpu_check.exit_status({"fine": gpu_check.Result("skipped", 0.0, {})}) == 0


def test_the_command_line(gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [check.name for check in gpu_check.CHECKS]
    assert set(HERE) <= set(listed)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--only atention", "there is no check 'atention'. Did you mean 'attention'? Known: versions,"),
        ("--only dapo --skip dapo", "no check is left to run: --skip names all of 'dapo'"),
        ("--limit 0", "must be above 0 and finite, and it is 0"),
        ("--limit inf", "must be above 0 and finite, and it is inf"),
        ("--json FILE/x.json", "--json FILE/x.json: the folder FILE cannot be made: "),
        ("--json FOLDER", "--json FOLDER: it is a folder, and must be a file"),
        ("--work FILE", "--work FILE: the folder FILE cannot be made: "),
    ],
)
def test_a_wrong_command_line_is_told_before_any_check_runs(
    arguments: str, told: str, gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    arguments, told = (text.replace("FILE", str(file)) for text in (arguments, told))
    arguments, told = (text.replace("FOLDER", str(tmp_path)) for text in (arguments, told))
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(arguments.split())
    assert told in capsys.readouterr().err


def test_which_checks_run(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = tuple(
        gpu_check.Check(name, "", "", "", 1, name in ("one", "two"), "fast" if name[:4] == "fast" else "")
        for name in ("one", "extra", "two", "fast-1", "fast-2")
    )
    monkeypatch.setattr(gpu_check, "CHECKS", checks)

    def chosen(*arguments: str) -> list[str]:
        return [check.name for check in gpu_check.choose(gpu_check.parse(arguments))]

    assert chosen() == ["one", "two"]
    assert chosen("--everything") == ["one", "extra", "two"]
    assert chosen("--only", "two", "extra") == ["extra", "two"]
    assert chosen("--everything", "--skip", "one") == ["extra", "two"]
    assert chosen("--only", "fast", "one") == ["one", "fast-1", "fast-2"]
    assert chosen("--only", "fast", "--skip", "fast-1") == ["fast-2"]


def test_the_environment_of_a_check(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = gpu_check.environment()
    assert (found["NCCL_SOCKET_IFNAME"], found["HF_HUB_OFFLINE"]) == ("eth0", "1")
    assert found["PYTHONPATH"] == os.pathsep.join([str(ROOT), str(ROOT / "scripts"), "/mine"])

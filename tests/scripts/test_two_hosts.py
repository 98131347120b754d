"""Launch scripts on two hosts with a network between them, real ssh and real Slurm: see two_hosts.sh."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_cluster import RAY, ROOT, SLURM

from reasoner_rl.config.load import load_recipe
from reasoner_rl.trainer.train import train

pytest.importorskip("ray")
pytest.importorskip("verl")

TWO_HOSTS = Path(__file__).with_name("two_hosts.sh")
CANNOT_BE_MADE = 77
ON_BOTH = "workers: 1 on n1 (10.91.0.1, interface eth0), 1 on n2 (10.91.0.2, interface eth0)"


def on_two_hosts(*command: str | Path, slurm: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command on the first of two hosts; skip the test where they cannot be made."""
    own = {"REASONER_RL_VENV": sys.prefix, "COLUMNS": "200"}
    unset = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VLLM_HOST_IP")
    environment = own | {name: value for name, value in os.environ.items() if name not in unset}
    finished = subprocess.run(
        ["bash", TWO_HOSTS, *(["--slurm"] if slurm else []), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=600,
    )
    if finished.returncode == CANNOT_BE_MADE:
        pytest.skip(finished.stdout.strip().splitlines()[-1])
    return finished


def rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def recipe_and_rows(
    tiny_run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """A recipe of two steps, and the metrics that one process gives."""
    folder = tmp_path_factory.mktemp("one_process")
    recipe, output = folder / "recipe.yaml", folder / "run"
    run = {**tiny_run["run"], "steps": 2, "output_dir": str(output)}
    recipe.write_text(yaml.safe_dump({**tiny_run, "run": run}))
    assert train(load_recipe(recipe)) is not None  # type: ignore[arg-type]
    return recipe, rows(output)


def same_losses(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    assert [row["step"] for row in two] == [row["step"] for row in one] == [0, 1, 2, 2]
    for alone, together in zip(one, two, strict=True):
        for key in alone:
            if key.startswith(("policy/loss", "policy/entropy", "train/", "reward/", "eval/", "groups/")):
                assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-6), (alone["step"], key)


def test_the_two_hosts_are_hosts_as_debian_installs_them_and_end_with_their_command() -> None:
    script = """
        hostname; hostname --ip-address; getent hosts n2
        ssh -o BatchMode=yes n2 'hostname; hostname --ip-address; nohup sleep 4321 >/dev/null 2>&1 & '
        exit 5
    """
    finished = on_two_hosts("bash", "-c", script)
    assert finished.stdout.split() == ["n1", "127.0.1.1", "10.91.0.2", "n2", "n2", "127.0.1.1"]
    assert finished.returncode == 5
    assert not runs("sleep 4321")


def runs(command: str) -> bool:
    processes = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return re.search(rf"^[^Z]\S* +{command}$", processes, re.MULTILINE) is not None


def test_the_two_hosts_end_when_their_script_is_killed(tmp_path: Path) -> None:
    on_two_hosts("true")  # or skip
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # for the folder that is left then
    script = subprocess.Popen(["bash", TWO_HOSTS, "sleep", "5432"], env=environment)
    try:
        wait_until(lambda: runs("sleep 5432"))
    finally:
        script.kill()
        script.wait()
    wait_until(lambda: not runs("sleep 5432"))
    assert script.returncode == -9


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_over_ssh_where_names_resolve_to_loopback_addresses(
    recipe_and_rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Both workers take the interface that joins the hosts, and the losses are those of one process."""
    recipe, expected = recipe_and_rows
    options = ["--hosts", "n1 n2", "--workers", "1"]
    settings = ["cluster.device=cpu", f"run.output_dir={tmp_path}"]
    finished = on_two_hosts("bash", ROOT / "scripts" / RAY, *options, recipe, *settings)
    assert finished.returncode == 0, finished.stdout
    assert ON_BOTH in finished.stdout
    same_losses(expected, rows(tmp_path))


@pytest.mark.slow
def test_a_run_through_slurm(recipe_and_rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    recipe, expected = recipe_and_rows
    log = tmp_path / "job.log"
    options = ["--wait", "--nodes=2", f"--output={log}", ROOT / "scripts" / SLURM, "--workers", "1"]
    settings = ["cluster.device=cpu", f"run.output_dir={tmp_path}"]
    finished = on_two_hosts("sbatch", *options, recipe, *settings, slurm=True)
    assert finished.returncode == 0, finished.stdout + (log.read_text() if log.exists() else "")
    assert ON_BOTH in log.read_text()
    same_losses(expected, rows(tmp_path))

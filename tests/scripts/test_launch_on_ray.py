"""A launch script on two real Ray nodes, both of them on this machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from fake_cluster import RAY, ROOT, free_port


@pytest.fixture
def two_ray_nodes() -> Iterator[tuple[int, dict[str, str], list[subprocess.Popen[bytes]]]]:
    """Two Ray nodes with a CPU each on this machine, apart from any other Ray on it: port, environment, processes."""
    if shutil.which("ray", path=f"{sys.prefix}/bin") is None:
        pytest.skip("Ray is not installed in a virtual environment")
    pytest.importorskip("verl")
    port, client_port = free_port(), free_port()
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    folder = Path(
        tempfile.mkdtemp(prefix="ray")
    )  # not tmp_path: the path of a socket has at most 107 characters
    nodes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> None:
        command = [
            f"{sys.prefix}/bin/ray",
            "start",
            *options,
            "--num-cpus=2",  # room for both workers, which belong on two machines all the same
            "--disable-usage-stats",
            "--block",
        ]
        nodes.append(
            subprocess.Popen(
                [*command, f"--temp-dir={folder / name}"],
                stdout=(folder / f"{name}.log").open("w"),
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        )

    try:
        start(
            "head",
            "--head",
            f"--port={port}",
            f"--ray-client-server-port={client_port}",
            "--include-dashboard=false",
        )
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        start("other", f"--address=127.0.0.1:{port}")
        yield port, environment, nodes
    finally:
        for node in nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
        psutil.wait_procs([psutil.Process(node.pid) for node in nodes if node.poll() is None], timeout=5)
        for node in nodes:
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)


def count_workers(node: subprocess.Popen[bytes]) -> int:
    count = 0
    with suppress(psutil.Error):
        for process in psutil.Process(node.pid).children(recursive=True):
            with suppress(psutil.Error):
                count += process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::RayWorker")
    return count


@pytest.mark.slow
def test_a_run_on_two_ray_nodes(
    two_ray_nodes: tuple[int, dict[str, str], list[subprocess.Popen[bytes]]],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The script joins the cluster, the driver waits for both nodes, and each node has one of the two workers."""
    port, environment, nodes = two_ray_nodes
    script = ROOT / "scripts" / RAY
    options = ["--address", f"127.0.0.1:{port}", "--nodes", "2", "--workers", "1"]
    process = subprocess.Popen(
        ["bash", script, *options, write_recipe(), "run.steps=2", "cluster.device=cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"REASONER_RL_VENV": sys.prefix},
    )
    most = [0, 0]
    while process.poll() is None:
        most = [max(before, count_workers(node)) for before, node in zip(most, nodes, strict=True)]
        time.sleep(0.5)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert most == [1, 1]
    assert f"workers: 2 on {socket.gethostname()}" in output
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows if "train/lr" in row] == [1, 2]


@pytest.mark.slow
def test_a_run_goes_on_with_one_machine_when_the_other_dies(
    two_ray_nodes: tuple[int, dict[str, str], list[subprocess.Popen[bytes]]],
    write_recipe: Callable[..., Path],
    tmp_path: Path,
) -> None:
    port, environment, nodes = two_ray_nodes
    cluster = {"kind": "ray", "address": f"127.0.0.1:{port}", "nodes": 2, "device": "cpu"}
    may_shrink = {"restarts": 1, "min_nodes": 1, "replacement_seconds": 2}
    recipe, output = write_recipe(cluster={**cluster, **may_shrink}), tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "reasoner_rl.cli", "train", recipe],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    while process.poll() is None and not (output / "checkpoints" / "latest").exists():
        time.sleep(0.2)
    machine = psutil.Process(nodes[1].pid)
    for each in (machine, *machine.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    text = process.communicate()[0]
    assert process.returncode == 0, text
    assert "Restart 1 of 1: the run resumes from " in text
    assert "going on with 1 of 2 machines (workers for the models: 1)" in text
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/lr" in row] == [1, 2, 3, 4]
    assert json.loads((output / "summary.json").read_text())["restarts"] == 1

"""The scripts that launch runs: what they start, in which order, and that they stop what they have started."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from fake_cluster import RAY, SINGLE, SLURM, Cluster, free_port


@pytest.mark.parametrize("status", [0, 1, 3])
@pytest.mark.parametrize(("script", "options"), [(SINGLE, []), (RAY, ["--address", "a:1"])])
def test_the_driver_s_status_is_passed_on(
    cluster: Cluster, script: str, options: list[str], status: int
) -> None:
    result = cluster.run(script, *options, "r", FAILING="here: reasoner-rl train", STATUS=str(status))
    assert result.returncode == status
    call = cluster.calls()[-1]
    assert call.startswith("here: reasoner-rl train r cluster.kind=ray ")


def settings(address: str, workers: int) -> str:
    return f"r cluster.kind=ray cluster.nodes=3 cluster.workers_per_node={workers} cluster.address={address}"


def hosts_calls(port: int, *driver: str, first: str = "h1") -> list[str]:
    """What is recorded of a run on three hosts, in the order of `ordered`."""
    chosen = settings(f"{first}:{port}", 2)
    return [
        f"here: reasoner-rl config show {chosen}",
        f"here: ray start --head --port={port} --include-dashboard=false --disable-usage-stats",
        *(f"{host}: ray start --address={first}:{port} --disable-usage-stats" for host in ("h2", "h3")),
        f"here: reasoner-rl train {chosen}",
        *driver,
        *(f"{host}: ray stop" for host in ("h2", "h3", "here")),
    ]


def ordered(calls: list[str]) -> list[str]:
    """The record, with calls that are made side by side on several machines in the order of their machines."""
    groups = itertools.groupby(calls, key=lambda call: call.split()[1:4])  # such as ["ray", "stop"]
    return [call for _, group in groups for call in sorted(group)]


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("first", ["h1", "alias", "h1.cluster"])
def test_ray_runs_on_all_hosts_while_the_driver_does(cluster: Cluster, first: str, status: int) -> None:
    port = free_port()
    arguments = ("--hosts", f"{first} h2 h3", "--port", str(port), "r")
    result = cluster.run(RAY, *arguments, FAILING="here: reasoner-rl train", STATUS=str(status))
    assert result.returncode == status, result.stderr
    assert ordered(cluster.calls()) == hosts_calls(port, first=first)
    tokens = (cluster.folder / "log.tokens").read_text().splitlines()
    assert len(tokens) == 3
    assert len(set(tokens)) == 1
    mode, token = tokens[0].split()
    assert mode == "token"
    assert len(token) == 64


def test_nothing_is_started_for_a_recipe_with_a_mistake(cluster: Cluster) -> None:
    for arguments, variables in (
        (("--hosts", "h1 h2", "--port", str(free_port())), {}),
        ((), cluster.slurm(free_port())),
    ):
        script = RAY if arguments else SLURM
        cluster.log.unlink(missing_ok=True)
        result = cluster.run(
            script, *arguments, "r", **variables, FAILING="here: reasoner-rl config show", STATUS="2"
        )
        assert result.returncode == 2
        (call,) = cluster.log.read_text().splitlines()
        assert call.startswith("here: reasoner-rl config show r ")


@pytest.mark.parametrize(("failing", "name"), [("here: ray start", "this machine"), ("h3: ray start", "h3")])
def test_a_host_without_ray_ends_the_launch(cluster: Cluster, failing: str, name: str) -> None:
    port = free_port()
    arguments = ("--hosts", "h1 h2 h3", "--port", str(port), "r")
    result = cluster.run(RAY, *arguments, FAILING=failing, STATUS="1")
    assert result.returncode == 3
    assert result.stderr == f"error: Ray did not start on {name}\n"
    expected = [call for call in hosts_calls(port) if "reasoner-rl train" not in call]
    if name == "this machine":
        expected = [call for call in expected if "ray start --address" not in call]
    assert ordered(cluster.calls()) == expected


def test_a_head_that_no_other_machine_can_reach_ends_the_launch(cluster: Cluster) -> None:
    """Where there is no default route, and the machine's name is a loopback address."""
    arguments = ("--port", str(free_port()), "r")
    result = cluster.run(RAY, "--hosts", "h1 h2", *arguments, HEAD="127.0.1.1")
    assert result.returncode == 3
    assert result.stderr == (
        "error: Ray's head has taken 127.0.1.1, which no other machine can reach: name this machine by its address in "
        "--hosts\n"
    )
    stopped = [call.split()[0] for call in cluster.calls() if call.endswith(" ray stop")]
    assert sorted(stopped) == ["h2:", "here:"]
    assert not any("ray start --address" in call for call in cluster.calls())
    assert cluster.run(RAY, "--hosts", "h1", *arguments, HEAD="127.0.1.1").returncode == 0
    assert cluster.run(RAY, "--hosts", "h1 h2", *arguments, HEAD="10.0.0.1").returncode == 0


def test_a_signal_ends_a_launch_in_which_a_machine_does_not_start(cluster: Cluster) -> None:
    port = free_port()
    start = f"ray start --address=h1:{port}"
    began = time.monotonic()
    process = cluster.start(RAY, "--hosts", "h1 h2", "--port", str(port), "r", HANGING=f"h2: {start}")
    cluster.wait_for(f"h2: {start} --disable-usage-stats")
    interrupt_script(process)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (143, "")
    assert time.monotonic() - began < 50, "it has waited for the start to end"
    stopped = [call.split()[0] for call in cluster.calls() if call.endswith(" ray stop")]
    assert sorted(stopped) == ["h2:", "here:"]
    assert subprocess.run(["pgrep", "-f", f"[r]ay start --address=h1:{port}"]).returncode == 1


def test_a_host_where_ray_does_not_stop_is_told(cluster: Cluster) -> None:
    port = free_port()
    result = cluster.run(
        RAY, "--hosts", "h1 h2 h3", "--port", str(port), "r", FAILING="h2: ray stop", STATUS="1"
    )
    assert result.returncode == 0
    assert result.stderr == "error: Ray could not be stopped on h2\n"
    assert ordered(cluster.calls()) == hosts_calls(port)


def interrupt_script(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGTERM)


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


def close_terminal(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGHUP)


@pytest.mark.parametrize("send", [interrupt_script, press_ctrl_c, close_terminal])
def test_a_signal_reaches_the_driver_once_and_ray_runs_until_it_has_saved(
    cluster: Cluster, send: Callable[[subprocess.Popen[str]], None]
) -> None:
    port = free_port()
    process = cluster.start(RAY, "--hosts", "h1 h2 h3", "--port", str(port), "r", UNTIL_SIGNAL="yes")
    cluster.wait_for("here: driver is ready")
    send(process)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (130, "")
    driver = ("here: driver is ready", "here: driver saved after SIGTERM")
    assert ordered(cluster.calls()) == hosts_calls(port, *driver)


def test_a_second_signal_is_passed_on_too(cluster: Cluster) -> None:
    process = cluster.start(SLURM, "r", UNTIL_SIGNAL="yes", **cluster.slurm(free_port()))
    cluster.wait_for("here: driver is ready")
    for _ in range(2):
        interrupt_script(process)
        time.sleep(0.15)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert "here: driver saved after SIGTERM SIGTERM" in cluster.calls()


def slurm_calls(port: int, *driver: str) -> list[str]:
    chosen = settings(f"0.0.0.0:{port}", 8)
    return [
        f"here: reasoner-rl config show {chosen}",
        f"n1: ray start --head --node-ip-address=0.0.0.0 --port={port} --include-dashboard=false "
        "--disable-usage-stats --block",
        # They start side by side. The driver waits for the machines.
        *sorted(
            [
                f"here: reasoner-rl train {chosen}",
                f"n2,n3: ray start --address=0.0.0.0:{port} --disable-usage-stats --block",
            ]
        ),
        *driver,
        "n1: ray ended",
        "n2,n3: ray ended",
    ]


def in_slurm_order(calls: list[str]) -> list[str]:
    return [*calls[:2], *sorted(calls[2:4]), *calls[4:-2], *sorted(calls[-2:])]


@pytest.mark.parametrize("status", [0, 1])
def test_ray_runs_in_all_of_a_job_while_the_driver_does(cluster: Cluster, status: int) -> None:
    port = free_port()
    # A driver that fails at once would end before the others have started.
    (cluster.venv / "bin" / "activate").open("a").write(
        f'reasoner-rl() {{ "{cluster.venv}/bin/slow" "$@"; }}\n'
    )
    slow = cluster.venv / "bin" / "slow"
    slow.write_text(
        '#!/bin/sh\n[ "$1" = config ] || until grep -q "^n2" "$LOG"; do sleep 0.02; done\nsleep 0.2\n'
        'exec reasoner-rl "$@"\n'
    )
    slow.chmod(0o755)
    result = cluster.run(
        SLURM, "r", FAILING="here: reasoner-rl train", STATUS=str(status), **cluster.slurm(port)
    )
    assert result.returncode == status, result.stderr
    assert in_slurm_order(cluster.calls()) == slurm_calls(port)
    tokens = (cluster.folder / "log.tokens").read_text().splitlines()
    assert len(tokens) == 2
    assert len(set(tokens)) == 1


def test_the_job_s_signal_reaches_the_driver_and_ray_runs_until_it_has_saved(cluster: Cluster) -> None:
    port = free_port()
    process = cluster.start(SLURM, "r", UNTIL_SIGNAL="yes", **cluster.slurm(port))
    cluster.wait_for("here: driver is ready")
    cluster.wait_for(slurm_calls(port)[3])
    interrupt_script(process)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (130, "")
    calls = [call for call in cluster.calls() if call != "here: driver is ready"]
    assert in_slurm_order(calls) == slurm_calls(port, "here: driver saved after SIGTERM")


def test_a_job_whose_head_does_not_start_ends(cluster: Cluster) -> None:
    port = free_port()
    result = cluster.run(SLURM, "r", FAILING="n1: ray start", STATUS="1", **cluster.slurm(port))
    assert result.returncode == 3
    assert result.stderr == "error: Ray did not start on n1\n"
    assert cluster.calls() == slurm_calls(port)[:2]


def test_a_signal_before_the_driver_runs_stops_what_was_started(cluster: Cluster) -> None:
    (cluster.folder / "bin" / "srun").write_text(  # never listens
        '#!/bin/sh\ncase $* in *hostname*) exec hostname --all-ip-addresses ;; esac\necho started >>"$LOG"\n'
        'trap "echo ended >>\\"$LOG\\"; exit" TERM\nwhile true; do sleep 0.02; done\n'
    )
    process = cluster.start(SLURM, "r", **cluster.slurm(free_port()))
    cluster.wait_for("started")
    interrupt_script(process)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert cluster.calls()[1:] == ["started", "ended"]

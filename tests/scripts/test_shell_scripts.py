"""The shell scripts parse, explain themselves, and scripts/env.sh installs the right things once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    result = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("env.sh", "REASONER_RL_TORCH_SPEC"),
        ("test.sh", "scripts/test.sh [PYTEST ARGUMENTS]"),
        ("test_versions.sh", "scripts/test_versions.sh [oldest|newest|transformers]"),
        ("quickstart.sh", "scripts/quickstart.sh [--seed N]"),
        ("ladder.sh", "scripts/ladder.sh [--seed N]"),
        ("compare_baselines.sh", "--from FOLDER    a finished ladder"),
    ],
)
def test_help_prints_the_header_and_does_nothing_else(script: str, text: str, tmp_path: Path) -> None:
    environment = os.environ | {"REASONER_RL_VENV": str(tmp_path / "venv")}
    result = subprocess.run(
        ["bash", ROOT / "scripts" / script, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert text in result.stdout
    assert "#" not in result.stdout
    assert "set -" not in result.stdout
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("script", ["quickstart.sh", "ladder.sh", "compare_baselines.sh"])
def test_an_unknown_option_is_refused_before_anything_is_installed(script: str, tmp_path: Path) -> None:
    environment = os.environ | {"REASONER_RL_VENV": str(tmp_path / "venv")}
    command = ["bash", ROOT / "scripts" / script, "--out", "x", "--sead=1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    told = "error: unknown option --sead=1; --help lists the options\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", told)
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["transformers", "nonsense"], 2, "unknown: nonsense (known: oldest, newest, transformers;"),
        (
            ["transformers"],
            1,
            "there is no NOWHERE/bin/python: make the environment with `source scripts/env.sh`",
        ),
    ],
)
def test_versions_that_cannot_be_tested_are_told(
    arguments: list[str], status: int, told: str, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    result = subprocess.run(
        ["bash", ROOT / "scripts" / "test_versions.sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"REASONER_RL_VENV": nowhere},
    )
    assert result.returncode == status
    assert result.stderr.startswith("test_versions: " + told.replace("NOWHERE", nowhere))
    assert not Path(nowhere).exists()


class Machine:
    """A virtual environment whose Python only writes down what pip was asked to do."""

    def __init__(self, folder: Path, gpu: bool) -> None:
        self.folder = folder
        self.venv = folder / "venv"
        self.log = folder / "log"
        (self.venv / "bin").mkdir(parents=True)
        (self.venv / "bin" / "activate").write_text("ACTIVATED=yes\n")
        self._executable(
            self.venv / "bin" / "python",
            f'[[ $* == *--version* ]] && exit 0\necho "$*" >>"{self.log}"\n'
            '[[ -z ${BROKEN:-} || $* != *"$BROKEN"* ]] || { echo "no such version"; exit 1; }',
        )
        (folder / "bin").mkdir()
        self._executable(folder / "bin" / "nvidia-smi", f"exit {0 if gpu else 9}")

    @staticmethod
    def _executable(path: Path, script: str) -> None:
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)

    def run(self, extras: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Source env.sh in a strict script with arguments of its own, from another folder."""
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "REASONER_RL_VENV": str(self.venv),
            "REASONER_RL_EXTRAS": extras,
        }
        environment.pop("REASONER_RL_TORCH_SPEC", None)
        return subprocess.run(
            [
                "bash",
                "-c",
                f'set -euo pipefail; source "{ROOT}/scripts/env.sh"; echo "$ACTIVATED $1"',
                "me",
                "--seed",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=environment | variables,
        )

    def installed(self) -> list[str]:
        """What pip was asked for since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.removeprefix("-m pip install -q ") for line in lines]


def test_cpu_machine_gets_the_pinned_torch_first_and_only_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=False)
    result = machine.run("dev,gguf")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("yes --seed\n")
    constraints = f"-c {machine.venv}/constraints.txt"
    assert machine.installed() == [f"{constraints} torch==2.13.0", f"{constraints} -e {ROOT}[dev,gguf]"]
    assert "torch==" not in (machine.venv / "constraints.txt").read_text()
    assert "transformers==5.10.4" in (machine.venv / "constraints.txt").read_text()
    assert "\nvllm==" not in (machine.venv / "constraints.txt").read_text()

    assert machine.run("dev,gguf").stdout == "yes --seed\n"
    assert machine.installed() == []
    machine.run()
    assert machine.installed() == [f"{constraints} -e {ROOT}"]
    machine.run("dev,gguf")
    assert machine.installed() == []


def test_gpu_machine_gets_the_same_versions_and_vllm_for_cuda(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=True)
    assert machine.run("vllm").returncode == 0
    constraints = f"-c {machine.venv}/constraints.txt"
    assert machine.installed() == [f"{constraints} torch==2.13.0", f"{constraints} -e {ROOT}[vllm]"]
    pins = (machine.venv / "constraints.txt").read_text().splitlines()
    assert {"transformers==5.10.4", "vllm==0.31.0"} <= set(pins)
    assert [pin for pin in pins if pin.startswith(("torch==", "#"))] == []


def test_another_torch_can_be_chosen_and_everything_is_installed_again_for_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=False)
    machine.run()
    machine.installed()
    machine.run(REASONER_RL_TORCH_SPEC="torch==2.12.0")
    constraints = f"-c {machine.venv}/constraints.txt"
    assert machine.installed() == [f"{constraints} torch==2.12.0", f"{constraints} -e {ROOT}"]
    machine.run()  # the pinned torch was replaced, so it has to come back
    assert machine.installed() == [f"{constraints} torch==2.13.0", f"{constraints} -e {ROOT}"]


def test_failed_installation_shows_pip_output_and_is_tried_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=False)
    result = machine.run(BROKEN="-e ")
    assert result.returncode != 0
    assert "no such version" in result.stderr
    assert "yes" not in result.stdout
    machine.installed()
    assert machine.run().returncode == 0
    assert machine.installed() == [f"-c {machine.venv}/constraints.txt -e {ROOT}"]


def test_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=False)
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "letter").write_text("dear")
    result = machine.run(REASONER_RL_VENV=str(tmp_path / "documents"))
    assert result.returncode != 0
    assert "not a virtual environment" in result.stderr
    assert [path.name for path in (tmp_path / "documents").iterdir()] == ["letter"]


def test_malformed_extras_are_refused(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=False)
    result = machine.run("--seed 3")
    assert result.returncode != 0
    assert "REASONER_RL_EXTRAS must be names separated by commas" in result.stderr
    assert machine.installed() == []


def test_missing_python_is_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path, gpu=False)
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        machine._executable(tmp_path / "bin" / name, "exit 1")
    result = machine.run(REASONER_RL_VENV=str(tmp_path / "new"))
    assert result.returncode != 0
    assert "no Python 3.11 or newer found" in result.stderr


# What the fake Python does as pytest: says with which GPUs and arguments, and ends as $ENDS says, a status a pass.
PYTEST = """
call=$*
if [[ $call == "-m pytest "* ]]; then
    echo "GPUs ${CUDA_VISIBLE_DEVICES-all}: ${call#-m pytest }"
    passes=$(($(cat "PASSES" 2>/dev/null) + 1))
    echo $passes >PASSES
    exit "$(cut -d ' ' -f $passes <<<"${ENDS:-0 0 0}")"
fi"""


class SuiteMachine(Machine):
    """A machine whose Python, as pytest, only says how it was called."""

    def __init__(self, folder: Path, gpu: bool) -> None:
        super().__init__(folder, gpu)
        python = self.venv / "bin" / "python"
        python.write_text(python.read_text() + PYTEST.replace("PASSES", str(folder / "passes")))
        (self.venv / "bin" / "activate").write_text(f'PATH="{self.venv}/bin:$PATH"\n')
        for name in ("ruff", "mypy"):
            self._executable(self.venv / "bin" / name, "exit 0")
        # What is laid over the environment is there already.
        overlay = self.venv / "newest-transformers"
        overlay.mkdir()
        shutil.copy(ROOT / "scripts" / "constraints-newest.txt", overlay / "installed.txt")

    def test(self, *arguments: str, ends: str = "0 0 0") -> tuple[int, list[str]]:
        """Run test.sh; its status, and the calls of pytest."""
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "REASONER_RL_VENV": str(self.venv),
            "ENDS": ends,
        }
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        (self.folder / "passes").unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", ROOT / "scripts" / "test.sh", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("GPUs ")]


def test_tests_for_the_cpu_see_no_gpu_and_those_for_gpus_have_a_pass_of_their_own(tmp_path: Path) -> None:
    machine = SuiteMachine(tmp_path, gpu=True)
    assert machine.test("tests/losses", "-x") == (
        0,
        ["GPUs : tests/losses -x -m not gpu", "GPUs all: tests/losses -x -m gpu"],
    )
    (tmp_path / "cpu").mkdir()
    machine = SuiteMachine(tmp_path / "cpu", gpu=False)
    assert machine.test("tests/losses", "-x") == (0, ["GPUs : tests/losses -x"])
    status, (whole, newest) = machine.test()
    assert (status, whole) == (0, "GPUs : -q --durations=15 -n 2")
    assert newest.startswith("GPUs : -q tests/rollout/test_hf_engine.py ")


@pytest.mark.parametrize(
    ("ends", "status", "passes"),
    [
        ("1 0", 1, 2),
        ("0 1", 1, 2),
        ("3 1", 3, 2),
        ("5 0", 0, 2),  # tests for GPUs alone were asked for
        ("0 5", 0, 2),  # or none of them
        ("5 5", 5, 2),
        ("5 4", 4, 2),
        ("2 0", 2, 1),  # interrupted
    ],
)
def test_all_passes_of_the_tests_count(ends: str, status: int, passes: int, tmp_path: Path) -> None:
    ended, calls = SuiteMachine(tmp_path, gpu=True).test("tests", ends=ends)
    assert (ended, len(calls)) == (status, passes)

"""Machines on which launch scripts are tried: other machines, Slurm and ssh are played by fake_program.py."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_program.py")
SINGLE = "train_single_node.sh"
RAY = "train_multi_node_ray.sh"
SLURM = "train_multi_node_slurm.sh"
DAPO = "run_dapo_qwen2.5_32b.sh"
OWN = "train_own_verifier.sh"
QUESTION = re.compile(r"here: reasoner-rl config show \S+ cluster.kind=ray cluster.address=auto( .*)?")
SCRIPTS = [SINGLE, RAY, SLURM, DAPO, OWN]


def free_port(low: int = 20000, high: int = 30000) -> int:
    """A port below those that the kernel gives to others on its own."""
    while True:
        port = low + secrets.randbelow(high - low)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port


def _listen_to_signals() -> None:
    """Bash cannot catch what was ignored when it began, as SIGHUP is under nohup."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


class Cluster:
    """Machines h1 (this one), h2 and h3, or n1, n2 and n3 of a Slurm job, with two GPUs each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, venv = folder, folder / "log", folder / "the venv"
        for place, names in (
            (folder / "bin", ("ssh", "srun", "scontrol", "hostname", "getent", "nvidia-smi")),
            (venv / "bin", ("ray", "reasoner-rl")),
        ):
            place.mkdir(parents=True)
            for name in names:
                (place / name).write_text(f"#!{sys.executable} -SE\n{FAKE.read_text()}")
                (place / name).chmod(0o755)
        (venv / "bin" / "activate").write_text(f'PATH="{venv}/bin:$PATH"\nexport PATH\n')
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        outside = f"{folder / 'bin'}:{os.defpath}"
        self.environment = kept | {
            "PATH": outside,
            "OUTSIDE": outside,
            "LOG": str(self.log),
            "REASONER_RL_VENV": str(venv),
        }
        self.venv = venv

    def slurm(self, port: int) -> dict[str, str]:
        """The environment of the job whose Ray listens on ``port``."""
        return {
            "SLURM_JOB_ID": str(port - 20000 + 70000),
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_GPUS_ON_NODE": "8",
            "SLURMD_NODENAME": "n1",
        }

    def start(self, script: str | Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", ROOT / "scripts" / script, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment | variables,
            start_new_session=True,
            preexec_fn=_listen_to_signals,
        )

    def run(self, script: str | Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *arguments, **variables)
        output, error = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, output, error)

    def calls(self) -> list[str]:
        """What was called, but for the question how many machines the recipe wants."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if not QUESTION.fullmatch(line)]

    def wait_for(self, line: str) -> None:
        ends = time.monotonic() + 30
        while line not in self.calls():
            assert time.monotonic() < ends, self.calls()
            time.sleep(0.02)

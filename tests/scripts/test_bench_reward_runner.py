"""The benchmark of the verifier processes runs, and says what it leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bench(data: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "reward_runner.py")]
    command += ["--answers", "60", "--of-each", "3", "--rounds", "1"]
    environment = os.environ | {"REASONER_RL_DATA": data, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_tables(tmp_path: Path) -> None:
    for name in ("deepmath_train", "math500_test", "gsm8k_test_first1000"):
        rows = [json.dumps({"answer": answer}) for answer in ("3", "12", "7", "not read")]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    out = bench(str(tmp_path))
    assert "| all good |" in out
    assert "| 60 ok |" in out
    assert "59 ok, 1 timeout" in out
    assert out.count("59 ok, 1 crash") == 3
    assert "| all | 36 |" in out  # 3 files x 3 problems x 4 responses
    assert "not read" not in out


def test_without_data_the_second_table_is_left_out(tmp_path: Path) -> None:
    assert "no second table: REASONER_RL_DATA names no folder" in bench(str(tmp_path))

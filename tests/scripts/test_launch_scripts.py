"""The scripts that launch runs: what they would start, and the mistakes that they tell."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cluster import DAPO, OWN, RAY, ROOT, SCRIPTS, SINGLE, SLURM, Cluster, free_port

from reasoner_rl.config.load import load_recipe
from reasoner_rl.config.recipes import OnlineConfig


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run"]
    result = subprocess.run(
        [shellcheck, "-x", *scripts], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_prints_the_header(cluster: Cluster, script: str, option: str) -> None:
    result = cluster.run(script, option)
    assert result.returncode == 0
    assert f"scripts/{script} " in result.stdout
    assert "--dry-run" in result.stdout
    assert "#" not in result.stdout
    assert "set -" not in result.stdout
    assert cluster.calls() == []


def dry(cluster: Cluster, script: str, *arguments: str, **variables: str) -> list[str]:
    result = cluster.run(script, "--dry-run", *arguments, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(call.startswith("here: reasoner-rl config show ") for call in cluster.calls())
    return result.stdout.splitlines()


def test_a_verifier_of_ones_own(cluster: Cluster) -> None:
    (line,) = dry(cluster, OWN, "--fn", "my.py:judge", "--workers", "2", "r.yaml", "run.seed=3")
    words = shlex.split(line)
    assert words[:3] == ["reasoner-rl", "train", "r.yaml"]
    assert "cluster.workers_per_node=2" in words
    assert words[-4:] == [
        "reward.functions=[{fn: my.py:judge, name: verifier}, {fn: 'reward_fns.format_reward:compute_score', "
        "name: format, weight: 0.1, parameters: {outside: true}}]",
        "reward.timeout_seconds=10",
        "reward.memory_gib=4",
        "run.seed=3",
    ]
    config = load_recipe("quickstart", words[-4:])
    assert isinstance(config, OnlineConfig)
    assert [function.label for function in config.reward.functions] == ["verifier", "format"]
    (line,) = dry(cluster, OWN, "r.yaml")
    assert "/reward_fns/custom_template.py:compute_score, name: verifier}" in line


def test_single_node_takes_all_gpus(cluster: Cluster) -> None:
    command = (
        "reasoner-rl train r.yaml cluster.kind=ray cluster.nodes=1 cluster.workers_per_node={} "
        "cluster.address=null"
    )
    assert dry(cluster, SINGLE, "r.yaml") == [command.format(2)]
    assert dry(cluster, SINGLE, "r.yaml", CUDA_VISIBLE_DEVICES="0,3,5") == [command.format(3)]
    assert dry(cluster, SINGLE, "r.yaml", CUDA_VISIBLE_DEVICES="") == [command.format(1)]
    assert dry(cluster, SINGLE, "--workers", "5", "r.yaml") == [command.format(5)]
    (cluster.folder / "bin" / "nvidia-smi").unlink()
    assert dry(cluster, SINGLE, "r.yaml") == [command.format(1)]
    # Overrides come last, as one word each to a shell.
    assert dry(cluster, SINGLE, "--workers=5", "r.yaml", "a.b=it's [1, 2]", "cluster.nodes=1") == [
        f"{command.format(5)} 'a.b=it'\\''s [1, 2]' cluster.nodes=1"
    ]


def test_a_running_ray_cluster_is_joined(cluster: Cluster) -> None:
    assert dry(cluster, RAY, "--address", "10.0.0.1:6379", "r.yaml", "run.seed=1") == [
        "reasoner-rl train r.yaml cluster.kind=ray cluster.address=10.0.0.1:6379 run.seed=1"
    ]
    assert dry(cluster, RAY, "--address=auto", "--nodes", "2", "--workers", "8", "r.yaml") == [
        "reasoner-rl train r.yaml cluster.kind=ray cluster.address=auto cluster.nodes=2 cluster.workers_per_node=8"
    ]


def test_hosts_are_started_and_stopped_over_ssh(cluster: Cluster) -> None:
    settings = "r.yaml cluster.kind=ray cluster.nodes=3 cluster.workers_per_node=2 cluster.address=h1:7000 run.seed=1"
    ssh = "ssh -o BatchMode=yes -o ConnectTimeout=20"
    there = f"cd {ROOT} && . '\\''{cluster.venv}/bin/activate'\\''"
    start = (
        "read -r RAY_AUTH_TOKEN && export RAY_AUTH_TOKEN RAY_AUTH_MODE=token && "
        f"{there} && timeout 1800.0 ray start --address=h1:7000 --disable-usage-stats"
    )
    stop = f"{there} && {{ pkill -f '\\''[r]ay start --address=h1:7000'\\''; ray stop; }}"
    assert dry(cluster, RAY, "--hosts", "h1 h2 h3", "--port", "7000", "r.yaml", "run.seed=1") == [
        f"reasoner-rl config show {settings}",
        "ray start --head --port=7000 --include-dashboard=false --disable-usage-stats",
        f"{ssh} h2 '{start}'",
        f"{ssh} h3 '{start}'",
        f"reasoner-rl train {settings}",
        f"{ssh} h2 '{stop}'",
        f"{ssh} h3 '{stop}'",
        "ray stop",
    ]
    alone = dry(cluster, RAY, "--hosts", "10.0.0.1", "--workers", "4", "r.yaml")
    settings = (
        "r.yaml cluster.kind=ray cluster.nodes=1 cluster.workers_per_node=4 cluster.address=10.0.0.1:6379"
    )
    assert alone == [
        f"reasoner-rl config show {settings}",
        "ray start --head --port=6379 --include-dashboard=false --disable-usage-stats --node-ip-address=10.0.0.1",
        f"reasoner-rl train {settings}",
        "ray stop",
    ]


def slurm_commands(
    nodes: str, others: str, count: int, port: int, workers: int, *overrides: str
) -> list[str]:
    step = "srun --overlap --cpu-bind=none --ntasks-per-node=1"
    first = f"{step} --nodes=1 --ntasks=1 --nodelist={nodes}"
    address = f"HEAD_ADDRESS:{port}"
    settings = " ".join(
        [
            f"cluster.kind=ray cluster.nodes={count} cluster.workers_per_node={workers} cluster.address={address}",
            *overrides,
        ]
    )
    return [
        f"{first} bash -c 'hostname --ip-address; hostname --all-ip-addresses'",
        f"reasoner-rl config show r.yaml {settings}",
        f"{first} ray start --head --node-ip-address=HEAD_ADDRESS --port={port} --include-dashboard=false "
        "--disable-usage-stats --block",
        f"{step} --nodes={count - 1} --ntasks={count - 1} --nodelist={others} ray start --address={address} "
        "--disable-usage-stats --block",
        f"reasoner-rl train r.yaml {settings}",
    ]


def test_slurm_starts_a_step_on_the_first_machine_and_one_on_the_others(cluster: Cluster) -> None:
    assert dry(cluster, SLURM, "r.yaml") == slurm_commands("node1", "node2", 2, 20000, 2)
    job = cluster.slurm(20123)
    assert dry(cluster, SLURM, "r.yaml", "a.b=1", **job) == slurm_commands(
        "n1", "n2,n3", 3, 20123, 8, "a.b=1"
    )
    assert dry(cluster, SLURM, "--workers", "4", "r.yaml", **job) == slurm_commands(
        "n1", "n2,n3", 3, 20123, 4
    )


@pytest.mark.parametrize("script", [SLURM, DAPO])
def test_the_copy_that_slurm_runs_finds_the_repository(cluster: Cluster, script: str) -> None:
    copy = cluster.folder / "slurm_script"
    shutil.copy(ROOT / "scripts" / script, copy)
    result = cluster.run(copy, "--help")
    assert result.returncode == 2
    assert "submit this script from the root of the repository" in result.stderr
    assert cluster.run(copy, "--help", SLURM_SUBMIT_DIR=str(ROOT)).returncode == 0


@pytest.mark.parametrize("script", [SLURM, DAPO])
def test_sbatch_reads_its_options_before_the_first_command(script: str) -> None:
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line for line in lines[:first] if line.startswith("#SBATCH ")]
    assert len([line for line in lines if line.startswith("#SBATCH")]) == len(options) == 8
    for option in ("--ntasks-per-node=1", "--exclusive", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {option}" in options
    assert any(option.startswith("#SBATCH --signal=B:TERM@") for option in options)


def test_dapo_goes_to_slurm_in_a_job_and_else_to_ray(cluster: Cluster) -> None:
    data = cluster.folder / "my data"
    data.mkdir()
    for name in ("dapo-math-17k.parquet", "aime-2024.parquet"):
        assert f"# {data}/{name} does not exist yet" in dry(cluster, DAPO, "--data", str(data))
        missing = cluster.run(DAPO, "--data", str(data))
        assert missing.returncode == 2
        assert f"error: {data}/{name} does not exist: data/README.md says" in missing.stderr
        (data / name).touch()
    recipe = "dapo_qwen2.5_32b"
    files = f"'data.train.path={data}/dapo-math-17k.parquet' 'evaluation.datasets.0.path={data}/aime-2024.parquet'"
    options = ("--data", str(data))
    assert dry(cluster, DAPO, *options, "run.steps=2") == [
        f"reasoner-rl train {recipe} cluster.kind=ray cluster.address=auto {files} run.steps=2"
    ]
    assert dry(cluster, DAPO, *options, "--address", "h1:1", "--nodes=4") == [
        f"reasoner-rl train {recipe} cluster.kind=ray cluster.address=h1:1 cluster.nodes=4 {files}"
    ]
    assert dry(cluster, DAPO, *options, "--hosts", "h1 h2")[-3] == (
        f"reasoner-rl train {recipe} cluster.kind=ray cluster.nodes=2 cluster.workers_per_node=2 "
        f"cluster.address=h1:6379 {files}"
    )
    assert dry(cluster, DAPO, *options, **cluster.slurm(20005))[-1] == (
        f"reasoner-rl train {recipe} cluster.kind=ray cluster.nodes=3 cluster.workers_per_node=8 "
        f"cluster.address=HEAD_ADDRESS:20005 {files}"
    )


def really_dry(cluster: Cluster, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A dry run with the real reasoner-rl, on a machine without GPUs."""
    (cluster.folder / "bin" / "nvidia-smi").unlink(missing_ok=True)
    path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    return cluster.run(script, "--dry-run", *arguments, PATH=path, PYTHONPATH=str(ROOT))


def test_a_dry_run_has_the_machines_of_the_recipe_and_says_what_a_step_is(cluster: Cluster) -> None:
    recipe = cluster.folder / "four.yaml"
    recipe.write_text(
        "extends: quickstart\ncluster: {kind: ray, nodes: 4, workers_per_node: 8, address: auto}\n"
    )
    result = really_dry(cluster, SLURM, str(recipe), "batch.prompts_per_step=48")
    assert (result.returncode, result.stderr) == (0, "")
    assert "# prompts per step                 48\n" in result.stdout
    assert " --nodes=3 --ntasks=3 --nodelist=node2,node3,node4 ray start " in result.stdout
    assert " cluster.nodes=4 cluster.workers_per_node=8 cluster.address=HEAD_ADDRESS:20000 " in result.stdout
    options = ("--nodes", "1", "--workers=2", str(recipe))
    refused = really_dry(cluster, SLURM, *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "error: the recipe with its overrides has cluster.nodes=4, and the number of machines of this job is 1: submit "
        "it with sbatch --nodes=4, or add cluster.nodes=1\n"
    )
    fewer = really_dry(cluster, SLURM, *options, "cluster.nodes=1").stdout
    assert " cluster.nodes=1 cluster.workers_per_node=2 " in fewer
    assert "node2" not in fewer
    assert " cluster.nodes=2 cluster.workers_per_node=1 " in really_dry(cluster, SLURM, "quickstart").stdout
    without_data = really_dry(cluster, DAPO, "--data", "nowhere")
    assert (without_data.returncode, without_data.stderr) == (0, "")
    assert "# nowhere/aime-2024.parquet does not exist yet\n" in without_data.stdout
    assert "# responses per step               8,192 (512 x 16)\n" in without_data.stdout


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (SINGLE, ["quickstart"]),
        (RAY, ["--address", "a:1", "quickstart"]),
        (RAY, ["--hosts", "h1", "quickstart"]),
        (SLURM, ["quickstart"]),
        (DAPO, []),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(
    cluster: Cluster, script: str, arguments: list[str]
) -> None:
    result = really_dry(cluster, script, *arguments, "batch.prompts_per_stepp=4")
    assert result.returncode == 2
    assert "batch.prompts_per_stepp = 4: unknown key. Did you mean 'batch.prompts_per_step'?" in result.stderr
    assert "reasoner-rl train" not in result.stdout


def test_another_number_of_machines_than_the_recipe_s_is_refused_before_anything_starts(
    cluster: Cluster,
) -> None:
    """The recipe wants as many as $NODES, or as an override says; 1 is the default of a recipe, not of an override."""
    port = str(free_port())
    job, hosts = cluster.slurm(free_port()), ("--hosts", "h1 h2", "--port", port)
    in_job, in_hosts = "the number of machines of this job is 3: submit", "the number of --hosts is 2: name"
    for script, options, variables, override, told in (
        (
            SLURM,
            (),
            {**job, "NODES": "4"},
            (),
            (4, f"{in_job} it with sbatch --nodes=4, or add cluster.nodes=3"),
        ),
        (SLURM, (), job, ("cluster.nodes=2",), (2, f"{in_job} it with sbatch --nodes=2")),
        (SLURM, (), job, ("cluster.nodes=1",), (1, f"{in_job} it with sbatch --nodes=1")),
        (SLURM, ("--dry-run",), {**job, "NODES": "4"}, (), (4, in_job)),
        (RAY, hosts, {"NODES": "16"}, (), (16, f"{in_hosts} 16 hosts, or add cluster.nodes=2")),
        (RAY, hosts, {}, ("cluster.nodes=1",), (1, in_hosts)),
        (SINGLE, (), {"NODES": "4"}, (), (4, "this script starts 1: for 4 machines there is")),
    ):
        cluster.log.unlink(missing_ok=True)
        result = cluster.run(script, *options, "r", *override, **variables)
        assert (result.returncode, result.stdout) == (2, "")
        number, rest = told
        assert f"error: the recipe with its overrides has cluster.nodes={number}, and {rest}" in result.stderr
        assert all(call.startswith("here: reasoner-rl config show ") for call in cluster.calls())


def test_a_recipe_whose_number_of_machines_an_override_settles(cluster: Cluster) -> None:
    job = cluster.slurm(20123)
    assert " cluster.nodes=3 " in dry(cluster, SLURM, "r.yaml", "cluster.nodes=3", NODES="4", **job)[-1]
    assert " cluster.nodes=3 " in dry(cluster, SLURM, "r.yaml", NODES="3", **job)[-1]


def test_machines_for_generation_alone_count(cluster: Cluster) -> None:
    job = cluster.slurm(20123)
    result = cluster.run(SLURM, "r.yaml", **{**job, "APART": "2"})
    assert result.returncode == 2
    assert (
        "the recipe with its overrides has cluster.nodes=3 and cluster.generation.nodes=2, and the number of "
        "machines of this job is 3: submit it with sbatch --nodes=5, or add cluster.nodes=1"
    ) in result.stderr
    for nodes in ("1", "4"):
        settled = dry(cluster, SLURM, "r.yaml", "cluster.nodes=1", NODES=nodes, APART="2", **job)[-1]
        assert settled.endswith(" cluster.nodes=1"), "of three machines, two generate"


# --- mistakes


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (SINGLE, [], "RECIPE is missing"),
        (SINGLE, ["--workers", "2"], "RECIPE is missing"),
        (SINGLE, ["--workers"], "--workers needs a value"),
        (SINGLE, ["--workers", "two", "r"], "--workers must be a whole number, at least 1; it is 'two'"),
        (SINGLE, ["--workers=0", "r"], "--workers must be a whole number, at least 1; it is '0'"),
        (SINGLE, ["--wrokers", "2", "r"], "unknown option --wrokers"),
        (SINGLE, ["-n", "2", "r"], "unknown option -n"),
        (SINGLE, ["--nodes", "2", "r"], "unknown option --nodes"),
        (SINGLE, ["r", "run.steps"], "'run.steps' must read key.path=value"),
        (SINGLE, ["r", "--workers=2"], "--workers=2: options come before RECIPE"),
        (RAY, ["r"], "give --address HOST:PORT or --hosts"),
        (RAY, ["--address", "a:1", "--hosts", "h1", "r"], "not both"),
        (RAY, ["--address", "a:1", "--port", "3", "r"], "--port is for --hosts"),
        (RAY, ["--hosts", "h1", "--nodes", "1", "r"], "--nodes is for --address"),
        (RAY, ["--hosts", "h1", "--port", "ray", "r"], "--port must be a whole number"),
        (RAY, ["--hosts", " ", "r"], "--hosts names no machine"),
        (RAY, ["--hosts", "h1"], "RECIPE is missing"),
        (RAY, ["--hosts", "h2 h1", "r"], "the first of --hosts must be this machine, h1; it is h2"),
        (SLURM, [], "RECIPE is missing"),
        (SLURM, ["--hosts", "h1", "r"], "unknown option --hosts"),
        (SLURM, ["r"], "this is no Slurm job"),
        (SLURM, ["--nodes", "2", "r"], "this is no Slurm job"),
        (DAPO, ["--workers", "x"], "--workers must be a whole number"),
        (DAPO, ["quickstart"], "'quickstart' must read key.path=value"),
        (DAPO, [], f"error: {ROOT}/data/dapo-math-17k.parquet does not exist"),
    ],
)
def test_mistakes_are_told_and_nothing_is_started(
    cluster: Cluster, script: str, arguments: list[str], message: str
) -> None:
    result = cluster.run(script, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert cluster.calls() == []


@pytest.mark.parametrize(
    ("script", "arguments"),
    [(SINGLE, ["r"]), (RAY, ["--address", "a:1", "r"]), (RAY, ["--hosts", "h1", "r"])],
)
def test_without_the_environment_nothing_is_started(
    cluster: Cluster, script: str, arguments: list[str]
) -> None:
    result = cluster.run(script, *arguments, REASONER_RL_VENV="nowhere")
    assert result.returncode == 2
    assert "nowhere is no environment; make it: REASONER_RL_EXTRAS=cluster,vllm source" in result.stderr
    assert cluster.calls() == []


def test_a_job_s_script_refuses_to_run_elsewhere(cluster: Cluster) -> None:
    result = cluster.run(SLURM, "r", **cluster.slurm(20001) | {"SLURMD_NODENAME": "login"})
    assert result.returncode == 2
    assert "this must run on the job's first machine, n1" in result.stderr
    assert cluster.calls() == []


def test_a_port_that_is_taken_is_told(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = cluster.run(RAY, "--hosts", "h1 h2", "--port", port, "r")
    assert result.returncode == 2
    assert f"something listens on port {port} of this machine already" in result.stderr
    assert cluster.calls() == []


def test_aime_is_evaluated_by_one_command(cluster: Cluster) -> None:
    """The fake programs do not check recipes, so that any name is one; a real check is the first thing that runs."""
    command = (
        "reasoner-rl eval run aime model.path=models/a "
        '\'evaluation.datasets=[{path: "d/aime-2024.parquet", name: "aime_2024"}]\' '
    )
    alone = cluster.run(
        "eval_aime.sh", "--dry-run", "models/a", "d/aime-2024.parquet", CUDA_VISIBLE_DEVICES="0"
    )
    assert (alone.returncode, alone.stdout) == (0, f"{command}--out runs/aime/a\n"), alone.stderr
    assert len(cluster.calls()) == 1
    assert "config" in str(cluster.calls()[0])
    many = cluster.run(
        *("eval_aime.sh", "--dry-run", "--out", "x", "--workers=2", "models/a", "d/aime-2024.parquet"),
        "rollout.engine.kind=vllm",
    )
    assert many.stdout == (
        f"{command}cluster.kind=ray cluster.nodes=1 cluster.workers_per_node=2 cluster.address=null "
        "rollout.engine.kind=vllm --out x\n"
    )
    for arguments, told in (((), "MODEL is missing"), (("models/a", "a.b=1"), "FILE is missing")):
        wrong = cluster.run("eval_aime.sh", *arguments)
        assert wrong.returncode == 2
        assert told in wrong.stderr

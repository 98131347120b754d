"""`reasoner-rl eval export`: a result in the files of lm-evaluation-harness or lighteval.

The keys are those that lm_eval 0.4.13 (loggers/evaluation_tracker.py, result_schema.py) and lighteval 0.13.0
(logging/evaluation_tracker.py, info_loggers.py) write. What these programs would compute and we do not, such as a git
hash of theirs, is null or empty; nothing is made up.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasoner_rl.commands.out_folder import naming_out
from reasoner_rl.commands.rescore import saved_responses
from reasoner_rl.errors import DataError
from reasoner_rl.evaluation.estimators import clustered_standard_error
from reasoner_rl.evaluation.result import EvaluationResult, SetReport, read_result, result_path
from reasoner_rl.observability.summary import atomic_path, write_json, write_jsonl
from reasoner_rl.types import ScoredGroup

METRIC = "exact_match"  # lm-evaluation-harness's name for whether an answer is right
MINERVA_SHOTS = 4


def export_result(place: Path, form: str, out: Path) -> list[Path]:
    """Write a result in another program's format below ``out``, and return the files.

    form: lm-eval or lighteval. Raises DataError if the result or its responses cannot be read, or if an accuracy is not
    known, without which there is no metric to write.
    """
    result, folder = read_result(place), result_path(place).parent
    for report in result.reports:
        if report.accuracy is None:
            raise DataError(f"{result_path(place)}: the accuracy on {report.dataset} is not known")
    groups = {report.dataset: saved_responses(folder, report) for report in result.reports}
    write: Callable[[EvaluationResult, Mapping[str, list[ScoredGroup]], Path], list[Path]]
    write = {"lm-eval": _lm_eval, "lighteval": _lighteval}[form]
    with naming_out(out):
        return write(result, groups, out)


def _date_id(result: EvaluationResult) -> str:
    return datetime.fromisoformat(result.made).replace(tzinfo=None).isoformat().replace(":", "-")


def _model_name(result: EvaluationResult) -> str:
    return "unknown" if result.settings.model is None else result.settings.model.path


def _shots(result: EvaluationResult) -> int:
    prompts = result.settings.prompts
    return MINERVA_SHOTS if prompts is not None and prompts.template == "minerva" else 0


def _standard_error(report: SetReport) -> float | None:
    """Of avg@k, clustered by problem; None with one problem."""
    means = [[row.accuracy] for row in report.table if row.accuracy is not None]
    return clustered_standard_error(means) if len(means) > 1 else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- lm-evaluation-harness


def _lm_eval(result: EvaluationResult, groups: Mapping[str, list[ScoredGroup]], out: Path) -> list[Path]:
    name, date = _model_name(result), _date_id(result)
    sanitized = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)
    samples = {
        report.dataset: _lm_eval_samples(result, report, groups[report.dataset]) for report in result.reports
    }
    files = [out / sanitized / f"results_{date}.json"]
    write_json(files[0], _lm_eval_results(result, samples) | {"model_name_sanitized": sanitized})
    for task, rows in samples.items():
        path = out / sanitized / f"samples_{re.sub(r'[/ ]', '_', task)}_{date}.jsonl"
        write_jsonl(path, rows)
        files.append(path)
    return files


def _lm_eval_results(result: EvaluationResult, samples: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    settings, reports = result.settings, {report.dataset: report for report in result.reports}
    prompts, model = settings.prompts, settings.model
    system = None if prompts is None else prompts.system
    hashes = {
        task: _sha256("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
        for task, rows in samples.items()
    }
    return {
        "results": {task: _lm_eval_metrics(report) for task, report in reports.items()},
        "group_subtasks": {},
        "configs": {task: _lm_eval_config(result, task) for task in reports},
        "versions": dict.fromkeys(reports, float(result.version)),
        "n-shot": dict.fromkeys(reports, _shots(result)),
        "higher_is_better": {task: dict.fromkeys(_names(report), True) for task, report in reports.items()},
        "n-samples": {
            task: {"original": report.problems, "effective": report.problems}
            for task, report in reports.items()
        },
        "config": {
            "model": "reasoner_rl" if settings.engine is None else settings.engine["kind"],
            "model_args": None if model is None else {"pretrained": model.path, "dtype": model.dtype},
            "model_sha": None if model is None else model.weights_sha256,
            "model_dtype": None if model is None else model.dtype,
            "device": result.machine.device,
            "limit": None,
            "gen_kwargs": settings.sampling,
            "random_seed": settings.seed,
        },
        "git_hash": None,
        "date": datetime.fromisoformat(result.made).timestamp(),
        "transformers_version": settings.versions.get("transformers"),
        "lm_eval_version": None,
        "task_hashes": hashes,
        "model_source": "reasoner_rl",
        "model_name": _model_name(result),
        "system_instruction": system,
        "system_instruction_sha": None if system is None else _sha256(system),
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": settings.tokenizer.chat_template_sha256
        if settings.tokenizer is not None and prompts is not None and prompts.chat_template
        else None,
    }


def _names(report: SetReport) -> list[str]:
    k = report.samples_per_problem
    more = [*(f"pass@{j}" for j in report.pass_at or {} if j > 1), f"maj@{k}"] if k > 1 else []
    return [METRIC, *more]


def _lm_eval_metrics(report: SetReport) -> dict[str, Any]:
    error = _standard_error(report)
    metrics: dict[str, Any] = {
        "name": report.dataset,
        "alias": report.dataset,
        "sample_len": report.problems,
        f"{METRIC},none": report.accuracy,
        f"{METRIC}_stderr,none": "N/A" if error is None else error,
    }
    k = report.samples_per_problem
    if k > 1:
        shares = {f"pass@{j}": share for j, share in (report.pass_at or {}).items() if j > 1}
        for name, share in (shares | {f"maj@{k}": report.majority_at_k}).items():
            metrics |= {f"{name},none": share, f"{name}_stderr,none": "N/A"}
    return metrics


def _lm_eval_config(result: EvaluationResult, task: str) -> dict[str, Any]:
    settings = result.settings
    report = result.report(task)
    return {
        "task": task,
        "dataset_path": settings.data[task].path,
        "output_type": "generate_until",
        "num_fewshot": _shots(result),
        "repeats": report.samples_per_problem,
        "generation_kwargs": _generation_kwargs(result),
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in _names(report)
        ],
        "should_decontaminate": False,
        "metadata": {
            "version": float(result.version),
            "dataset_sha256": settings.data[task].sha256,
            "verifier": settings.verifier.model_dump(mode="json"),
        },
    }


def _generation_kwargs(result: EvaluationResult) -> dict[str, Any]:
    sampling = result.settings.sampling
    if sampling is None:
        return {}
    return {
        "until": sampling["stop"],
        "do_sample": sampling["temperature"] > 0,
        "temperature": sampling["temperature"],
        "top_p": sampling["top_p"],
        "top_k": sampling["top_k"],
        "max_gen_toks": sampling["max_response_tokens"],
    }


def _lm_eval_samples(
    result: EvaluationResult, report: SetReport, groups: list[ScoredGroup]
) -> list[dict[str, Any]]:
    rows = []
    for number, (row, group) in enumerate(zip(report.table, groups, strict=True)):
        doc = {"uid": row.uid, "prompt": group.prompt.text, "answer": group.prompt.ground_truth}
        texts = [rollout.text for rollout in group.rollouts]
        rows.append(
            {
                "doc_id": number,
                "doc": doc,
                "target": group.prompt.ground_truth,
                "arguments": {
                    "gen_args_0": {"arg_0": group.prompt.text, "arg_1": _generation_kwargs(result)}
                },
                "resps": [texts],
                "filtered_resps": texts,
                "filter": "none",
                "metrics": [METRIC],
                "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": _sha256(group.prompt.text),
                "target_hash": _sha256(group.prompt.ground_truth),
                METRIC: row.accuracy,
            }
        )
    return rows


# --- lighteval


def _lighteval(result: EvaluationResult, groups: Mapping[str, list[ScoredGroup]], out: Path) -> list[Path]:
    name, date, shots = _model_name(result).strip("/"), _date_id(result), _shots(result)
    tasks = {f"{report.dataset}|{shots}": report for report in result.reports}
    files = [out / "results" / name / f"results_{date}.json"]
    write_json(files[0], _lighteval_results(result, tasks))
    for task, report in tasks.items():
        path = out / "details" / name / date / f"details_{task.replace('/', '_')}_{date}.parquet"
        rows = _lighteval_details(result, task, report, groups[report.dataset])
        # Columns are in the order of their names, as lighteval sorts them.
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary)
        files.append(path)
    return files


def _lighteval_metrics(report: SetReport) -> dict[str, float]:
    """By the names that lighteval gives its sampled metrics: parameters follow the name."""
    n, error = report.samples_per_problem, _standard_error(report)
    metrics = {f"avg@n:n={n}": report.accuracy or 0.0}
    if error is not None:
        metrics[f"avg@n:n={n}_stderr"] = error
    metrics |= {f"pass@k:k={k}&n={n}": share for k, share in (report.pass_at or {}).items()}
    if report.majority_at_k is not None and n > 1:
        metrics[f"maj@n:n={n}"] = report.majority_at_k
    return metrics


def _lighteval_results(result: EvaluationResult, tasks: Mapping[str, SetReport]) -> dict[str, Any]:
    settings, sampling = result.settings, result.settings.sampling or {}
    metrics = {task: _lighteval_metrics(report) for task, report in tasks.items()}
    shared = [name for name in next(iter(metrics.values())) if all(name in each for each in metrics.values())]
    summary = {"hashes": {}, "truncated": 0, "non_truncated": 0, "padded": 0, "non_padded": 0}
    return {
        "config_general": {
            "lighteval_sha": "?",
            "num_fewshot_seeds": 1,
            "max_samples": None,
            "job_id": "",
            "start_time": None,
            "end_time": None,
            "total_evaluation_time_secondes": None,
            "model_config": {
                "model_name": _model_name(result),
                "dtype": None if settings.model is None else settings.model.dtype,
                "generation_parameters": {
                    "temperature": sampling.get("temperature"),
                    "top_p": sampling.get("top_p"),
                    "top_k": sampling.get("top_k"),
                    "max_new_tokens": sampling.get("max_response_tokens"),
                    "stop_tokens": sampling.get("stop"),
                    "seed": settings.seed,
                },
                "system_prompt": None if settings.prompts is None else settings.prompts.system,
            },
            "model_name": _model_name(result),
        },
        "results": {
            **metrics,
            "all": {name: sum(each[name] for each in metrics.values()) / len(metrics) for name in shared},
        },
        "versions": dict.fromkeys(tasks, result.version),
        "config_tasks": {task: _lighteval_task(result, report, task) for task, report in tasks.items()},
        "summary_tasks": dict.fromkeys(tasks, summary),
        "summary_general": summary,
    }


def _lighteval_task(result: EvaluationResult, report: SetReport, task: str) -> dict[str, Any]:
    sampling = result.settings.sampling or {}
    return {
        "name": report.dataset,
        "full_name": task,
        "hf_repo": result.settings.data[report.dataset].path,
        "hf_subset": "default",
        "metrics": [{"metric_name": name} for name in _lighteval_metrics(report) if "_stderr" not in name],
        "evaluation_splits": ["test"],
        "generation_size": sampling.get("max_response_tokens"),
        "stop_sequence": sampling.get("stop"),
        "num_samples": [report.samples_per_problem],
        "num_fewshots": _shots(result),
        "original_num_docs": report.problems,
        "effective_num_docs": report.problems,
        "version": result.version,
    }


def _lighteval_details(
    result: EvaluationResult, task: str, report: SetReport, groups: list[ScoredGroup]
) -> list[dict[str, Any]]:
    n = report.samples_per_problem
    return [
        {
            "doc": {
                "query": group.prompt.text,
                "choices": [group.prompt.ground_truth],
                "gold_index": 0,
                "id": row.uid,
                "task_name": task,
                "num_samples": n,
                "generation_size": (result.settings.sampling or {}).get("max_response_tokens"),
                "stop_sequences": (result.settings.sampling or {}).get("stop", []),
            },
            "metric": {f"avg@n:n={n}": row.accuracy},
            "model_response": {
                "input": group.prompt.text,
                "input_tokens": list(group.prompt.token_ids),
                "text": [rollout.text for rollout in group.rollouts],
                "output_tokens": [list(rollout.token_ids) for rollout in group.rollouts],
            },
        }
        for row, group in zip(report.table, groups, strict=True)
    ]

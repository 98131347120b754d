"""The machine, and what the trainer adds to PyTorch's kernels: attention over packed sequences, chunked logprobs."""

from __future__ import annotations

import torch

from gpu_checks.common import Context, Figures, copy_speeds, matmul_tflops, used_gib
from reasoner_rl.doctor import examine


def versions(context: Context) -> Figures:
    """What doctor says, and how fast the device computes and copies. A finding called "problem" fails."""
    device = context.device
    context.report(torch=torch.__version__, cuda=torch.version.cuda, device=str(device))
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        context.report(
            card=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            memory_gib=properties.total_memory / 2**30,
            used_at_start_gib=used_gib(),
            nccl=".".join(map(str, torch.cuda.nccl.version())),
            cudnn=torch.backends.cudnn.version(),
        )
    context.report(matmul_tflops=matmul_tflops(device), **copy_speeds(device, context.pick(1.0, 0.01)))
    findings = examine()
    for finding in findings:
        print(f"{finding.verdict:<10}{finding.name}: {finding.value}  {finding.advice}")
    seen = {f"doctor {f.name}": f.value for f in findings if f.verdict != "missing"}
    context.report(**seen)
    problems = [f"{f.name}: {f.value} ({f.advice})" for f in findings if f.verdict == "problem"]
    assert not problems, f"doctor found problems: {'; '.join(problems)}"
    return {}

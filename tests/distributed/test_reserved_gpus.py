"""Workers have a GPU of their own where Ray reserved one, or the run does not start."""

from __future__ import annotations

import pytest

from reasoner_rl.errors import UserError

pytest.importorskip("ray")
pytest.importorskip("verl")

from reasoner_rl.distributed.ray.resources import check_reserved_gpus, refuse_all_gpus_for_all


@pytest.mark.parametrize("kind", ["CUDA", "ROCR", "HIP"])
def test_the_variable_that_gives_all_gpus_to_all_workers_is_refused_by_name(kind: str) -> None:
    name = f"RAY_EXPERIMENTAL_NOSET_{kind}_VISIBLE_DEVICES"
    with pytest.raises(UserError, match=rf"{name}=1 is set in the environment of this command.*Unset it"):
        refuse_all_gpus_for_all({name: "1"}, "the environment of this command")
    for harmless in ({}, {name: ""}, {name: "0"}, {name: "False"}):
        refuse_all_gpus_for_all(harmless, "the environment of this command")
    with pytest.raises(UserError, match=rf"{name}=true is set in the environment of Ray on node7"):
        check_reserved_gpus([3], 8, {name: "true"}, "node7")
    check_reserved_gpus([], 8, {name: "true"}, "node7")  # a worker on a CPU


def test_a_worker_sees_the_gpus_that_were_reserved_for_it() -> None:
    check_reserved_gpus([3], 1, {"CUDA_VISIBLE_DEVICES": "3"}, "node7")
    with pytest.raises(
        UserError, match=r"reserved GPU 3 for a worker on node7, where torch .* sees 0 GPUs .*=3\)"
    ):
        check_reserved_gpus([3], 0, {"CUDA_VISIBLE_DEVICES": "3"}, "node7")
    with pytest.raises(UserError, match=r"sees 8 GPUs \(CUDA_VISIBLE_DEVICES=None\)"):
        check_reserved_gpus([3], 8, {}, "node7")

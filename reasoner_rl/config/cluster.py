"""How many processes a run has, and where."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from reasoner_rl.config.base import Section, refuse_without_effect


class DeadlineConfig(Section):
    """Seconds after which a call to the workers counts as hung: who has not answered writes its stack, the run ends."""

    start: float = Field(1800.0, gt=0, description="For the machines to register, and for workers to start.")
    generate: float = Field(1800.0, gt=0, description="Until a worker reports progress in generation.")
    train: float = Field(7200.0, gt=0, description="For all updates of a step, or all logprobs.")
    sync: float = Field(1800.0, gt=0, description="For publishing the weights.")
    checkpoint: float = Field(3600.0, gt=0, description="For saving, loading or exporting.")


class GenerationWorkersConfig(Section):
    """Workers that generate and do nothing else, so that generation goes on while the models are trained."""

    nodes: int = Field(1, ge=1, description="Machines.")
    workers_per_node: int = Field(
        1, ge=1, description="Workers per machine: one per GPU; on a CPU, any number."
    )

    @property
    def ranks(self) -> int:
        """Number of workers."""
        return self.nodes * self.workers_per_node


class LocalClusterConfig(Section):
    """One worker, in the process of the driver."""

    kind: Literal["local"] = Field("local", description="Chooses this.")

    @property
    def ranks(self) -> int:
        """Number of workers."""
        return 1


class RayClusterConfig(Section):
    """Workers in processes of their own, on one machine or many, started by Ray. Needs the extra `cluster`."""

    kind: Literal["ray"] = Field("ray", description="Chooses this.")
    nodes: int = Field(1, ge=1, description="Machines.")
    workers_per_node: int = Field(
        1, ge=1, description="Workers per machine: one per GPU; on a CPU, any number."
    )
    generation: GenerationWorkersConfig | None = Field(
        None,
        description="Workers of their own for generation, beside cluster.nodes x workers_per_node that train; the "
        "weights are streamed to them after every step. If unset, the workers that train generate as well.",
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPU threads of torch in a worker.")
    address: str | None = Field(
        None,
        description="A running Ray cluster: host:port of its head, or auto for the one that this machine belongs to. "
        "If unset, Ray is started on this machine and stopped with the run.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="What a worker needs one of; auto: a GPU if this machine has one."
    )
    deadlines: DeadlineConfig = Field(DeadlineConfig(), description="When a call counts as hung.")
    restarts: int = Field(
        0,
        ge=0,
        description="How many times one command starts its workers anew after one of them, or its machine, died, hung "
        "or failed. Training resumes from its newest checkpoint, an evaluation from its finished parts.",
    )
    min_nodes: int | None = Field(
        None,
        ge=1,
        description="Machines of cluster.nodes that are enough after such a failure, where others do not come back: "
        "training then continues with fewer workers. If unset, all of them.",
    )
    replacement_seconds: float = Field(
        300.0,
        gt=0,
        description="After a failure, how long all of cluster.nodes are waited for before training continues with "
        "fewer.",
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is None or address == "auto":
            return address
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdigit():
            raise ValueError(f"must be host:port, such as 10.0.0.1:6379, or auto; it is {address!r}")
        return address

    @model_validator(mode="after")
    def _other_machines_are_reached(self) -> Self:
        if self.nodes > 1 and self.address is None:
            raise ValueError(
                f"cluster.address must be set where cluster.nodes is {self.nodes}: Ray must run on all machines first"
            )
        return self

    @model_validator(mode="after")
    def _fewer_machines_can_be_enough(self) -> Self:
        if self.min_nodes is None:
            refuse_without_effect(self, ["replacement_seconds"], "without cluster.min_nodes", "cluster.")
        elif self.min_nodes > self.nodes:
            raise ValueError(
                f"cluster.min_nodes must not exceed cluster.nodes: {self.min_nodes} exceeds {self.nodes}"
            )
        elif self.restarts == 0:
            raise ValueError(
                f"cluster.min_nodes={self.min_nodes} has no effect with cluster.restarts=0: fewer machines are enough "
                "after a restart alone"
            )
        return self

    @property
    def ranks(self) -> int:
        """Number of workers."""
        return self.nodes * self.workers_per_node


def with_nodes(cluster: RayClusterConfig, nodes: int) -> RayClusterConfig:
    """The same on another number of machines, at least ``cluster.min_nodes``."""
    return cluster.model_copy(update={"nodes": nodes})


def without_generation(
    cluster: LocalClusterConfig | RayClusterConfig,
) -> LocalClusterConfig | RayClusterConfig:
    """The same for a run in which all workers do the same."""
    return (
        cluster
        if isinstance(cluster, LocalClusterConfig)
        else cluster.model_copy(update={"generation": None})
    )


ClusterConfig = Annotated[LocalClusterConfig | RayClusterConfig, Field(discriminator="kind")]

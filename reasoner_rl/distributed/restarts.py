"""Starting workers anew within a command, after some of them died, hung or failed: how often, and what is said."""

from __future__ import annotations

import gc
from collections.abc import Callable

from reasoner_rl.config.cluster import ClusterConfig, RayClusterConfig
from reasoner_rl.errors import WorkerError
from reasoner_rl.observability.messages import one_line

_LONGEST = 500  # characters of a reason; the whole error is in events.jsonl


class Restarts:
    """Counts the restarts of one command against ``cluster.restarts``; a worker in this process is never restarted.

    A user's mistake or a divergence is no WorkerError: it would happen again.
    """

    def __init__(self, cluster: ClusterConfig) -> None:
        self._allowed = cluster.restarts if isinstance(cluster, RayClusterConfig) else 0
        self.made = 0

    def take(self, error: WorkerError) -> str:
        """Use one restart after ``error``; returns a line that says why and which it is.

        Raises the error if none is left, with the number of those that were made.
        """
        if self._allowed == 0:
            raise error
        if self.made == self._allowed:
            made = f"All restarts that cluster.restarts={self._allowed} allows were made before"
            raise WorkerError(f"{error}\n{made}") from error
        self.made += 1
        reason = one_line(str(error).partition("\n")[0].rstrip("."), _LONGEST)
        return f"{reason}. Restart {self.made} of {self._allowed}"


def with_restarts(
    cluster: ClusterConfig, attempt: Callable[[int], None], tell: Callable[[str], None]
) -> None:
    """Do work that keeps what is finished; where workers die, start them anew and do what is missing.

    attempt: starts workers; called with the number of restarts that were made before.
    """
    restarts = Restarts(cluster)
    while True:
        try:
            return attempt(restarts.made)
        except WorkerError as error:
            said = restarts.take(error)
        tell(f"{said}: what is finished is kept")
        let_go_of_workers()


def let_go_of_workers() -> None:
    """Drop references to objects of a Ray that has ended, which errors and their frames hold in circles."""
    gc.collect()

"""Starting workers anew within a command, after some of them died, hung or failed: how often, and what is said."""

from __future__ import annotations

from reasoner_rl.config.cluster import ClusterConfig, RayClusterConfig
from reasoner_rl.errors import WorkerError


class Restarts:
    """Counts the restarts of one command against ``cluster.restarts``; workers in this process are never restarted.

    A user's mistake or a divergence is no WorkerError: it would happen again.
    """

    def __init__(self, cluster: ClusterConfig) -> None:
        self._allowed = cluster.restarts if isinstance(cluster, RayClusterConfig) else 0
        self.made = 0

    def take(self, error: WorkerError) -> str:
        """Use one restart after ``error``; returns a line that says why and which it is.

        Raises WorkerError if none is left, with the number of those that were made.
        """
        if self.made == self._allowed:
            if self.made == 0:
                raise error
            made = f"cluster.restarts={self._allowed}: workers were started anew as many times before"
            raise WorkerError(f"{error}\n{made}") from error
        self.made += 1
        reason = str(error).partition("\n")[0]
        return f"{reason}. Restart {self.made} of {self._allowed}"

"""What tests of the launch scripts share."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)

"""Faults injected into real runs of tiny models; see scripts/bench/faults.py."""

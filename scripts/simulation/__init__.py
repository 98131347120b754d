"""Simulation of a cluster with a virtual clock; see scripts/simulate_cluster.py."""

"""Reinforcement learning for reasoning models: GRPO and DAPO on verifiable math."""

__version__ = "0.1.0"

"""Megatron-core as a training backend. Only this package imports megatron and mbridge."""

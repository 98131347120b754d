"""What a run writes: metrics, curves, recorded responses, and the versions and devices it ran with."""

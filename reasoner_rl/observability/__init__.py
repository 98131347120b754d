"""What a run leaves behind: metrics, curves, recorded responses, and what it ran on."""

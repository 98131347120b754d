"""The checks of scripts/gpu_check.py, by subject. Each check is a function of a `Context` that returns `Figures`."""

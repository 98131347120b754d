"""The JavaScript of others that a page carries: Plotly for charts, KaTeX for mathematics, from their Python packages.

KaTeX renders to MathML, which browsers lay out themselves, so neither its style sheet nor its fonts are needed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from reasoner_rl.errors import UserError, require_package

EXTRA, PURPOSE = "report", "the report"


def plotly_js() -> str:
    """plotly.min.js."""
    require_package("plotly", "plotly", EXTRA, PURPOSE)
    return _text("plotly", "package_data/plotly.min.js")


def katex_js() -> str:
    """katex.min.js."""
    require_package("sphinxcontrib.katex", "sphinxcontrib-katex", EXTRA, PURPOSE)
    return _text("sphinxcontrib.katex", "katex.min.js")


def _text(module: str, file: str) -> str:
    """A file beside a module, which is found and not imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise UserError(
            f"{path} is missing, which the package of {module} used to bring; install another version"
        )
    return path.read_text(encoding="utf-8")

"""Pages of the site that are made from the code: recipes, their keys, the command line, metrics."""

from __future__ import annotations

import html
import re
from typing import Any

import typer.cli
import typer.main

from reasoner_rl.cli import app
from reasoner_rl.config.key_list import KeyDoc, list_keys
from reasoner_rl.config.kinds import RECIPE_KINDS
from reasoner_rl.config.load import describe_recipes
from reasoner_rl.observability.glossary import glossary


def generated_pages() -> dict[str, str]:
    """Path on the site -> Markdown."""
    return {
        **{f"reference/keys/{kind}.md": keys_page(kind) for kind in RECIPE_KINDS},
        "reference/recipes.md": recipes_page(),
        "reference/commands.md": commands_page(),
        "reference/metrics.md": metrics_page(),
    }


def recipes_page() -> str:
    """The shipped recipes."""
    rows = [
        f"| `{recipe.name}` | [{recipe.kind}](keys/{recipe.kind}.md) | {recipe.description} |"
        for recipe in describe_recipes()
    ]
    head = """# Recipes

The recipes that come with the package. A command takes the name, and a recipe of your own begins with
`extends: NAME` ([how](configuration.md#extending-a-recipe)). `reasoner-rl config show NAME` prints one with every key
resolved.

| name | kind | what it is |
|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


def keys_page(kind: str) -> str:
    """Every key of a kind of recipe, a heading for each section."""
    lines = [
        f"# Keys of recipes of kind {kind}",
        "",
        f"Made from the configuration's models; `reasoner-rl config keys {kind} [WORD]...` prints the same. A key is "
        "changed in the recipe or on the command line, as in `run.seed=1` ([configuration](../configuration.md)).",
        "",
    ]
    section = None
    for doc in list_keys(kind):
        top = doc.path.split(".")[0]
        if top != section:
            section = top
            lines += [f"## {section}", ""]
        lines += [*key_entry(doc), ""]
    return "\n".join(lines)


def key_entry(doc: KeyDoc) -> list[str]:
    """One key: name, type, default and meaning, as a definition that can be linked to."""
    default = {"": "", "required": " · required"}.get(doc.default, f" · default `{doc.default}`")
    kinds = f" · only with {', '.join(f'`{kind}`' for kind in doc.kinds)}" if doc.kinds else ""
    anchor = re.sub(r"[^a-z0-9_]+", "-", doc.path.lower()).strip("-")
    return [
        f"`{doc.path}`{{ #{anchor} }}",
        f":   {html.escape(doc.type, quote=False)}{default}{kinds}<br>{html.escape(doc.description, quote=False)}",
    ]


def metrics_page() -> str:
    """Every metric that a run logs, by group."""
    lines = [
        "# Metrics",
        "",
        "What a run writes to `metrics.jsonl`, TensorBoard and Weights & Biases, one row per step. `{name}` stands for "
        "any text. Made from `reasoner_rl/observability/glossary.yaml`, which tests compare with the code; "
        "`reasoner-rl config metrics [WORD]...` prints the same.",
    ]
    for group in glossary():
        lines += [
            "",
            f"## {group.title}",
            "",
            group.about,
            "",
            "| metric | unit | of | meaning |",
            "|---|---|---|---|",
        ]
        for doc in group.metrics:
            cells = (
                f"<code>{doc.key.replace('|', '&#124;')}</code>",  # in backticks an escaped | keeps its backslash
                doc.unit,
                doc.reduced,
                html.escape(doc.meaning, quote=False),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _show_whole_summaries(command: Any) -> None:
    """In lists of commands too, where typer cuts a command's first paragraph at 45 characters."""
    for each in getattr(command, "commands", {}).values():
        each.short_help = " ".join((each.help or "").split("\n\n")[0].split())
        _show_whole_summaries(each)


def commands_page() -> str:
    """The command line, from typer."""
    command = typer.main.get_command(app)
    _show_whole_summaries(command)
    context = typer.Context(command, info_name="reasoner-rl")
    return typer.cli.get_docs_for_click(obj=command, ctx=context, name="reasoner-rl", title="Command line")

"""docs/training-config.md: all keys of a training configuration, from its JSON schema."""

from __future__ import annotations

import json

from ..core.config import allowed
from .config import TrainConfig

HEAD = """# Keys of a training configuration

What `dinotile train CONFIG.yaml` reads. A key that is left out keeps its default. `dinotile train --keys` prints this page.
"""


def keys_page() -> str:
    """Markdown: a table for each section."""
    parts = [HEAD]
    for name, section in TrainConfig():
        schema = section.model_json_schema()
        rows = [
            f"| `{key}` | {allowed(of)} | `{json.dumps(of['default'])}` | {of['description']} |\n"
            for key, of in schema["properties"].items()
        ]
        table = "| key | allowed | default | what it is |\n|---|---|---|---|\n"
        parts.append(f"## {name}\n\n{schema['description']}\n\n{table}{''.join(rows)}")
    return "\n".join(parts)

"""What mkdocs.yml asks before a page is built: links to what lies beside docs/ lead to the repository."""

import re
from typing import Any


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """``](../FILE)`` becomes an address in the repository; pictures are shown from there."""
    address = config["repo_url"].rstrip("/")
    shown = re.sub(r"(!\[[^\]]*\]\()\.\./", rf"\g<1>{address}/raw/main/", markdown)
    return re.sub(r"(\]\()\.\./", rf"\g<1>{address}/blob/main/", shown)

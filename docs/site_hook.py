"""Pages of the site that lie outside docs/, and links that hold on GitHub and in the site.

mkdocs calls these functions by name (https://www.mkdocs.org/user-guide/configuration/#hooks).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "training/README.md": "training.md",
}
LINK = re.compile(
    r"""^\ *(?P<fence>```+|~~~+).*?^\ *(?P=fence)\ *$  # or code, which is passed over
    | (?P<ticks>(?<!`)`+(?!`))(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)
    | \[(?P<label>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>\#[^)\s]*)?(?P<title>\s+"[^"]*")?\)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)

SHOWN = (".md", ".ipynb", ".png", ".webp")
NOTEBOOK_LINK = re.compile(r'(href="[^":#]+)\.(md|ipynb)\b')


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, source, page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    made = page.file.src_uri in PAGES.values()
    return markdown if made else relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def relinked(text: str, source: str, page: str) -> str:
    """The text of the repository's file `source` with the links that it needs as the site's `page`.

    A file that the site does not have is named by its path in the repository.
    """

    def place(match: re.Match[str]) -> str:
        label, target = match["label"], match["target"]
        if target is None or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = os.path.normpath(Path(source).parent / target)
        if not (ROOT / path).exists():
            return match[0]  # mkdocs says so
        inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if not inside or not (path in PAGES or (ROOT / path).suffix in SHOWN):
            return f"{label} (`{path}`)"
        rest = (match["anchor"] or "") + (match["title"] or "")
        return f"[{label}]({os.path.relpath(inside, Path(page).parent)}{rest})"

    return LINK.sub(place, text)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Notebooks become pages without mkdocs' own care for their links."""
    return NOTEBOOK_LINK.sub(r"\1.html", html) if page.file.src_uri.endswith(".ipynb") else html

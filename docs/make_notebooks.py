"""Run the notebooks of docs/notebooks/ and keep what they show.

python -m docs.make_notebooks
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).with_name("notebooks")
LIMIT = 500_000  # bytes, so that GitHub shows it


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook after a run from top to bottom, in a folder of its own."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of this run
        if cell.cell_type == "code":  # without progress bars
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        text = nbformat.writes(executed(path))
        if len(text.encode()) > LIMIT:
            raise ValueError(f"{path.name} has {len(text.encode())} bytes, above {LIMIT}.")
        path.write_text(text + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()

"""Who is answered, and with which files."""

from __future__ import annotations

import os

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # as the command does
pytest.importorskip("gradio")

from fastapi.testclient import TestClient

from stas.app.jobs import Studio
from stas.app.page import STEERING, fill_form, read_form
from stas.app.server import application
from tests.app.test_settings import WHOLE


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    return TestClient(
        application(Studio(folder / "made"), "bundled"), base_url="http://127.0.0.1"
    ), folder


def test_only_the_page_itself_is_answered(page):
    client, _ = page
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"Origin": "http://evil.example"}).status_code == 403


def test_only_what_was_made_is_served(page):
    client, folder = page
    (folder / "made").mkdir()
    for place in ("made/mine.txt", "other.txt"):
        (folder / place).write_text("text")
    assert client.get(f"/gradio_api/file={folder}/made/mine.txt").status_code == 200
    assert client.get(f"/gradio_api/file={folder}/other.txt").status_code == 403


def test_the_form_holds_all_settings():
    assert read_form(tuple(fill_form(WHOLE))) == WHOLE
    assert len(STEERING) == len(WHOLE.steering.to_dict())

"""What others wrote is kept as they published it, and nothing is fetched from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "compute_portal" / "static"
LOCK = json.loads((STATIC / "vendor" / "vendor.lock.json").read_text(encoding="utf-8"))
# What pages load, and what only tests use.
FOLDERS = (STATIC / "vendor", ROOT / "tests" / "browser" / "vendor")


def lock_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "vendor.lock.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_vendored_file_has_the_recorded_hash(folder: Path) -> None:
    files = [file for package in lock_of(folder).values() for file in package["files"]]
    assert files
    for file in files:
        content = (folder / file["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file["file"]
        assert len(content) == file["bytes"], file["file"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_file_in_the_vendor_folder_is_recorded_with_version_and_licence(folder: Path) -> None:
    recorded = {file["file"] for package in lock_of(folder).values() for file in package["files"]}
    there = {path.name for path in folder.iterdir()} - {"vendor.lock.json"}
    assert there == recorded
    for name, package in lock_of(folder).items():
        assert package["version"], name
        assert package["licence"], name
        assert any("LICENSE" in file["file"] for file in package["files"]), name


def test_bootstrap_is_the_version_that_the_lock_names() -> None:
    head = (STATIC / "vendor" / "bootstrap.min.css").read_text(encoding="utf-8")[:200]
    assert f"Bootstrap  v{LOCK['bootstrap']['version']} " in head


def test_no_page_and_no_style_sheet_fetches_from_another_host() -> None:
    pages = [*ROOT.glob("compute_portal/**/templates/**/*.html"), *STATIC.glob("*.css"), *STATIC.glob("*.js")]
    assert len(pages) > 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        away = re.findall(
            r"""(?:src|href|action)=["'](?:https?:)?//[^"']+|url\(["']?(?:https?:)?//[^)]+|@import""", text
        )
        assert not away, (page, away)

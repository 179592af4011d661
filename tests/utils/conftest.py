"""No test reads or writes the caches of whoever runs it; modes that are added disturb none."""

from pathlib import Path

import pytest

MODES = ("rebase", "slope-match", "hold", "restart")


@pytest.fixture
def four_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews of these modes alone: those of which tests state every line and figure."""
    monkeypatch.setattr("utils.solver.preview.MODES", MODES)


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("xdg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "yolov5-extend"

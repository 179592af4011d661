import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hubconf
from tests.paths import ROOT, SHARED, requires_shared
from tests.toy import make_toy_weights

BUS = SHARED / "images" / "bus.jpg"

IN_ANOTHER_FOLDER = """
import json, sys
import utils, models
import torch

root, image = sys.argv[1:]
paths = list(sys.path)
model = torch.hub.load(root, "custom", "toy.pt", source="local", device="cpu", _verbose=False)
model.conf = 0.001
results = model(image, size=64)
results.pandas(), results.render(), results.crop(save=False)
model(image, size=64, augment=True)
import utils.theirs, models
second = torch.hub.load(root, "custom", ["toy.pt", "toy.pt"], source="local", device="cpu")
print(json.dumps({
    "found": results.n, "theirs": [utils.theirs.X, models.X], "paths": paths == list(sys.path),
    "ours": [name for name in sys.modules if name.startswith(("utils", "models", "data."))],
    "class": type(model).__module__, "same": type(model) is type(second),
}))
"""


def test_works_in_another_folder_beside_other_packages_of_the_same_names(tmp_path: Path) -> None:
    """A package that was imported before, and a module of it that is imported later."""
    make_toy_weights(tmp_path)
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").touch()
    (tmp_path / "utils" / "theirs.py").write_text("X = 1")
    (tmp_path / "models.py").write_text("X = 2")
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_FOLDER, str(ROOT), str(BUS)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first == "Loaded toy.pt, toy.pt: 2 classes, on cpu"  # of the second, which is verbose
    found = json.loads(last)
    assert found.pop("class").endswith(".utils.inference.model")
    assert found == {
        "found": 1,
        "theirs": [1, 2],
        "paths": True,
        "ours": ["utils", "models", "utils.theirs"],
        "same": True,
    }


def test_lists_the_models_alone() -> None:
    """torch.hub.list shows what is callable and has no underscore."""
    listed = {name for name in dir(hubconf) if name[0] != "_" and callable(getattr(hubconf, name))}
    published = {f"yolov5{size}{levels}" for size in "nsmlx" for levels in ("", "6")}
    assert listed == {"custom", *published}
    for name in published:
        assert getattr(hubconf, name).__doc__.startswith(f"Load the published model {name}")


@requires_shared
def test_published_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov5n.pt").symlink_to(SHARED / "weights" / "yolov5n.pt")

    def load(**options: object) -> Any:
        own = {"source": "local", "device": "cpu", "_verbose": False}
        return torch.hub.load(str(ROOT), "yolov5n", **own, **options)

    model = load()
    results = model(str(BUS), size=320)
    assert str(results).startswith("image 1/1: 1080x810 3 persons, 1 bus\n")

    weights = model.backend.model.state_dict()  # fused
    three = load(classes=3)
    assert three.names == {0: "0", 1: "1", 2: "2"}
    assert torch.equal(
        three.backend.model.state_dict()["model.2.cv1.conv.weight"],
        weights["model.2.cv1.conv.weight"],
    )
    random = load(pretrained=False, channels=4, autoshape=False)
    assert [level.shape[-1] for level in random(torch.zeros(1, 4, 64, 64))] == [85] * 3
    four = load(channels=4)
    assert four.names[0] == "person"
    assert four(torch.zeros(1, 4, 64, 64))[0].shape == (1, 3 * 84, 85)
    with pytest.raises(Exception, match="the model has no RGB input; give a tensor"):
        four(str(BUS))

import json
from pathlib import Path
from typing import Any

import pytest

from models.spec import LayerSpec, ModelSpec, load_spec
from tests.paths import GOLDENS, requires_shared
from utils.errors import UserError

PUBLISHED = [f"yolov5{size}{levels}.yaml" for size in "nsmlx" for levels in ("", "6")]


def tiny() -> dict[str, Any]:
    return {
        "nc": 2,
        "depth_multiple": 0.33,
        "width_multiple": 0.25,
        "anchors": [[10, 13, 16, 30]],
        "backbone": [[-1, 1, "Conv", [64, 6, 2, 2]], [-1, 1, "SPP", [64, [5, 9]]]],
        "head": [[[-1, 0], 1, "Concat", [1]], [2, 1, "Detect", ["nc", "anchors"]]],
    }


def test_reads_the_schema_of_the_model_files() -> None:
    spec = ModelSpec.from_dict(tiny())
    assert spec.classes == 2
    assert spec.anchors == ((10, 13, 16, 30),)
    assert spec.layers[0] == LayerSpec((-1,), 1, "Conv", (64, 6, 2, 2))
    assert spec.layers[1].args == (64, (5, 9))
    assert spec.layers[2].sources == (-1, 0)
    assert spec.backbone_length == 2


def test_round_trips_through_plain_data() -> None:
    assert ModelSpec.from_dict(tiny()).to_dict() == tiny()


def test_is_hashable_and_so_wholly_frozen() -> None:
    assert len({ModelSpec.from_dict(tiny()), ModelSpec.from_dict(tiny())}) == 1


def test_replaces_classes_and_anchors_only() -> None:
    spec = ModelSpec.from_dict(tiny())
    changed = spec.with_classes(7).with_anchors([[1.0, 2.0]])
    assert (changed.classes, changed.anchors) == (7, ((1.0, 2.0),))
    assert changed.layers == spec.layers
    assert spec.classes == 2


def test_input_channels_in_upstream_checkpoints_are_ignored() -> None:
    assert ModelSpec.from_dict({**tiny(), "ch": 3}) == ModelSpec.from_dict(tiny())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "nn.LeakyReLU(0.1)"}, "activation not supported"),
        ({"nc": 0}, "nc is 0"),
        ({"depth_multiple": "deep"}, "depth_multiple is 'deep'"),
        ({"anchors": 3}, "anchors must be a list"),
        ({"anchors": [["a", "b"]]}, "anchors must be a list"),
        ({"anchors": [[1, 2], [3, 4]]}, "2 rows of anchors for 1 detection levels"),
        ({"anchors": [[1, 2, 3]]}, "as many pairs"),
        ({"backbone": {}}, "backbone must be a list"),
        ({"backbone": [[-1, 1, "Conv"]]}, "backbone row 0 must be"),
        ({"backbone": [[-1, 0, "Conv", [64]]]}, "backbone row 0 needs whole numbers"),
        ({"head": [[-1, 1, "Conv", [64]]]}, "the last layer must be Detect"),
    ],
)
def test_refuses_what_it_cannot_mean(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSpec.from_dict({**tiny(), **change})


def test_names_the_missing_keys() -> None:
    with pytest.raises(UserError, match="nc, head missing"):
        ModelSpec.from_dict({key: tiny()[key] for key in tiny() if key not in ("nc", "head")})


def test_finds_bare_names_among_the_ready_models() -> None:
    assert load_spec(Path("yolov5n.yaml")) == load_spec(Path("models/elsewhere/yolov5n.yaml"))
    assert load_spec(Path("yolov5n.yaml")).width_multiple == 0.25


def test_a_file_that_exists_goes_before_a_ready_model(tmp_path: Path) -> None:
    file = tmp_path / "yolov5n.yaml"
    file.write_text(json.dumps(tiny()), encoding="utf-8")
    assert load_spec(file) == ModelSpec.from_dict(tiny())


def test_an_unknown_file_is_refused_with_the_ready_ones() -> None:
    with pytest.raises(UserError, match=r"yolov9\.yaml does not exist; ready ones are .*yolov5n"):
        load_spec(Path("yolov9.yaml"))


@pytest.mark.parametrize("text", ["nc: [", "- a list"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.yaml"):
        load_spec(file)


@requires_shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_ready_models_are_the_published_ones(name: str) -> None:
    published = json.loads((GOLDENS / "model_specs.json").read_text(encoding="utf-8"))
    assert load_spec(Path(name)).to_dict() == published[name]

import json
from pathlib import Path
from typing import Any

import pytest

from models.spec import LayerSpec, ModelSpec, load_spec
from tests.paths import GOLDENS
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


def test_schema_of_the_model_files() -> None:
    spec = ModelSpec.from_dict(tiny())
    assert spec.classes == 2
    assert spec.anchors == ((10, 13, 16, 30),)
    assert spec.layers[0] == LayerSpec((-1,), 1, "Conv", (64, 6, 2, 2))
    assert spec.layers[1].args == (64, (5, 9))
    assert spec.layers[2].sources == (-1, 0)
    assert spec.backbone_length == 2


def test_round_trip_through_plain_data() -> None:
    assert ModelSpec.from_dict(tiny()).to_dict() == tiny()


def test_specification_is_hashable() -> None:
    assert len({ModelSpec.from_dict(tiny()), ModelSpec.from_dict(tiny())}) == 1


def test_only_classes_and_anchors_are_replaced() -> None:
    spec = ModelSpec.from_dict(tiny())
    changed = spec.with_classes(7).with_anchors([[1.0, 2.0]])
    assert (changed.classes, changed.anchors) == (7, ((1.0, 2.0),))
    assert changed.layers == spec.layers
    assert spec.classes == 2


def test_number_of_anchors_is_kept_until_they_are_fitted() -> None:
    spec = ModelSpec.from_dict({**tiny(), "anchors": 3})
    assert [len(row) for row in spec.anchors] == [6]
    assert spec.to_dict() == {**tiny(), "anchors": 3}
    fitted = spec.with_anchors([[1, 2, 3, 4, 5, 6]])
    assert fitted.to_dict() == {**tiny(), "anchors": [[1, 2, 3, 4, 5, 6]]}


def test_activation_is_kept() -> None:
    given = {**tiny(), "activation": "nn.ReLU()"}
    assert ModelSpec.from_dict(given).to_dict() == given


def test_input_channels_in_upstream_checkpoints_are_ignored() -> None:
    assert ModelSpec.from_dict({**tiny(), "ch": 3}) == ModelSpec.from_dict(tiny())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbones": []}, "unknown key backbones; known keys are nc, .*, activation, ch"),
        ({"ch": 1}, "ch is 1, but images are read with 3 channels; remove the key"),
        ({"anchors": 0}, "anchors is 0; give a number per level from 1 to 100"),
        ({"anchors": 10**9}, "anchors is 1000000000; give a number"),
        ({"anchors": True}, "anchors is not a list of numeric rows"),
        ({"nc": 0}, "nc is 0; it must be a number above 0"),
        ({"depth_multiple": "deep"}, "depth_multiple is 'deep'"),
        ({"anchors": [["a", "b"]]}, "anchors is not a list of numeric rows"),
        ({"anchors": [[1, 2], [3, 4]]}, "there are 2 rows of anchors for 1 detection levels"),
        ({"anchors": [[1, 2, 3]]}, "the rows of anchors have different or odd lengths"),
        ({"backbone": {}}, "backbone is not a list"),
        ({"backbone": [[-1, 1, "Conv"]]}, "backbone row 0 is malformed; write"),
        ({"backbone": [[-1, 0, "Conv", [64]]]}, "backbone row 0 has an invalid `from` or `number`"),
        ({"head": [[-1, 1, "Conv", [64]]]}, "the last layer is not Detect"),
    ],
)
def test_invalid_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSpec.from_dict({**tiny(), **change})


def test_missing_keys_are_named() -> None:
    with pytest.raises(UserError, match="key nc, head is missing"):
        ModelSpec.from_dict({key: tiny()[key] for key in tiny() if key not in ("nc", "head")})


def test_name_of_a_published_model_is_found() -> None:
    assert load_spec(Path("yolov5n.yaml")) == load_spec(Path("models/elsewhere/yolov5n.yaml"))
    assert load_spec(Path("yolov5n.yaml")).width_multiple == 0.25


def test_existing_file_has_priority_over_a_published_model(tmp_path: Path) -> None:
    file = tmp_path / "yolov5n.yaml"
    file.write_text(json.dumps(tiny()), encoding="utf-8")
    assert load_spec(file) == ModelSpec.from_dict(tiny())


def test_missing_file_is_refused_with_the_published_names() -> None:
    with pytest.raises(
        UserError, match=r"yolov9\.yaml does not exist; published models are .*yolov5n"
    ):
        load_spec(Path("yolov9.yaml"))


@pytest.mark.parametrize("text", ["nc: [", "- a list"])
def test_file_without_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.yaml"):
        load_spec(file)


@pytest.mark.parametrize("name", PUBLISHED)
def test_model_files_equal_the_published_ones(name: str) -> None:
    published = json.loads((GOLDENS / "model_specs.json").read_text(encoding="utf-8"))
    assert load_spec(Path(name)).to_dict() == published[name]

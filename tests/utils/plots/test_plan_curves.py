import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.paths import ROOT
from tests.utils.plots.test_run_curves import ink
from tests.utils.solver.test_schedule import plan_of
from utils.plots.plan_curves import save_lr_plan
from utils.solver.continuation import Extension, extend_plan
from utils.solver.preview import plan_previews
from utils.solver.schedule import Plan, base_segment


def base(epochs: int, law: str = "linear", lrf: float = 0.01) -> Plan:
    return plan_of(base_segment(epochs, law, lrf))


def drawn(plan: Plan, completed: int, extension: Extension, path: Path) -> Path:
    save_lr_plan(plan, completed, plan_previews(plan, completed, extension), path)
    return path


def colors(path: Path) -> set[str]:
    """Return the colors of an image, as "#RRGGBB"."""
    image = cv2.imread(str(path))
    assert image is not None
    return {f"#{r:02X}{g:02X}{b:02X}" for b, g, r in image.reshape(-1, 3)}


@pytest.mark.parametrize(
    ("plan", "completed", "extension"),
    [
        (base(3), 3, Extension(2)),
        (base(1), 1, Extension(1, "restart")),
        (base(300), 300, Extension(100, "hold", peak=0.3, rewarm_epochs=3, cooldown_epochs=9)),
        (base(300, "linear-v5.0", 0.0), 300, Extension(5)),  # rates of zero on a logarithmic axis
        (base(4, lrf=0.0), 4, Extension(1)),  # the last rate is rounding error only
        (
            extend_plan(extend_plan(base(30), 30, Extension(9)), 35, Extension(5, "restart")),
            40,
            Extension(20),
        ),
    ],
)
def test_plan_is_plotted(tmp_path: Path, plan: Plan, completed: int, extension: Extension) -> None:
    assert ink(drawn(plan, completed, extension, tmp_path / "lr_plan.png")) > 0.3


def test_trained_epochs_are_grey_and_every_mode_has_its_color(tmp_path: Path) -> None:
    found = colors(drawn(base(24), 24, Extension(12), tmp_path / "lr_plan.png"))
    assert {"#9A9A9A", "#0072B2", "#009E73", "#E69F00", "#CC79A7"} <= found


@pytest.mark.usefixtures("four_modes")
def test_modifiers_add_lines_to_the_legend(tmp_path: Path) -> None:
    plain = cv2.imread(str(drawn(base(9), 9, Extension(9), tmp_path / "plain.png")))
    extension = Extension(9, cooldown_epochs=2)
    modified = cv2.imread(str(drawn(base(9), 9, extension, tmp_path / "modified.png")))
    assert plain is not None
    assert modified is not None
    # four lines of 0.26 inches at 150 pixels per inch
    assert modified.shape[0] - plain.shape[0] == pytest.approx(4 * 0.26 * 150, abs=1)
    assert modified.shape[1] == plain.shape[1]


def test_plot_does_not_import_pyplot() -> None:
    code = "import sys, utils.plots.plan_curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

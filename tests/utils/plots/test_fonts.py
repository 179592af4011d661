import subprocess
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from utils.plots import fonts
from utils.plots.figure import new_figure, save_figure, text_width
from utils.plots.fonts import FontFile, dejavu, drawable_names, font_for
from utils.plots.images import _text_mask, draw_boxes

MPL_FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
# In place of a font of the system: it has a glyph for every block of characters.
EVERYTHING = FontFile(str(MPL_FONTS / "LastResortHE-Regular.ttf"))
CHINESE, EMOJI = "猫", "\N{AUTOMOBILE}"  # not in DejaVu Sans


@pytest.fixture(autouse=True)
def _no_cache() -> Iterator[None]:
    yield
    for function in (fonts._system_font, fonts._drawable_names, dejavu):
        function.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_system_fonts", lambda _: iter([dejavu(), EVERYTHING]))


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a font without these characters, and a file that is no font."""
    monkeypatch.setattr(fonts, "_system_fonts", lambda _: iter([FontFile(__file__), dejavu()]))


def test_font_is_found_without_importing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = FontFile(str(MPL_FONTS / "DejaVuSans.ttf"))
    assert dejavu() == expected
    dejavu.cache_clear()
    monkeypatch.setattr(fonts, "find_spec", lambda _: None)
    assert dejavu() == expected


@pytest.mark.parametrize(
    "text", ["cat 0.5", "кот", "Ärger", "قطة", "\N{GRINNING FACE}", "", "a\nb"]
)
def test_what_dejavu_has_is_drawn_with_it(text: str, installed: None) -> None:
    assert font_for(text) == dejavu()


@pytest.mark.parametrize("text", [CHINESE, f"cat {CHINESE} 0.5", EMOJI])
def test_other_characters_are_drawn_with_a_font_that_has_them(text: str, installed: None) -> None:
    assert font_for(text) == EVERYTHING
    assert drawable_names(["cat", text]) == ("cat", text)


def test_names_that_no_font_has_are_drawn_as_numbers_and_reported_once(
    not_installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["cat", CHINESE, "кот", EMOJI]
    for _ in range(2):
        assert drawable_names(names) == ("cat", "1", "кот", "3")
    assert caplog.messages == [
        f"No font of this system has the characters of class names such as {CHINESE} (2 of 4); "
        "they are drawn as numbers. Install a font for them, for example Noto Sans."
    ]


def test_label_of_a_box_is_drawn_with_the_font(installed: None) -> None:
    """A label is as wide as its text and a margin of 2 px on each side."""
    image, box = np.zeros((60, 90, 3), np.uint8), np.array([[5.0, 30.0, 80.0, 55.0]])
    _text_mask.cache_clear()
    drawn = draw_boxes(image, box, [CHINESE * 2], [(0, 255, 0)], 3)
    left, _, right, _ = fonts.load_font(EVERYTHING, 16).getbbox(CHINESE * 2)
    widths = np.flatnonzero(drawn[15].any(axis=1))
    assert len(widths) == np.ceil(right - left) + 4
    _text_mask.cache_clear()


def test_texts_of_figures_have_the_font_too(installed: None, tmp_path: Path) -> None:
    figure = new_figure(2, 1)
    plain, chinese = figure.text(0, 0.5, "кот"), figure.text(0.5, 0.5, f"a {CHINESE}")
    before = plain.get_fontfamily()
    save_figure(figure, tmp_path / "f.png")
    assert plain.get_fontfamily() == before
    assert chinese.get_fontfamily() == ["DejaVu Sans", "Last Resort High-Efficiency"]
    assert text_width(CHINESE * 2, 10) > 1.5 * text_width(CHINESE, 10) > 0


def test_fontconfig_is_asked_for_all_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, f"/gone.ttf\t0\n{EVERYTHING.path}\t65536\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert font_for("猫犬 a") == EVERYTHING  # the first is no font; 65536 is an instance of font 0
    assert [command[-1] for command in commands] == ["sans:charset=72ac 732b"]


def test_without_fontconfig_all_fonts_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", run)
    found = [dejavu().path, EVERYTHING.path]
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: found)
    assert font_for(CHINESE) == EVERYTHING

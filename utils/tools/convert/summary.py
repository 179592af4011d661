"""The summary of a conversion: rows found, kept and dropped."""

from __future__ import annotations

import logging
import textwrap
from collections import Counter
from collections.abc import Sequence

from utils.tools.convert.label_rows import Tally

log = logging.getLogger("yolo")

DROPPED_SHOWN = 20
LINE = 120  # characters


def log_summary(tallies: Sequence[Tally]) -> None:
    """Log images, rows, boxes per class, ignore regions, clipped boxes and dropped rows."""
    for tally in tallies:
        log.info("\n%s", _line(f"{tally.split}: {tally.images} images,", tally.rows, "rows"))
        log.info("%s", _line("  in the labels:", tally.boxes, "boxes"))
        log.info("  images without a box, background: %d", tally.background)
        log.info("%s", _line("  ignore regions:", tally.ignored, "regions"))
        log.info("  boxes clipped to the image: %d", tally.cut)
        log.info("%s", _line("  dropped:", tally.dropped, "rows"))
        for sentence in tally.dropped_rows[:DROPPED_SHOWN]:
            log.info("    %s", sentence)
        if len(tally.dropped_rows) > DROPPED_SHOWN:
            log.info(
                "    … and %d more in conversion.json", len(tally.dropped_rows) - DROPPED_SHOWN
            )
    log.info(
        "\nTotal: %d images, %d rows: %d boxes, %d ignore regions, %d dropped.",
        sum(tally.images for tally in tallies),
        *(
            sum(counts.total() for counts in kind)
            for kind in (
                [tally.rows for tally in tallies],
                [tally.boxes for tally in tallies],
                [tally.ignored for tally in tallies],
                [tally.dropped for tally in tallies],
            )
        ),
    )


def _line(title: str, counts: Counter[str], unit: str) -> str:
    """Format a total with its parts: `5 rows = 3 pedestrian + 2 rider`."""
    parts = " + ".join(f"{count} {name}" for name, count in counts.items() if count)
    text = f"{title} {counts.total()} {unit}" + (f" = {parts}" if parts else "")
    return textwrap.fill(text, LINE, subsequent_indent="    ", break_long_words=False)


def summary_record(tally: Tally) -> dict[str, object]:
    """Return the counts as plain data."""
    return {
        "split": tally.split,
        "images": tally.images,
        "background": tally.background,
        "rows": dict(tally.rows),
        "boxes": dict(tally.boxes),
        "ignored": dict(tally.ignored),
        "cut": tally.cut,
        "dropped": dict(tally.dropped),
        "dropped_rows": tally.dropped_rows,
    }

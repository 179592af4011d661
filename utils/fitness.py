"""The one number by which epochs are compared; imports no torch."""

MAP50_SHARE, MAP50_95_SHARE = 0.1, 0.9


def fitness(map50: float, map50_95: float) -> float:
    """0.1 mAP50 + 0.9 mAP50-95."""
    return MAP50_SHARE * map50 + MAP50_95_SHARE * map50_95

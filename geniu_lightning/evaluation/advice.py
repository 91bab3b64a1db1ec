"""What a comparison of few images or few oracles can resolve, and what would resolve more."""

ENOUGH_IMAGES = 50  # test images of a forgotten class
ENOUGH_ORACLES = 5


def advice(images: int, oracles: int) -> str:
    """Return what would make a small comparison resolve more; empty if it is not small."""
    few = []
    if images < ENOUGH_IMAGES:
        few.append(f"{ENOUGH_IMAGES} or more test images of the class")
    if oracles < ENOUGH_ORACLES:
        few.append(f"{ENOUGH_ORACLES} or more oracles (oracles.count={ENOUGH_ORACLES})")
    return f"a verdict may stay open: it needs {' and '.join(few)}" if few else ""

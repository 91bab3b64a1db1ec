"""``python -m geniu_lightning.evaluation``: judge weights, or methods by many runs."""

from geniu_lightning.app.evaluate import main

if __name__ == "__main__":
    main()

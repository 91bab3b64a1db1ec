"""Make a trained classifier forget classes."""

from geniu_lightning.app.unlearn import main

if __name__ == "__main__":
    main()

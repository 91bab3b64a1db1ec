"""Make a trained classifier forget classes."""

from geniu_lightning.cli.unlearn import main

if __name__ == "__main__":
    main()

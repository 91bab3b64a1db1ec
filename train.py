"""Train a classifier, and the kit that it can later forget with."""

from geniu_lightning.cli.train import main

if __name__ == "__main__":
    main()

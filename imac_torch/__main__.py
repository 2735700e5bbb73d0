"""``python -m imac_torch`` is the command line."""

from imac_torch.cli import main

if __name__ == "__main__":
    main()

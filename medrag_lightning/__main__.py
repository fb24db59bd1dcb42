"""``python -m medrag_lightning``."""

from medrag_lightning.cli import main

if __name__ == "__main__":
    main()

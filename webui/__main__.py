"""`python -m webui` is `tuner ui`."""

import sys

from tuner.cli import main

if __name__ == "__main__":
    main(["ui", *sys.argv[1:]])

"""`python -m ms_detr` is the same as `ms-detr`."""

import sys

from ms_detr.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m fusecli`` and the ``fusecli`` script."""

import sys

from fusecli.cli import main


def run() -> None:
    sys.exit(main())


if __name__ == "__main__":
    run()

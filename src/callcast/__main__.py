"""`callcast` and `python -m callcast`."""

import sys


def main() -> None:
    from callcast.cli import main

    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    main()

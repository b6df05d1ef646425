"""`callcast` and `python -m callcast`."""

import sys


def main() -> None:
    from callcast.stdio import prepare

    prepare()
    from callcast.cli import main

    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()

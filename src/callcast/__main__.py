"""`callcast` and `python -m callcast`."""

import sys


def main() -> None:
    from callcast.observability.standard_streams import prepare

    prepare()
    from callcast.cli.main import main

    try:
        sys.exit(main(sys.argv[1:]))
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()

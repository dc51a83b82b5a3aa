"""`python -m cortexd` and the console script."""

from cortexd.cli.main import run


def main() -> None:
    run()


if __name__ == "__main__":
    main()

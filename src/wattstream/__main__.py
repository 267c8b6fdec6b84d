"""Run the command line: ``python -m wattstream``."""

from wattstream.cli.main import run

if __name__ == "__main__":
    run()

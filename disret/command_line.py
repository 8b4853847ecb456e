"""How a script begins and ends: its arguments, and a sentence instead of a traceback."""

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """Something that the person at the terminal can put right; the message says what and how."""


def argument_parser(description: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser that shows `description` as it is laid out, and knows `--debug`.

    Args:
        prog: the command, where it is not the file's name: `python -m …`.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def is_main_process() -> bool:
    """Whether this process speaks for the run (rank 0 under `torchrun`)."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line on standard error, once per run."""
    if is_main_process():
        print(message, file=sys.stderr, flush=True)


def command_line() -> str:
    """The command that this process was started with, as a shell takes it."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def run(main: Callable[[], None]) -> None:
    """Call `main` and exit: 0 done, 2 for what the user can put right, 130 for Ctrl-C, else 1.

    `--debug` among the arguments shows tracebacks instead.
    """
    if "--debug" in sys.argv:
        main()
        sys.exit(0)
    rank = os.environ.get("RANK")  # under torchrun any process may be the one that failed
    script = Path(sys.argv[0]).name + (f" [rank {rank}]" if rank else "")

    def end(sentence: str, status: int) -> None:
        print(f"{script}: {sentence}", file=sys.stderr, flush=True)
        sys.exit(status)

    try:
        main()
    except KeyboardInterrupt:
        end("interrupted; the same command goes on from here (distill.py: with --resume).", 130)
    except UserError as error:
        end(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if out_of_space(error):
            end(f"no room left to write ({error}); free some space.", 2)
        end(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)


def out_of_space(error: BaseException) -> bool:
    """Whether writing failed for want of room, however the library at fault reports it."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    # safetensors and torch wrap the system's error in their own types and keep only its text.
    return any(
        f"os error {number}" in str(error) or os.strerror(number) in str(error)
        for number in _NO_SPACE
    )

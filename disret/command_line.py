"""The command line: arguments, what is said while a script runs, and how it ends."""

import argparse
import difflib
import errno
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disret import __version__

if TYPE_CHECKING:
    from tqdm import tqdm

_received: list[int] = []  # signals that are to end this process
at_end = ExitStack()  # what a script holds until it ends, such as locks
DTYPES = ("auto", "bfloat16", "float16", "float32")
RESUMED = ("distill.py", "benchmark.py", "sweep.py")  # which leave what the next run goes on with
FOLDERS = ("beyond", "perf", "evaluations")  # of scripts that are not at the top
SECRET = r"(?i:\b[\w.-]*(?:key|token|secret|password))"  # fields that hold one
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """Something that the person at the terminal can put right, in one sentence."""


class Ended(BaseException):
    """The system ends this process; what it holds is put in order first."""


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag beside one that there is not."""

    def error(self, message: str) -> None:
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.findall(r"(?<!\S)--[\w-]+", message) if "unrecognized" in message else []
        for flag in unknown:
            if near := difflib.get_close_matches(flag, flags, n=1):
                message += f"; did you mean {near[0]}?"
        hint = f"usage: {self.prog} …, with the flags that --help lists"
        self.exit(2, f"{hint}\n{self.prog}: error: {message}\n")


def argument_parser(description: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser that shows `description` as it is laid out, and knows `--debug`.

    Args:
        prog: the command, where it is not the file's name: `python -m …`.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # `--index` is no `--index-dtype`
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--version", action="version", version=f"disret {__version__}")
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """For a parser, or a group of its arguments."""
    parser.add_argument("--device", help="cuda, cuda:1, cpu … (default: cuda where present)")


def add_mirror(parser: argparse.ArgumentParser) -> None:
    """For a parser, or a group of its arguments."""
    parser.add_argument(
        "--mirror", metavar="DIR|URL", help="take archives from there (or DISRET_MIRROR)"
    )


def add_settings(group: Any, settings: Sequence[Any], exclusive: Collection[str] = ()) -> None:
    """An argument for each setting of a recipe, with the recipes' values in its help.

    Args:
        group: a parser, or a group of one.
        settings: with `name`, `kind`, `paper`, `best` and `help`.
        exclusive: names of those that exclude each other.
    """
    either = group.add_mutually_exclusive_group()
    for name, kind, paper, best, text in settings:
        if kind is None:
            continue
        values = " or ".join("by the number of texts" if v is None else str(v)
                             for v in dict.fromkeys((paper, best)))  # fmt: skip
        options: dict[str, Any] = {"type": kind, "metavar": "N"}
        if kind is bool:
            options = {"action": argparse.BooleanOptionalAction}
        elif isinstance(kind, tuple):
            options = {"choices": kind}
        (either if name in exclusive else group).add_argument(
            f"--{name.replace('_', '-')}", help=f"{text} ({values})", **options
        )


def _number(
    kind: type, rule: str, low: float, high: float = math.inf
) -> Callable[[str], int | float]:
    """The type of an argument that is a number from `low` to `high`, which `rule` says."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {what}, got {shortened(text)!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{rule}, got {shortened(text)}")
        return value

    return parse


# Types of arguments: two counts, a number of threads, a seed of 32 bits, a positive number.
positive = _number(int, "must be positive", 1)
not_negative = _number(int, "must not be negative", 0)
threads = _number(int, "must be from 1 to 1024", 1, 1024)
port = _number(int, "must be from 1 to 65535", 1, 65_535)
seed = _number(int, "must be from 0 to 4294967295", 0, 2**32 - 1)
positive_float = _number(float, "must be positive", sys.float_info.min, sys.float_info.max)
share = _number(float, "must be above 0, and 1 at most", sys.float_info.min, 1)


def shortened(text: str, most: int = 60) -> str:
    """A text as a sentence may quote it."""
    return text if len(text) <= most else f"{text[:most]}…"


def is_main_process() -> bool:
    """Whether this process speaks for the run (rank 0 under `torchrun`)."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line on standard error, once per run."""
    if is_main_process():
        print(visible(without_secrets(message)), file=sys.stderr, flush=True)


def tell(result: object) -> None:
    """Print a result on standard output."""
    print(visible(str(result)), flush=True)


def visible(text: str) -> str:
    """A text whose control characters, and marks of direction, are shown and steer no terminal."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """A text on one line, with a space for what `visible` would show."""
    return " ".join(UNSEEN.sub(" ", text).split())


def without_secrets(text: str) -> str:
    """A text without what is before the host in addresses, after a `?`, and values of `SECRET`."""
    # A password may have any letter; what looks like a port is one.
    text = re.sub(r"(?<=://)([^\s/?#]+@|[^\s/?#:@]*:(?!\d+([/?#]|$))\S*@)", "", text)
    text = re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\"]+", r"\1?…", text)
    return re.sub(rf"({SECRET})=(?!…|VALUE)[^\s'\"]+", r"\1=…", text)


class _Lines:
    """What is written for a bar, on a line each, but for the end, which it writes twice."""

    before = ""

    def write(self, text: str) -> None:
        start = text.partition("[")[0].strip()
        if start not in ("", self.before):
            print(text.strip(), file=sys.stderr)
            self.before = start

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(*args: Any, **kwargs: Any) -> "tqdm":
    """tqdm's bar, once per run; where no terminal shows it, a line for each tenth of the work."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        total = kwargs.get("total") or (len(args[0]) if args and hasattr(args[0], "__len__") else 0)
        often = (
            {"miniters": math.ceil(total / 10), "mininterval": 0} if total else {"mininterval": 60}
        )
        kwargs |= {"file": _Lines(), "maxinterval": math.inf, **often}
    return tqdm(*args, disable=not is_main_process(), **kwargs)


def invocation() -> str:
    """The command that this process was started with, as a shell takes it."""
    path, module = Path(sys.argv[0]), _module()
    name = path.name if path.parent.name not in FOLDERS else f"{path.parent.name}/{path.name}"
    words = ["python", *(["-m", module] if module else [name])]
    if processes := os.environ.get("LOCAL_WORLD_SIZE"):
        words = ["torchrun", "--nproc-per-node", processes, name]
    return shlex.join([*words, *map(without_secrets, sys.argv[1:])])


def going_on() -> str:
    """The command that takes up what this one has left, or begins it again."""
    command, script = invocation(), Path(sys.argv[0]).name
    if script == "distill.py" and "--resume" not in sys.argv:
        command = f"{command.replace(' --overwrite', '')} --resume"
    return f"this {'goes on from here' if script in RESUMED else 'starts it again'}: {command}"


def _module() -> str | None:
    """What this process was started as by `python -m`, if it was."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    is_one = spec is not None and Path(spec.origin or "").name == Path(sys.argv[0]).name
    return spec.name.removesuffix(".__main__") if is_one else None


def run(main: Callable[[], None]) -> None:
    """Call `main` and exit: 0 done, 2 for what the user can put right, else 1.

    Ctrl-C gives 130, SIGTERM 143 and SIGHUP 129, after what is half written has been removed.

    `--debug` among the arguments shows tracebacks instead.
    """
    if "--debug" in sys.argv:
        main()
        sys.exit(0)
    rank = os.environ.get("RANK")  # under torchrun any process may be the one that failed
    script = (_module() or Path(sys.argv[0]).name) + (f" [rank {rank}]" if rank else "")

    def end(sentence: str, status: int) -> None:
        print(visible(f"{script}: {without_secrets(sentence)}"), file=sys.stderr, flush=True)
        if _received:  # libraries that were cut off in their work may abort as they are unloaded
            sys.stdout.flush()
            os._exit(status)
        sys.exit(status)

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115, until the end
    _received.clear()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters it cannot print
    try:
        with at_end:
            main()
    except KeyboardInterrupt:
        end(f"interrupted; {going_on()}", 130)
    except Ended as error:
        end(f"ended by {error}; {going_on()}", 128 + signal.Signals[str(error)])
    except UserError as error:
        end(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if is_out_of_space(error):
            end(f"no room left to write ({error}); free some space.", 2)
        if isinstance(error, OSError) and error.filename is not None:
            end(f"{error.filename} cannot be used: {error.strerror}.", 2)
        end(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)


def _end(number: int, _frame: Any) -> None:
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)  # a second one ends at once
    raise Ended(signal.Signals(number).name)


def end_if_told() -> None:
    """Raise again what a signal has raised, if a library has caught that and gone on."""
    if _received:
        _end(_received[-1], None)


def is_out_of_space(error: BaseException) -> bool:
    """Whether writing failed for want of room, however the library at fault reports it."""
    said = str(error)
    # safetensors and torch wrap the system's error in their own types and keep only its text.
    by_torch = "inline_container" in said and "unexpected pos" in said
    return by_torch or any(os.strerror(number) in said for number in _NO_SPACE)

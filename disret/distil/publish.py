"""What becomes of a finished student: its card, one model with its teacher, an export, the hub."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from disret.command_line import UserError, about, is_main_process
from disret.distil.student_folder import check_output
from disret.paths import HOME
from disret.retrieve.scores import read_scores


class Publication:
    """What is wanted besides the student; refused before training if it would fail after it.

    Args:
        args: `output`, `results`, `router`, `export` and `push_to_hub` of distill.py.

    Raises:
        UserError: something could not be done later.
    """

    def __init__(self, args: Namespace) -> None:
        from disret.distil.router import router_folder

        self.args = args
        self.results: Path = args.results or HOME / "benchmarks" / "results.csv"
        if args.results and not args.results.exists():
            raise UserError(f"there is no file {args.results}.")
        read_scores(self.results)
        if args.router:
            check_output(router_folder(args.output), args.resume, args.overwrite)
        if args.export:
            from disret.serve.export import check_packages

            check_packages()
        if args.push_to_hub and is_main_process():
            from disret.distil.hub import check_upload

            with about(f"--push-to-hub {args.push_to_hub}"):
                check_upload(args.push_to_hub)

    def publish(self, queries: Sequence[str]) -> None:
        """Write, export and upload what is wanted.

        Args:
            queries: real ones, on which an export is compared with the student.
        """
        from disret.distil.hub import upload
        from disret.distil.model_card import write_model_card
        from disret.distil.router import save_router

        if not is_main_process():
            return
        args = self.args
        write_model_card(args.output, read_scores(self.results), args.push_to_hub)
        if args.router:
            save_router(args.teacher, args.output)
        if args.export:
            from disret.serve.export import export_once

            export_once(args.output, queries)
        if args.push_to_hub:
            print(f"uploaded to {upload(args.output, args.push_to_hub)}")

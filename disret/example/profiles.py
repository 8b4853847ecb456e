"""Which form of the example this machine can run.

    python -m disret.example.profiles auto|paper|embedded

prints the profile; why it was chosen goes to standard error.
"""

from disret.command_line import UserError, argument_parser, run, say
from disret.data.catalog import MSMARCO_QUERIES, datasets
from disret.data.download import mirror_from
from disret.data.hub import hub_obstacle, reachable


def choose(wanted: str) -> str:
    """Resolve `auto`, and check that the chosen profile can run.

    Raises:
        UserError: `paper` without the hosts it needs.
    """
    import torch

    if wanted == "embedded":
        return wanted
    if wanted == "auto" and not torch.cuda.is_available():
        obstacle = "no CUDA device is present"
    elif (obstacle := hub_obstacle()) is None and mirror_from(None) is None:
        hosts = [MSMARCO_QUERIES.url, datasets()["scifact"].archive.url]
        if silent := [host for host in hosts if not reachable(host)]:
            obstacle = f"no answer from {', '.join(silent)}"
    if wanted == "paper" and obstacle:
        raise UserError(f"PROFILE=paper cannot run: {obstacle}; PROFILE=embedded can.")
    profile, other = ("embedded", "paper") if obstacle else ("paper", "embedded")
    if wanted == "auto":
        reason = obstacle or "a CUDA device is present and the hosts answer"
        say(f"profile {profile}: {reason} (PROFILE={other} forces the other).")
    return profile


def main() -> None:
    parser = argument_parser(__doc__, "python -m disret.example.profiles")
    parser.add_argument("profile", choices=["auto", "paper", "embedded"])
    print(choose(parser.parse_args().profile))


if __name__ == "__main__":
    run(main)

"""`emuiavf set`: what the host decides about a VF, in the words of `ip link set ... vf`."""

import argparse
from typing import Any

from emuiavf.cli import words
from emuiavf.cli.show import print_states
from emuiavf.control.methods import Set
from emuiavf.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = words.words(Set)
    width = max(len(_usage(word)) for word in known)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "words:\n" + "\n".join(
        f"  {_usage(word):{width}}  {word.about}" for word in known
    )
    words.add_control(parser)
    words.add_vf(parser)
    changes: Any = parser.add_argument(
        "words", nargs="+", metavar="WORD VALUE", help="what is to be changed"
    )
    changes.complete = words.COMPLETE_WORDS


def run(args: argparse.Namespace) -> int:
    """Change it all at once, and show the VF as it is then."""
    params = words.collect(Set, args.vf, _pairs(args.words))
    state = words.call("set", params, words.control_of(args))
    print_states([state])
    return 0


def _pairs(given: list[str]) -> dict[str, str | None]:
    known = {word.name: word.field for word in words.words(Set)}
    found: dict[str, str | None] = {}
    for at in range(0, len(given), 2):
        name = given[at]
        if name not in known:
            raise ConfigError(f"{name}: no such word; there are {', '.join(known)}")
        if at + 1 == len(given):
            raise ConfigError(f"{name}: its value is missing")
        if known[name] in found:
            raise ConfigError(f"{name} is there twice")
        found[known[name]] = given[at + 1]
    return found


def _usage(word: words.Word) -> str:
    return f"{word.name} {word.metavar}"

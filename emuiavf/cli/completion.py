"""`emuiavf completion`: what a shell needs to complete this command.

emuiavf completion bash > ~/.local/share/bash-completion/completions/emuiavf
"""

import argparse

import shtab

from emuiavf.cli import words
from emuiavf.control.methods import Set

SHELLS = ("bash", "zsh", "tcsh")

# Devices are known by their counters; starting Python for each key would take too long.
_VFS = r"""ls /dev/shm 2>/dev/null | sed -n 's/^emuiavf-[0-9]*-\(emu_.*\)$/\1/p' | sort -u"""

_BASH = """\
_emuiavf_vfs() {{
    compgen -W "$({vfs})" -- "$1"
}}
_emuiavf_words() {{
    local before="${{COMP_WORDS[COMP_CWORD - 1]}}" words="{names}"
    case "$before" in
{cases}
    esac
    compgen -W "$words" -- "$1"
}}
"""

_ZSH = """\
_emuiavf_vfs() {{
    compadd -- ${{(f)"$({vfs})"}}
}}
_emuiavf_words() {{
    case "${{words[CURRENT - 1]}}" in
{cases}
    *) compadd -- {names} ;;
    esac
}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    # Late: the table of verbs imports this module.
    from emuiavf.cli import VERBS, make_parser

    print(shtab.complete(make_parser(VERBS), shell=args.shell, preamble=_preamble(args.shell)))
    return 0


def _preamble(shell: str) -> str:
    if shell == "bash":
        return _functions(_BASH, 'words="{}"', "words=")
    return _functions(_ZSH, "compadd -- {}", ":") if shell == "zsh" else ""


def _functions(text: str, offer: str, nothing: str) -> str:
    """A shell's functions; behind a word come its values, where they are of a list."""
    known = words.words(Set)
    cases = [
        f"    {word.name}) {offer.format(' '.join(word.choices)) if word.choices else nothing} ;;"
        for word in known
    ]
    names = " ".join(word.name for word in known)
    return text.format(vfs=_VFS, names=names, cases="\n".join(cases))

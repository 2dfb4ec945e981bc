"""Arguments of the command line made from the table of methods, and parameters from them."""

import argparse
import os
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, UnsetType

from emuiavf.control import client
from emuiavf.control.methods import METHODS, Words
from emuiavf.errors import ConfigError

CONTROL_VARIABLE = "EMUIAVF_CONTROL"
SWITCH = {"on": True, "off": False}

# Functions of `emuiavf completion`, by shell.
COMPLETE_VF = {"bash": "_emuiavf_vfs", "zsh": "_emuiavf_vfs"}
COMPLETE_WORDS = {"bash": "_emuiavf_words", "zsh": "_emuiavf_words"}


class Word(Struct, frozen=True):
    """One field of a method's parameters as the command line has it."""

    name: str
    field: str
    metavar: str
    choices: tuple[str, ...]
    about: str
    required: bool
    default: Any
    convert: Callable[[str], Any]


def words(params: type[Words]) -> list[Word]:
    """The fields of `params` behind the VF, which is an argument of its own."""
    hints = get_type_hints(params, include_extras=True)
    return [
        _word(field, hints[field.name])
        for field in msgspec.structs.fields(params)
        if field.name != "vf"
    ]


def add_control(parser: argparse.ArgumentParser) -> None:
    """Where the process that has the VF is reached."""
    parser.add_argument(
        "--control",
        metavar="PATH",
        help=f"control socket of `emuiavf run` (${CONTROL_VARIABLE}, or whichever process has VF)",
    )


def add_vf(parser: argparse.ArgumentParser, **options: Any) -> None:
    """The VF that is meant."""
    about = {"help": "a device's name; vf0 stands for emu_iavf0", **options}
    action: Any = parser.add_argument("vf", metavar="VF", **about)
    action.complete = COMPLETE_VF


def control_of(args: argparse.Namespace) -> str | None:
    """The control socket that the user names."""
    path: str | None = args.control or os.environ.get(CONTROL_VARIABLE)
    return path


def add_fields(parser: argparse.ArgumentParser, params: type[Words]) -> None:
    """What is required by its place, the rest as options."""
    for word in words(params):
        if word.required:
            parser.add_argument(word.field, metavar=word.name.upper(), help=word.about)
        else:
            text = f"{word.about} ({word.default:g})"
            parser.add_argument(f"--{word.name}", metavar=word.metavar, help=text)


def collect(params: type[Words], vf: str, given: dict[str, str | None]) -> Words:
    """The parameters from their texts by field; ConfigError names what is wrong."""
    values: dict[str, Any] = {"vf": vf}
    for word in words(params):
        text = given.get(word.field)
        if text is not None:
            try:
                values[word.name] = word.convert(text)
            except ValueError:
                allowed = f"one of {', '.join(word.choices)}" if word.choices else "a number"
                raise ConfigError(f"{word.name} {text}: {allowed} is wanted") from None
    try:
        return msgspec.convert(values, params)
    except msgspec.ValidationError as error:
        raise ConfigError(_readable(str(error))) from None


def call(method: str, params: Words, path: str | None) -> Any:
    """Have the process that has the VF carry it out."""
    with client.find(getattr(params, "vf", ""), path) as connection:
        return connection.call(method, params)


def _readable(text: str) -> str:
    """msgspec's message with the word in front, as our own have it."""
    fault, _, where = text.partition(" - at `$.")
    if "regex" in fault:
        fault = "not six bytes in hexadecimal with ':' between"
    return f"{where.rstrip('`')}: {fault}" if where else text


def _word(field: msgspec.structs.FieldInfo, hint: Any) -> Word:
    kinds, metas = _taken_apart(hint)
    base = next(kind for kind in kinds if kind is not UnsetType)
    choices: tuple[str, ...] = ()
    convert: Callable[[str], Any] = str
    if base is bool:
        choices, convert = tuple(SWITCH), _switch
    elif get_origin(base) is Literal:
        choices = get_args(base)
        convert = _choice(choices)
    elif base is int:
        convert = _integer
    elif base is float:
        convert = float
    return Word(
        name=field.encode_name,
        field=field.name,
        metavar=next((meta.title for meta in metas if meta.title), "|".join(choices)),
        choices=choices,
        about=next((meta.description for meta in reversed(metas) if meta.description), ""),
        required=field.required,
        default=field.default,
        convert=convert,
    )


def _taken_apart(hint: Any) -> tuple[list[Any], list[Meta]]:
    """The plain types of a hint and all that is said about them, the inner first."""
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
    if metas:
        kinds, inner = _taken_apart(hint.__origin__)
        return kinds, inner + metas
    if get_origin(hint) is Literal or not get_args(hint):
        return [hint], []
    kinds = []
    for part in get_args(hint):
        more, inner = _taken_apart(part)
        kinds += more
        metas += inner
    return kinds, metas


def _integer(text: str) -> int:
    return int(text, 0)


def _switch(text: str) -> bool:
    if text not in SWITCH:
        raise ValueError
    return SWITCH[text]


def _choice(choices: tuple[str, ...]) -> Callable[[str], str]:
    by_case = {choice.lower(): choice for choice in choices}

    def convert(text: str) -> str:
        if text.lower() not in by_case:
            raise ValueError
        return by_case[text.lower()]

    return convert


def injections() -> dict[str, type[Words]]:
    """The words behind `inject VF`."""
    return {
        name.partition(".")[2]: row.params
        for name, row in METHODS.items()
        if name.startswith("inject.")
    }

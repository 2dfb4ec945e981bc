"""`emuiavf show`: VFs as the host sees them."""

import argparse
import json
from collections.abc import Sequence

import msgspec

from emuiavf.cli import words
from emuiavf.control import client
from emuiavf.control.methods import Show, VfState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_control(parser)
    words.add_vf(parser, nargs="?", help="all VFs of this user without it")
    parser.add_argument("--json", action="store_true", help="a list of objects")


def run(args: argparse.Namespace) -> int:
    """One VF, those of one process, or all."""
    path = words.control_of(args)
    if args.vf is None:
        states = [state for connection in client.each(path) for state in client.states(connection)]
    else:
        states = words.call("show", Show(args.vf), path)
    if args.json:
        print(json.dumps(msgspec.to_builtins(states), indent=2))
    elif states:
        print_states(states)
    else:
        print("nothing is running")
    return 0


def print_states(states: Sequence[VfState]) -> None:
    """In the manner of `ip link show`."""
    for state in states:
        lock = " (set by the host)" if state.mac_locked else ""
        print(
            f"{state.name}: link {state.link}, driver {state.driver}, mac {state.mac}{lock}, "
            f"{state.queue_pairs} queue pairs"
        )
        vlan = f"vlan {state.vlan}, qos {state.qos}, proto {state.proto}, " if state.vlan else ""
        print(
            f"    {vlan}spoofchk {_on(state.spoofchk)}, trust {_on(state.trust)}, "
            f"link-state {state.link_state}, min-rate {state.min_rate}, "
            f"max-rate {state.max_rate}, mtu {state.mtu}"
        )
        if state.injected:
            print(f"    injected: {', '.join(state.injected)}")
        if state.refused:
            counts = (f"{op} {count}" for op, count in state.refused.items())
            print(f"    refused: {', '.join(counts)}")
        if state.rules:
            matches = (f"{rule} {count}" for rule, count in state.rules.items())
            print(f"    rules: {', '.join(matches)}")


def _on(value: bool) -> str:
    return "on" if value else "off"

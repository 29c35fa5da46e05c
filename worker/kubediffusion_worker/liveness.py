"""Which variables of a function are still needed where it stands, and which its loop sets anew.

Read from bytecode, which is what runs. Exception handlers are left out: what only they need is
of no use for a result. Pure.
"""

import dis
import functools
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_ENDS = ("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE")
_JUMPS = ("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE", "JUMP")
_JUMPING = frozenset([*dis.hasjrel, *dis.hasjabs])


@dataclass(frozen=True, slots=True)
class Needs:
    """What a function needs to go on."""

    live: frozenset[str]
    """Variables that may be read before they are set."""
    carried: frozenset[str]
    """Those of them that the innermost loop sets."""


@functools.lru_cache(maxsize=256)
def at(code: types.CodeType, offset: int) -> Needs:
    """Returns what a function needs after an instruction.

    Args:
        code: Of the function.
        offset: Of the instruction that it is in, a call.
    """
    instructions = list(dis.get_instructions(code))
    here = max(i for i, each in enumerate(instructions) if each.offset <= offset)
    cells = frozenset((*code.co_cellvars, *code.co_freevars))
    live = _live_after(instructions)[here] | cells
    loop = _innermost_loop(instructions, here)
    stored = {name for i in loop for name in _stored(instructions[i])}
    return Needs(live, frozenset(live & stored))


def _live_after(instructions: Sequence[dis.Instruction]) -> list[frozenset[str]]:
    index = {each.offset: i for i, each in enumerate(instructions)}
    successors = [list(_successors(instructions, i, index)) for i in range(len(instructions))]
    loaded = [frozenset(_loaded(each)) for each in instructions]
    stored = [frozenset(_stored(each)) for each in instructions]
    before: list[frozenset[str]] = [frozenset()] * len(instructions)
    after = list(before)
    is_changing = True
    while is_changing:
        is_changing = False
        for i in range(len(instructions) - 1, -1, -1):
            after[i] = frozenset().union(*(before[j] for j in successors[i]))
            now = loaded[i] | (after[i] - stored[i])
            if now != before[i]:
                before[i], is_changing = now, True
    return after


def _successors(
    instructions: Sequence[dis.Instruction], i: int, index: dict[int, int]
) -> Iterator[int]:
    instruction = instructions[i]
    if instruction.opcode in _JUMPING and instruction.argval in index:
        yield index[instruction.argval]
    if instruction.opname not in _ENDS + _JUMPS and i + 1 < len(instructions):
        yield i + 1


def _innermost_loop(instructions: Sequence[dis.Instruction], here: int) -> range:
    index = {each.offset: i for i, each in enumerate(instructions)}
    ends: dict[int, int] = {}
    for i, each in enumerate(instructions):
        if each.opcode in _JUMPING and each.argval in index and index[each.argval] <= i:
            ends[index[each.argval]] = i
    around = [(begin, end) for begin, end in ends.items() if begin <= here <= end]
    begin, end = max(around, default=(0, -1))
    return range(begin, end + 1)


def _names(instruction: dis.Instruction) -> tuple[str, ...]:
    value = instruction.argval
    return value if isinstance(value, tuple) else (value,)


def _loaded(instruction: dis.Instruction) -> tuple[str, ...]:
    name = instruction.opname
    if name == "STORE_FAST_LOAD_FAST":
        return _names(instruction)[1:]
    return _names(instruction) if name.startswith(("LOAD_FAST", "LOAD_DEREF")) else ()


def _stored(instruction: dis.Instruction) -> tuple[str, ...]:
    name = instruction.opname
    if name == "STORE_FAST_LOAD_FAST":
        return _names(instruction)[:1]
    is_stored = name.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_FAST"))
    return _names(instruction) if is_stored else ()

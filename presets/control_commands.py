"""What a live run can be told: the one vocabulary of `control`, the wire, the keys of the screen and the trainer.

A new command is an entry in COMMANDS here and a handler in lattice.training.steering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from presets import wound

Scalar = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)] | str | None


class Arguments(BaseModel):
    """Of a command that takes none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def from_words(cls, words: list[str]) -> Self | None:
        """The arguments that words of the command line stand for; None if they stand for none.

        Raises ValueError, in one sentence, if it can say what is wrong.
        """
        return None if words else cls()


class SetArguments(Arguments):
    """A config path such as `decode.every`, and its new value."""

    key: Annotated[str, Field(min_length=1, max_length=200)]
    value: Scalar

    @classmethod
    def from_words(cls, words: list[str]) -> Self | None:
        """From ["decode.every=10"]; `none` stands for no value (until_loss=none)."""
        from presets.layers import parse_value  # here, since the wire needs the rest of this module and not TOML

        if len(words) != 1:
            return None
        key, equals, text = (part.strip() for part in words[0].partition("="))
        if key and equals:
            value = parse_value(text)
            if isinstance(value, bool | int | float | str | None):
                return cls(key=key, value=value)
        raise ValueError(f"set: {words[0]!r} is not of the form section.key=value")


class StageArguments(Arguments):
    """`next` ends the stage, `hold` trains it past its end until `release`, `goto` continues with a later `stage`."""

    action: Literal["next", "hold", "release", "goto"]
    stage: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _goto_says_where(self) -> Self:
        if (self.stage is None) == (self.action == "goto"):
            raise ValueError("stage: goto needs the number of a stage, and nothing else takes one")
        return self

    @classmethod
    def from_words(cls, words: list[str]) -> Self | None:
        """From ["next"], ["hold"], ["release"] or ["goto", "1"]."""
        match words:
            case [("next" | "hold" | "release") as action]:
                return cls(action=action)
            case ["goto", number] if number.isdecimal():
                return cls(action="goto", stage=int(number))
        return None


def _is_wound(text: str) -> str:
    return str(wound.parse(text))


class WoundArguments(Arguments):
    """Which wound (presets.wound)."""

    wound: Annotated[str, Field(max_length=100), AfterValidator(_is_wound)] = "connections:0.3"

    @classmethod
    def from_words(cls, words: list[str]) -> Self | None:
        """From [] or ["connections:0.3"]."""
        match words:
            case []:
                return cls()
            case [text]:
                return cls(wound=str(wound.parse(text)))
        return None


HealBy = Literal["neighbours", "stdp"]
"""What heals: the mean of what lives beside it, or waves of STDP."""


class HealArguments(Arguments):
    """What heals, and the most waves of STDP."""

    by: HealBy = "neighbours"
    waves: Annotated[int, Field(ge=1, le=10_000)] = 400

    def __str__(self) -> str:
        return f"{self.by} {self.waves}" if self.by == "stdp" else self.by

    @model_validator(mode="after")
    def _only_stdp_has_waves(self) -> Self:
        if self.by != "stdp" and "waves" in self.model_fields_set:
            raise ValueError("heal: only stdp runs waves")
        return self

    @classmethod
    def from_words(cls, words: list[str]) -> Self | None:
        """From [], ["neighbours"], ["stdp"] or ["stdp", "40"]."""
        match words:
            case []:
                return cls()
            case [("neighbours" | "stdp") as by]:
                return cls(by=by)
            case ["stdp", number] if number.isdecimal() and 1 <= int(number) <= 10_000:
                return cls(by="stdp", waves=int(number))
        return None


@dataclass(frozen=True)
class ControlCommand:
    """One command."""

    name: str
    """On the wire, and the first word of the command line."""
    does: str
    """For the list of keys."""
    arguments: type[Arguments] = Arguments
    usage: str = ""
    """The words that follow the name on the command line."""
    key: str = ""
    """Sends the command from the run screen; "" for those that a dialog or another key sends."""
    hint: str = ""
    """A word for the line of keys at the bottom of the screen."""
    confirm: str = ""
    """What it does, in words that the screen asks about first; "" if it does not ask."""


COMMANDS: dict[str, ControlCommand] = {
    command.name: command
    for command in (
        ControlCommand("decode", "decode held-out sentences now", key="d", hint="decode"),
        ControlCommand("set", "change a setting", SetArguments, usage="a.b=c"),
        ControlCommand("stage", "end, hold or leave this stage", StageArguments, usage="next|hold|release|goto N"),
        ControlCommand("pause", "pause or resume training", key="p", hint="pause"),
        ControlCommand("resume", "resume training"),
        ControlCommand("checkpoint", "save a checkpoint", key="c", hint="save"),
        ControlCommand("wound", "destroy a part of the lattice", WoundArguments, usage="[KIND:AMOUNT]"),
        ControlCommand("heal", "let what is lost grow again", HealArguments, usage="[neighbours|stdp [WAVES]]", key="b"),
        ControlCommand(
            "stop",
            "save and stop the run (asks)",
            key="x",
            hint="stop",
            confirm="save a checkpoint and end; `train --resume` continues it",
        ),
    )
}


def usages() -> list[str]:
    """How each command is written on the command line."""
    return [f"{command.name} {command.usage}".strip() for command in COMMANDS.values()]


def from_words(words: list[str]) -> tuple[str, Arguments] | None:
    """Command and arguments from words such as ["set", "decode.every=10"] or ["pause"]; None if they are no command.

    Raises ValueError, in one sentence, if a command is known and its words are not of its form.
    """
    command = COMMANDS.get(words[0]) if words else None
    arguments = command.arguments.from_words(words[1:]) if command is not None else None
    return None if command is None or arguments is None else (command.name, arguments)

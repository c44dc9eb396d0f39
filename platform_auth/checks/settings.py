"""Settings: their names, types and bounds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.checks import Error, Warning
from django.core.exceptions import ImproperlyConfigured

from .. import events
from ..conf import DAY, DEFAULT_LIMITS, HOUR, MINUTE, SECOND, SETTINGS, Setting, conf, configured, parse_rate
from .registry import Messages, check, is_sound, nearest

MOST_TIMES = 20
"""How many times the default a limit may allow before it counts as no limit."""

EXAMPLES: dict[Any, str] = {
    timedelta: "a timedelta, such as timedelta(minutes=15)",
    str: "a string",
    bool: "True or False",
    int: "an integer of 0 or more",
    dict: "a dictionary",
    list: "a list of strings",
    type(None): "None",
}


@check()
def names() -> Messages:
    """E001: a setting that does not exist."""
    for name in configured():
        if name not in SETTINGS:
            yield Error(
                f'PLATFORM_AUTH has no setting "{name}".',
                hint=nearest(str(name), SETTINGS),
                id="platform_auth.E001",
            )


@check()
def types() -> Messages:
    """E002: a value of the wrong type, or not one of the allowed words."""
    if not isinstance(getattr(settings, "PLATFORM_AUTH", {}), dict):
        yield Error(
            "PLATFORM_AUTH must be a dictionary.",
            hint="Write PLATFORM_AUTH = {...}.",
            id="platform_auth.E002",
        )
    for name, setting in SETTINGS.items():
        if not is_sound(name):
            yield Error(
                f'PLATFORM_AUTH["{name}"] is {_shown(setting)}.',
                hint=f"It must be {_expected(setting)}.",
                id="platform_auth.E002",
            )


@check("LIMITS")
def limits() -> Messages:
    """E003: an unknown limit, or an invalid rate."""
    for message, hint in _faults_of_limits():
        yield Error(f'PLATFORM_AUTH["LIMITS"]: {message}', hint=hint, id="platform_auth.E003")


def _faults_of_limits() -> Iterator[tuple[str, str]]:
    for purpose, rates in conf.LIMITS.items():
        defaults = DEFAULT_LIMITS.get(purpose)
        if defaults is None:
            yield f'there is no limit "{purpose}".', nearest(str(purpose), DEFAULT_LIMITS)
        elif not isinstance(rates, dict):
            example = ", ".join(f'"{name}": "5/m"' for name in defaults)
            yield f'"{purpose}" must be a dictionary.', f'Write "{purpose}": {{{example}}}.'
        else:
            for name, rate in rates.items():
                if name not in defaults:
                    yield f'"{purpose}" has no "{name}".', nearest(str(name), defaults)
                elif not _is_rate(rate):
                    hint = f'Write it like "{defaults[name]}": a number, "/", and s, m, h or d.'
                    yield f'"{name}" of "{purpose}" must be a rate.', hint


def _is_rate(text: object) -> bool:
    try:
        return bool(parse_rate(text))
    except ImproperlyConfigured:
        return False


@check("LIMITS", deploy=True)
def high_limits() -> Messages:
    """W025: a limit too high to stop anyone."""
    if any(_faults_of_limits()):
        return
    for purpose, rates in DEFAULT_LIMITS.items():
        for name, default in rates.items():
            rate, usual = conf.rate(purpose, name), parse_rate(default)
            if rate.limit * usual.window > MOST_TIMES * usual.limit * rate.window:
                yield Warning(
                    f'LIMITS: "{name}" of "{purpose}" is more than {MOST_TIMES} times the default, "{default}".',
                    hint="A limit this high stops nobody. Remove it, or choose a lower one.",
                    id="platform_auth.W025",
                )


@check()
def times() -> Messages:
    """E009, E010, W001, W002, W011: durations that make no sense."""
    for name, setting in _lifetimes():
        if setting.value is not None and setting.value < setting.bounds[0]:
            yield Error(
                f'PLATFORM_AUTH["{name}"] is {_shown(setting)}, which is too short to be used.',
                hint=f"Remove it: the default is {_duration(setting.default)}.",
                id="platform_auth.E009",
            )
    session = conf.SESSION_MAX_AGE
    if (
        is_sound("REFRESH_TOKEN_TTL", "SESSION_MAX_AGE")
        and session is not None
        and session < conf.REFRESH_TOKEN_TTL
    ):
        yield Warning(
            "REFRESH_TOKEN_TTL is longer than SESSION_MAX_AGE, at which every session ends.",
            hint="Set REFRESH_TOKEN_TTL to at most SESSION_MAX_AGE.",
            id="platform_auth.W001",
        )
    if is_sound("EVENT_RETENTION") and SECOND <= conf.EVENT_RETENTION < events.FAMILIAR_FOR:
        yield Warning(
            "EVENT_RETENTION is under 30 days, so familiar IP addresses are forgotten early: the owner of an "
            "account may be refused while somebody guesses its password.",
            hint=f"Set it to {_duration(events.FAMILIAR_FOR)} or more.",
            id="platform_auth.W011",
        )
    grace = SETTINGS["REFRESH_GRACE_PERIOD"]
    if is_sound("REFRESH_GRACE_PERIOD") and not grace.bounds[0] <= grace.value <= grace.bounds[1]:
        yield Error(
            f"REFRESH_GRACE_PERIOD is {_shown(grace)}; it must be between 0 and 60 seconds.",
            hint="Remove it to use the default, 10 seconds. It helps with lost responses and with several tabs.",
            id="platform_auth.E010",
        )
    if grace.value == timedelta(0):
        yield Warning(
            "REFRESH_GRACE_PERIOD is 0: a lost response, or a second tab, ends the session.",
            hint="Remove it to use the default, 10 seconds. Reuse after that time still reveals a theft.",
            id="platform_auth.W002",
        )


def _lifetimes() -> Iterator[tuple[str, Setting[Any]]]:
    """Yield the settings that are valid durations, except the grace period, which may be 0."""
    for name, setting in SETTINGS.items():
        if timedelta in setting.type and name != "REFRESH_GRACE_PERIOD" and is_sound(name):
            yield name, setting


@check(deploy=True)
def long_lifetimes() -> Messages:
    """E023, W024: lifetimes that are too long to be safe."""
    for name, setting in _lifetimes():
        most = setting.bounds[1]
        if most is None or (setting.value is not None and setting.value <= most):
            continue
        hint = f"Set it to {_duration(most)} or less; the default is {_duration(setting.default)}."
        if name != "SESSION_MAX_AGE":
            message = f'PLATFORM_AUTH["{name}"] is {_shown(setting)}, which is too long.'
            yield Error(message, hint=hint, id="platform_auth.E023")
        else:
            yield Warning(
                f"{name} is {_shown(setting)}: a stolen session can be kept alive by refreshing.",
                hint=hint,
                id="platform_auth.W024",
            )


def _expected(setting: Setting[Any]) -> str:
    if isinstance(setting.type[0], str):
        return f"one of {', '.join(repr(word) for word in setting.type)}"
    if setting.type == (str,) and setting.bounds[0]:
        return "a string that is not empty"
    return " or ".join(EXAMPLES[kind] for kind in setting.type if kind in EXAMPLES)


def _shown(setting: Setting[Any]) -> str:
    """Return a value for a message; for keys only the type."""
    if setting.name.endswith("_KEYS"):
        return f"not valid (its type is {type(setting.value).__name__})"
    return _duration(setting.value) if isinstance(setting.value, timedelta) else repr(setting.value)


def _duration(time: Any) -> str:
    for unit, length in (("days", DAY), ("hours", HOUR), ("minutes", MINUTE)):
        if time and not time % length:
            return f"timedelta({unit}={time // length})"
    return f"timedelta(seconds={int(time.total_seconds())})"

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
"""How many times the default a limit may let through before it is none."""

EXAMPLES: dict[Any, str] = {
    timedelta: "a timedelta, such as timedelta(minutes=15)",
    str: "a string",
    bool: "True or False",
    int: "a number from 0",
    dict: "a dict",
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
    """E002: a value of the wrong type, or none of the words that a setting may be."""
    if not isinstance(getattr(settings, "PLATFORM_AUTH", {}), dict):
        yield Error("PLATFORM_AUTH is no dict.", hint="Write PLATFORM_AUTH = {...}.", id="platform_auth.E002")
    for name, setting in SETTINGS.items():
        if not is_sound(name):
            yield Error(
                f'PLATFORM_AUTH["{name}"] is {_shown(setting)}.',
                hint=f"It is {_expected(setting.type)}.",
                id="platform_auth.E002",
            )


@check("LIMITS")
def limits() -> Messages:
    """E003: a limit that does not exist, or no rate."""
    for message, hint in _faults_of_limits():
        yield Error(f'PLATFORM_AUTH["LIMITS"]: {message}', hint=hint, id="platform_auth.E003")


def _faults_of_limits() -> Iterator[tuple[str, str]]:
    for purpose, rates in conf.LIMITS.items():
        defaults = DEFAULT_LIMITS.get(purpose)
        if defaults is None:
            yield f'there is no "{purpose}".', nearest(str(purpose), DEFAULT_LIMITS)
        elif not isinstance(rates, dict):
            example = ", ".join(f'"{name}": "5/m"' for name in defaults)
            yield f'"{purpose}" is no dict.', f'Write "{purpose}": {{{example}}}.'
        else:
            for name, rate in rates.items():
                if name not in defaults:
                    yield f'"{purpose}" has no "{name}".', nearest(str(name), defaults)
                elif not _is_rate(rate):
                    hint = f'Write it as "{defaults[name]}": a number, "/", s, m, h or d.'
                    yield f'"{name}" of "{purpose}" is no rate.', hint


def _is_rate(text: object) -> bool:
    try:
        return bool(parse_rate(text))
    except ImproperlyConfigured:
        return False


@check("LIMITS", deploy=True)
def high_limits() -> Messages:
    """W025: a limit that stops nobody."""
    if any(_faults_of_limits()):
        return
    for purpose, rates in DEFAULT_LIMITS.items():
        for name, default in rates.items():
            rate, usual = conf.rate(purpose, name), parse_rate(default)
            if rate.limit * usual.window > MOST_TIMES * usual.limit * rate.window:
                yield Warning(
                    f'LIMITS: "{name}" of "{purpose}" lets through over {MOST_TIMES} times what "{default}" does.',
                    hint=f'So high, it stops nobody. Leave it out ("{default}"), or write a lower one.',
                    id="platform_auth.W025",
                )


@check()
def times() -> Messages:
    """E009, E010, W001, W002, W011: times that make no sense."""
    for name, setting in _lifetimes():
        if setting.value is not None and setting.value < setting.bounds[0]:
            yield Error(
                f'PLATFORM_AUTH["{name}"] is {_shown(setting)}, so nothing lives long enough to be used.',
                hint=f"Leave it out: the default is {_duration(setting.default)}.",
                id="platform_auth.E009",
            )
    session = conf.SESSION_MAX_AGE
    if (
        is_sound("REFRESH_TOKEN_TTL", "SESSION_MAX_AGE")
        and session is not None
        and session < conf.REFRESH_TOKEN_TTL
    ):
        yield Warning(
            "REFRESH_TOKEN_TTL is longer than SESSION_MAX_AGE, which ends every session before.",
            hint="Set REFRESH_TOKEN_TTL to at most SESSION_MAX_AGE.",
            id="platform_auth.W001",
        )
    if is_sound("EVENT_RETENTION") and SECOND <= conf.EVENT_RETENTION < events.FAMILIAR_FOR:
        yield Warning(
            "EVENT_RETENTION is under 30 days, so addresses from which an account logged in are forgotten: its "
            "owner may be refused while somebody guesses.",
            hint=f"Set it to {_duration(events.FAMILIAR_FOR)} or more.",
            id="platform_auth.W011",
        )
    grace = SETTINGS["REFRESH_GRACE_PERIOD"]
    if is_sound("REFRESH_GRACE_PERIOD") and not grace.bounds[0] <= grace.value <= grace.bounds[1]:
        yield Error(
            f"REFRESH_GRACE_PERIOD is {_shown(grace)}; at most 60 seconds count.",
            hint="Leave it out (10 seconds): it is for answers that got lost and tabs that refresh together.",
            id="platform_auth.E010",
        )
    if grace.value == timedelta(0):
        yield Warning(
            "REFRESH_GRACE_PERIOD is 0: an answer that gets lost, or a second tab, ends the session.",
            hint="Leave it out (10 seconds). What was spent longer ago reveals a theft all the same.",
            id="platform_auth.W002",
        )


def _lifetimes() -> Iterator[tuple[str, Setting[Any]]]:
    """Yield the settings that are sound times, but the grace period, after which nothing ends."""
    for name, setting in SETTINGS.items():
        if timedelta in setting.type and name != "REFRESH_GRACE_PERIOD" and is_sound(name):
            yield name, setting


@check(deploy=True)
def long_lifetimes() -> Messages:
    """E023, W024: revocation, or a stolen mailbox, is noticed too late; a session's end is the host's choice."""
    for name, setting in _lifetimes():
        most = setting.bounds[1]
        if most is None or (setting.value is not None and setting.value <= most):
            continue
        hint = f"Set it to {_duration(most)} or less; the default is {_duration(setting.default)}."
        if name != "SESSION_MAX_AGE":
            yield Error(f'PLATFORM_AUTH["{name}"] is {_shown(setting)}.', hint=hint, id="platform_auth.E023")
        else:
            yield Warning(
                f"{name} is {_shown(setting)}: whoever got hold of a session keeps it by refreshing.",
                hint=hint,
                id="platform_auth.W024",
            )


def _expected(allowed: tuple[Any, ...]) -> str:
    if isinstance(allowed[0], str):
        return f"one of {', '.join(repr(word) for word in allowed)}"
    return " or ".join(EXAMPLES[kind] for kind in allowed if kind in EXAMPLES)


def _shown(setting: Setting[Any]) -> str:
    """Return a value for a message; of keys only the type."""
    if setting.name.endswith("_KEYS"):
        return f"a {type(setting.value).__name__} of the wrong kind"
    return _duration(setting.value) if isinstance(setting.value, timedelta) else repr(setting.value)


def _duration(time: Any) -> str:
    for unit, length in (("days", DAY), ("hours", HOUR), ("minutes", MINUTE)):
        if time and not time % length:
            return f"timedelta({unit}={time // length})"
    return f"timedelta(seconds={int(time.total_seconds())})"

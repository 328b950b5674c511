"""The functions behind the names of rules, and the method that settings ask for."""

from __future__ import annotations

from dataclasses import replace

from gradstore.errors import SelectionError
from gradstore.methods import METHODS, REFERENCE, WEIGHTS, Method
from gradstore.selection import columns, facility, hard, herding, matching, released
from gradstore.selection.pool import Rule
from gradstore.selection.settings import Settings

RULES: dict[str, Rule] = {
    **columns.RULES,
    **herding.RULES,
    **facility.RULES,
    **matching.RULES,
    **hard.RULES,
    **released.RULES,
}


def needs_of(method: Method) -> frozenset[str]:
    """What a method's rules and weights read: influence, vectors, flow, target."""
    weights = frozenset({"vectors"} if method.weights in ("mean-matching", "cluster-size") else ())
    influence = frozenset({"influence"} if method.weights in ("intent", "reference") else ())
    return RULES[method.known].needs | RULES[method.unknown].needs | weights | influence


def method_of(settings: Settings) -> Method:
    """The method that settings name, with the parts they replace. Raises SelectionError with the names there are."""
    table = REFERENCE if settings.reference else METHODS
    if settings.method not in table:
        what = "no reference mode of method" if settings.reference and settings.method in METHODS else "no method"
        raise SelectionError(f"{what} {settings.method!r}: there are {', '.join(table)}")
    for rule in (settings.known_rule, settings.unknown_rule):
        if rule is not None and rule not in RULES:
            raise SelectionError(f"no rule {rule!r}: there are {', '.join(RULES)}")
    if settings.weights is not None and settings.weights not in WEIGHTS:
        raise SelectionError(f"weight rule {settings.weights!r}: expected {', '.join(WEIGHTS)}")
    if settings.refusals not in (None, "one", "pool"):
        raise SelectionError(f"refusals {settings.refusals!r}: expected one, pool")
    method = table[settings.method]
    if settings.refusals and method.says not in ("refusal", "pool"):
        raise SelectionError(f"{settings.method} trains no refusal text: leave out --refusals {settings.refusals}")
    if settings.refusals:
        method = replace(method, says="pool" if settings.refusals == "pool" else "refusal")
    chosen = replace(
        method,
        known=settings.known_rule or method.known,
        unknown=settings.unknown_rule or method.unknown,
        weights=settings.weights or method.weights,
        boundary=settings.boundary or method.boundary,
    )
    _check_heard(settings, {chosen.known, chosen.unknown})
    return chosen


def _check_heard(settings: Settings, rules: set[str]) -> None:
    """Refuse a setting that no rule listens to, rather than ignore it."""
    listeners = {"penalty": {"herding", "i-ref-minus-i-over"}, "target": {"target"}}
    for name, heard_by in listeners.items():
        if getattr(settings, name) is not None and not rules & heard_by:
            raise SelectionError(f"{name} means nothing to {', '.join(sorted(rules))}: it is for {', '.join(heard_by)}")

"""Inspection rules: when their conditions hold, their actions are done. Pure, and in an order that everybody can foresee.

Rules:

- The rule of the highest priority comes first, among equals the oldest. All conditions of a rule must hold; none always do.
- Each rule sees what the ones before it did. A failure ends the inspection.
- A rule sees secrets of the inventory only when the setting allows it. What went wrong in a sensitive rule is not told.
- A `loop` is a list, an object (one item), or a text that names one. In conditions `multiple` says how the results count:
  `any` (the default) and `first` want one that holds, `all` all of them, `last` the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from metald.errors import InspectionError, Invalid
from metald.model.catalogue import InspectionRule
from metald.model.masking import mask_text
from metald.statemachine.inspection.actions import ACTIONS
from metald.statemachine.inspection.operators import OPERATORS, parsed
from metald.statemachine.inspection.subject import Json, Subject
from metald.statemachine.inspection.templates import Scope

MAIN = "main"


def check(conditions: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a rule that could never run.

    Raises:
        Invalid: an operator or an action is unknown, or its arguments are wrong.
    """
    for condition in conditions:
        try:
            OPERATORS[parsed(condition["op"])[0]][0].named(condition["args"])
        except ValueError as error:
            text = str(error)
            if not text.startswith("Unsupported"):
                text = f"Invalid parameters for condition operator {condition['op']}: {text}"
            raise Invalid(text, remedy=f"Operators: {', '.join(OPERATORS)}.", field="conditions") from None
    for action in actions:
        known = ACTIONS.get(action["op"])
        if known is None:
            raise Invalid(f"Unsupported action: {action['op'][:80]!r}", remedy=f"Known are: {', '.join(ACTIONS)}.", field="actions")
        try:
            known[0].named(action["args"])
        except ValueError as error:
            raise Invalid(f"Invalid parameters for action operator {action['op']}: {error}", field="actions") from None


def run(rules: Iterable[InspectionRule], subject: Subject, *, phase: str = MAIN, mask: str = "always") -> list[str]:
    """Apply the rules of a phase.

    Args:
        rules: all there are.
        subject: the machine; changed in place.
        phase: which rules.
        mask: from which rules secrets are hidden: `always`, those that are not `sensitive`, `never`.

    Returns:
        UUIDs of the rules whose conditions held, in their order.

    Raises:
        InspectionError: a rule wants the inspection to fail, or cannot be applied.
    """
    applied = []
    for rule in sorted(rules, key=lambda rule: (-rule.priority, rule.id)):
        if (rule.phase or MAIN) != phase:
            continue
        hidden = mask == "always" or (mask == "sensitive" and not rule.sensitive)
        try:
            if _apply(rule, subject, mask=hidden):
                applied.append(rule.uuid)
        except (InspectionError, ValueError) as error:
            if rule.sensitive:
                raise InspectionError(
                    f"Inspection rule {rule.uuid} failed; as it is sensitive, it is not told why.", remedy="Look at the rule."
                ) from None
            raise InspectionError(f"Inspection rule {rule.uuid}: {mask_text(str(error))}") from None
    return applied


def _scope(subject: Subject, *, mask: bool) -> Scope:
    return Scope({"node": subject.node, "inventory": subject.inventory, "plugin_data": subject.plugin_data}, mask=mask)


def _apply(rule: InspectionRule, subject: Subject, *, mask: bool) -> bool:
    scope = _scope(subject, mask=mask)
    if not all(_holds(condition, scope) for condition in rule.conditions):
        return False
    for action in rule.actions:
        known = ACTIONS.get(action["op"])
        if known is None:
            raise InspectionError(f"Action {action['op']} is not supported.", remedy=f"Known are: {', '.join(ACTIONS)}.")
        signature, act = known
        args = signature.named(action["args"])
        said = len(subject.said)
        for within in _scopes(action, scope):
            act(subject, **within.text(args))
        if rule.sensitive:
            subject.said[said:] = [(level, f"inspection rule {rule.uuid} applies; it is sensitive") for level, _ in subject.said[said:]]
    return True


def _scopes(item: Json, scope: Scope) -> list[Scope]:
    """The scope of each round of a loop; one round without an item where there is no loop."""
    loop = item.get("loop")
    if not loop:
        return [scope]
    found = scope.value(loop) if isinstance(loop, str) else loop
    if isinstance(found, Mapping):
        found = [found]
    if not isinstance(found, list):
        raise InspectionError(f"Loop {str(loop)[:80]!r} leads to no list.")
    return [scope.with_item(scope.value(one)) for one in found]


_COUNTED: Mapping[str, Callable[[list[bool]], bool]] = {
    "any": any,
    "first": any,
    "all": all,
    "last": lambda results: results[-1] if results else False,
}


def _holds(condition: Json, scope: Scope) -> bool:
    name, inverted = parsed(condition["op"])
    signature, test = OPERATORS[name]
    args = signature.named(condition["args"])
    results = [test(**within.value(args)) is not inverted for within in _scopes(condition, scope)]
    return _COUNTED[condition.get("multiple") or "any"](results)

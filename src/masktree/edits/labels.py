"""Edits of what is known about masks: status, name, class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from masktree.edits import fields
from masktree.edits.state import Change, EditState, Status
from masktree.errors import InputError

_STATUS: dict[str, Status] = {"accept": "accepted", "reject": "rejected", "reset": "none"}


def set_status(state: EditState, edit: dict[str, Any]) -> Change:
    """``accept``, ``reject`` or ``reset`` of masks."""
    fields.check_keys(edit, ["ids"])
    status = _STATUS[edit["op"]]
    return Change({i: replace(state.masks[i], status=status) for i in fields.read_ids(edit["ids"], state)})


def rename(state: EditState, edit: dict[str, Any]) -> Change:
    """``rename`` a mask; null takes its name away."""
    fields.check_keys(edit, ["id", "name"])
    identity = fields.read_id(edit["id"], state)
    name = None if edit["name"] is None else fields.read_name(edit["name"], "a name")
    return Change({identity: replace(state.masks[identity], name=name)})


def set_class(state: EditState, edit: dict[str, Any]) -> Change:
    """``class`` of masks, one of the user's list; null takes it away."""
    fields.check_keys(edit, ["ids", "class"])
    ids, name = fields.read_ids(edit["ids"], state), edit["class"]
    if name is not None and name not in state.class_names:
        fields.read_name(name, "a class")
        raise InputError(
            f"expected a class of your list ({', '.join(state.class_names) or 'empty'}); got {name}; add it "
            "with the edit classes first"
        )
    return Change({i: replace(state.masks[i], class_name=name) for i in ids})


def set_classes(state: EditState, edit: dict[str, Any]) -> Change:
    """``classes``: the user's list; a class that masks have must stay in it."""
    fields.check_keys(edit, ["names"])
    names = edit["names"]
    used = {mask.class_name for mask in state.masks.values()} - {None}
    limit = max(fields.MAX_CLASSES, len(used))
    if not isinstance(names, list) or len(names) > limit:
        raise InputError(f"expected a list of up to {limit} classes; got another value; make it shorter")
    checked = [fields.read_name(name, "a class") for name in names]
    if len(set(checked)) < len(checked):
        raise InputError("expected each class once in the list; got one twice; leave out the second one")
    missing = sorted(used - set(checked), key=str)
    if missing:
        raise InputError(
            f"expected a list with every class that masks have; got one without {missing[0]}; give these masks another "
            "class first"
        )
    return Change(class_names=tuple(checked))

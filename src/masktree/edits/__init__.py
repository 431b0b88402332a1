"""Corrections of a tree of masks: a log of edits beside the tree file, and the edited tree.

The file of the tree is never changed. ``photo.json`` has its edits in ``photo.edits.jsonl``: a header, then one JSON
object per edit, in the order in which they were made. Replaying the file gives the edited tree.
"""

from masktree.edits.edited_tree import EditedTree
from masktree.edits.log import count_edits, log_path, refuse_edited

__all__ = ["EditedTree", "count_edits", "log_path", "refuse_edited"]

"""The functions and classes that jobs have exported to this node. Pure.

Equal code is kept once.  It goes when every job that exported it has ended, and with it the
hold on the objects that its closure refers to.
"""

from __future__ import annotations

from raydask.control.write_behind_state import Journal
from raydask.ids import FunctionID, ObjectID
from raydask.local_scheduler.objects import ObjectTable
from raydask.local_scheduler.records import FunctionRecord


class FunctionTable:
    """All functions known here.

    Parameters
    ----------
    objects : ObjectTable
    journal : Journal

    Attributes
    ----------
    records : dict of FunctionID to FunctionRecord
    """

    def __init__(self, objects: ObjectTable, journal: Journal) -> None:
        self._objects = objects
        self._journal = journal
        self.records: dict[FunctionID, FunctionRecord] = {}

    def export(
        self,
        function_id: FunctionID,
        code: bytes,
        name: str,
        nested: list[ObjectID],
        job: int,
        *,
        is_ours: bool = True,
    ) -> None:
        """Take in a function for a job; `nested` are the objects that it refers to.

        `is_ours` says that a process here exports it, and not another node.
        """
        function = self.records.get(function_id)
        if function is None:
            function = self.records[function_id] = FunctionRecord(code, name, nested)
            for object_id in nested:
                self._objects.hold(object_id)
        if is_ours and not function.is_ours:
            function.is_ours = True
            self._journal.put(function_id, function)
        function.jobs.add(job)

    def forget_job(self, job: int) -> None:
        """Drop what only this job has exported."""
        gone: list[FunctionID] = []
        for function_id, function in self.records.items():
            function.jobs.discard(job)
            if not function.jobs:
                gone.append(function_id)
        for function_id in gone:
            function = self.records.pop(function_id)
            for object_id in function.nested:
                self._objects.drop(object_id)
            if function.is_ours:
                self._journal.forget(function_id)

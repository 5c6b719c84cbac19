"""What the parent adds to the metrics of its workers: what only it knows, and what those that are gone had
counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tcpmapkit.metrics.samples import Departed, Snapshot, merge
from tcpmapkit.metrics.snapshot import parent_snapshot

if TYPE_CHECKING:
    from tcpmapkit.workers.admission import Admission
    from tcpmapkit.workers.crew import Crew
    from tcpmapkit.workers.member import Member
    from tcpmapkit.workers.reloading import Reloading

__all__ = ["CrewMetrics"]


class CrewMetrics:
    """Remembers what each worker answered last when it was asked for its metrics."""

    def __init__(self, crew: Crew, admission: Admission, reloading: Reloading) -> None:
        self._crew = crew
        self._admission = admission
        self._reloading = reloading
        self._departed = Departed()
        crew.on_gone.append(lambda member: self._departed.depart(str(member.pid)))

    def note(self, member: Member, answer: dict[str, Any]) -> None:
        """Take note of a worker's answer."""
        if "snapshot" in answer:
            self._departed.note(str(member.pid), answer["snapshot"])

    def snapshot(self) -> Snapshot:
        """To be merged with what the workers answer."""
        serving = {member.number for member in self._crew.ready}
        workers = {
            number: (number in serving, restarts.count) for number, restarts in self._crew.restarts.items()
        }
        known = parent_snapshot(workers, self._reloading.results, self._admission.limit)
        return merge([known, self._departed.snapshot])

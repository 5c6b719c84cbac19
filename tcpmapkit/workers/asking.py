"""What one worker wants to know of all: the parent passes it on, and gathers the answers."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.workers.metrics import CrewMetrics

if TYPE_CHECKING:
    from tcpmapkit.workers.admission import Admission
    from tcpmapkit.workers.crew import Crew
    from tcpmapkit.workers.member import Member
    from tcpmapkit.workers.reloading import Reloading
    from tcpmapkit.workers.turns import Timer, Turns

__all__ = ["ANSWERED_WITHIN", "Asking"]

ANSWERED_WITHIN: Final = 5.0
"""Seconds for the workers to answer; those that have not are named, and left out."""


@attrs.define(eq=False)
class _Question:
    """Who wants to know, under which number of theirs, and who has answered what."""

    asker: Member
    number: int
    command: str | None
    waiting: list[Member]
    answers: dict[int, dict[str, Any]] = attrs.Factory(dict)
    timer: Timer | None = None


class Asking:
    """Answers what the workers ask: ``reload`` itself, the rest from all that serve. Each answer has under
    ``process`` whose it is (see `Crew.describe`), the first one under ``missing`` the workers that have not
    answered. To their metrics and their status the parent adds its own."""

    def __init__(self, turns: Turns, crew: Crew, admission: Admission, reloading: Reloading) -> None:
        self._turns = turns
        self._crew = crew
        self._admission = admission
        self._reloading = reloading
        self._metrics = CrewMetrics(crew, admission, reloading)
        self._started_at = time.time()
        self._questions: dict[int, _Question] = {}
        self._last = 0
        crew.on.update(ask=self._asked, answer=self._answered)
        crew.on_gone.append(self._worker_went)

    def _asked(self, member: Member, message: dict[str, Any]) -> None:
        request, number = message["ask"], message["id"]
        command = request.get("command")
        if command == "reload":
            done = partial(self._tell_one, member, number)
            self._reloading.reload(force=bool(request.get("force")), done=done)
        else:
            self._ask_all(_Question(member, number, command, self._crew.ready), request)

    def _tell_one(self, member: Member, number: int, answer: dict[str, Any]) -> None:
        self._crew.tell(member, {"answers": [answer], "id": number})

    def _ask_all(self, question: _Question, request: dict[str, Any]) -> None:
        self._last += 1
        self._questions[self._last] = question
        question.timer = self._turns.later(ANSWERED_WITHIN, partial(self._finish, self._last))
        for member in list(question.waiting):
            self._crew.tell(member, {"request": request, "id": self._last})
        self._finish_if_all_have(self._last)

    def _answered(self, member: Member, message: dict[str, Any]) -> None:
        question = self._questions.get(message["id"])
        if question is not None and member in question.waiting:
            question.waiting.remove(member)
            if question.command == "metrics":
                self._metrics.note(member, message["answer"])
            question.answers[member.number] = {**message["answer"], "process": self._crew.describe(member)}
            self._finish_if_all_have(message["id"])

    def _worker_went(self, member: Member) -> None:
        for number, question in list(self._questions.items()):
            if question.command == "metrics":  # it is counted with those that are gone
                question.answers.pop(member.number, None)
            if member in question.waiting:
                question.waiting.remove(member)
                self._finish_if_all_have(number)

    def _finish_if_all_have(self, number: int) -> None:
        if not self._questions[number].waiting:
            self._finish(number)

    def _finish(self, number: int) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            return
        if question.timer is not None:
            question.timer.cancel()
        answers = [answer for _, answer in sorted(question.answers.items())]
        if answers:
            answers[0]["missing"] = [self._crew.describe(member) for member in question.waiting]
            if question.command == "status":
                self._complete(answers)
            elif question.command == "metrics":
                answers.append({"snapshot": self._metrics.snapshot()})
        self._crew.tell(question.asker, {"answers": answers, "id": question.number})

    def _complete(self, answers: list[dict[str, Any]]) -> None:
        """Have each ``status`` say what its worker does not know: of the parent, and how often it was
        replaced."""
        for answer in answers:
            answer["pid"] = os.getpid()
            answer["started_at"] = self._started_at
            answer["reloads"] = self._reloading.results
            answer["max_connections"] = self._admission.limit
            for worker in answer.get("workers", ()):
                worker["restarts"] = answer["process"]["restarts"]

"""Every exception that oops_celery raises.

::

Error:
    ├── SettingsError (ValueError)      a setting cannot be used
    ├── TopologyError (ValueError)      a topology file cannot be used
    │   UnusableImport (ValueError)     what a topology file names cannot be imported
    ├── Undecodable (ValueError)        a body is not one BSON document
    ├── SendError                       a message was not taken; it may be sent again
    │   ├── Refused                     ... the broker works, and did not take it
    │   └── Unavailable                 ... the broker did not answer in time
    ├── NotTaken                        a publisher did not take a report
    ├── QueueError                      a queue cannot be asked, or sent to
    ├── RepositoryError                 the database did not take or give this
    │   ├── Away                        ... nobody can use it now
    │   └── WrongSchema                 ... this program cannot use its tables
    ├── NoMatch (LookupError)           an id names nothing, or several reports
    ├── ExportError                     a report cannot be written to a file
    ├── EditError                       an edited report cannot be used
    ├── ManagementError                 RabbitMQ's management API gave no answer
    ├── AlreadyAnswered                 a consumer answered a message twice
    └── ConsumerFailed                  a consumer raised an exception after its answer

The commands add two of click's: `oops_celery.cli.broker.CannotTell` (exit code 2) and
`oops_celery.cli.dead_letters.Failed` (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from oops_celery.text import counted

if TYPE_CHECKING:
    from oops_celery.topology.problems import Problem


class Error(Exception):
    """An error of oops_celery; its text is one line for a person, without secrets."""


class SettingsError(Error, ValueError):
    """An unusable setting; the text gives its name, its source and allowed values."""


class TopologyError(Error, ValueError):
    """A topology file that cannot be used.

    Attributes:
        source: The file.
        problems: All problems found in it, in the order of its lines.
    """

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        fatal = sum(problem.fatal for problem in self.problems)
        counts = [counted(fatal, "mistake")]
        if fatal < len(self.problems):
            counts.append(counted(len(self.problems) - fatal, "warning"))
        lines = [
            f"{'' if problem.fatal else 'warning: '}{problem}"
            for problem in self.problems
        ]
        return "\n".join([f"{self.source}: {', '.join(counts)}", *lines])


class UnusableImport(Error, ValueError):
    """A module or an attribute that cannot be imported; the text says why."""


class Undecodable(Error, ValueError):
    """The body is not one BSON document."""


class SendError(Error):
    """The message was not taken. It may be sent again."""


class Refused(SendError):
    """The broker works, and did not take this message."""


class Unavailable(SendError):
    """The broker could not be reached, or did not answer in time."""


class NotTaken(Error):
    """A publisher raised an exception or returned no id: retry the report later."""


class QueueError(Error):
    """A queue cannot be asked or sent to: no connection, no answer, or a refusal."""


class RepositoryError(Error):
    """The database did not take this; the text names it, without its password."""


class Away(RepositoryError):
    """The database cannot be reached, or cannot be written by anybody."""


class WrongSchema(RepositoryError):
    """The tables of the database are older or newer than this program needs."""


class NoMatch(Error, LookupError):
    """An id, or a part of one, that names no report, or more than one.

    Attributes:
        part: The id that was asked for.
        candidates: The ids that it may mean; empty if there are none.
    """

    def __init__(self, part: str, candidates: Iterable[str] = ()) -> None:
        self.part = part
        self.candidates = sorted(candidates)
        many = len(self.candidates)
        super().__init__(f"{many} ids have it" if many else "there is no such id")


class ExportError(Error):
    """A report cannot be written to a folder; the text says why."""


class EditError(Error):
    """A dead letter cannot be edited, or not like this; the text says why."""


class ManagementError(Error):
    """RabbitMQ's management API gave no answer; the text says why."""


class AlreadyAnswered(Error):
    """A consumer answered a message that it had answered before."""


class ConsumerFailed(Error):
    """A consumer raised an exception after its answer, which counts."""

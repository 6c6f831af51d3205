"""No stage of a run, but run like one: a package's members, so that nothing but this process opens the package."""

from __future__ import annotations

from allod.core.errors import Invalid
from allod.train.sources.archives import read_members
from allod.train.sources.files import is_hidden, is_text
from allod.train.sources.kinds import reader_of
from allod.train.sources.unpacked import write_unpacked
from allod.train.stage_task import StageFacts, StageTask


def run(task: StageTask) -> StageFacts:
    """Unpack the one package among the inputs, which has its source's name.

    Raises Invalid (`archive_damaged`, `archive_too_large`, `archive_unsafe`).
    """
    ((name, archive),) = task.inputs.items()
    (source,) = (source for source in task.recipe.sources if source.name == name)
    reads = reader_of(source).wants
    unread: dict[str, str] = {}

    def wants(member: str) -> bool:
        """What its reader would read and is hidden is `unread`."""
        if reads(member) and is_hidden(member):
            unread[member] = "hidden"
        if reads(member) and not is_text(member):
            raise Invalid(
                f"{archive.name} is refused: the name {member!r} is not UTF-8",
                code="archive_unsafe",
                hint="a document is called by its name",
            )
        return reads(member) and not is_hidden(member)

    members = read_members(archive, wants)
    write_unpacked(task.output, members, unread)
    return {"num_members": len(members)}

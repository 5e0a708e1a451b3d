"""The spool: audio on disk until the broker has stored it, so that a killed agent loses none.

    DIR/<session id>/session.json   the first request, the current one, and what is needed to resume
                     <index>.seg    about 10 s of chunks, starting with the one of this index
                     <index>.sent   the same file once some of its chunks may have been sent
                     dropped.json   indexes of chunks dropped because the spool was full

Chunks have an index in the order of capture. The `Audio-Seq` of a chunk is its index minus the
number of chunks dropped before it. Only chunks that were never sent are dropped, and the drop is
recorded on disk before any later chunk is numbered.

Each chunk is appended to the newest segment before it is first sent. At most 4 s of audio are sent
before they are synced to the disk, which is less than the gap that a run leaves after a power cut.
A segment is deleted once all of it is acknowledged and a later segment is synced, so the newest
segment always tells where the session stands.

The disk is synced each second while audio waits for the broker. While the broker stores audio as it
comes, the disk has nothing else, and is synced in time for the 4 s.

A full disk is tried again each second, also one on which a session could not be created. Until what
follows is synced, session.json is called failed.json, and the session cannot be resumed. So it is
with a disk that does not answer, which is tried when it does: until then, nothing is done on it.

Files that cannot be read any more move to DIR/damaged-<session id> when the session is finished,
and whole sessions at once if they cannot be used. Nothing else is deleted unacknowledged, except
the beginning of a chunk that was never written completely.

A lock on a session's directory gives it to one process. The system releases the lock when that
process dies.
"""

from .directory import Spool, find_resumable
from .session import POWER_CUT_GAP_S, Origin, SpooledBacklog

__all__ = ["POWER_CUT_GAP_S", "Origin", "Spool", "SpooledBacklog", "find_resumable"]

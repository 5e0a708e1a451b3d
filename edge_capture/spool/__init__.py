"""The spool: sound on disk until the broker has it, so that a killed or cut off agent loses none.

    DIR/<session id>/session.json   what is asked for, and what is needed to go on
                     <index>.seg    some 10 s of chunks, from the one with this index on;
                     <index>.sent   its name once some of it may have been sent
                     dropped.json   which indexes were dropped because the spool was full

Each chunk is appended to the newest segment before it is sent first, and no more than 4 s of sound
are sent that are not on the disk itself: less than what a run leaves out after a power cut. A
segment goes when all of it is acknowledged and a later one is safe on the disk; so the newest
always says where the session stands. Chunks have an index in the order of capture; the `Audio-Seq`
of one is its index less the number of those dropped before it, and what is dropped has never been
sent and is noted before anything behind it is.

What cannot be read any more is kept in DIR/damaged-<session id> when the session is done with.

A lock on a session's directory keeps it to one process; the system releases it when that one dies.
"""

from .directory import Spool, resumable
from .session import UNSURE_S, Origin, SpooledBacklog

__all__ = ["UNSURE_S", "Origin", "Spool", "SpooledBacklog", "resumable"]

"""A node's disk with a clock that tests turn, and a model that only counts."""

from __future__ import annotations

from medstill.node.arrivals import Arrivals
from medstill.node.config import Peer, Waits
from medstill.node.files import name_of
from medstill.node.objects import Instance
from medstill.node.outbox import Outbox
from medstill.node.shelves import Shelves
from medstill.node.states import State
from medstill.node.work import Worker

KEY = name_of("series")
ARCHIVE = Peer(aet="ARCHIVE", host="127.0.0.1", port=104, receives=True)


class Scene:
    """A folder, a clock, and a model that counts what it gets."""

    def __init__(self, folder, **waits):
        self.folder = folder
        self.now = 0.0
        self.waits = Waits(quiet_s=10.0, abandon_s=100.0, **waits)
        self.seen = []
        self.open()

    def open(self):
        self.shelves = Shelves(self.folder)
        self.arrivals = Arrivals(
            self.shelves, quiet_s=10.0, abandon_s=100.0, clock=lambda: self.now
        )
        self.outbox = Outbox(self.shelves, [ARCHIVE], self.waits)
        self.worker = Worker(self.shelves, self.handle, attempts=3, clock=lambda: self.now)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shelves.close()

    def reopen(self):
        """As after kill -9: nothing but the disk is left."""
        self.shelves.close()
        self.open()

    def handle(self, folder, result):
        self.seen.append(sorted(path.read_text() for path in folder.iterdir()))
        result.write_text("segmentation")
        return ()

    def put(self, numbers, session=None, expected=None, text="{}"):
        session = session or self.arrivals.begin()
        new = [
            self.arrivals.store(
                Instance(name_of(str(n)), KEY, expected), [text.format(n).encode()], session
            )
            for n in numbers
        ]
        return session, new

    def sent(self, numbers, **named):
        session, new = self.put(numbers, **named)
        self.arrivals.end(session, released=True)
        return new

    def delivered(self, receiver=ARCHIVE, outbox=None):
        """A receiver has acknowledged the segmentation that is there."""
        outbox = outbox or self.outbox
        outbox.sent(KEY, receiver, outbox.result(KEY)[1])

    def done(self, numbers):
        """A series that was segmented and sent, and whose images are gone."""
        self.sent(numbers)
        self.wait(10.0)
        self.worker.step()
        self.delivered()

    def wait(self, seconds):
        self.now += seconds
        return self.arrivals.collect()

    @property
    def state(self):
        states = [state for state in State if self.shelves.place(state, KEY).is_dir()]
        return states[0] if len(states) == 1 else states

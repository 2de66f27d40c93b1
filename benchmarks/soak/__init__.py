"""Does memory stay flat over a million tasks?  ``python -m benchmarks.soak``.

One session, two drivers.  The *observer* (`benchmarks.soak.__main__`) starts the session,
weighs its processes and runs no task.  The *driver* (`benchmarks.soak.driver`), a process of its
own that joins the session, submits tasks in a rolling window and says how far it is.  So the
driver's memory is that of a driver and not of the tools which look at it, and when it has gone,
the arena must be empty to the last byte: its workers have gone with it, and their slabs.

Vocabulary:

series
    What was weighed, such as the node's memory, at each of the moments in the order of time.
trend
    A series' median in the first and in the last quarter of the time after the warm-up.
"""

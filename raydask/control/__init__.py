"""Control state: what the cluster must still know after any of its processes died.

====================  ====================================================================
module                what it owns
====================  ====================================================================
``schema``            every key: its value, writer, reader, end, and what a crash leaves
``tables``            the JSON documents under those keys
``store``             the port ``ControlStore`` and its errors
``redis_store``       the port over one or several Redis servers
``redis_connection``  one blocking connection to one of them
``through_head``      the way to the head's servers from other machines
``memory_store``      the port in memory, for tests and the simulator
``redis_server``      finding and running a local server
``write_behind_state``  what is dirty, and since when [pure]
``write_behind``      the thread that writes it
====================  ====================================================================

Nothing on the path of a task waits for the store: a process marks what changed, and its
``WriteBehind`` writes it about a second later, if it still exists by then.
"""

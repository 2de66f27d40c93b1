"""The global scheduler: which node runs what the nodes pass up, which actor has which name.

There is one in a cluster.  Nodes connect to it and introduce themselves; it places the tasks
and actors that they pass up, leases the capacity that nodes can spare to others, tells every
node about the others and of their deaths, and alone writes the control state of nodes, actors
and names.  ``state`` and what it imports decide, ``server`` does.

It can be killed at any time: the next one rereads the control state, the nodes come back
and say what they still run, and work goes on.
"""

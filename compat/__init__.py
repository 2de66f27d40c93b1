"""Adapters: other libraries' doors to raydask; installed as ``raydask.compat``.

The folder ``dask`` is a door; the modules ``numpy``, ``masked_arrays``, ``pandas`` and
``pyarrow`` say how these libraries' values are pickled without copying them
(`raydask.pickling` loads them).

An adapter uses only the public API of raydask, patches neither side, and imports the library
that it adapts inside its own folder or module only.  Of that library too it uses the public API,
and beside it what the library's own schedulers share: for Dask the nodes of ``dask._task_spec``,
which a graph is made of.
"""

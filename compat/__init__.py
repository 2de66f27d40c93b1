"""Adapters: other libraries' doors to raydask; installed as ``raydask.compat``.

An adapter uses only the public API of raydask, patches neither side, and imports the library
that it adapts inside its own folder only.  Of that library too it uses the public API, and
beside it what the library's own schedulers share: for Dask the nodes of ``dask._task_spec``,
which a graph is made of.
"""

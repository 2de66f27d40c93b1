"""Adapters: other libraries' doors to raydask; installed as ``raydask.compat``.

An adapter uses only the public API of raydask and of the library it adapts, patches
neither, and imports that library inside its own folder only.
"""

"""The shared-memory object store: allocator, state, shared memory, and client."""

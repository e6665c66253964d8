"""The devices of a run: meshes, processes, memory, cost, and compiled programs kept on disk."""

"""The devices of a run: meshes, sharding, processes, memory, cost, profiling and the compilation cache."""

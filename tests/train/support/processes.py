"""Free ports, and the ends of several processes."""

import socket


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def end(processes, limit=120):
    """Waits for both; returns their exit codes and what they wrote to stderr and stdout. Nobody is left behind."""
    try:
        told = [process.communicate(timeout=limit) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [process.returncode for process in processes], [error for _, error in told], [text for text, _ in told]

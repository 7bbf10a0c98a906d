"""Test double of NeMo-RL v0.7.0's nemo_rl/utils/timer.py, as far as run_sft.py asks it: is the link's time up."""

import time


def seconds(text: str) -> int:
    parts = [int(part) for part in text.split(":")]
    if len(parts) != 4:
        raise ValueError(f"{text} is not DD:HH:MM:SS")
    return ((parts[0] * 24 + parts[1]) * 60 + parts[2]) * 60 + parts[3]


class TimeoutChecker:
    """Asked once a step; another step of mean length has to fit into the limit."""

    def __init__(self, timeout: str | None):
        self.limit = seconds(timeout) if timeout else None
        self.start, self.made = time.time(), 0

    def check_save(self) -> bool:
        self.made += 1
        spent = time.time() - self.start
        return self.limit is not None and spent + spent / self.made >= self.limit

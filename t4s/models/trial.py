"""What a checkpoint brings along that runs: its chat template, and the patterns of an adapter. Tried before it is used.

Both come to no end if they are written so. They are tried once in a process of its own, with limits on time and
memory, which runs this file as a script and needs nothing but Jinja.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

CPU_SECONDS, WALL_SECONDS = 5, 60  # of the trial; wall seconds also count what else the machine does
MEMORY = 1_000_000_000  # bytes
LONGEST = 1_000_000  # characters of a prompt
TOO_MUCH, INVALID = 3, 4  # exit codes
PATTERNS = ("target_modules", "exclude_modules", "target_parameters", "layers_pattern")  # of adapter_config.json
PATTERN_KEYS = ("rank_pattern", "alpha_pattern")  # whose keys are patterns


@lru_cache(maxsize=64)
def template_problem(template: str) -> str:
    """What is wrong with a chat template that does not come to an end; "" for one that does, if only with an error."""
    return _problem({"template": template})


def patterns_problem(adapter_config: dict[str, Any], names: Sequence[str]) -> str:
    """The same for the patterns of an adapter_config.json and a model's module names."""
    patterns = []
    for field in PATTERNS:
        value = adapter_config.get(field)
        patterns += value if isinstance(value, list) and field == "layers_pattern" else [value]
    for field in PATTERN_KEYS:
        value = adapter_config.get(field)
        patterns += value if isinstance(value, dict) else ()
    texts = [pattern for pattern in patterns if isinstance(pattern, str)]
    return _problem({"patterns": texts, "names": list(names)}) if texts else ""


def _problem(task: dict[str, Any]) -> str:
    command = [sys.executable, "-P", __file__]  # -P: the modules beside this file are not to be found
    try:
        done = subprocess.run(command, input=json.dumps(task).encode(), capture_output=True, timeout=WALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"does not come to an end within {WALL_SECONDS} seconds"
    if done.returncode == INVALID:
        return f"is not valid ({done.stderr.decode(errors='replace').strip()})"
    if done.returncode == TOO_MUCH:
        return f"takes more than {MEMORY // 10**9} GB of memory, or writes more than {LONGEST:,} characters"
    return f"does not come to an end within {CPU_SECONDS} seconds" if done.returncode else ""


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows has none: the wall clock remains
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _render(template: str) -> None:
    """As transformers renders it. An error ends it, too, and is reported where the template is used."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    content = [{"type": "image"}, {"type": "text", "text": "others"}]
    written = 0
    try:
        messages = [{"role": "user", "content": content}]
        for part in environment.from_string(template).generate(messages=messages, add_generation_prompt=True):
            written += len(part)
            if written > LONGEST:
                sys.exit(TOO_MUCH)
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return


def _match(patterns: list[str], names: list[str]) -> None:
    """Every pattern against every name, in the ways of PEFT."""
    try:
        for pattern in patterns:
            ways = [re.compile(way) for way in (pattern, rf".*\.{pattern}\.(\d+)\.", rf"(.*\.)?({pattern})$")]
            for way in ways:
                for name in names:
                    way.fullmatch(name), way.match(name)
    except (re.error, OverflowError, RecursionError) as error:
        print(error, file=sys.stderr)
        sys.exit(INVALID)


def main() -> None:
    """The trial itself: a task on stdin, the verdict in the exit code."""
    task = json.loads(sys.stdin.buffer.read())
    _limit()
    try:
        if "template" in task:
            _render(task["template"])
        else:
            _match(task["patterns"], task["names"])
    except MemoryError:
        sys.exit(TOO_MUCH)


if __name__ == "__main__":
    main()

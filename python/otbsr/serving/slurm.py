"""A Slurm array script for `apply`: one element per window, one finishing job per product. Needs nothing but Slurm and otbsr on the nodes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otbsr.errors import OutputError
from otbsr.serving.options import ApplyOptions

ELEMENTS = 1000
"""Elements of an array at most (Slurm's default MaxArraySize is 1001); with more windows each makes several."""

SCRIPT = """#!/bin/bash
# Written by `otbsr apply --slurm-script`: {windows} windows of {count} products.
#   bash {name}                submits the windows as an array, and after them the jobs that put the products together
#   bash {name} --account=x    the same with further options of sbatch
# Submitting it again makes what is lacking. Add lines '#SBATCH --option' here for queue, time and account.
#SBATCH --job-name=otbsr
#SBATCH --cpus-per-task={threads}
#SBATCH --mem={memory}M{gpus}
set -u
script={script}
inputs=({inputs})
outputs=({outputs})
first=({first})
total={windows}
elements={elements}
if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
  set -e
  job=$(sbatch --parsable --array="0-$((elements - 1))" --export=ALL,OTBSR_STEP=windows "$@" "$script")
  sbatch --parsable --array="0-$((${{#inputs[@]}} - 1))" --dependency="afterany:${{job%%;*}}" --export=ALL,OTBSR_STEP=finish "$@" "$script"
  exit 0
fi
run() {{ {command} "$@"; }}
if [ "${{OTBSR_STEP:-windows}}" = finish ]; then
  run "${{inputs[SLURM_ARRAY_TASK_ID]}}" -o "${{outputs[SLURM_ARRAY_TASK_ID]}}"
  exit
fi
status=0
for ((task = SLURM_ARRAY_TASK_ID; task < total; task += elements)); do
  product=0
  while ((product + 1 < ${{#first[@]}} && first[product + 1] <= task)); do product=$((product + 1)); done
  run "${{inputs[product]}}" -o "${{outputs[product]}}" --part $((task - first[product])) || status=$?
done
exit $status
"""


def write_script(
    script: Path,
    products: Sequence[Path],
    outs: Sequence[Path],
    windows: Sequence[int],
    model: Path,
    options: ApplyOptions,
    gpus: int = 0,
    elements: int = ELEMENTS,
) -> int:
    """Write the script for products with so many `windows` each; returns the array's size.

    Whatever paths hold is quoted for the shell. The job asks for 3 GiB more than `options.ram`. Raises `OutputError`.
    """
    first = [sum(windows[:number]) for number in range(len(windows))]
    quoted = [" ".join(shlex.quote(str(path.absolute())) for path in paths) for paths in (products, outs)]
    total = sum(windows)
    threads = options.threads or 4
    flags = {**vars(options.absolute()), "bands": ",".join(options.bands or ()), "threads": threads, "model": model.absolute()}
    words = [sys.executable, "-m", "otbsr", "apply", *flag_words(flags), "--skip-finished", "--quiet"]
    text = SCRIPT.format(
        windows=total,
        count=len(products),
        name=shlex.quote(script.name).replace("\n", " "),
        script=shlex.quote(str(script.absolute())),
        inputs=quoted[0],
        outputs=quoted[1],
        first=" ".join(map(str, first)),
        elements=min(total, elements),
        threads=threads,
        memory=(options.ram or 1024) + 3072,
        gpus=f"\n#SBATCH --gres=gpu:{gpus}" if gpus else "",
        command=shlex.join(words),
    )
    try:
        script.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{script}: cannot be written ({error.strerror}); choose another path") from error
    return min(total, elements)


def flag_words(options: dict[str, Any]) -> list[str]:
    """Options of a command as its words; those that are None, False or empty are left out."""
    found = []
    for key, value in options.items():
        if value not in (None, False, ""):
            found += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found

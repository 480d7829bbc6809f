"""A stand-in for Slurm, whose jobs run on this machine."""

import os

from d2kd.engine import jobs

_PROGRAMS = {
    "sbatch": """export SLURM_JOB_ID=$$ SLURM_JOB_NODELIST=here SLURM_NTASKS=1
export SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
cp "$1" "$SUBMITTED.$$"
touch "$SUBMITTED-queued.$$"
{ while [ -e "$SUBMITTED-held" ]; do sleep 0.05; done
sh "$SUBMITTED.$$"; rm "$SUBMITTED-queued.$$"; } > /dev/null 2>&1 &
echo Submitted batch job $$""",
    "srun": """while [ "${1#-}" != "$1" ]; do
case $1 in --output|--error) shift 2;; *) shift;; esac
done
exec "$@\"""",
    "sacct": "echo 'JobID|State'",
    "squeue": """echo "$@" >> "$SUBMITTED-asked"
[ -e "$SUBMITTED-queued.$4" ] && { echo PENDING; rm -f "$SUBMITTED-held"; exit 0; }
echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1""",
}


def install(folder, monkeypatch):
    """Let its programs be found.

    A job is `submitted.NUMBER` in the folder; while `submitted-held` is there, jobs are queued,
    until squeue is asked for the first of them.
    """
    for name, text in _PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SUBMITTED", str(folder / "submitted"))
    monkeypatch.setitem(jobs._POLL, "slurm", 0.1)

"""Ways to run a job: on this machine, through Slurm, and one in memory that runs nothing."""

#!/bin/sh
# What the tests need beyond Python packages: a browser, `ip` for the escape suite's laboratory, Node for the second
# verifier, PostgreSQL for the tenants that several gateways share, Slurm for training on several nodes. Without root
# they are named, and the tests that need them say so and are skipped.
set -u
missing=""
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v setpriv >/dev/null 2>&1 || missing="$missing util-linux"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
for daemon in slurmctld slurmd munged; do  # outside the PATH of ordinary users
    [ -x "/usr/sbin/$daemon" ] || command -v "$daemon" >/dev/null 2>&1 || slurm=" slurm-wlm munge"
done
missing="$missing${slurm:-}"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing:$missing (apt-get install$missing); the tests that need them will be skipped"
fi
exit 0

#!/bin/sh
# dpkg calls it with "remove" or, before an upgrade, "upgrade"; rpm with 0 at removal and 1 at an upgrade, which is no
# reason to stop: the new package restarts it.
set -e

UNIT=telegraf-victorialogs.service

# Where systemd does not answer, or somebody deleted the unit, there is nothing to stop, and the package must go all the same.
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now "$UNIT" || true
	elif command -v systemctl >/dev/null; then
		systemctl --no-reload disable "$UNIT" || true
	fi
	;;
esac

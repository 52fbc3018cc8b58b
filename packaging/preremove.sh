#!/bin/sh
# dpkg calls it with "remove" or, before an upgrade, "upgrade"; rpm with 0 at removal and 1 at an upgrade, which is no
# reason to stop: the new package restarts it.
set -e

UNIT=telegraf-victorialogs.service

case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now "$UNIT"
	elif command -v systemctl >/dev/null; then
		systemctl --no-reload disable "$UNIT"
	fi
	;;
esac

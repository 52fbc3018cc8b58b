#!/bin/sh
# dpkg calls it with "remove" and "purge", rpm with 0 at removal. Dead letters are data that nobody else has: removing
# leaves them alone, and so does purging while there are any.
set -e

STATE=/var/lib/telegraf-victorialogs

case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || true
	fi
	;;
purge)
	rm -rf /etc/telegraf-victorialogs/telegraf.d
	rmdir --ignore-fail-on-non-empty /etc/telegraf-victorialogs 2>/dev/null || true
	if [ -d "$STATE" ]; then
		if [ -n "$(find "$STATE" ! -type d ! -name lock -print -quit)" ]; then
			echo "telegraf-victorialogs: $STATE has data that was not delivered, and stays; when it is of no use: rm -r $STATE"
		else
			rm -rf "$STATE"
		fi
	fi
	;;
esac

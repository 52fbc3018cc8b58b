#!/bin/sh
# dpkg calls it with "configure" and the version that was there before, if any; rpm with 1 at the first installation and
# with 2 at an upgrade.
set -e

UNIT=telegraf-victorialogs.service

case "$1" in
configure) [ -n "$2" ] && upgrade=yes || upgrade=no ;;
1) upgrade=no ;;
2) upgrade=yes ;;
*) exit 0 ;;
esac

# A configuration that it does not start with is no fault of the installation, and would leave the package half installed
# and hold up the packages after it; systemd goes on trying.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	if [ "$upgrade" = yes ]; then
		systemctl try-restart "$UNIT" ||
			echo "telegraf-victorialogs did not start again; journalctl -u telegraf-victorialogs says why" >&2
	fi
fi

# After a removal that kept the configuration dpkg calls it an upgrade, and nobody has enabled it again.
idle() {
	[ -d /run/systemd/system ] && ! systemctl --quiet is-enabled "$UNIT" 2>/dev/null && ! systemctl --quiet is-active "$UNIT"
}

# Not started by itself: before it knows where to, it would only fill the disk with dead letters.
if [ "$upgrade" = no ] || idle; then
	cat <<-END
		telegraf-victorialogs is installed and not started yet. Say where from and where to in
		  /etc/telegraf-victorialogs/environment and /etc/telegraf-victorialogs/telegraf.conf, then
		  systemctl enable --now telegraf-victorialogs
	END
fi

#!/bin/sh
# Before unpacking, so that the configuration can belong to the group. useradd, since every system has it that takes debs
# or rpms; the user stays when the package is removed, so that nobody else gets its number and its files.
set -e

USER=telegraf-victorialogs
STATE=/var/lib/telegraf-victorialogs

if ! getent group "$USER" >/dev/null; then
	groupadd --system "$USER"
fi
if ! getent passwd "$USER" >/dev/null; then
	nologin=/usr/sbin/nologin
	[ -x "$nologin" ] || nologin=/sbin/nologin
	useradd --system --gid "$USER" --home-dir "$STATE" --no-create-home --shell "$nologin" \
		--comment "Telegraf for VictoriaLogs" "$USER"
fi

# What TestDebUnderSystemd runs in a machine of its own, as root. Its output is the test's log; "DONE" says that all went
# well.
set -eux

unit=telegraf-victorialogs
letters=/var/lib/telegraf-victorialogs/dead-letters
telegraf=/usr/lib/telegraf-victorialogs/telegraf
conf=/etc/telegraf-victorialogs

# within tries a command for half a minute.
within() {
	n=0
	until "$@"; do
		n=$((n + 1))
		[ $n -lt 300 ] || return 1
		sleep 0.1
	done
}
pid() { systemctl show --property MainPID --value $unit; }
other_pid() { [ "$(pid)" != 0 ] && [ "$(pid)" != "$1" ]; }
sampled() { grep -q . $letters/*.dump; }

dpkg -i /first.deb
[ "$(systemctl is-active $unit)" = inactive ]
[ "$(systemctl is-enabled $unit)" = disabled ]
quoted=$(sed -n 's/^#.* MQTT_PASSWORD=/QUOTED=/p' $conf/environment) # the example of how to
printf '%s\n' MQTT_LISTEN=tcp://127.0.0.1:1883 VICTORIALOGS_URL=http://127.0.0.1:1 "$quoted" >$conf/environment

# What is sampled without the unit's walls around it.
MQTT_LISTEN=tcp://127.0.0.1:0 $telegraf --config $conf/telegraf.conf --test >/outside.txt

systemctl enable --now $unit
systemctl is-active $unit
within sampled
tr '\0' '\n' </proc/$(pid)/environ | grep -Fx 'QUOTED=a\b "c" $d'
grep -E 'Seccomp:|NoNewPrivs:|CapBnd:' /proc/$(pid)/status

# Restarts: none at a reload, one at an upgrade, one after a crash.
first=$(pid)
systemctl reload $unit
sleep 2
[ "$(pid)" = "$first" ]
dpkg -i /second.deb
within systemctl is-active $unit
[ "$(pid)" != "$first" ]
second=$(pid)
kill -9 "$second"
within other_pid "$second"
within systemctl is-active $unit
systemctl stop $unit
[ "$(systemctl show --property Result --value $unit)" = success ]

dlq cat $letters --json >/inside.json
journalctl --unit $unit --output cat >/journal.txt

# An upgrade is complete also where the service does not start, and it starts when that is mended.
systemctl start $unit
cp -p $conf/telegraf.conf /telegraf.conf
echo 'nonsense = [' >>$conf/telegraf.conf
dpkg -i /first.deb
[ "$(systemctl is-active $unit)" = activating ]
cat /telegraf.conf >$conf/telegraf.conf
within systemctl is-active $unit
systemctl stop $unit

# An upgrade does not start what was stopped; removal stops and disables.
dpkg -i /second.deb
[ "$(systemctl is-active $unit)" = inactive ]
systemctl start $unit
dpkg -r $unit
[ "$(systemctl is-active $unit)" = inactive ]
[ ! -e /etc/systemd/system/multi-user.target.wants/$unit.service ]
dpkg -i /first.deb
dpkg -r $unit
dpkg -i /first.deb | grep 'not started yet' # where the configuration is that of before
rm /usr/lib/systemd/system/$unit.service
systemctl daemon-reload
dpkg -P $unit
[ -n "$(ls $letters/*.dump)" ]
echo DONE

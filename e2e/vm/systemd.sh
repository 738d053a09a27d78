# Sourced in the guest: the units of a machine on which systemd is process 1 and does nothing but keep a bus and run
# the command. Debian's own units of the same names stay out of the way.
units=/run/systemd/system
mkdir -p $units
cat >$units/vm.target <<END
[Unit]
DefaultDependencies=no
Requires=dbus.socket vm.service
AllowIsolate=yes
END
cat >$units/dbus.socket <<END
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
END
cat >$units/dbus.service <<END
[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation
OOMScoreAdjust=-900
END
cat >$units/vm.service <<END
[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket dbus.service
Wants=dbus.service
[Service]
ExecStart=/bin/bash /run/vm-command
Environment=HOME=/root TERM=dumb PATH=$PATH
Delegate=yes
TasksMax=infinity
StandardOutput=null
StandardError=null
END

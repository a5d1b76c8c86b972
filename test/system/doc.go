// Package system owns the tests of banger as units of systemd: installed, restarted, through reboots of the host, and removed
// without a trace. They take a host over, so they run in the laboratory only (`make lab SUITES=system`). Nobody may import it.
//
// A reboot ends the program that runs them; the lab host then starts it again with LAB_BOOT one higher, and it goes on with the
// parts of that boot. What one boot has to tell the next is kept in files below /var/lib/lab.
package system

// Package machine owns the tests that boot real virtual machines with the programs in
// bin/, through the command line and the socket, as users do. Nobody may import it.
//
// Each test has a box: directories, a network namespace and a range of uids of its own, so that
// neither this host nor another test is touched, and when the test ends the box is searched for
// what was left behind. `make test` builds the programs and prepares the images first.
package machine

// Package api holds the nouns of banger and the requests that act on them, as
// they travel between the command line, the daemon, and any other program that
// speaks HTTP to the daemon's socket.
//
// It owns the wire: field names, units, validation, error codes. It imports the
// standard library only and may be imported by everybody.
//
// Conventions: snake_case; times are RFC 3339 in UTC; sizes are bytes (fields end
// in _bytes), durations are milliseconds (fields end in _ms); lists are arrays,
// never null; within /v1 fields are only ever added.
package api

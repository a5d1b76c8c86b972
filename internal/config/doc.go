// Package config owns banger's configuration: its keys, where each value comes from
// (flag, environment, file, or derived from the host), the spelling of sizes and
// durations, and the name of every file that banger keeps. It imports nothing of
// banger's own and may be imported by everybody.
package config

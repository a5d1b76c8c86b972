package workspace

import (
	"context"
	"net/url"
	"strings"

	"banger/api"
)

// guestConfig is the configuration that the repository has in the guest.
func (s *snapshot) guestConfig(ctx context.Context) (string, error) {
	r := s.repo
	var b strings.Builder
	section := func(name string, kv ...string) {
		begun := false
		for i := 0; i < len(kv); i += 2 {
			if kv[i+1] == "" {
				continue
			}
			if !begun {
				b.WriteString("[" + name + "]\n")
				begun = true
			}
			b.WriteString("\t" + kv[i] + " = " + configQuote(kv[i+1]) + "\n")
		}
	}
	version, format := "0", ""
	if s.format != "sha1" {
		version, format = "1", s.format
	}
	// The index comes from here: of what it remembers of each file, size and seconds hold there as well.
	section("core", "repositoryformatversion", version, "filemode", "true", "bare", "false", "logallrefupdates", "true",
		"checkStat", "minimal", "trustctime", "false",
		"autocrlf", r.setting(ctx, "core.autocrlf"), "eol", r.setting(ctx, "core.eol"))
	section("extensions", "objectFormat", format)
	mine, err := r.host.Identity(ctx)
	if err != nil {
		return "", err
	}
	if mine == nil {
		mine = &api.GitIdentity{}
	}
	// What the caller has everywhere comes with the VM, below what its guest says; here is what is this repository's.
	section("user", "name", unless(r.setting(ctx, "user.name"), mine.Name), "email", unless(r.setting(ctx, "user.email"), mine.Email))
	if origin := publicURL(r.setting(ctx, "remote.origin.url")); origin != "" {
		section(`remote "origin"`, "url", origin, "fetch", "+refs/heads/*:refs/remotes/origin/*")
	}
	return b.String(), ctx.Err()
}

// unless is s, or nothing where that is other.
func unless(s, other string) string {
	if s == other {
		return ""
	}
	return s
}

// publicURL is a remote's address without what is secret in it, empty for one that leads nowhere from a guest.
func publicURL(address string) string {
	u, err := url.Parse(address)
	if err == nil && u.Scheme != "" && u.Host != "" && !strings.Contains(address, "::") {
		switch {
		case u.Scheme == "file":
			return ""
		case u.User != nil && (u.Scheme == "http" || u.Scheme == "https"):
			u.User = nil
		case u.User != nil:
			u.User = url.User(u.User.Username())
		}
		return u.String()
	}
	// host:path, as ssh has it; a slash before the colon makes it a path of this host.
	host, _, ok := strings.Cut(address, ":")
	if !ok || strings.Contains(address, "://") || host == "" || strings.ContainsAny(host, "/\\") || strings.Contains(address, "::") {
		return ""
	}
	return address
}

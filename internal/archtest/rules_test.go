package archtest

// anyone are the packages that everybody may import; they import none of ours, except
// where rules says so.
var anyone = []string{
	"internal/config", "internal/keylock", "internal/frame", "internal/frame/brief", "internal/frame/link", "internal/frame/wire", "internal/frame/tree", "internal/durable", "internal/loud",
}

// parts is the layer below template: each owns one noun.
var parts = []string{
	"internal/hypervisor/...", "internal/disk/...", "internal/network/...", "internal/guest/...",
	"internal/store", "internal/operation", "internal/logbook",
}

// below is what vm, image and doctor stand on.
var below = append([]string{"internal/backend", "internal/template", "internal/layer", "internal/host", "api", "api/agentapi"}, parts...)

// rule says what the packages that match a pattern may import of ours, beyond anyone
// and what lies in their own folder.
type rule struct {
	pkg string
	may []string
	why string
}

// rules is read from the top; the first match counts. A package without a rule fails the test.
var rules = []rule{
	{"api", nil, "the wire has no dependencies, so that any program can be its client"},
	{"api/agentapi", []string{"api"}, "the wire between daemon and agent speaks of the same nouns"},
	{"client", []string{"api"}, "a client knows the wire and nothing behind it"},

	{"internal/frame", []string{"api"}, "control frames carry api.Control"},
	{"internal/frame/brief", []string{"api", "api/agentapi"}, "it encodes their messages"},
	{"internal/frame/link", nil, "a record layer carries bytes"},
	{"internal/frame/wire", nil, "it carries bytes"},
	{"internal/frame/tree", []string{"api"}, "a tree is packed and unpacked on both sides; its refusals have codes"},
	{"internal/config", nil, "paths and defaults are needed by everybody, so they need nobody"},
	{"internal/keylock", nil, "a lock knows nothing of what it locks"},
	{"internal/durable", nil, "writing a file so that it survives a power cut knows nothing of what is in it"},
	{"internal/loud", nil, "any package's tests may lack something"},

	{"internal/host", []string{"api"}, "the door to the machine holds no policy"},
	{"internal/host/helper", []string{"internal/host", "internal/host/verb", "internal/host/local", "api"}, "what takes no root is done here, as in a daemon without a helper"},
	{"internal/host/rootd", []string{"internal/host", "internal/host/verb", "internal/host/local", "api"}, "behind each gate is what a daemon that is root does itself"},
	{"internal/host/...", []string{"internal/host", "api"}, "the door to the machine holds no policy"},

	{"internal/hypervisor/fake", []string{"internal/hypervisor", "internal/hypervisor/vmm", "internal/host", "internal/host/local", "internal/agent/serve", "api", "api/agentapi"},
		"the fake serves the real agent code, so that scenario scripts test what guests run"},
	{"internal/hypervisor/hypervisortest", []string{"internal/hypervisor", "internal/host", "internal/host/local", "internal/agent", "internal/guest", "internal/image/initramfs", "api", "api/agentapi"},
		"the conformance suite boots real guests and talks to their agents"},
	{"internal/hypervisor/...", []string{"internal/hypervisor", "internal/disk", "internal/hypervisor/vmm", "internal/hypervisor/memory", "internal/hypervisor/kvm", "internal/host", "api", "api/agentapi"}, "a hypervisor runs what it is given; it decides nothing"},
	{"internal/disk/disktest", []string{"internal/disk", "internal/host", "internal/host/local", "api"}, "the conformance suite makes real disks"},
	{"internal/disk/...", []string{"internal/host", "api"}, "a disk does not know whose it is"},
	{"internal/network/...", []string{"internal/host", "api", "api/agentapi"}, "the network is told its wanted state; it words what the agent sets up"},
	{"internal/guest/...", []string{"internal/host", "api", "api/agentapi"}, "the conversation with a guest needs a connection, not a VM"},
	{"internal/store", []string{"api"}, "intent is stored; what is true on the host never is"},
	{"internal/logbook", nil, "a log does not know whose it is"},
	{"internal/operation", []string{"api"}, "a piece of work does not know what it works on"},

	{"internal/backend", []string{"internal/hypervisor", "internal/disk", "api"}, "a way to run guests is a hypervisor with its disks"},
	{"internal/template", below, "a template is made of parts"},
	{"internal/filesync", []string{"api", "api/agentapi"}, "what is read of the host for guests is read in one place, that knows of no VM"},
	{"internal/layer", []string{"internal/store", "internal/disk", "internal/host", "api"}, "layers are files and records; whose disks lie on them is read from the store"},
	{"internal/image/...", below, "images are made on the host and recorded"},
	{"internal/doctor", below, "doctor asks each part about itself and changes nothing"},
	{"internal/vm/...", append([]string{"internal/image", "internal/filesync"}, below...), "the order of things is decided here, from the parts"},
	{"internal/session", []string{"internal/guest", "internal/store", "api", "api/agentapi"}, "sessions are talk with a guest and records; how a VM is reached is told by functions"},
	{"internal/server/...", append([]string{"internal/vm", "internal/session", "internal/image", "internal/doctor"}, below...), "HTTP in front of the nouns; no behaviour of its own"},
	{"internal/daemon", append([]string{"internal/server", "internal/vm", "internal/session", "internal/image/...", "internal/doctor", "internal/host/local", "internal/host/helper"}, below...),
		"the wiring builds each part once, so it alone knows them all"},

	{"internal/workspace", []string{"api"}, "a repository is read as the calling user, so the daemon has no part in it; the guest is what its caller hands it"},
	{"internal/system", []string{"api", "internal/host/verb"}, "banger is installed before there is a daemon; what bangerd-root may is in the list of its verbs"},
	{"internal/cli/...", []string{"client", "api", "internal/workspace", "internal/system"}, "the command line decides nothing about VMs: what it can do, any client can"},
	{"internal/agent/...", []string{"api", "api/agentapi"}, "the guest's side shares the wire with the host's and nothing else"},
	{"internal/archtest", nil, "it reads, it is not part of the program"},

	{"cmd/banger", []string{"internal/cli"}, "main is ten lines"},
	{"cmd/git-remote-banger", []string{"internal/cli"}, "main is ten lines"},
	{"cmd/bangerd", []string{"internal/daemon"}, "main is ten lines"},
	{"cmd/bangerd-root", []string{"internal/host/rootd"}, "main is ten lines"},
	{"cmd/banger-agent", []string{"internal/agent"}, "main is ten lines"},

	{"test/...", []string{"..."}, "tests stand outside and may look at everything"},
}

// doors are imports that only some of ours may have.
var doors = []rule{
	{"os/exec", []string{"internal/host/...", "client", "internal/cli", "internal/system", "internal/workspace", "internal/agent/...", "test/..."},
		"host starts processes; client starts bangerd, system asks systemctl, cli runs ssh, workspace runs git as the calling user, the agent is another machine"},
	{"github.com/vishvananda/netlink", []string{"internal/host/...", "internal/agent/...", "test/..."}, "only host changes the host's network"},
	{"github.com/vishvananda/netns", []string{"test/..."}, "banger itself lives in one network namespace"},
	{"github.com/google/nftables", nil, "rules go through host.ApplyRules, as text that people can read"},
	{"database/sql", []string{"internal/store"}, "SQL is in store and nowhere else"},
	{"modernc.org/sqlite", []string{"internal/store"}, "the driver's errors are mapped once"},
	{"github.com/spf13/cobra", []string{"internal/cli/...", "cmd/banger"}, "flags are the command line's matter"},
	{"internal/hypervisor/fake", []string{"test/..."}, "no user can ever be given a machine that is none"},
	{"internal/host/fake", []string{"test/..."}, "no user can ever be given a host that is none"},
	{"internal/hypervisor/hypervisortest", nil, "a conformance suite belongs to tests"},
	{"internal/disk/disktest", nil, "a conformance suite belongs to tests"},
	{"internal/loud", []string{"internal/hypervisor/hypervisortest", "internal/disk/disktest"}, "only tests can be left out"},
}

// mounting is the list of system calls that only a host or an agent may make.
var mounting = rule{"", []string{"internal/host/...", "internal/agent/...", "test/..."},
	"the host never mounts what a guest can write, so nothing but host can mount at all"}

// nameless are folder names that say nothing and attract everything.
var nameless = []string{"util", "utils", "common", "manager", "helpers", "misc", "shared"}

// Package link turns a serial port between host and guest into many streams. It
// owns the record layer and its handshake; yamux above it does the multiplexing.
// It imports none of banger's packages; the hypervisors (Dial) and the agent
// (Listen) use it.
//
// A port is a wire that nobody ever hangs up: a thaw, a fork or the end of either
// program can leave half a record in either direction. So everything travels in
// records (magic, kind, length of at most 16 KiB, epoch, CRC32C, payload), and a
// reader that loses its place looks for the next record that checks.
//
//	host → guest   16 KiB of 0xFF (ends whatever half record the guest holds), HELLO(epoch, nonce, flags, speech)
//	guest → host   ACK(epoch, nonce, speech if it is the same); the host throws away all that comes before it
//	guest → host   ANSWER(epoch): to what came with the HELLO
//	both           DATA(epoch): the bytes of one yamux session
//	guest → host   BYE: the agent has just started, or knows nothing of this epoch
//
// The guest serves one epoch at a time: a HELLO with another epoch or nonce ends
// every stream of the one before. BYE ends the host's session, so a host learns at
// once that the guest has rebooted or that its agent was restarted.
//
// The flag "thawed" of a HELLO (DialThawed) tells the guest why: its host, and the streams that it
// remembers, belong to the guest that it was when it was frozen. Nobody has let go of them, so
// what is done on their behalf goes on (a stream's Thawed). Without it the host's end has gone, with
// everybody who held a stream: a client that left, or a daemon that was killed.
//
// A thawed guest's host has something to tell it at once, and each round between the two, and each stream, costs an emulated
// guest that does it for the first time a tenth of its start. So a HELLO can carry what the guest then accepts as its first stream,
// and what the guest writes there comes back as one record. A guest that knows
// another speech leaves it alone, and the host, which sees no speech in the ACK, opens a stream.
//
// There is no keep-alive, since an idle guest must be idle, and no time-out on
// writes, since a paused guest must not lose its streams.
//
// yamux knows FIN, which ends one direction, but no full close. Streams here use FIN
// as full close: Close throws away what the peer still sends, and a writer whose
// peer has closed gets EPIPE. There is no CloseWrite; frame.Duplex carries
// half-close for those who need it, over any kind of connection.
package link

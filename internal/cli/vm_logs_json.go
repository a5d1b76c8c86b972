package cli

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"time"
)

// jsonLog turns lines with a time in front into an object each.
func jsonLog(w io.Writer, r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		text, err := in.ReadString('\n')
		if text != "" {
			l := logLine{Line: strings.TrimSuffix(text, "\n")}
			if stamp, rest, ok := strings.Cut(l.Line, " "); ok {
				if at, terr := time.Parse(time.RFC3339Nano, stamp); terr == nil {
					l.At, l.Line = &at, rest
				}
			}
			if werr := writeJSONLine(w, l); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Package redact keeps passwords out of messages.
package redact

import "strings"

// URL hides what stands before the @ of a URL, well formed or not, since a broken one may hold a password just as well.
func URL(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", text
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		return scheme + "xxxxx" + rest[at:]
	}
	return text
}
